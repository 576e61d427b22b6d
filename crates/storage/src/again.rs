//! Trying again what may pass, with pauses that grow.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use crate::config::Retrying;

/// The pauses of one call.
#[derive(Debug)]
pub(crate) struct Again {
    left: usize,
    pause: Duration,
    longest: Duration,
}

impl Again {
    pub(crate) fn new(retry: Retrying) -> Self {
        Self { left: retry.times, pause: retry.min_delay, longest: retry.max_delay }
    }

    /// Waits, and says whether there is another try.
    pub(crate) async fn wait(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        tokio::time::sleep(self.pause + jitter(self.pause)).await;
        self.pause = (self.pause * 2).min(self.longest).max(Duration::from_millis(1));
        true
    }
}

/// Up to as long again, so that many who were sent away together do not come back together.
pub(crate) fn jitter(pause: Duration) -> Duration {
    // A hasher's keys are random; nothing here needs better.
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_are_as_many_tries_as_were_asked_for_and_the_pauses_grow() {
        let retry = Retrying {
            times: 3,
            min_delay: Duration::from_millis(10),
            max_delay: Duration::from_millis(30),
            ..Retrying::default()
        };
        let mut again = Again::new(retry);
        let began = tokio::time::Instant::now();
        assert!(again.wait().await && again.wait().await && again.wait().await);
        let took = began.elapsed();
        // 10, 20 and 30, and up to as much again.
        assert!(took >= Duration::from_millis(60), "{took:?}");
        assert!(!again.wait().await);
    }
}
