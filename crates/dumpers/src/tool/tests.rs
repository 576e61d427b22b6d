//! Programs that misbehave in every way we know of.

use std::path::{Path, PathBuf};
use std::time::Duration;

use backup_core::testing::collect;
use backup_core::{ByteStream, CancelToken, Context, Error, ErrorKind, Plain, Result};
use bytes::Bytes;

use super::{ToolCommand, ToolError, Waiting, capture, feed, stream};
use crate::secret::Secret;

/// Long enough for a busy machine; nothing here is meant to run into it.
const PATIENT: Waiting = Waiting {
    stall: Duration::from_secs(60),
    grace: Duration::from_secs(60),
    kill_after: Duration::from_secs(60),
};
/// For programs that never end by themselves.
const HASTY: Waiting =
    Waiting { grace: Duration::from_millis(300), kill_after: Duration::from_millis(300), ..PATIENT };
/// For programs that stall.
const IMPATIENT: Waiting = Waiting { stall: Duration::from_millis(300), ..HASTY };

fn shell(script: &str) -> ToolCommand {
    ToolCommand::new("/bin/sh").args(["-c", script])
}

/// Everything the script wrote, and how it ended.
async fn run(script: &str, waiting: Waiting) -> (Vec<u8>, Option<ToolError>) {
    let mut output = stream(&Context::new(), &shell(script), waiting, false).unwrap();
    let mut all = Vec::new();
    loop {
        match output.next().await {
            Some(Ok(chunk)) => all.extend_from_slice(&chunk),
            Some(Err(error)) => return (all, Some(error)),
            None => return (all, None),
        }
    }
}

/// Whether the process is there and not a corpse.
fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never came: {what}");
}

fn first_line(bytes: &[u8]) -> u32 {
    std::str::from_utf8(bytes).unwrap().lines().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_good_program_is_read_whole() {
    let (all, error) = run("head -c 3000000 /dev/zero; echo end", PATIENT).await;
    assert_eq!((all.len(), error), (3_000_004, None));
}

#[tokio::test]
async fn incident_01_failed_dump_after_data_is_no_end() {
    let (all, error) = run("head -c 300000 /dev/zero; echo the reason >&2; exit 3", PATIENT).await;
    assert_eq!(all.len(), 300_000);
    let stderr = "the reason".to_owned();
    assert_eq!(error, Some(ToolError::Exited { tool: "sh".to_owned(), status: 3, stderr }));
}

#[tokio::test]
async fn a_signal_is_no_end() {
    let (all, error) = run("echo some; kill -KILL $$", PATIENT).await;
    assert_eq!(all, b"some\n");
    assert!(matches!(error, Some(ToolError::Signalled { signal: 9, .. })), "{error:?}");
}

#[tokio::test]
async fn a_flood_on_standard_error_blocks_nothing_and_is_not_kept() {
    let script = "head -c 100000000 /dev/zero | tr '\\0' 'e' >&2 & head -c 5000000 /dev/zero; wait; \
                  echo last words >&2; exit 1";
    let (all, error) = run(script, PATIENT).await;
    assert_eq!(all.len(), 5_000_000);
    let Some(ToolError::Exited { stderr, .. }) = error else { panic!("{error:?}") };
    assert!(stderr.ends_with("last words") && stderr.len() <= 4096, "{}", stderr.len());
}

#[tokio::test]
async fn incident_15_a_stalled_program_is_named_and_stopped() {
    let (all, error) = run("echo $$; exec sleep 600", IMPATIENT).await;
    let error = error.unwrap();
    assert!(matches!(&error, ToolError::Stalled { tool, doing: "gave no output", .. } if tool == "sh"));
    assert_eq!(Error::from(error).kind(), ErrorKind::TimedOut);
    let pid = first_line(&all);
    until("the end of the stalled program", || !Path::new(&format!("/proc/{pid}")).exists()).await;
}

#[tokio::test]
async fn a_program_that_closes_its_output_is_waited_for_and_judged() {
    let (_, error) = run("echo x; exec >&-; sleep 0.1; exit 5", PATIENT).await;
    assert!(matches!(error, Some(ToolError::Exited { status: 5, .. })), "{error:?}");
    let (_, error) = run("echo x; exec >&-; sleep 600", IMPATIENT).await;
    assert!(matches!(error, Some(ToolError::Stalled { .. })), "{error:?}");
}

#[tokio::test]
async fn a_child_that_holds_the_output_open_is_no_clean_end() {
    for script in ["sleep 600 & echo $!", "sleep 600 >/dev/null & echo $!"] {
        let (all, error) = run(script, HASTY).await;
        assert_eq!(error, Some(ToolError::Outlived { tool: "sh".to_owned() }), "{script}");
        let pid = first_line(&all);
        until("the end of the child", || !lives(pid)).await;
    }
}

#[tokio::test]
async fn a_child_that_writes_on_is_no_clean_end() {
    let (_, error) = run("(sleep 0.1; exec yes) & echo x", HASTY).await;
    assert_eq!(error, Some(ToolError::Outlived { tool: "sh".to_owned() }));
    // The failure of the program itself is the better news.
    let (_, error) = run("sleep 600 & echo x; exit 4", HASTY).await;
    assert!(matches!(error, Some(ToolError::Exited { status: 4, .. })), "{error:?}");
}

#[tokio::test]
async fn incident_05_nothing_and_exit_0_is_a_failure_unless_allowed() {
    let (_, error) = run("echo why >&2", PATIENT).await;
    assert_eq!(error, Some(ToolError::NoOutput { tool: "sh".to_owned(), stderr: "why".to_owned() }));
    let mut output = stream(&Context::new(), &shell("true"), PATIENT, true).unwrap();
    assert!(output.next().await.is_none());
}

#[tokio::test]
async fn a_dropped_stream_ends_the_program_politely() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let script =
        format!("trap 'echo term >{}; exit' TERM; echo ready; while :; do sleep 0.02; done", mark.display());
    let mut output = stream(&Context::new(), &shell(&script), PATIENT, false).unwrap();
    output.next().await.unwrap().unwrap();
    drop(output);
    until("the mark of SIGTERM", || mark.exists()).await;
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_is_killed_with_its_children_and_reaped() {
    let script = "trap '' TERM; sleep 600 & echo $$ $!; while :; do sleep 0.05; done";
    let mut output = stream(&Context::new(), &shell(script), HASTY, false).unwrap();
    let line = output.next().await.unwrap().unwrap();
    let pids: Vec<u32> =
        std::str::from_utf8(&line).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    drop(output);
    until("the end of the program", || !Path::new(&format!("/proc/{}", pids[0])).exists()).await;
    until("the end of its child", || !lives(pids[1])).await;
}

#[tokio::test]
async fn a_cancelled_run_stops_the_program() {
    let cancel = CancelToken::new();
    let cx = Context::new().with_cancel(cancel.clone());
    let mut output = stream(&cx, &shell("echo $$; exec sleep 600"), PATIENT, false).unwrap();
    let pid = first_line(&output.next().await.unwrap().unwrap());
    cancel.cancel();
    assert!(matches!(output.next().await, Some(Err(ToolError::Cancelled { .. }))));
    until("the end of the program", || !Path::new(&format!("/proc/{pid}")).exists()).await;
}

#[tokio::test]
async fn a_finished_program_is_reaped() {
    let (all, error) = run("echo $$", PATIENT).await;
    assert_eq!(error, None);
    let pid = first_line(&all);
    until("reaping", || !Path::new(&format!("/proc/{pid}")).exists()).await;
}

#[tokio::test]
async fn incident_10_closed_pipes_reach_the_program() {
    // A program that ignored SIGPIPE would go on for nobody, or report a strange error.
    let said = capture(&Context::new(), &shell("grep SigIgn /proc/self/status"), PATIENT, None, 1000).await;
    let said = String::from_utf8(said.unwrap()).unwrap();
    let ignored = u64::from_str_radix(said.split_whitespace().last().unwrap(), 16).unwrap();
    assert_eq!(ignored & (1 << 12), 0, "SIGPIPE is ignored: {said}");

    let mut output = stream(&Context::new(), &shell("echo $$; exec yes"), PATIENT, false).unwrap();
    let pid = first_line(&output.next().await.unwrap().unwrap());
    drop(output);
    until("the end of the writer", || !Path::new(&format!("/proc/{pid}")).exists()).await;
}

#[tokio::test]
async fn the_environment_is_a_short_list_and_secrets_are_masked() {
    let secret = Secret::new("hunter2");
    let command = shell("env; echo \"it is $WORD\" >&2; exit 1").secret_env("WORD", &secret);
    let mut output = stream(&Context::new(), &command, PATIENT, false).unwrap();
    let mut all = Vec::new();
    let error = loop {
        match output.next().await.unwrap() {
            Ok(chunk) => all.extend_from_slice(&chunk),
            Err(error) => break error,
        }
    };
    let names: Vec<&str> =
        std::str::from_utf8(&all).unwrap().lines().filter_map(|line| line.split('=').next()).collect();
    assert!(names.contains(&"PATH") && names.contains(&"WORD") && names.contains(&"LC_ALL"), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("CARGO")), "{names:?}");
    assert_eq!(error.stderr(), "it is ***");
    assert!(!format!("{command:?} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_program_that_cannot_be_started_says_so() {
    let error = stream(&Context::new(), &ToolCommand::new("/nowhere/tool"), PATIENT, false).unwrap_err();
    assert!(matches!(&error, ToolError::NotStarted { tool, .. } if tool == "/nowhere/tool"), "{error}");
    assert_eq!(Error::from(error).kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn an_answer_is_bounded() {
    let error = capture(&Context::new(), &shell("exec yes"), PATIENT, None, 1000).await.unwrap_err();
    assert_eq!(error, ToolError::TooMuch { tool: "sh".to_owned(), limit: 1000 });
    let echoed = capture(&Context::new(), &shell("cat"), PATIENT, Some(b"in".to_vec()), 1000).await;
    assert_eq!(echoed.unwrap(), b"in");
}

fn chunks(items: Vec<Result<&'static [u8]>>) -> ByteStream<Plain> {
    ByteStream::new(futures::stream::iter(items.into_iter().map(|item| item.map(Bytes::from_static))))
}

fn damage() -> Result<&'static [u8]> {
    Err(Error::new(ErrorKind::Integrity, "dump", "damaged"))
}

async fn pour(script: &str, waiting: Waiting, bytes: ByteStream<Plain>) -> Result<u64> {
    feed(&Context::new(), &shell(script), waiting, bytes, Error::from).await.map(|fed| fed.bytes)
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("done");
    (folder, path)
}

#[tokio::test]
async fn a_whole_stream_is_fed() {
    let (_folder, file) = place();
    let stream = chunks(vec![Ok(b"abc"), Ok(b""), Ok(b"def")]);
    let bytes = pour(&format!("cat >{}", file.display()), PATIENT, stream).await.unwrap();
    assert_eq!((bytes, std::fs::read(file).unwrap()), (6, b"abcdef".to_vec()));
    assert_eq!(pour("cat", PATIENT, chunks(vec![])).await.unwrap(), 0);
}

#[tokio::test]
async fn a_broken_stream_never_looks_ended() {
    let (_folder, file) = place();
    for script in ["cat >/dev/null; touch", "trap '' TERM; cat >/dev/null; touch"] {
        let script = format!("{script} {}", file.display());
        let error = pour(&script, HASTY, chunks(vec![Ok(b"abc"), Ok(b"def"), damage()])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
        assert!(!file.exists(), "the program saw the end of a damaged dump");
    }
}

#[tokio::test]
async fn the_last_chunk_waits_for_the_end() {
    let (_folder, file) = place();
    // Acts on the sixth byte without waiting for the end.
    let script = format!("head -c 6 >/dev/null; touch {}; cat >/dev/null", file.display());
    let slow = futures::stream::unfold(0, async |at| {
        let item = match at {
            0 => Ok(Bytes::from_static(b"abc")),
            1 => Ok(Bytes::from_static(b"def")),
            2 => {
                tokio::time::sleep(Duration::from_millis(200)).await;
                damage().map(Bytes::from_static)
            }
            _ => return None,
        };
        Some((item, at + 1))
    });
    let error = pour(&script, PATIENT, ByteStream::new(slow)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(!file.exists(), "the program had everything before the end was known");
}

#[tokio::test]
async fn a_program_that_stops_reading_fails_the_run() {
    let much = || {
        let chunk = Bytes::from(vec![0; 1 << 20]);
        ByteStream::new(futures::stream::iter(vec![chunk; 8].into_iter().map(Ok)))
    };
    let error = pour("head -c 10 >/dev/null", PATIENT, much()).await.unwrap_err();
    assert!(error.what().contains("stopped reading"), "{error}");
    let error = pour("head -c 10 >/dev/null; echo no >&2; exit 4", PATIENT, much()).await.unwrap_err();
    assert!(error.what().contains("status 4") && error.what().contains("no"), "{error}");
    let error = pour("exec sleep 600", IMPATIENT, much()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_dropped_feed_never_looks_ended() {
    let (folder, file) = place();
    let started = folder.path().join("pid");
    let script = format!(
        "trap '' TERM; echo $$ >{0}.new; mv {0}.new {0}; cat >/dev/null; touch {1}",
        started.display(),
        file.display()
    );
    let endless = futures::StreamExt::chain(chunks(vec![Ok(b"abc")]), futures::stream::pending());
    let fed = pour(&script, HASTY, ByteStream::new(endless));
    tokio::select! {
        outcome = fed => panic!("an endless stream ended: {outcome:?}"),
        () = until("the start of the program", || started.exists()) => {}
    }
    let pid = first_line(&std::fs::read(&started).unwrap());
    until("the end of the program", || !Path::new(&format!("/proc/{pid}")).exists()).await;
    assert!(!file.exists(), "the program saw the end of a dump that was given up");
}

#[tokio::test]
async fn a_cancelled_feed_stops_the_program() {
    let (_folder, file) = place();
    let cancel = CancelToken::new();
    let cx = Context::new().with_cancel(cancel.clone());
    let script = format!("cat >/dev/null; touch {}", file.display());
    let waits = chunks(vec![Ok(b"abc")]);
    let endless = futures::StreamExt::chain(waits, futures::stream::pending());
    let command = shell(&script);
    let fed = feed(&cx, &command, PATIENT, ByteStream::new(endless), Error::from);
    let (outcome, ()) = tokio::join!(fed, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel();
    });
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(!file.exists());
}

#[tokio::test]
async fn a_stream_of_a_port_ends_once() {
    let output = stream(&Context::new(), &shell("echo x"), PATIENT, false).unwrap();
    assert_eq!(collect(output.into_bytes(Error::from, || ())).await.unwrap(), "x\n");
}
