//! Harm to every request of an upload and of a read.

use backup_core::testing::store_suite;
use backup_core::testing::{noise, put};
use backup_core::{BackupId, ErrorKind, ObjectKey, Result};
use futures::StreamExt as _;
use storage::Opened;

use crate::proxy::{Harm, Plan, Proxy};
use crate::servers::{Server, rgw, s3s};

/// Two parts, the first of 6 MiB.
const LARGE: usize = (6 << 20) + 1_000;
const SMALL_PARTS: &str = "&part_memory=20";
/// How many uploads are harmed at the same time.
const AT_ONCE: usize = 4;

fn key() -> ObjectKey {
    "db/3f2b8c1e-5d6a-4b7c-9e8f-0a1b2c3d4e5f/data.strongroom".parse().unwrap()
}

/// One upload through a proxy, and the same place without it.
struct Run {
    done: Result<()>,
    direct: Opened,
    harmed: Vec<String>,
    prefix: String,
    proxy: Proxy,
}

async fn upload(server: &Server, bytes: &[u8], plan: Plan) -> Run {
    upload_with(server, bytes, plan, SMALL_PARTS).await
}

async fn upload_with(server: &Server, bytes: &[u8], plan: Plan, parameters: &str) -> Run {
    // s3s-fs makes names of files of whole keys, and a segment's key is long.
    let prefix = format!("it-{}", &BackupId::random().to_string()[..8]);
    let proxy = Proxy::start(&server.endpoint, plan).await;
    let through = server.through(proxy.endpoint.clone());
    let opened = storage::open(&through.config_at(&prefix, parameters)).unwrap();
    let direct = storage::open(&server.config_at(&prefix, parameters)).unwrap();
    let chunks: Vec<&[u8]> = bytes.chunks(1 << 20).collect();
    let done = put(opened.sink.as_ref(), &key(), &chunks).await.map(drop);
    Run { done, direct, harmed: proxy.harmed(), prefix, proxy }
}

impl Run {
    /// Whether the object is there; if it is, it is whole.
    async fn visible(&self, bytes: &[u8]) -> bool {
        let listed = self.direct.source.list("").await.unwrap();
        let stat = self.direct.source.stat(&key()).await.unwrap();
        assert_eq!(listed.len(), usize::from(stat.is_some()), "{}", self.prefix);
        if stat.is_none() {
            return false;
        }
        let got = store_suite::read(self.direct.source.as_ref(), &key(), None, None).await.unwrap();
        assert!(got == bytes, "what is visible is whole");
        true
    }
}

/// Walks through all requests of an upload; each is harmed `times` times in a row.
async fn walk(bytes: &[u8], harm: Harm, times: usize) -> Vec<(String, Run)> {
    let server = s3s();
    let mut runs = Vec::new();
    // A few at a time, until one was spared because it made no request of that number.
    let mut walked = futures::stream::iter(0..)
        .map(|at| upload(&server, bytes, Plan { what: "", at, times, harm }))
        .buffered(AT_ONCE)
        .boxed();
    while let Some(run) = walked.next().await {
        let Some(first) = run.harmed.first().cloned() else {
            run.done.as_ref().expect("an upload without harm");
            assert!(run.visible(bytes).await);
            break;
        };
        runs.push((first, run));
    }
    runs
}

/// A connection that breaks once is no reason to fail, whichever request it hits.
async fn one_broken_connection_is_survived(bytes: &[u8], requests: usize, harms: &[Harm]) {
    for &harm in harms {
        let runs = walk(bytes, harm, 1).await;
        assert!(runs.len() >= requests, "{} requests", runs.len());
        for (request, run) in runs {
            run.done.as_ref().unwrap_or_else(|error| panic!("{harm:?} of {request}: {error:?}"));
            assert!(run.visible(bytes).await, "{harm:?} of {request}");
        }
    }
}

/// A network that goes away and stays away leaves a whole object or none, and an error that says
/// which or that nobody knows.
async fn a_lost_network_leaves_all_or_nothing(bytes: &[u8], harms: &[Harm]) {
    for &harm in harms {
        for (request, run) in walk(bytes, harm, usize::MAX).await {
            let error = run.done.as_ref().expect_err(&request);
            let visible = run.visible(bytes).await;
            match error.kind() {
                ErrorKind::Unavailable => assert!(!visible, "{harm:?} of {request}: {error:?}"),
                ErrorKind::Uncertain => {}
                other => panic!("{harm:?} of {request}: {other:?}: {error:?}"),
            }
            assert!(error.hint().is_some(), "{error:?}");
            // Only the last requests can leave a doubt.
            let doubtful = request.starts_with("HEAD")
                || request.starts_with("POST") && !request.contains("uploads")
                || request.starts_with("PUT") && !request.contains("partNumber");
            assert!(doubtful || error.kind() == ErrorKind::Unavailable, "{harm:?} of {request}: {error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_broken_connection_is_survived_by_parts() {
    one_broken_connection_is_survived(&noise(LARGE, 1), 7, &[Harm::CutRequest, Harm::LoseAnswer]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_broken_connection_is_survived_by_a_small_object() {
    one_broken_connection_is_survived(b"small", 3, &[Harm::Refuse, Harm::CutRequest, Harm::LoseAnswer]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_network_leaves_all_or_nothing_of_parts() {
    a_lost_network_leaves_all_or_nothing(&noise(LARGE, 2), &[Harm::Refuse, Harm::LoseAnswer]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_network_leaves_all_or_nothing_of_a_small_object() {
    a_lost_network_leaves_all_or_nothing(b"small", &[Harm::Refuse, Harm::CutRequest, Harm::LoseAnswer]).await;
}

/// Ceph compares the MD5 of every part and refuses; s3s compares nothing of a part, so that it is we
/// who compare its answers. So are servers that compare nothing at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_changes_on_the_way_is_never_published() {
    let bytes = noise(LARGE, 3);
    let table = [
        (rgw(), Harm::FlipBit, 400),
        (rgw(), Harm::FlipBitUnseen, 200),
        (s3s(), Harm::FlipBit, 200),
        (s3s(), Harm::FlipBitUnseen, 200),
    ];
    for (server, harm, status) in table {
        for at in 0..2 {
            let run = upload(&server, &bytes, Plan { what: "partNumber=", at, times: 1, harm }).await;
            assert_eq!(run.proxy.statuses(), [status], "{harm:?} of part {at}");
            let error = run.done.as_ref().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Integrity, "{error:?}");
            assert!(!run.visible(&bytes).await);
        }
    }
}

/// A server that verified every part is believed, also where its ETags are made of something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etags_that_are_no_md5_are_no_harm() {
    let large = noise(LARGE, 11);
    let table: [(&[u8], &str); 2] = [(&large, "partNumber="), (b"small", "PUT")];
    for (bytes, what) in table {
        let plan = Plan { what, at: 0, times: usize::MAX, harm: Harm::OtherTag };
        let run = upload(&rgw(), bytes, plan).await;
        run.done.as_ref().unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert!(run.proxy.statuses().iter().all(|status| *status == 200));
        assert!(run.visible(bytes).await);
    }
}

/// One put is one step, which a server that compares nothing has taken before we can look.
#[tokio::test]
async fn a_small_object_that_changes_on_the_way_is_no_success() {
    // Ceph refuses it; where it does not see the MD5, we read it back and take it away. s3s compares the
    // checksum after it has stored the object, and says so.
    let table = [(rgw(), Harm::FlipBit, 400), (rgw(), Harm::FlipBitUnseen, 200), (s3s(), Harm::FlipBit, 400)];
    for (server, harm, status) in table {
        let run = upload(&server, b"small", Plan { what: "PUT", at: 0, times: 1, harm }).await;
        assert_eq!(run.proxy.statuses(), [status], "{harm:?}");
        let error = run.done.as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{error:?}");
        if server.endpoint == rgw().endpoint {
            assert!(!run.visible(b"small").await);
        }
    }
}

/// An answer to the commit that is lost for good, while questions are answered, is settled by asking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_the_commit_is_settled_by_looking() {
    let large = noise(LARGE, 4);
    let table: [(&[u8], &str); 2] = [(&large, "POST /strongroom/it-"), (b"small", "PUT")];
    for (bytes, what) in table {
        for server in [s3s(), rgw()] {
            // The first POST of a large object begins it.
            let at = usize::from(what.starts_with("POST"));
            let plan = Plan { what, at, times: usize::MAX, harm: Harm::LoseAnswer };
            let run = upload(&server, bytes, plan).await;
            run.done.as_ref().unwrap_or_else(|error| panic!("{what} at {}: {error:?}", server.endpoint));
            assert!(run.visible(bytes).await);
        }
    }
}

/// A key that may write and nothing else can store, and is told when a name is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_may_only_write_can_store() {
    let server = s3s();
    let blind = Plan { what: "HEAD", at: 0, times: usize::MAX, harm: Harm::Deny };
    let large = noise(LARGE, 9);
    for bytes in [&large[..], b"small"] {
        let run = upload(&server, bytes, blind).await;
        run.done.as_ref().unwrap();
        assert!(run.visible(bytes).await);
        if bytes == b"small" {
            let opened =
                storage::open(&server.through(run.proxy.endpoint.clone()).config_at(&run.prefix, ""));
            let second = put(opened.unwrap().sink.as_ref(), &key(), &[b"other"]).await;
            assert_eq!(second.unwrap_err().kind(), ErrorKind::Conflict);
            assert!(run.visible(bytes).await);
        }
    }
}

/// A refusal that stays is not asked for again, and one that may pass is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_may_pass_is_tried_again() {
    let bytes = noise(LARGE, 10);
    for (harm, times, tries, stored) in
        [(Harm::Deny, usize::MAX, 1, false), (Harm::Busy, 2, 3, true), (Harm::Busy, usize::MAX, 3, false)]
    {
        let plan = Plan { what: "partNumber=1", at: 0, times, harm };
        let run = upload(&s3s(), &bytes, plan).await;
        assert_eq!((run.done.is_ok(), run.proxy.seen()), (stored, tries), "{harm:?}: {:?}", run.done);
        assert_eq!(run.visible(&bytes).await, stored);
        if let Err(error) = run.done {
            let kind = if harm == Harm::Deny { ErrorKind::Denied } else { ErrorKind::Unavailable };
            assert_eq!(error.kind(), kind, "{error:?}");
        }
    }
}

/// The first request asks whether the name is free, and a refusal of that one has no text.
#[tokio::test]
async fn a_bucket_of_another_region_is_named() {
    let plan = Plan { what: "HEAD", at: 0, times: usize::MAX, harm: Harm::Elsewhere };
    let run = upload(&s3s(), b"small", plan).await;
    let error = run.done.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
    assert!(format!("{error:?}").contains("eu-north-9") && error.hint().unwrap().contains("region="));
}

/// The same where the request itself never arrived: the upload is aborted, and nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_never_arrives_is_aborted() {
    let bytes = noise(LARGE, 5);
    let plan = Plan { what: "POST /strongroom/it-", at: 1, times: usize::MAX, harm: Harm::Refuse };
    let run = upload(&rgw(), &bytes, plan).await;
    let error = run.done.as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(!run.visible(&bytes).await);
    let tomorrow = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
    assert_eq!(run.direct.remover.sweep_unfinished(tomorrow).await.unwrap().uploads, 0);
}

/// A failure in the middle aborts by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_never_arrives_is_aborted() {
    let bytes = noise(LARGE, 6);
    let plan = Plan { what: "partNumber=2", at: 0, times: usize::MAX, harm: Harm::CutRequest };
    let run = upload(&rgw(), &bytes, plan).await;
    assert_eq!(run.done.as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(!run.visible(&bytes).await);
    let tomorrow = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
    run.proxy.answered("DELETE", 1).await;
    assert_eq!(run.direct.remover.sweep_unfinished(tomorrow).await.unwrap().uploads, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_goes_on_after_a_broken_connection_and_never_ends_early() {
    let server = s3s();
    let prefix = format!("it-{}", BackupId::random());
    let direct = storage::open(&server.config_at(&prefix, "")).unwrap();
    let bytes = noise(LARGE, 7);
    put(direct.sink.as_ref(), &key(), &[&bytes]).await.unwrap();
    for (times, harm) in [(1, Harm::CutAnswer), (1, Harm::Refuse), (usize::MAX, Harm::CutAnswer)] {
        let proxy = Proxy::start(&server.endpoint, Plan { what: "GET", at: 0, times, harm }).await;
        let opened = storage::open(&server.through(proxy.endpoint.clone()).config_at(&prefix, "")).unwrap();
        for range in [None, Some(1_000..LARGE as u64 - 5)] {
            let got = store_suite::read(opened.source.as_ref(), &key(), range.clone(), None).await;
            if times == 1 {
                let wanted = range.map_or(0..LARGE, |range| range.start as usize..range.end as usize);
                assert!(got.unwrap() == bytes[wanted], "{harm:?}");
            } else {
                // Each try gets half of the rest, until there are no more tries.
                let error = got.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
            }
        }
        assert!(!proxy.harmed().is_empty() && proxy.seen() > 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_goes_on_sees_no_other_version() {
    let server = rgw();
    let prefix = format!("it-{}", BackupId::random());
    let direct = storage::open(&server.config_at(&prefix, "")).unwrap();
    put(direct.sink.as_ref(), &key(), &[&noise(LARGE, 8)]).await.unwrap();
    let plan = Plan { what: "GET", at: 0, times: 1, harm: Harm::HoldAnswer };
    let proxy = Proxy::start(&server.endpoint, plan).await;
    let opened = storage::open(&server.through(proxy.endpoint.clone()).config_at(&prefix, "")).unwrap();
    let mut stream = opened.source.fetch(&key(), None, None).await.unwrap();
    stream.next().await.unwrap().unwrap();
    direct.remover.remove(&key()).await.unwrap();
    put(direct.sink.as_ref(), &key(), &[&noise(LARGE, 9)]).await.unwrap();
    proxy.release();
    let error = loop {
        match stream.next().await.expect("no clean end") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error:?}");
}

/// A segment that is lost on the way, as a whole or in part, ends in a whole object or in none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_is_harmed_leaves_all_or_nothing() {
    // 40 parts of 6 MiB, then one segment of 16 MiB and the beginning of another.
    let bytes = noise((40 * 6 + 16 + 3) << 20, 1);
    let cases = [
        // The copy, and the completion of the segment before it.
        ("partNumber=41", 0, 1, Harm::LoseAnswer, true),
        (".segment-", 4, 1, Harm::LoseAnswer, true),
        ("partNumber=41", 0, usize::MAX, Harm::CutRequest, false),
    ];
    for (what, at, times, harm, survived) in cases {
        let server = s3s();
        let run = upload_with(
            &server,
            &bytes,
            Plan { what, at, times, harm },
            "&part_memory=20&max_parts=100&segment=16",
        )
        .await;
        assert!(!run.harmed.is_empty(), "{what} {at}: {:?}", run.done);
        assert_eq!(run.done.is_ok(), survived, "{what} {at}: {:?}: {:?}", run.done, run.harmed);
        if survived {
            assert!(run.visible(&bytes).await, "{what} {at}");
            run.direct.remover.remove(&key()).await.unwrap();
        } else {
            let error = run.done.as_ref().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
            assert_eq!(run.direct.source.stat(&key()).await.unwrap(), None);
        }
    }
}
