//! Rules of retention from flags and from the table of a source.

use std::num::NonZeroU32;

use backup_core::retention::{Period, Policy};
use clap::Args;
use jiff::SignedDuration;
use jiff::tz::TimeZone;

use crate::failure::{Failure, Outcome};
use crate::settings::{Rate, Table, Value};

/// What to keep. A flag replaces the key of the source's table.
#[derive(Debug, Default, Args)]
pub(crate) struct KeepArgs {
    /// The newest backups, as many; those of one hour count as one (see --keep-slot)
    #[arg(long, value_name = "N")]
    keep_last: Option<String>,
    /// Which backups count as one for --keep-last: those of one hour, day, week, month or year
    #[arg(long, value_name = "PERIOD")]
    keep_slot: Option<String>,
    /// Everything this young, such as 36h, 30d or 8w
    #[arg(long, value_name = "AGE")]
    keep_within: Option<String>,
    /// Of what only --keep-within keeps, the newest up to this total, such as 100GiB
    #[arg(long, value_name = "SIZE")]
    keep_max_size: Option<String>,
    /// One for each of so many hours
    #[arg(long, value_name = "N")]
    keep_hourly: Option<String>,
    /// One for each of so many days
    #[arg(long, value_name = "N")]
    keep_daily: Option<String>,
    /// One for each of so many weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<String>,
    /// One for each of so many months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<String>,
    /// One for each of so many years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<String>,
    /// Never fewer verified backups than these, whatever the rules say; 1 if not given
    #[arg(long, value_name = "N")]
    keep_at_least: Option<String>,
    /// How long a backup that the rules let go stays marked before it is removed, such as 7d
    #[arg(long, value_name = "AGE")]
    delete_delay: Option<String>,
    /// Where days begin, such as Europe/Berlin; UTC if not given
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
}

impl KeepArgs {
    /// The policy for a source with this table.
    ///
    /// # Errors
    /// `Config`, naming the flag and the key.
    pub(crate) fn policy(&self, table: Option<&Table>) -> Outcome<Policy> {
        let keys = Keys { table };
        let policy = Policy {
            last: keys.count(&self.keep_last, "keep_last")?,
            slot: keys.parsed(&self.keep_slot, "keep_slot", period)?.unwrap_or(Period::Hour),
            within: keys.parsed(&self.keep_within, "keep_within", age)?,
            max_bytes: keys.parsed(&self.keep_max_size, "keep_max_size", size)?,
            hourly: keys.count(&self.keep_hourly, "keep_hourly")?,
            daily: keys.count(&self.keep_daily, "keep_daily")?,
            weekly: keys.count(&self.keep_weekly, "keep_weekly")?,
            monthly: keys.count(&self.keep_monthly, "keep_monthly")?,
            yearly: keys.count(&self.keep_yearly, "keep_yearly")?,
            at_least: keys.count(&self.keep_at_least, "keep_at_least")?,
            delay: keys.parsed(&self.delete_delay, "delete_delay", age)?,
            time_zone: keys.parsed(&self.time_zone, "time_zone", zone)?.unwrap_or(TimeZone::UTC),
        };
        policy.check().map_err(|error| {
            Failure::usage("rules of retention", error.to_string(), "docs/retention.md explains each rule")
        })?;
        Ok(policy)
    }
}

struct Keys<'a> {
    table: Option<&'a Table>,
}

impl Keys<'_> {
    fn parsed<T>(
        &self,
        flag: &Option<String>,
        key: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Outcome<Option<T>> {
        let in_table = self.table.and_then(|table| table.fields.get(key)).map(|found| match &found.value {
            Value::Text(text) => text.clone(),
            other => other.to_string(),
        });
        let Some(text) = flag.clone().or(in_table) else { return Ok(None) };
        parse(&text).map(Some).ok_or_else(|| {
            let flag = key.replace('_', "-");
            Failure::usage(
                format!("flag --{flag}, key sources.NAME.{key}"),
                format!("{text:?} is not understood"),
                match key {
                    "keep_within" | "delete_delay" => "write a number and h, d or w, such as 30d",
                    "keep_max_size" => "write a number and KiB, MiB or GiB, such as 100GiB",
                    "keep_slot" => "write hour, day, week, month or year",
                    "time_zone" => {
                        "write a name such as Europe/Berlin; it must be in this machine's tz database"
                    }
                    _ => "write a whole number from 1",
                },
            )
        })
    }

    fn count(&self, flag: &Option<String>, key: &str) -> Outcome<Option<NonZeroU32>> {
        self.parsed(flag, key, |text| text.parse().ok())
    }
}

fn period(text: &str) -> Option<Period> {
    Some(match text {
        "hour" => Period::Hour,
        "day" => Period::Day,
        "week" => Period::Week,
        "month" => Period::Month,
        "year" => Period::Year,
        _ => return None,
    })
}

/// A number of hours, days or weeks: 36h, 30d, 8w.
pub(crate) fn age(text: &str) -> Option<SignedDuration> {
    let (number, hours) = match text.split_at_checked(text.len().checked_sub(1)?)? {
        (number, "h") => (number, 1),
        (number, "d") => (number, 24),
        (number, "w") => (number, 24 * 7),
        _ => return None,
    };
    let number: u32 = number.parse().ok()?;
    Some(SignedDuration::from_hours(i64::from(number) * hours))
}

fn size(text: &str) -> Option<u64> {
    text.parse::<Rate>().ok().map(|Rate(bytes)| bytes.get())
}

fn zone(text: &str) -> Option<TimeZone> {
    if text == "UTC" { Some(TimeZone::UTC) } else { TimeZone::get(text).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::File;

    fn table(toml: &str) -> Table {
        let mut problems = Vec::new();
        let file = File::parse("/s.toml".as_ref(), &format!("[sources.a]\n{toml}"), &mut problems);
        assert_eq!(problems, []);
        file.sources["a"].clone()
    }

    #[test]
    fn flags_win_over_the_table() {
        let table = table("keep_daily = 7\nkeep_last = 2\nkeep_within = \"36h\"\nkeep_max_size = \"1GiB\"\n");
        let flags = KeepArgs { keep_daily: Some("30".into()), ..KeepArgs::default() };
        let policy = flags.policy(Some(&table)).unwrap();
        assert_eq!((policy.daily, policy.last), (NonZeroU32::new(30), NonZeroU32::new(2)));
        assert_eq!(policy.within, Some(SignedDuration::from_hours(36)));
        assert_eq!(policy.max_bytes, Some(1 << 30));
        assert!(KeepArgs::default().policy(None).unwrap().keeps_everything());
    }

    #[test]
    fn what_is_not_understood_is_named_with_flag_and_key() {
        for (key, bad) in [
            ("keep_last", "0"),
            ("keep_last", "many"),
            ("keep_within", "30"),
            ("keep_within", "d"),
            ("keep_within", "9999999999d"),
            ("keep_max_size", "1TB"),
            ("keep_slot", "decade"),
            ("time_zone", "Mars/Olympus"),
        ] {
            let keys = Keys { table: None };
            let flag = Some(bad.to_owned());
            let failure = match key {
                "keep_last" => keys.count(&flag, key).map(drop),
                "keep_within" => keys.parsed(&flag, key, age).map(drop),
                "keep_max_size" => keys.parsed(&flag, key, size).map(drop),
                "keep_slot" => keys.parsed(&flag, key, period).map(drop),
                _ => keys.parsed(&flag, key, zone).map(drop),
            };
            let said = failure.unwrap_err().for_a_person();
            assert!(
                said.contains(&key.replace('_', "-")) && said.contains(key) && said.contains(bad),
                "{said}"
            );
        }
        let alone = KeepArgs { keep_max_size: Some("1GiB".into()), ..KeepArgs::default() };
        assert!(alone.policy(None).unwrap_err().for_a_person().contains("one huge backup"));
    }
}
