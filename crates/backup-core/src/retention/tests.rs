use std::collections::BTreeSet;
use std::num::NonZeroU32;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::id::BackupId;

fn now() -> Timestamp {
    "2026-06-30T12:00:00Z".parse().unwrap()
}

/// A proven backup so many hours old.
fn old(hours: i64) -> Candidate {
    Candidate {
        id: BackupId::random(),
        first_seen: now() - SignedDuration::from_hours(hours),
        bytes: 100,
        proven: true,
        pinned: false,
        locked_until: None,
        needs: Vec::new(),
    }
}

fn n(count: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(count)
}

fn kept(backups: &[Candidate], policy: &Policy) -> BTreeSet<BackupId> {
    policy.check().unwrap();
    decide(backups, policy, now(), None).into_iter().filter(Decision::keeps).map(|d| d.id).collect()
}

/// The positions in `backups` of what is kept.
fn places(backups: &[Candidate], policy: &Policy) -> Vec<usize> {
    let kept = kept(backups, policy);
    (0..backups.len()).filter(|&at| kept.contains(&backups[at].id)).collect()
}

#[test]
fn each_rule_keeps_what_it_says() {
    let daily: Vec<Candidate> = (0..60).map(|day| old(day * 24)).collect();
    let table = [
        (Policy { last: n(3), ..Policy::default() }, vec![0, 1, 2]),
        (Policy { within: Some(SignedDuration::from_hours(48)), ..Policy::default() }, vec![0, 1, 2]),
        (Policy { daily: n(2), ..Policy::default() }, vec![0, 1]),
        // The 30th of June 2026 is a Tuesday: of each week the first backup, on its Monday.
        (Policy { weekly: n(3), ..Policy::default() }, vec![1, 8, 15]),
        (Policy { monthly: n(2), ..Policy::default() }, vec![29, 59]),
        (Policy { yearly: n(1), ..Policy::default() }, vec![59]),
        (Policy { daily: n(2), monthly: n(1), ..Policy::default() }, vec![0, 1, 29]),
        (
            Policy {
                daily: n(1),
                within: Some(SignedDuration::from_hours(240)),
                max_bytes: Some(350),
                ..Policy::default()
            },
            vec![0, 1, 2],
        ),
    ];
    for (policy, expected) in table {
        // The newest proven one is always there.
        let expected: Vec<usize> = BTreeSet::from_iter(expected.into_iter().chain([0])).into_iter().collect();
        assert_eq!(places(&daily, &policy), expected, "{policy:?}");
    }
    assert_eq!(kept(&daily, &Policy::default()).len(), 60, "without a rule nothing goes");
}

#[test]
fn a_flood_of_valid_backups_displaces_nothing() {
    let policy = Policy { last: n(7), slot: Period::Day, daily: n(7), ..Policy::default() };
    let honest: Vec<Candidate> = (0..10).map(|day| old(day * 24 + 3)).collect();
    let expected = kept(&honest, &policy);
    // A thousand more today, proven or not, seen after the honest one, huge.
    for proven in [true, false] {
        let flood = (0..1_000).map(|_| Candidate { proven, bytes: 1 << 40, ..old(1) });
        let all: Vec<Candidate> = honest.iter().cloned().chain(flood).collect();
        assert!(kept(&all, &policy).is_superset(&expected), "proven: {proven}");
    }
    // Unproven ones in slots of their own do not count either.
    let ahead = (0..1_000).map(|n| Candidate { proven: false, ..old(n / 100) });
    let all: Vec<Candidate> = honest.iter().cloned().chain(ahead).collect();
    assert!(kept(&all, &policy).is_superset(&expected));
}

#[test]
fn a_time_in_the_future_is_now() {
    let policy = Policy { daily: n(2), ..Policy::default() };
    let honest = [old(1), old(25)];
    let future = Candidate { first_seen: now() + SignedDuration::from_hours(24 * 400), ..old(0) };
    let all = [honest[0].clone(), honest[1].clone(), future];
    assert!(kept(&all, &policy).is_superset(&kept(&honest, &policy)));
}

#[test]
fn pins_locks_bases_and_the_freeze_hold() {
    let mut all: Vec<Candidate> = (0..6).map(|day| old(day * 24)).collect();
    all[3].pinned = true;
    all[4].locked_until = Some(now() + SignedDuration::from_hours(1));
    all[2].locked_until = Some(now() - SignedDuration::from_hours(1));
    all[0].needs = vec![all[5].id];
    let policy = Policy { daily: n(1), ..Policy::default() };
    assert_eq!(places(&all, &policy), [0, 3, 4, 5]);
    let decisions = decide(&all, &policy, now(), Some("the newest backup is a tenth of the usual size"));
    assert!(decisions.iter().all(Decision::keeps));
    let reasons = |at: usize| match &decide(&all, &policy, now(), None)[at].verdict {
        Verdict::Keep(reasons) => reasons.iter().map(ToString::to_string).collect::<Vec<_>>(),
        Verdict::Remove(reason) => vec![reason.to_string()],
    };
    assert_eq!(reasons(0), ["the one of the day 2026-06-30"]);
    assert_eq!(reasons(1), ["it is past every rule"]);
    assert_eq!(reasons(5), [format!("backup {} cannot be restored without it", all[0].id)]);
}

#[test]
fn a_limit_on_size_alone_is_refused() {
    let alone = Policy { max_bytes: Some(1), ..Policy::default() };
    assert_eq!(alone.check(), Err(PolicyError::SizeAlone));
    let within = Some(SignedDuration::from_hours(1));
    assert_eq!(Policy { within, ..alone.clone() }.check(), Err(PolicyError::SizeAlone));
    assert_eq!(Policy { within, last: n(1), ..alone }.check(), Ok(()));
    let negative = Policy { within: Some(SignedDuration::from_hours(-1)), ..Policy::default() };
    assert_eq!(negative.check(), Err(PolicyError::NegativeAge));
}

#[test]
fn a_hundred_thousand_backups_are_decided_at_once() {
    let many: Vec<Candidate> = (0..100_000).map(old).collect();
    let policy = Policy { last: n(10), daily: n(30), monthly: n(24), yearly: n(5), ..Policy::default() };
    assert_eq!(decide(&many, &policy, now(), None).len(), many.len());
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (0i64..2_000, any::<bool>(), 0u8..20, 0u64..1_000, proptest::option::of(0usize..30));
    proptest::collection::vec(one, 1..30).prop_map(|list| {
        let mut all: Vec<Candidate> = list
            .iter()
            .map(|&(hours, proven, pin, bytes, _)| Candidate {
                proven,
                bytes,
                pinned: pin == 0,
                ..old(hours)
            })
            .collect();
        for (at, &(.., base)) in list.iter().enumerate() {
            if let Some(base) = base.filter(|base| *base < all.len() && *base != at) {
                let id = all[base].id;
                all[at].needs.push(id);
            }
        }
        all
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    let count = || proptest::option::of((1u32..6).prop_map(|count| NonZeroU32::new(count).unwrap()));
    let counts = (count(), count(), count(), count(), count(), count(), count());
    (counts, proptest::option::of(0i64..1_500), proptest::option::of(0u64..5_000)).prop_map(
        |((last, hourly, daily, weekly, monthly, yearly, at_least), hours, max_bytes)| Policy {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            at_least,
            within: hours.map(SignedDuration::from_hours),
            max_bytes: max_bytes.filter(|_| hours.is_some() && last.is_some()),
            ..Policy::default()
        },
    )
}

proptest! {
    #[test]
    fn a_source_is_never_emptied_and_nothing_needed_goes(all in candidates(), policy in policies()) {
        let kept = kept(&all, &policy);
        prop_assert!(!kept.is_empty());
        if all.iter().any(|backup| backup.proven) {
            prop_assert!(all.iter().any(|backup| backup.proven && kept.contains(&backup.id)));
        } else {
            prop_assert_eq!(kept.len(), all.len());
        }
        for backup in all.iter().filter(|backup| kept.contains(&backup.id)) {
            prop_assert!(backup.needs.iter().all(|base| kept.contains(base)));
        }
        for backup in &all {
            prop_assert!(!backup.pinned || kept.contains(&backup.id));
        }
    }

    #[test]
    fn the_order_of_the_input_changes_nothing(all in candidates(), policy in policies(), seed in any::<u64>()) {
        let mut shuffled = all.clone();
        let mut state = seed;
        for at in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            shuffled.swap(at, (state >> 33) as usize % (at + 1));
        }
        prop_assert_eq!(decide(&all, &policy, now(), None), decide(&shuffled, &policy, now(), None));
    }

    #[test]
    fn a_more_generous_policy_keeps_no_less(all in candidates(), policy in policies(), which in 0usize..9) {
        let more = |count: Option<NonZeroU32>| Some(count.map_or(NonZeroU32::MIN, |c| c.saturating_add(2)));
        let mut generous = policy.clone();
        // A rule that is added to none would take away the rule that keeps everything.
        prop_assume!(!policy.keeps_everything());
        match which {
            0 => generous.last = more(policy.last),
            1 => generous.hourly = more(policy.hourly),
            2 => generous.daily = more(policy.daily),
            3 => generous.weekly = more(policy.weekly),
            4 => generous.monthly = more(policy.monthly),
            5 => generous.yearly = more(policy.yearly),
            6 => generous.at_least = more(policy.at_least),
            7 => generous.within = policy.within.map(|within| within + SignedDuration::from_hours(100)),
            _ => generous.max_bytes = policy.max_bytes.map(|most| most + 500),
        }
        prop_assert!(kept(&all, &generous).is_superset(&kept(&all, &policy)));
    }

    #[test]
    fn a_backup_that_is_not_proven_displaces_nothing(all in candidates(), policy in policies(), hours in 0i64..2_000) {
        // Sizes count towards the limit on size, which only holds back what no slot keeps.
        let policy = Policy { max_bytes: None, ..policy };
        let stranger = Candidate { proven: false, bytes: u64::MAX, ..old(hours) };
        let more: Vec<Candidate> = all.iter().cloned().chain([stranger]).collect();
        prop_assert!(kept(&more, &policy).is_superset(&kept(&all, &policy)));
    }
}
