//! Periods of the calendar and the slots they cut time into.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// A period of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// 60 minutes, beginning on the hour of the time zone.
    Hour,
    /// From midnight to midnight in the time zone, be it 23, 24 or 25 hours long.
    Day,
    /// An ISO 8601 week, beginning on Monday.
    Week,
    /// A month of the calendar.
    Month,
    /// A year of the calendar.
    Year,
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        })
    }
}

impl Period {
    /// The number of the slot that an instant falls into; later slots have higher numbers.
    pub(super) fn slot(self, at: Timestamp, zone: &TimeZone) -> i64 {
        // An hour that the clocks repeat is two slots, because it is two hours.
        if self == Self::Hour {
            let offset = i64::from(zone.to_offset(at).seconds());
            let hour = at.as_second().saturating_add(offset.rem_euclid(3_600)).div_euclid(3_600);
            return hour;
        }
        let date = zone.to_datetime(at).date();
        let (year, month) = (i64::from(date.year()), i64::from(date.month()));
        match self {
            Self::Hour | Self::Day => i64::from(date.year()) * 366 + i64::from(date.day_of_year()),
            Self::Week => {
                let week = date.iso_week_date();
                i64::from(week.year()) * 54 + i64::from(week.week())
            }
            Self::Month => year * 12 + month,
            Self::Year => year,
        }
    }

    /// The name of that slot, for a person.
    pub(super) fn name(self, at: Timestamp, zone: &TimeZone) -> String {
        let time = zone.to_datetime(at);
        let date = time.date();
        match self {
            Self::Hour => format!("{date} {:02}h", time.hour()),
            Self::Day => date.to_string(),
            Self::Week => {
                let week = date.iso_week_date();
                format!("{:04}-W{:02}", week.year(), week.week())
            }
            Self::Month => format!("{:04}-{:02}", date.year(), date.month()),
            Self::Year => format!("{:04}", date.year()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(period: Period, zone: &TimeZone, times: &[&str]) -> Vec<i64> {
        times.iter().map(|time| period.slot(time.parse().unwrap(), zone)).collect()
    }

    #[test]
    fn incident_80_days_begin_where_the_time_zone_says_and_clocks_that_change_lose_nothing() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        // 2026-03-29 has 23 hours, 2026-10-25 has 25.
        let day = slots(
            Period::Day,
            &berlin,
            &["2026-03-28T22:59:59Z", "2026-03-28T23:00:00Z", "2026-03-29T21:59:59Z", "2026-03-29T22:00:00Z"],
        );
        assert_eq!((day[1] - day[0], day[2] - day[1], day[3] - day[2]), (1, 0, 1));
        let hours = slots(
            Period::Hour,
            &berlin,
            &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"],
        );
        assert_eq!((hours[1] - hours[0], hours[2] - hours[1]), (1, 1), "the repeated hour is an hour");
        let india = TimeZone::fixed(jiff::tz::Offset::from_seconds(19_800).unwrap());
        let hours = slots(Period::Hour, &india, &["2026-01-01T00:29:59Z", "2026-01-01T00:30:00Z"]);
        assert_eq!(hours[1] - hours[0], 1);
    }

    #[test]
    fn weeks_are_those_of_iso_8601_and_every_slot_has_a_name() {
        let utc = TimeZone::UTC;
        // A Thursday decides whose week it is.
        let week = slots(
            Period::Week,
            &utc,
            &["2027-01-03T23:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"],
        );
        assert_eq!(week[0], week[1]);
        assert!(week[2] > week[0]);
        let at = "2027-01-03T23:00:00Z".parse().unwrap();
        let names: Vec<String> = [Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year]
            .iter()
            .map(|period| period.name(at, &utc))
            .collect();
        assert_eq!(names, ["2027-01-03 23h", "2027-01-03", "2026-W53", "2027-01", "2027"]);
    }
}
