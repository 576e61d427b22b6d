//! What every catalogue must do.

use jiff::{SignedDuration, Timestamp};

use crate::catalog::{Catalog, Run, RunRecord};
use crate::error::{ErrorKind, Result};
use crate::id::BackupId;
use crate::progress::RunStatus;

/// Checks what every [`Catalog`] must do, beginning with an empty one: each run is listed from its
/// beginning with its own state, however it ends or if it never does, oldest first; a run whose place
/// a newer one has taken is stopped; and all of it outlives the value that wrote it.
///
/// `open` opens the same catalogue anew, as another process would; every step goes through a fresh
/// one.
///
/// # Panics
/// Where the catalogue breaks the contract.
pub async fn catalog_suite<C: Catalog>(open: impl Fn() -> C) {
    assert_eq!(open().list().await.expect("an empty catalogue is listed"), []);
    let mut expected = Vec::new();
    every_end_is_recorded(&open, &mut expected).await;
    what_names_no_backup_is_refused(&open, &expected).await;
    an_overtaken_run_is_stopped(&open, &mut expected).await;
}

fn at(second: i64) -> Timestamp {
    // Not on a whole second: what is kept is what was said.
    Timestamp::UNIX_EPOCH + SignedDuration::new(second, 123_456_789)
}

fn record(second: i64) -> RunRecord {
    RunRecord {
        source: "orders".to_owned(),
        id: BackupId::random().to_string(),
        started: at(second),
        ended: None,
        status: RunStatus::Pending,
        error: None,
    }
}

async fn assert_lists<C: Catalog>(open: &impl Fn() -> C, expected: &[RunRecord], when: &str) {
    assert_eq!(open().list().await.expect("runs are listed"), expected, "{when}");
}

async fn begin<C: Catalog>(open: &impl Fn() -> C, expected: &mut Vec<RunRecord>, record: RunRecord) -> Run {
    expected.push(record.clone());
    let run = open().begin(record.clone()).await.expect("a run is recorded");
    assert_eq!((run.backup.source.as_str(), run.backup.id.to_string()), (&*record.source, record.id));
    run
}

async fn every_end_is_recorded<C: Catalog>(open: &impl Fn() -> C, expected: &mut Vec<RunRecord>) {
    let why = "pg_dump: exit 3\n\"disk\" is full, größer\t\u{1f980}";
    type Outcome = Result<(), (ErrorKind, String)>;
    let outcomes: [(Option<Outcome>, RunStatus); 6] = [
        (Some(Ok(())), RunStatus::Completed),
        (Some(Err((ErrorKind::Tool, why.to_owned()))), RunStatus::Failed),
        (Some(Err((ErrorKind::Cancelled, "stopped".to_owned()))), RunStatus::Cancelled),
        (Some(Err((ErrorKind::Uncertain, String::new()))), RunStatus::Failed),
        // Interrupted: begun and never ended.
        (None, RunStatus::Uploading),
        (None, RunStatus::Pending),
    ];
    // All are under way at once, so that a mark on the wrong run shows.
    let mut runs = Vec::new();
    for second in 0..outcomes.len() {
        let run = begin(open, expected, record(second as i64)).await;
        assert_lists(open, expected, "a run is listed from its beginning").await;
        runs.push(run);
    }
    assert!(runs.is_sorted_by(|a, b| a.fence <= b.fence), "no fence is behind that of an earlier run");
    for (index, (outcome, status)) in outcomes.into_iter().enumerate().rev() {
        let run = runs.pop().expect("as many runs as outcomes");
        if status == RunStatus::Pending {
            continue;
        }
        for status in [RunStatus::Running, RunStatus::Uploading] {
            open().advance(&run, status).await.expect("a state is recorded");
            expected[index].status = status;
            assert_lists(open, expected, "a state is that of its own run").await;
        }
        let Some(outcome) = outcome else { continue };
        expected[index].status = status;
        expected[index].ended = Some(at(60));
        expected[index].error = outcome.clone().err().map(|(_, why)| why);
        open().end(run, at(60), outcome).await.expect("an end is recorded");
        assert_lists(open, expected, "an end is that of its own run").await;
    }
}

async fn what_names_no_backup_is_refused<C: Catalog>(open: &impl Fn() -> C, expected: &[RunRecord]) {
    let mut no_id = record(70);
    no_id.id.push('x');
    let mut no_source = record(70);
    no_source.source = "../orders".to_owned();
    for record in [no_id, no_source] {
        open().begin(record).await.expect_err("that names no backup");
        assert_lists(open, expected, "a run that was refused is not listed").await;
    }
}

async fn an_overtaken_run_is_stopped<C: Catalog>(open: &impl Fn() -> C, expected: &mut Vec<RunRecord>) {
    let first = record(80);
    let second = RunRecord { started: at(81), ..first.clone() };
    let old = begin(open, expected, first).await;
    let unrelated = begin(open, expected, record(80)).await;
    let new = begin(open, expected, second).await;
    assert!(new.fence > old.fence, "the fence grows when a run takes another's place");
    let error = open().advance(&old, RunStatus::Uploading).await.expect_err("the older run is stopped");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let ended = open().end(old, at(90), Ok(())).await.expect_err("the older run is not completed");
    assert_eq!(ended.kind(), ErrorKind::Conflict);
    assert_lists(open, expected, "what an overtaken run says changes nothing").await;
    let index = expected.len() - 1;
    for (index, run) in [(index, new), (index - 1, unrelated)] {
        open().advance(&run, RunStatus::Verifying).await.expect("the newer run goes on");
        expected[index].status = RunStatus::Verifying;
        assert_lists(open, expected, "the newer run goes on").await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryCatalog;

    #[tokio::test]
    async fn the_memory_catalogue_obeys_the_suite() {
        let catalog = MemoryCatalog::default();
        catalog_suite(|| catalog.clone()).await;
    }

    #[tokio::test]
    #[should_panic(expected = "a run is listed from its beginning")]
    async fn a_catalogue_that_forgets_is_found() {
        catalog_suite(MemoryCatalog::default).await;
    }
}
