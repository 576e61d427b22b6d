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
        failed: false,
        accepted: false,
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
fn incident_80_each_rule_keeps_what_it_says() {
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
fn incident_37_a_flood_of_valid_backups_displaces_nothing() {
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
fn incident_37_a_time_in_the_future_is_now() {
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
fn incident_63_a_hundred_thousand_backups_are_decided_at_once() {
    let many: Vec<Candidate> = (0..100_000).map(old).collect();
    let policy = Policy { last: n(10), daily: n(30), monthly: n(24), yearly: n(5), ..Policy::default() };
    assert_eq!(decide(&many, &policy, now(), None).len(), many.len());
}

/// Ten backups of 1 MB, one a day, then one of this size a few hours ago.
fn then(bytes: u64) -> Vec<Candidate> {
    let usual = (1..=10).rev().map(|day| Candidate { bytes: 1_000_000 + day as u64, ..old(day * 24) });
    usual.chain([Candidate { bytes, ..old(2) }]).collect()
}

#[test]
fn a_size_that_is_far_from_the_usual_one_freezes_until_it_is_accepted() {
    let policy = Policy { daily: n(2), ..Policy::default() };
    for (bytes, frozen) in [
        (1_000_000, false),
        (500_003, false),
        (500_000, true),
        (3_000_015, false),
        (3_000_019, true),
        (0, true),
        (u64::MAX, true),
    ] {
        let mut all = then(bytes);
        let newest = all.last().unwrap().id;
        let why = freeze(&all, &policy, now());
        assert_eq!(why.is_some(), frozen, "{bytes}: {why:?}");
        if !frozen {
            assert_eq!(places(&all, &policy), [9, 10]);
            continue;
        }
        assert!(why.unwrap().contains(&newest.to_string()));
        assert_eq!(kept(&all, &policy).len(), all.len(), "nothing goes");
        all.last_mut().unwrap().accepted = true;
        assert_eq!(freeze(&all, &policy, now()), None);
        assert_eq!(places(&all, &policy), [9, 10]);
        // What was accepted is what is usual from then on.
        all.push(Candidate { bytes, ..old(1) });
        assert_eq!(freeze(&all, &policy, now()), None);
        let other = if bytes < 1_000_000 { bytes.max(10_000) * 4 } else { bytes / 4 };
        all.push(Candidate { bytes: other, ..old(0) });
        assert!(freeze(&all, &policy, now()).is_some(), "and what is far from that is not");
    }
}

#[test]
fn an_unusual_or_damaged_backup_displaces_nothing_also_when_a_usual_one_follows() {
    let policy = Policy { daily: n(1), ..Policy::default() };
    // The emptied one came first on this day; without the rule it would be the keeper of the day.
    let mut all = then(9_000);
    all.push(Candidate { bytes: 1_000_000, ..old(1) });
    assert_eq!(freeze(&all, &policy, now()), None);
    assert_eq!(places(&all, &policy), [10, 11], "both, for the first is kept beside the count");
    let mut all = vec![old(48), old(3), old(2), old(1)];
    all[1].failed = true;
    assert_eq!(freeze(&all, &policy, now()), None);
    assert_eq!(places(&all, &policy), [1, 2, 3], "the newest proven one stays in any case");
    all[3].failed = true;
    assert!(freeze(&all, &policy, now()).unwrap().contains("failed its verification"));
    assert_eq!(kept(&all, &policy).len(), 4);
}

#[test]
fn a_flood_within_a_day_does_not_make_its_size_the_usual_one() {
    let policy = Policy { daily: n(7), ..Policy::default() };
    let mut all = then(1_000_000);
    // A thousand in an hour, each a little smaller than the one before, down to a tenth.
    all.extend((0..1_000).map(|step| Candidate {
        bytes: 1_000_000 - 900 * step,
        first_seen: now() - SignedDuration::from_secs(3_600 - step as i64),
        ..old(0)
    }));
    assert!(freeze(&all, &policy, now()).is_some());
}

#[test]
fn nothing_is_unusual_without_a_history_or_below_a_few_kilobytes() {
    let policy = Policy { daily: n(1), ..Policy::default() };
    let two = [Candidate { bytes: 1 << 30, ..old(48) }, Candidate { bytes: 1 << 30, ..old(24) }, old(1)];
    assert_eq!(freeze(&two, &policy, now()), None);
    let mut small: Vec<Candidate> = (1..9).map(|day| Candidate { bytes: 5_000, ..old(day * 24) }).collect();
    small.push(Candidate { bytes: 100, ..old(1) });
    assert_eq!(freeze(&small, &policy, now()), None);
    assert_eq!(freeze(&[], &policy, now()), None);
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    // Sizes on both sides of what is unusual.
    let bytes = prop_oneof![0u64..1_000, 1_000u64..100_000];
    let one = (0i64..2_000, any::<bool>(), 0u8..20, bytes, proptest::option::of(0usize..30));
    proptest::collection::vec(one, 1..30).prop_map(|list| {
        let mut all: Vec<Candidate> = list
            .iter()
            .map(|&(hours, proven, pin, bytes, _)| Candidate {
                proven,
                bytes,
                pinned: pin == 0,
                failed: pin == 1,
                accepted: pin == 2,
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
        if all.iter().any(|backup| backup.proven && !backup.failed) {
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
        // Sizes count towards the limit on size, which only holds back what no slot keeps. While the newest
        // backup freezes all, a newer one may end that.
        prop_assume!(freeze(&all, &policy, now()).is_none());
        let policy = Policy { max_bytes: None, ..policy };
        let stranger = Candidate { proven: false, bytes: u64::MAX, ..old(hours) };
        let more: Vec<Candidate> = all.iter().cloned().chain([stranger]).collect();
        prop_assert!(kept(&more, &policy).is_superset(&kept(&all, &policy)));
    }

    #[test]
    fn incident_37_floods_of_proven_backups_displace_nothing_that_a_slot_keeps(
        days in 1usize..12,
        flood in proptest::collection::vec((-3_000i64..300, any::<u64>(), any::<bool>()), 0..60),
        slots in 1u32..12,
    ) {
        // One honest backup a day, each the first that was seen on its day; the flood comes after it on
        // any day, from the future too, in any size.
        let policy = Policy { daily: n(slots), last: n(slots), slot: Period::Day, ..Policy::default() };
        let honest: Vec<Candidate> =
            (0..days).map(|day| Candidate { bytes: 50_000, ..old(day as i64 * 24 + 12) }).collect();
        let mut all = honest.clone();
        all.extend(flood.into_iter().map(|(hours, bytes, proven)| {
            // Within the days there are, after the honest one of its day.
            let hours = if hours > 0 { (hours / 24) % days as i64 * 24 + hours % 11 } else { hours };
            Candidate { bytes, proven, ..old(hours) }
        }));
        prop_assert!(kept(&all, &policy).is_superset(&kept(&honest, &policy)));
    }
}
