//! What the probe finds out about places whose ways are known.

use std::process::Command;

use backup_core::{BackupId, Context, ErrorKind};
use storage::{AppendOnly, Outcome, ProbeReport, StorageConfig, probe};

use crate::folder::Mount;
use crate::proxy::{Harm, Plan, Proxy};
use crate::servers::{Server, rgw, s3s};

async fn tried(config: &StorageConfig) -> ProbeReport {
    probe(&Context::new(), config, false).await.unwrap()
}

/// What is below `.probe/`.
async fn leftovers(config: &StorageConfig) -> usize {
    storage::open(config).unwrap().source.list(".probe/").await.unwrap().len()
}

fn assert_outcomes(report: &ProbeReport, wanted: &[(&str, Outcome)]) {
    for (check, outcome) in wanted {
        assert_eq!(report.outcome(check), Some(*outcome), "{check}: {report:#?}");
    }
}

#[tokio::test]
async fn a_folder_is_never_called_append_only() {
    let folder = tempfile::tempdir().unwrap();
    let config = StorageConfig::local(folder.path());
    let report = tried(&config).await;
    assert!(report.problem.is_none(), "{report:#?}");
    for check in
        ["put", "get", "range", "list", "missing", "refuse-overwrite", "overwrite", "delete", "clock"]
    {
        assert_eq!(report.outcome(check), Some(Outcome::Yes), "{check}: {report:#?}");
    }
    assert_outcomes(&report, &[("versions", Outcome::No), ("lock", Outcome::Unsupported)]);
    assert_eq!(report.append_only, AppendOnly::No);
    assert!(report.because.iter().any(|why| why.contains("replaced")), "{report:#?}");
    assert!(report.left.is_empty() && report.not_obeyed.is_empty(), "{report:#?}");
    assert!(!folder.path().join(".probe").exists());
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_made_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let config = StorageConfig::local(folder.path().join("a/b"));
    let error = probe(&Context::new(), &config, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().unwrap().contains("--create"), "{error:?}");
    let report = probe(&Context::new(), &config, true).await.unwrap();
    assert!(report.created && report.problem.is_none());
    assert!(folder.path().join("a/b").is_dir());
    assert!(!probe(&Context::new(), &config, true).await.unwrap().created);
}

#[tokio::test]
async fn a_read_only_folder_is_not_ready() {
    let mount = Mount::new("size=4m");
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(mount.0.path()).status().unwrap();
    assert!(remounted.success());
    let report = tried(&StorageConfig::local(mount.0.path())).await;
    assert_eq!(report.problem.as_ref().map(|error| error.kind()), Some(ErrorKind::Denied), "{report:#?}");
    assert_outcomes(&report, &[("put", Outcome::Denied)]);
    assert!(report.left.is_empty());
}

#[tokio::test]
async fn ceph_s_conditions_hold_for_puts_and_its_key_can_take_everything_back() {
    let config = rgw().config("");
    let report = tried(&config).await;
    assert!(report.problem.is_none(), "{report:#?}");
    assert_outcomes(
        &report,
        &[
            ("put", Outcome::Yes),
            ("get", Outcome::Yes),
            ("range", Outcome::Yes),
            ("list", Outcome::Yes),
            ("missing", Outcome::Yes),
            ("multipart", Outcome::Yes),
            ("abort", Outcome::Yes),
            // Version 16 forgets the condition when an upload in parts is completed.
            ("refuse-overwrite", Outcome::NotObeyed),
            ("checksum", Outcome::Yes),
            ("clock", Outcome::Yes),
            ("overwrite", Outcome::Yes),
            ("delete", Outcome::Yes),
            ("versions", Outcome::No),
        ],
    );
    assert!(report.not_obeyed.iter().any(|what| what.contains("completion")), "{report:#?}");
    assert!(!report.not_obeyed.iter().any(|what| what.contains("a put")), "{report:#?}");
    assert!(report.not_obeyed.iter().any(|what| what.contains("CRC-32C")), "{report:#?}");
    assert_eq!(report.append_only, AppendOnly::No);
    assert!(report.advice.as_ref().unwrap().contains("s3:if-none-match"));
    assert_eq!((report.left.len(), leftovers(&config).await), (0, 0));
}

/// A bucket whose every object is locked, as one that was made for backups.
async fn locked_bucket(server: &mut Server) {
    server.bucket = format!("locked-{}", BackupId::random());
    let path = format!("/{}", server.bucket);
    let made = server.ask("PUT", &path, &[("x-amz-bucket-object-lock-enabled", "true")], "").await;
    assert_eq!(made, 200);
    let rule = "<ObjectLockConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
        <ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>1</Days>\
        </DefaultRetention></Rule></ObjectLockConfiguration>";
    assert_eq!(server.ask("PUT", &format!("{path}?object-lock="), &[], rule).await, 200);
}

#[tokio::test]
async fn incident_44_locked_versions_are_append_only_because_the_old_one_was_read_back() {
    let mut server = rgw();
    locked_bucket(&mut server).await;
    let report = tried(&server.config("")).await;
    assert!(report.problem.is_none(), "{report:#?}");
    assert_outcomes(
        &report,
        &[("versions", Outcome::Yes), ("lock", Outcome::Yes), ("overwrite", Outcome::Yes)],
    );
    assert_eq!(report.append_only, AppendOnly::Versions, "{report:#?}");
    assert!(report.advice.is_none());
    // Locked for a day: they are named.
    assert!(report.left.iter().any(|left| left.contains("(version ")), "{report:#?}");
}

#[tokio::test]
async fn versions_without_a_lock_are_not_append_only() {
    let mut server = rgw();
    server.bucket = format!("versions-{}", BackupId::random());
    let path = format!("/{}", server.bucket);
    assert_eq!(server.ask("PUT", &path, &[], "").await, 200);
    let on = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>Enabled</Status>\
        </VersioningConfiguration>";
    assert_eq!(server.ask("PUT", &format!("{path}?versioning="), &[], on).await, 200);
    let report = tried(&server.config("")).await;
    assert_outcomes(&report, &[("versions", Outcome::Yes)]);
    assert_eq!(report.append_only, AppendOnly::No, "{report:#?}");
    assert!(report.because.iter().any(|why| why.contains("removed for good")), "{report:#?}");
    assert!(report.left.is_empty(), "{report:#?}");
}

/// Credentials under the policy that the probe prints.
#[tokio::test]
async fn incident_44_refused_overwrites_and_deletes_are_append_only_and_what_stays_is_named() {
    let server = rgw();
    let policy = Plan { what: "", at: 0, times: usize::MAX, harm: Harm::Policy };
    let proxy = Proxy::start(&server.endpoint, policy).await;
    let report = tried(&server.through(proxy.endpoint.clone()).config("")).await;
    assert!(report.problem.is_none(), "{report:#?}");
    assert_outcomes(&report, &[("overwrite", Outcome::Denied), ("delete", Outcome::Denied)]);
    assert_eq!(report.append_only, AppendOnly::Refused, "{report:#?}");
    assert!(report.advice.is_none() && !report.left.is_empty(), "{report:#?}");
}

/// Deletes alone are refused: whoever can replace can take back.
#[tokio::test]
async fn incident_44_a_key_that_may_not_delete_and_may_replace_is_not_append_only() {
    let server = rgw();
    let plan = Plan { what: "DELETE", at: 0, times: usize::MAX, harm: Harm::Deny };
    let proxy = Proxy::start(&server.endpoint, plan).await;
    let report = tried(&server.through(proxy.endpoint.clone()).config("")).await;
    assert_outcomes(&report, &[("overwrite", Outcome::Yes), ("delete", Outcome::Denied)]);
    assert_eq!(report.append_only, AppendOnly::No, "{report:#?}");
    assert!(!report.left.is_empty());
}

#[tokio::test]
async fn a_bucket_is_made_on_request() {
    let mut server = rgw();
    server.bucket = format!("made-{}", BackupId::random());
    let config = server.config("");
    let error = probe(&Context::new(), &config, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    let report = probe(&Context::new(), &config, true).await.unwrap();
    assert!(report.created && report.problem.is_none(), "{report:#?}");
}

#[tokio::test]
async fn wrong_credentials_are_told_and_not_repeated() {
    for server in [rgw(), s3s()] {
        let wrong = storage::Credentials::new("nobody", "hunter2".to_owned());
        let report = probe(&Context::new(), &server.config("").with_credentials(wrong), false).await;
        let shown = format!("{report:?}");
        let kind = match report {
            Ok(report) => report.problem.map(|error| error.kind()),
            Err(error) => Some(error.kind()),
        };
        assert_eq!(kind, Some(ErrorKind::Denied), "{shown}");
        assert!(!shown.contains("hunter2"));
    }
}

#[tokio::test]
async fn s3s_compares_no_checksum_of_parts_and_has_no_lock() {
    let config = s3s().config("");
    let report = tried(&config).await;
    assert!(report.problem.is_none(), "{report:#?}");
    assert_outcomes(
        &report,
        &[
            ("put", Outcome::Yes),
            ("multipart", Outcome::Yes),
            ("delete", Outcome::Yes),
            ("overwrite", Outcome::Yes),
        ],
    );
    assert_ne!(report.outcome("lock"), Some(Outcome::Yes), "{report:#?}");
    assert!(report.not_obeyed.iter().any(|what| what.contains("of a part")), "{report:#?}");
    assert_eq!(report.append_only, AppendOnly::No);
    assert_eq!((report.left.len(), leftovers(&config).await), (0, 0));
}

#[tokio::test]
async fn a_cancelled_probe_clears_up() {
    let folder = tempfile::tempdir().unwrap();
    let cx = Context::new();
    cx.cancel().cancel();
    let error = probe(&cx, &StorageConfig::local(folder.path()), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!folder.path().join(".probe").exists());
}
