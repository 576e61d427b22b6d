//! How long each part of a multipart upload is. Pure arithmetic.
//!
//! S3 allows 10,000 parts of 5 MiB to 5 GiB and objects of 5 TiB; some servers allow 1,000 parts.
//! The length of a stream is not known beforehand, and a part has to be in memory while it is sent,
//! because it may have to be sent again. So the first parts are short, and an object that outgrows
//! them goes on in long parts that the server itself makes of segments, each sent in short parts too
//! ([`Part::Composed`]). Memory is the same for every length.
//!
//! Where a server cannot do that, or wants all parts of one length, part lengths grow instead when the
//! parts left would not be enough, and memory grows with them: 10,000 parts of 5 TiB are 525 MiB each.

/// The most parts of one upload.
pub const PARTS_MAX: u32 = 10_000;
/// The most pieces of one object that any place takes: the blocks of Azure.
pub const COUNT_MAX: u32 = 50_000;
/// The fewest parts that can be asked for as a limit.
pub const PARTS_MIN: u32 = 100;
/// The shortest part but the last.
pub const PART_LEN_MIN: u64 = 5 * MIB;
/// The longest part.
pub const PART_LEN_MAX: u64 = 5 * GIB;
/// The longest object.
pub const OBJECT_LEN_MAX: u64 = 5 * TIB;
/// The default budget for parts in memory.
pub const MEMORY: usize = 48 << 20;

/// The usual length of a segment.
pub const SEGMENT_LEN: u64 = 1 << 30;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// The shortest part made when there is no reason for a longer or shorter one.
const PART_LEN_USUAL: u64 = 8 * MIB;
/// The most parts that are sent at the same time.
const IN_FLIGHT_MAX: u64 = 4;
/// Beside the parts on their way there is the one that is being gathered.
const HELD_BACK: u64 = 1;
/// What an object of unknown length may grow to, per allowed part: 10,000 of these are over 5 TiB.
const GROWTH_PER_PART: u64 = 550 * MIB;

/// What the place allows and what we allow ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The most parts, [`PARTS_MIN`] to [`COUNT_MAX`].
    pub parts_max: u32,
    /// Whether all parts but the last must have one length.
    pub equal: bool,
    /// Bytes that parts in memory may take as long as the object's length allows.
    pub memory: usize,
    /// The least length of a segment; `None` where the server cannot copy parts.
    pub segment: Option<u64>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { parts_max: PARTS_MAX, equal: false, memory: MEMORY, segment: Some(SEGMENT_LEN) }
    }
}

/// One part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Sent as it is; its length.
    Sent(u64),
    /// Copied by the server from a segment.
    Composed {
        /// Its length.
        len: u64,
        /// The length of the parts in which the segment is sent.
        piece: u64,
    },
}

impl Part {
    /// Bytes of the object that it holds.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::Sent(len) | Self::Composed { len, .. } => len,
        }
    }

    /// Bytes that are sent in one request.
    #[must_use]
    pub fn sent_at_once(self) -> u64 {
        match self {
            Self::Sent(len) | Self::Composed { piece: len, .. } => len,
        }
    }
}

/// The lengths of all parts of one upload: the first `steady` parts have the length `first`; those
/// after them are composed, or double their length after every `step` parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    parts_max: u32,
    memory: u64,
    first: u64,
    steady: u32,
    /// The length of composed parts.
    segment: Option<u64>,
    /// 0 for never.
    step: u32,
    in_flight: usize,
}

impl Plan {
    /// Plans for an object of about `size_hint` bytes, or of any length.
    #[must_use]
    pub fn new(rules: Rules, size_hint: Option<u64>) -> Self {
        let memory = rules.memory as u64;
        let parts_max = rules.parts_max.clamp(PARTS_MIN, COUNT_MAX);
        let compose = rules.segment.filter(|_| !rules.equal);
        // An estimate may be wrong by a tenth without any consequence, and by more with what follows
        // the steady parts.
        let (steady, wanted) = match size_hint {
            Some(hint) if rules.equal => (parts_max, share(hint, parts_max)),
            Some(hint) => {
                let steady = parts_max / 10 * 8;
                (steady, share(hint, steady).max(PART_LEN_USUAL.min(in_budget(memory, 2))))
            }
            None if rules.equal => (parts_max, in_budget(memory, 2)),
            None => (parts_max / 10 * 4, in_budget(memory, 2)),
        };
        // Parts that would not fit into the budget two at a time are not needed where the rest is composed.
        let wanted = if compose.is_some() { wanted.min(in_budget(memory, 2)) } else { wanted };
        let first = wanted.clamp(PART_LEN_MIN, PART_LEN_MAX);
        let in_flight = (memory / first).saturating_sub(HELD_BACK).clamp(1, IN_FLIGHT_MAX);
        let mut plan =
            Self { parts_max, memory, first, steady, segment: None, step: 0, in_flight: in_flight as usize };
        if let Some(least) = compose {
            let left = OBJECT_LEN_MAX.saturating_sub(u64::from(steady) * first);
            let needed = left.div_ceil(u64::from(parts_max - steady)).div_ceil(MIB) * MIB;
            // A segment is a multipart upload itself.
            let most = (u64::from(parts_max) * first).min(PART_LEN_MAX);
            plan.segment = Some(if least < SEGMENT_LEN { least } else { least.max(needed) }.min(most));
        } else if !rules.equal {
            let target = (u64::from(parts_max) * GROWTH_PER_PART)
                .max(size_hint.unwrap_or(0).saturating_mul(2))
                .min(OBJECT_LEN_MAX);
            // The gentlest growth that gets there; with 1 the lengths double with every part.
            plan.step = (1..=parts_max - steady)
                .rev()
                .find(|&step| Self { step, ..plan }.object_len_max() >= target)
                .unwrap_or(1);
        }
        plan
    }

    /// A part, counted from 0; `None` beyond the last part.
    #[must_use]
    pub fn part(&self, number: u32) -> Option<Part> {
        if number >= self.parts_max {
            return None;
        }
        if number < self.steady {
            return Some(Part::Sent(self.first));
        }
        if let Some(len) = self.segment {
            return Some(Part::Composed { len, piece: self.first });
        }
        let doublings = (number - self.steady).checked_div(self.step).map_or(0, |steps| 1 + steps);
        // 2^10 times the shortest part is the longest part.
        Some(Part::Sent((self.first << doublings.min(10)).min(PART_LEN_MAX)))
    }

    /// Whether no part before this one was as long.
    #[must_use]
    pub fn is_first_of_its_length(&self, number: u32) -> bool {
        number.checked_sub(1).is_none_or(|before| self.part(before) != self.part(number))
    }

    /// How many parts are sent at the same time.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether part `number` has to wait for `oldest`, the oldest part on its way.
    ///
    /// No part overtakes by more than [`Self::in_flight`]: several uploads of one stream then hold the
    /// same parts, and share their memory.
    #[must_use]
    pub fn waits(&self, number: u32, oldest: Option<u32>) -> bool {
        oldest.is_some_and(|oldest| (number - oldest) as usize >= self.in_flight)
    }

    /// The budget in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Bytes in memory while parts of `len` bytes are on their way.
    #[must_use]
    pub fn held(&self, len: u64) -> u64 {
        len.saturating_mul(self.in_flight as u64 + HELD_BACK)
    }

    /// The longest object that this plan can store.
    #[must_use]
    pub fn object_len_max(&self) -> u64 {
        let mut total = 0u64;
        let mut number = 0;
        while let Some(part) = self.part(number) {
            // All parts up to the next doubling have one length.
            let end = match number {
                _ if number < self.steady => self.steady,
                _ if self.step == 0 => self.parts_max,
                _ => number + self.step,
            };
            let end = end.min(self.parts_max);
            total = total.saturating_add(part.bytes() * u64::from(end - number));
            number = end;
        }
        total.min(OBJECT_LEN_MAX)
    }

    /// The longest object whose parts stay within `memory` bytes.
    #[must_use]
    pub fn within(&self, memory: usize) -> u64 {
        (0..self.parts_max)
            .map_while(|number| self.part(number))
            .take_while(|part| self.held(part.sent_at_once()) <= memory as u64)
            .fold(0u64, |total, part| total.saturating_add(part.bytes()))
            .min(OBJECT_LEN_MAX)
    }
}

/// The part length for `hint` bytes and a tenth more in `parts` parts, in whole MiB.
fn share(hint: u64, parts: u32) -> u64 {
    let len = hint.saturating_add(hint / 10).div_ceil(u64::from(parts));
    len.div_ceil(MIB).saturating_mul(MIB)
}

/// The longest part, in whole MiB, of which `in_flight` can be under way within `memory`.
fn in_budget(memory: u64, in_flight: u64) -> u64 {
    memory / (in_flight + HELD_BACK) / MIB * MIB
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(parts_max: u32, equal: bool) -> Rules {
        Rules { parts_max, equal, ..Rules::default() }
    }

    fn growing(parts_max: u32) -> Rules {
        Rules { segment: None, ..rules(parts_max, false) }
    }

    #[test]
    fn the_usual_cases() {
        // hint, first part, in flight
        let table = [
            (None, 16, 2),
            (Some(0), 8, 4),
            (Some(GIB), 8, 4),
            (Some(50 * GIB), 8, 4),
            (Some(100 * GIB), 15, 2),
            (Some(150 * GIB), 16, 2),
            (Some(TIB), 16, 2),
            (Some(5 * TIB), 16, 2),
        ];
        for (hint, mib, in_flight) in table {
            let plan = Plan::new(Rules::default(), hint);
            assert_eq!(
                (plan.part(0), plan.in_flight()),
                (Some(Part::Sent(mib * MIB)), in_flight),
                "{hint:?}"
            );
        }
    }

    #[test]
    fn incident_64_five_tebibytes_fit_into_the_budget_with_and_without_an_estimate() {
        for hint in [None, Some(0), Some(GIB), Some(100 * GIB), Some(TIB), Some(5 * TIB)] {
            let plan = Plan::new(Rules::default(), hint);
            assert_eq!(plan.object_len_max(), OBJECT_LEN_MAX, "{hint:?}");
            assert_eq!(plan.within(MEMORY), OBJECT_LEN_MAX, "{hint:?}");
            assert_eq!(Plan::new(growing(PARTS_MAX), hint).object_len_max(), OBJECT_LEN_MAX, "{hint:?}");
        }
    }

    #[test]
    fn without_copies_the_budget_is_kept_as_far_as_the_documentation_says() {
        assert_eq!(Plan::new(growing(PARTS_MAX), None).within(MEMORY), 4_000 * 16 * MIB);
        for gib in [1, 10, 100, 120] {
            let plan = Plan::new(growing(PARTS_MAX), Some(gib * GIB));
            assert!(plan.within(MEMORY) >= gib * GIB, "{gib} GiB");
        }
    }

    /// Azure's blocks are many and are not made of others: they grow only beyond what the budget reaches.
    #[test]
    fn fifty_thousand_blocks_reach_five_tebibytes() {
        let rules = Rules { ..growing(COUNT_MAX) };
        let known = Plan::new(rules, Some(500 * GIB));
        assert!(known.within(rules.memory) >= 500 * GIB, "{}", known.within(rules.memory) / GIB);
        let unknown = Plan::new(rules, None);
        assert!(unknown.within(rules.memory) >= 300 * GIB, "{}", unknown.within(rules.memory) / GIB);
        assert_eq!(unknown.object_len_max(), OBJECT_LEN_MAX);
    }

    /// 5,000 MB in parts of 5 MiB is where a limit of 1,000 parts ended backups.
    #[test]
    fn incident_61_a_limit_of_1000_parts_does_not_end_a_backup_at_5_gb() {
        let composed = Plan::new(rules(1_000, false), None);
        assert!(composed.within(MEMORY) >= 3_000 * GIB);
        let unknown = Plan::new(growing(1_000), None);
        assert!(unknown.object_len_max() >= 500 * GIB);
        assert!(unknown.within(MEMORY) >= 6 * GIB);
        let estimated = Plan::new(growing(1_000), Some(2 * TIB));
        assert!(estimated.object_len_max() >= 2 * TIB);
        // The same where the server also wants equal parts.
        assert!(Plan::new(rules(1_000, true), None).object_len_max() >= 15 * GIB);
        assert!(Plan::new(rules(1_000, true), Some(TIB)).object_len_max() >= TIB);
    }

    #[test]
    fn incident_62_no_upload_runs_out_of_parts_below_the_largest_object() {
        for hint in [None, Some(1), Some(48 * GIB), Some(49 * GIB), Some(5 * TIB)] {
            for rules in [rules(PARTS_MAX, false), growing(PARTS_MAX)] {
                let plan = Plan::new(rules, hint);
                let mut left = OBJECT_LEN_MAX;
                let mut parts = 0;
                while left > 0 {
                    left = left.saturating_sub(plan.part(parts).expect("parts are left").bytes());
                    parts += 1;
                }
                assert!(parts <= PARTS_MAX, "{hint:?} takes {parts}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_plan_obeys_the_rules(
            parts_max in prop_oneof![PARTS_MIN..=PARTS_MAX, Just(COUNT_MAX)],
            equal: bool,
            memory in (20u64..256).prop_map(|mib| (mib * MIB) as usize),
            segment in proptest::option::of((16u64..=5_120).prop_map(|mib| mib * MIB)),
            hint in proptest::option::of(0..=OBJECT_LEN_MAX),
        ) {
            let plan = Plan::new(Rules { parts_max, equal, memory, segment }, hint);
            let parts: Vec<Part> = (0..).map_while(|n| plan.part(n)).collect();
            prop_assert_eq!(parts.len(), parts_max as usize);
            for part in &parts {
                prop_assert!((PART_LEN_MIN..=PART_LEN_MAX).contains(&part.bytes()));
                prop_assert!((PART_LEN_MIN..=PART_LEN_MAX).contains(&part.sent_at_once()));
                if let Part::Composed { len, piece } = *part {
                    prop_assert!(!equal && segment.is_some());
                    prop_assert!(plan.held(piece) <= memory as u64);
                    prop_assert!(len.div_ceil(piece) <= u64::from(parts_max));
                }
            }
            prop_assert!(!equal || parts.iter().all(|part| *part == parts[0]));
            prop_assert_eq!(plan.object_len_max(), parts.iter().map(|part| part.bytes()).sum::<u64>().min(OBJECT_LEN_MAX));
            prop_assert!((1..=4).contains(&plan.in_flight()));
            // An estimate within the reach of the longest parts is always met.
            let reach = u64::from(parts_max) * PART_LEN_MAX / 2;
            if let Some(hint) = hint.filter(|hint| *hint <= reach && segment.is_none()) {
                prop_assert!(plan.object_len_max() >= hint);
            }
            // More than one part at a time only within the budget.
            let first = parts[0].sent_at_once();
            prop_assert!(plan.in_flight() == 1 || plan.held(first) <= memory as u64);
            if hint.is_none() || segment.is_some() && !equal {
                prop_assert!(plan.held(first) <= memory as u64);
            }
        }
    }
}
