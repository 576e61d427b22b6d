//! What the emulator has none of, against a small server that answers as Google's documentation says:
//! the metadata server's tokens, point-in-time recovery, and quotas.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use backup_core::{Context, ErrorKind};
use jiff::Timestamp;

use super::api::{Database, Query};
use super::config::FirestoreConfig;
use super::credentials::{Credentials, Tokens};
use super::dump::FirestoreDumper;
use super::error::FirestoreError;
use super::http::plain_client;

/// An HTTP request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// `GET /path`.
    pub(super) line: String,
    /// In lower case.
    pub(super) headers: String,
    pub(super) body: String,
}

/// Status, headers and body of an answer.
pub(super) type Answer = (&'static str, &'static str, String);

/// A server on this machine.
#[derive(Clone)]
pub(super) struct Peer {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Peer {
    /// Answers every request by `answer`, which is told how many came before it.
    pub(super) fn start(answer: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = Self { address: listener.local_addr().unwrap().to_string(), requests: Arc::default() };
        let (this, answer) = (peer.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (this, answer) = (this.clone(), Arc::clone(&answer));
                thread::spawn(move || this.connection(&stream.unwrap(), &*answer));
            }
        });
        peer
    }

    fn connection(&self, stream: &TcpStream, answer: &dyn Fn(usize, &Request) -> Answer) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let (mut head, mut text) = (Vec::new(), String::new());
        while reader.read_line(&mut text).ok()? > 2 {
            head.push(text.trim_end().to_owned());
            text.clear();
        }
        let headers = head.get(1..)?.join("\n").to_lowercase();
        let length = headers.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        let line = head[0].trim_end_matches(" HTTP/1.1").to_owned();
        let request = Request { line, headers, body: String::from_utf8(body).ok()? };
        let count = {
            let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            requests.push(request.clone());
            requests.len() - 1
        };
        let (status, headers, body) = answer(count, &request);
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        let mut stream = stream;
        stream.write_all(text.as_bytes()).ok()
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tokens(&self) -> Tokens {
        Tokens::new(Credentials::Metadata(self.address.clone()), plain_client(true).unwrap())
    }

    /// A database here whose tokens come from here, too.
    pub(super) fn database(&self, patience: u64) -> Database {
        let credentials = Credentials::Metadata(self.address.clone());
        Database::at(&format!("http://{}/v1", self.address), credentials, Duration::from_secs(patience))
    }
}

pub(super) fn token(text: &str, seconds: u32) -> Answer {
    let body = format!(r#"{{"access_token":"{text}","expires_in":{seconds},"token_type":"Bearer"}}"#);
    ("200 OK", "metadata-flavor: Google\r\n", body)
}

pub(super) fn is_token(request: &Request) -> bool {
    request.line == "GET /computeMetadata/v1/instance/service-accounts/default/token"
}

#[tokio::test]
async fn a_machine_gets_tokens_from_its_metadata_server() {
    let peer = Peer::start(|count, _| token(&format!("t{count}"), if count < 2 { 60 } else { 3_599 }));
    let tokens = peer.tokens();
    // One that ends within five minutes is not used again.
    for expected in ["t0", "t1", "t2", "t2"] {
        assert_eq!(tokens.get(None).await.unwrap().expose(), expected);
    }
    // One that was refused is replaced; one that is another's is not.
    let refused = tokens.get(None).await.unwrap();
    assert_eq!(tokens.get(Some(&refused)).await.unwrap().expose(), "t3");
    assert_eq!(tokens.get(Some(&refused)).await.unwrap().expose(), "t3");
    for request in peer.requests() {
        assert!(is_token(&request) && request.headers.contains("metadata-flavor: google"), "{request:?}");
    }
}

#[tokio::test]
async fn a_machine_without_an_account_or_without_a_metadata_server_is_told_apart() {
    // No service account is attached to the machine.
    let peer = Peer::start(|_, _| ("404 Not Found", "", r#"{"error":"not found"}"#.to_owned()));
    let error = peer.tokens().get(None).await.unwrap_err().about("p");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    // Something else answers there.
    let peer = Peer::start(|_, _| ("200 OK", "", "<html>please log in</html>".to_owned()));
    let error = peer.tokens().get(None).await.unwrap_err().about("p");
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
    // Nobody does: this is none of Google's machines.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tokens = Tokens::new(Credentials::Metadata(gone.to_string()), plain_client(true).unwrap());
    let error = tokens.get(None).await.unwrap_err().about("p");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.what().contains("credentials_file"), "{error}");
}

#[tokio::test]
async fn a_metadata_server_that_is_busy_is_asked_again() {
    let peer = Peer::start(|count, request| match (count, is_token(request)) {
        (0, true) => ("503 Service Unavailable", "", String::new()),
        (1, true) => ("429 Too Many Requests", "", String::new()),
        (_, true) => token("good", 3_599),
        _ => ("200 OK", "", r#"[{"readTime":"2026-01-02T03:04:05Z"}]"#.to_owned()),
    });
    let database = peer.database(30);
    assert_eq!(database.now(&Context::new()).await.unwrap(), "2026-01-02T03:04:05Z".parse().unwrap());
    let last = peer.requests().pop().unwrap();
    assert!(last.headers.contains("authorization: bearer good"), "{last:?}");
}

#[tokio::test]
async fn a_token_that_is_refused_is_renewed_once() {
    let peer = Peer::start(|count, request| match is_token(request) {
        true => token(&format!("t{count}"), 3_599),
        false if request.headers.contains("bearer t0") => ("401 Unauthorized", "", String::new()),
        false => ("200 OK", "", r#"[{"readTime":"2026-01-02T03:04:05Z"}]"#.to_owned()),
    });
    peer.database(5).now(&Context::new()).await.unwrap();
    assert_eq!(peer.requests().len(), 4);
    // One that is refused for good ends at once, and not after the patience.
    let peer = Peer::start(|_, request| match is_token(request) {
        true => token("bad", 3_599),
        false => ("401 Unauthorized", "", r#"{"error":{"code":401,"status":"UNAUTHENTICATED"}}"#.to_owned()),
    });
    let error = peer.database(60).now(&Context::new()).await.unwrap_err().about("p");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert_eq!(peer.requests().len(), 4);
}

/// The moment that a dump of this database chooses, at 03:04:05.6 of the server's day.
async fn moment(about: Answer, read_time: Option<&str>) -> backup_core::Result<(Timestamp, &'static str)> {
    let peer = Peer::start(move |_, request| match &*request.line {
        "GET /v1/projects/p/databases/(default)" => about.clone(),
        _ if is_token(request) => token("good", 3_599),
        _ => ("200 OK", "", r#"[{"readTime":"2026-01-02T03:04:05.6Z"}]"#.to_owned()),
    });
    let config = FirestoreConfig {
        project: Some("p".to_owned()),
        read_time: read_time.map(str::to_owned),
        emulator: Some(peer.address.clone()),
        ..FirestoreConfig::default()
    };
    FirestoreDumper::new(&config).unwrap().moment(&Context::new(), &peer.database(5)).await
}

#[tokio::test]
async fn point_in_time_recovery_gives_a_moment_that_lasts() {
    let about = |state: &str, earliest: &str| {
        let body = format!(
            r#"{{"name":"projects/p/databases/(default)","type":"FIRESTORE_NATIVE","locationId":"eur3",
            "pointInTimeRecoveryEnablement":"{state}","versionRetentionPeriod":"604800s","earliestVersionTime":"{earliest}"}}"#
        );
        ("200 OK", "", body)
    };
    const ON: &str = "POINT_IN_TIME_RECOVERY_ENABLED";
    let now = "2026-01-02T03:04:05.6Z";
    for (answer, expected, said) in [
        // After an hour only whole minutes can be read.
        (about(ON, "2025-12-27T00:00:00Z"), "2026-01-02T03:04:00Z", "7 days"),
        // Switched on within this minute: that one is not kept.
        (about(ON, "2026-01-02T03:04:02Z"), now, "one hour"),
        (about("POINT_IN_TIME_RECOVERY_DISABLED", "2026-01-02T02:04:05Z"), now, "one hour"),
        // Who may read documents may not always look at the database.
        (
            ("403 Forbidden", "", r#"{"error":{"code":403,"status":"PERMISSION_DENIED"}}"#.to_owned()),
            now,
            "one hour",
        ),
    ] {
        let (time, why) = moment(answer, None).await.unwrap();
        assert_eq!(time, expected.parse().unwrap(), "{why}");
        assert!(why.contains(said), "{why}");
    }
    let past = "2026-01-01T00:00:00Z";
    let (time, _) = moment(about(ON, past), Some(past)).await.unwrap();
    assert_eq!(time, past.parse().unwrap());
    let error = moment(about(ON, past), Some("2026-01-02T03:05:00Z")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}

#[tokio::test]
async fn every_page_of_the_past_names_its_moment() {
    let peer = Peer::start(|_, request| match is_token(request) {
        true => token("good", 3_599),
        false if request.line.contains(":listCollectionIds") => ("200 OK", "", "{}".to_owned()),
        false => ("200 OK", "", r#"[{"readTime":"2026-01-02T03:04:00Z"}]"#.to_owned()),
    });
    let database = peer.database(5);
    let query = Query { limit: 1, read_time: Some("2026-01-02T03:04:00Z"), ..Query::default() };
    database.few(&Context::new(), &query).await.unwrap();
    database.collections(&Context::new(), Some("2026-01-02T03:04:00Z")).await.unwrap();
    let asked: Vec<Request> = peer.requests().into_iter().filter(|request| !is_token(request)).collect();
    assert_eq!(asked.len(), 2);
    for request in asked {
        assert!(request.body.contains(r#""readTime":"2026-01-02T03:04:00Z""#), "{request:?}");
    }
}

#[tokio::test]
async fn a_quota_is_waited_for_as_long_as_the_service_asks() {
    let exhausted = |delay: &str| {
        let body = format!(
            r#"{{"error":{{"code":429,"message":"Quota exceeded.","status":"RESOURCE_EXHAUSTED","details":[
            {{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"{delay}"}}]}}}}"#
        );
        ("429 Too Many Requests", "", body)
    };
    let peer = Peer::start(move |count, request| match (count, is_token(request)) {
        (_, true) => token("good", 3_599),
        (1, _) => exhausted("0.7s"),
        (2, _) => ("429 Too Many Requests", "retry-after: 1\r\n", String::new()),
        _ => ("200 OK", "", r#"[{"readTime":"2026-01-02T03:04:05Z"}]"#.to_owned()),
    });
    let began = Instant::now();
    peer.database(30).now(&Context::new()).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(1_700), "{:?}", began.elapsed());
    assert_eq!(peer.requests().len(), 4);

    // Longer than we have patience for: said at once, in the service's words.
    let peer = Peer::start(move |_, request| match is_token(request) {
        true => token("good", 3_599),
        false => exhausted("3600s"),
    });
    let began = Instant::now();
    let error = peer.database(2).now(&Context::new()).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(matches!(&error, FirestoreError::Refused { http: 429, .. }), "{error:?}");
    let error = error.about("p");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.what().contains("Quota exceeded"), "{error}");
}
