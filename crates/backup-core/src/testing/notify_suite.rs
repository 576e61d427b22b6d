//! What every notifier must do.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;

use crate::id::BackupId;
use crate::notify::{Notice, Notifier};
use crate::progress::RunStatus;

/// Checks what every [`Notifier`] must do: a notice has arrived, unchanged and once, when the call
/// returns, those of one caller arrive in their order, and those of several at once are all whole.
///
/// `delivered` gives all notices that the other side has received, oldest first.
///
/// # Panics
/// Where the notifier breaks the contract.
pub async fn notifier_suite<F, Answer>(notifier: Arc<dyn Notifier>, delivered: F)
where
    F: Fn() -> Answer,
    Answer: Future<Output = Vec<Notice>>,
{
    let mut expected = delivered().await;
    let long = "a table that is missing, ".repeat(400);
    let messages = ["stored", "", "two\nlines, \"quotes\" and a \\", "größer als \u{1f980}\u{0}\r\t", &long];
    let statuses = [RunStatus::Completed, RunStatus::Failed, RunStatus::Cancelled];
    for (second, (message, status)) in (0..).zip(messages.into_iter().zip(statuses.into_iter().cycle())) {
        let notice = notice(second, status, message);
        // Said twice is delivered twice: nobody but the receiver may judge that.
        for _ in 0..2 {
            notifier.notify(&notice).await.expect("a notice is delivered");
            expected.push(notice.clone());
            assert_eq!(delivered().await, expected, "each notice has arrived when the call returns");
        }
    }

    let mut callers = JoinSet::new();
    for second in 0..8 {
        let notifier = Arc::clone(&notifier);
        let notice = notice(second, RunStatus::Failed, &format!("{second} {long}"));
        callers.spawn(async move { notifier.notify(&notice).await.map(|()| notice) });
    }
    let mut sent: Vec<Notice> =
        callers.join_all().await.into_iter().map(|sent| sent.expect("a notice is delivered")).collect();
    let all = delivered().await;
    assert_eq!(all[..expected.len()], expected, "what had arrived stays as it was");
    let mut received = all[expected.len()..].to_vec();
    for notices in [&mut sent, &mut received] {
        notices.sort_by_key(|notice| notice.at);
    }
    assert_eq!(received, sent, "notices of several callers arrive whole, each once");
}

fn notice(second: i64, status: RunStatus, message: &str) -> Notice {
    Notice {
        at: Timestamp::UNIX_EPOCH + SignedDuration::new(second, 500_000_000),
        source: "orders".to_owned(),
        id: BackupId::random().to_string(),
        status,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;

    use super::*;
    use crate::error::Result;

    /// Keeps what it is told, or only the first of equal ones.
    #[derive(Debug, Default)]
    struct Kept {
        notices: Mutex<Vec<Notice>>,
        once: bool,
    }

    #[async_trait]
    impl Notifier for Kept {
        async fn notify(&self, notice: &Notice) -> Result<()> {
            let mut notices = self.notices.lock().unwrap();
            if !self.once || !notices.contains(notice) {
                notices.push(notice.clone());
            }
            Ok(())
        }
    }

    async fn check(kept: Kept) {
        let kept = Arc::new(kept);
        notifier_suite(Arc::clone(&kept) as _, async || kept.notices.lock().unwrap().clone()).await;
    }

    #[tokio::test]
    async fn a_notifier_that_keeps_everything_obeys_the_suite() {
        check(Kept::default()).await;
    }

    #[tokio::test]
    #[should_panic(expected = "each notice has arrived")]
    async fn a_notifier_that_leaves_one_out_is_found() {
        check(Kept { once: true, ..Kept::default() }).await;
    }
}
