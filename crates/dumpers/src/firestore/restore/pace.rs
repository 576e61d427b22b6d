//! How quickly documents are written.

use std::time::{Duration, Instant};

use backup_core::{Context, Error, Result};

/// At first so many documents a second.
const FIRST: f64 = 500.0;
/// Half as many again after each of these.
const STEP: Duration = Duration::from_secs(300);

/// The rule that Firestore asks of those who fill a collection: 500 operations a second, and 50 % more
/// every 5 minutes (<https://firebase.google.com/docs/firestore/best-practices#ramping_up_traffic>).
#[derive(Debug)]
pub(super) struct Pace {
    ramp: bool,
    began: Option<Instant>,
    /// When the next document may be written, counted from the beginning.
    free: Duration,
}

impl Pace {
    pub(super) fn new(ramp: bool) -> Self {
        Self { ramp, began: None, free: Duration::ZERO }
    }

    /// Waits until so many documents may be written.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(super) async fn take(&mut self, cx: &Context, subject: &str, count: usize) -> Result<()> {
        if !self.ramp {
            return Ok(());
        }
        let began = *self.began.get_or_insert_with(Instant::now);
        let at = self.turn(began.elapsed(), count);
        tokio::select! {
            biased;
            () = cx.cancel().cancelled() => Err(Error::cancelled(subject)),
            () = tokio::time::sleep_until((began + at).into()) => Ok(()),
        }
    }

    /// When so many may be written, asked at `now`.
    fn turn(&mut self, now: Duration, count: usize) -> Duration {
        let at = self.free.max(now);
        self.free = at + Duration::from_secs_f64(count as f64 / rate(at));
        at
    }
}

fn rate(since: Duration) -> f64 {
    // No faster than any database allows; the exponent stays small.
    let steps = (since.as_secs() / STEP.as_secs()).min(20);
    FIRST * 1.5_f64.powi(i32::try_from(steps).unwrap_or(20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_hundred_a_second_and_half_as_many_again_after_five_minutes() {
        let mut pace = Pace::new(true);
        let mut written = Vec::new();
        let mut now = Duration::ZERO;
        while now < Duration::from_secs(620) {
            now = pace.turn(now, 250);
            written.push((now.as_secs(), 250));
        }
        let within = |from: u64, to: u64| -> u64 {
            written.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, count)| count).sum()
        };
        assert!((4_900..=5_500).contains(&within(0, 10)), "{}", within(0, 10));
        assert!((7_400..=8_000).contains(&within(310, 320)), "{}", within(310, 320));
        assert!((11_000..=11_700).contains(&within(605, 615)), "{}", within(605, 615));
    }
}
