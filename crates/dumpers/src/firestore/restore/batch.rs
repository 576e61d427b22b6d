//! Batches of writes, each repeated until every write of it is settled.

use backup_core::Context;
use jiff::Timestamp;

use crate::firestore::api::{ALREADY_EXISTS, Database, Written};
use crate::firestore::config::Conflicts;
use crate::firestore::error::FirestoreError;

/// One write, as the request has it.
#[derive(Debug)]
pub(super) struct Write {
    /// The document's path.
    pub(super) path: String,
    /// The JSON object.
    pub(super) text: String,
}

/// Writes that go in one request.
#[derive(Debug, Default)]
pub(super) struct Batch {
    writes: Vec<Write>,
    bytes: usize,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// When each of the documents was written.
    pub(super) times: Vec<Timestamp>,
    /// How many existed and were kept.
    pub(super) skipped: u64,
    /// Which may have been written or not.
    pub(super) doubt: Vec<String>,
    /// What went wrong, and with which document; the path is empty where it is about all of them.
    pub(super) error: Option<(String, FirestoreError)>,
}

impl Batch {
    pub(super) fn push(&mut self, write: Write) {
        self.bytes += write.text.len() + 1;
        self.writes.push(write);
    }

    pub(super) fn len(&self) -> usize {
        self.writes.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sends the writes until each is settled. `start` is the server's time before the restore.
    ///
    /// A request under way is never dropped, so that its answer is known; only the pauses between two
    /// tries end when the run is cancelled.
    pub(super) async fn send(
        mut self,
        cx: &Context,
        database: &Database,
        conflicts: Conflicts,
        start: Timestamp,
    ) -> Done {
        let mut done = Done::default();
        let mut pauses = database.pauses();
        let mut doubt = false;
        let mut singly = false;
        while !self.writes.is_empty() && done.error.is_none() {
            let count = if singly { 1 } else { self.writes.len() };
            let texts: Vec<&str> = self.writes[..count].iter().map(|write| &*write.text).collect();
            let again = match database.write(&texts.join(","), count).await {
                Ok(results) => {
                    let sent = self.writes.drain(..count).collect();
                    let (rest, again) =
                        settle(cx, database, conflicts, start, doubt, sent, results, &mut done).await;
                    self.writes.extend(rest);
                    if again.is_none() {
                        pauses.reset();
                    }
                    again
                }
                Err(error) if !error.passes() && !error.leaves_doubt() && count > 1 => {
                    // One that cannot be written makes the service refuse the whole request.
                    singly = true;
                    None
                }
                Err(error) if !error.passes() && !error.leaves_doubt() => {
                    done.error = Some((self.writes[0].path.clone(), error));
                    None
                }
                Err(error) => {
                    doubt |= error.leaves_doubt();
                    Some(error)
                }
            };
            if let Some(error) = again {
                doubt |= error.leaves_doubt();
                if let Err(error) = pauses.wait(cx, error).await {
                    done.error = Some((String::new(), error));
                }
            }
        }
        if doubt {
            done.doubt = self.writes.into_iter().map(|write| write.path).collect();
        }
        done
    }
}

/// Sorts the results; gives back what has to be sent again, and why.
#[allow(clippy::too_many_arguments, reason = "the parts of one loop")]
async fn settle(
    cx: &Context,
    database: &Database,
    conflicts: Conflicts,
    start: Timestamp,
    doubt: bool,
    sent: Vec<Write>,
    results: Vec<Written>,
    done: &mut Done,
) -> (Vec<Write>, Option<FirestoreError>) {
    let mut rest = Vec::new();
    let mut again = None;
    let mut exist = Vec::new();
    for (write, result) in sent.into_iter().zip(results) {
        match result.code {
            0 => done.times.push(result.time.unwrap_or(start)),
            ALREADY_EXISTS => exist.push(write),
            // ABORTED, CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE: later.
            code @ (1 | 4 | 8 | 10 | 13 | 14) => {
                let http = match code {
                    8 => 429,
                    10 => 409,
                    _ => 503,
                };
                again = Some(FirestoreError::Refused {
                    http,
                    word: if code == 10 { "ABORTED" } else { "UNAVAILABLE" }.to_owned(),
                    message: result.message,
                    retry_after: None,
                });
                rest.push(write);
            }
            _ => {
                let error = FirestoreError::Refused {
                    http: 400,
                    word: format!("code {}", result.code),
                    message: result.message,
                    retry_after: None,
                };
                done.error.get_or_insert((write.path, error));
            }
        }
    }
    if exist.is_empty() {
        return (rest, again);
    }
    // After a lost answer, what exists may be what we wrote. Nothing else tells it from another's
    // document than that it was not there before we began.
    let created = match doubt {
        true => {
            let paths: Vec<&str> = exist.iter().map(|write| &*write.path).collect();
            match database.created(cx, &paths).await {
                Ok(created) => created,
                Err(error) => {
                    done.doubt.extend(exist.iter().map(|write| write.path.clone()));
                    done.error.get_or_insert((String::new(), error));
                    return (rest, again);
                }
            }
        }
        false => vec![None; exist.len()],
    };
    for (write, created) in exist.into_iter().zip(created) {
        match created {
            Some(time) if time >= start => done.times.push(time),
            _ if conflicts == Conflicts::Skip => done.skipped += 1,
            _ => {
                let error = FirestoreError::Refused {
                    http: 409,
                    word: "ALREADY_EXISTS".to_owned(),
                    message: "the document exists".to_owned(),
                    retry_after: None,
                };
                done.error.get_or_insert((write.path, error));
            }
        }
    }
    (rest, again)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firestore::peer::{Peer, is_token, token};

    /// The service answers well, and says of single writes that they are too many now.
    #[tokio::test]
    async fn only_writes_that_a_quota_held_up_are_sent_again() {
        let peer = Peer::start(|count, request| {
            let body = match count {
                _ if is_token(request) => return token("good", 3_599),
                1 => {
                    r#"{"writeResults":[{"updateTime":"2026-01-02T00:00:01Z"},{},{"updateTime":"2026-01-02T00:00:01Z"}],
                        "status":[{},{"code":8,"message":"Quota exceeded."},{}]}"#
                }
                _ => r#"{"writeResults":[{"updateTime":"2026-01-02T00:00:02Z"}],"status":[{}]}"#,
            };
            ("200 OK", "", body.to_owned())
        });
        let mut batch = Batch::default();
        for name in ["a/1", "a/2", "a/3"] {
            batch.push(Write { path: name.to_owned(), text: format!(r#"{{"update":{{"name":"{name}"}}}}"#) });
        }
        let start = "2026-01-02T00:00:00Z".parse().unwrap();
        let done = batch.send(&Context::new(), &peer.database(30), Conflicts::Fail, start).await;
        assert!(done.error.is_none() && done.doubt.is_empty(), "{done:?}");
        assert_eq!(done.times.len(), 3);
        let requests = peer.requests();
        assert_eq!(requests.len(), 3);
        assert!(requests[2].line.ends_with(":batchWrite"), "{:?}", requests[2]);
        let again = &requests[2].body;
        assert!(again.contains("a/2") && !again.contains("a/1") && !again.contains("a/3"), "{again}");
    }
}
