//! Google's resumable uploads, by a server that keeps to what Google says of them: it knows how far it got.

use std::sync::{Arc, Mutex};

use backup_core::testing::{noise, put};
use serde_json::json;
use storage::StorageConfig;

use crate::peer::{Asked, Peer, Said};
use crate::servers::impatient;

const PIECE: usize = 16 << 20;
const LARGE: usize = 2 * PIECE + 1_000;

/// What happens to the piece with this number, counted from 0, the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// Nothing of it arrives, and the connection breaks.
    Lost,
    /// All of it is kept, and the answer is lost.
    AnswerLost,
    /// A part of it is kept, and the connection breaks.
    Half,
    /// A part of it is kept, and the answer says so.
    HalfSaid,
    /// The server is busy.
    Busy,
}

#[derive(Debug, Default)]
struct Store {
    kept: Vec<u8>,
    mark: String,
    done: bool,
    pieces: usize,
    harmed: bool,
}

fn serve(store: &mut Store, harm: Harm, at: usize, host: &str, asked: &Asked) -> Said {
    let empty = |head: String| Some((head, Vec::new()));
    let so_far = |kept: usize| match kept {
        0 => "308 Resume Incomplete".to_owned(),
        kept => format!("308 Resume Incomplete\r\nRange: bytes=0-{}", kept - 1),
    };
    let line = asked.line();
    if line.starts_with("POST") {
        let metadata: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
        store.mark = metadata["metadata"]["strongroom_upload"].as_str().unwrap().to_owned();
        return empty(format!("200 OK\r\nLocation: http://{host}/session?upload_id=1"));
    }
    if line.starts_with("GET") {
        if !store.done {
            return empty("404 Not Found".to_owned());
        }
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &store.kept) as u32;
        let crc = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, crc.to_be_bytes());
        let object = json!({
            "name": "x", "size": store.kept.len().to_string(), "generation": "7", "crc32c": crc,
            "updated": "2026-01-01T00:00:00Z", "metadata": { "strongroom_upload": store.mark },
        });
        return Some(("200 OK".to_owned(), object.to_string().into_bytes()));
    }
    let range = asked.header("content-range").unwrap();
    let (span, total) = range.strip_prefix("bytes ").unwrap().split_once('/').unwrap();
    if span != "*" {
        let from: usize = span.split_once('-').unwrap().0.parse().unwrap();
        assert_eq!(from, store.kept.len(), "only what is missing is sent: {range}");
        let struck = !store.harmed && store.pieces == at;
        store.pieces += 1;
        if struck {
            store.harmed = true;
            let half = asked.body.len() / 2 / (256 << 10) * (256 << 10);
            match harm {
                Harm::Lost => return None,
                Harm::Busy => return empty("503 Service Unavailable\r\nRetry-After: 0".to_owned()),
                Harm::AnswerLost => {
                    store.kept.extend_from_slice(&asked.body);
                    store.done = total == store.kept.len().to_string();
                    return None;
                }
                Harm::Half | Harm::HalfSaid => {
                    store.kept.extend_from_slice(&asked.body[..half]);
                    if harm == Harm::HalfSaid {
                        return empty(so_far(store.kept.len()));
                    }
                    return None;
                }
            }
        }
        store.kept.extend_from_slice(&asked.body);
    }
    if store.done || total == store.kept.len().to_string() {
        store.done = true;
        return empty("200 OK".to_owned());
    }
    empty(so_far(store.kept.len()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incident_67_a_resumable_upload_goes_on_where_the_server_got_to() {
    let bytes = noise(LARGE, 6);
    let chunks: Vec<&[u8]> = bytes.chunks(1 << 20).collect();
    for harm in [Harm::Lost, Harm::AnswerLost, Harm::Half, Harm::HalfSaid, Harm::Busy] {
        for at in [0, 1, 2] {
            let store = Arc::new(Mutex::new(Store::default()));
            let served = Arc::clone(&store);
            let peer = Peer::start(move |asked| {
                let host = asked.header("host").unwrap().to_owned();
                serve(&mut served.lock().unwrap(), harm, at, &host, asked)
            })
            .await;
            let url = format!("gs://bucket?anonymous=true&put_if_absent=true&endpoint={}", peer.endpoint);
            let config = StorageConfig::from_url(&url).unwrap().with_retrying(impatient());
            let opened = storage::open(&config).unwrap();
            let done = put(opened.sink.as_ref(), &"db/data".parse().unwrap(), &chunks).await;
            let receipt = done.unwrap_or_else(|error| panic!("{harm:?} at {at}: {error:?}"));
            assert_eq!(receipt.len, LARGE as u64);
            let store = store.lock().unwrap();
            assert!(store.harmed && store.kept == bytes, "{harm:?} at {at}");
        }
    }
}
