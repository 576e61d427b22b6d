//! Requests to Google's REST interfaces: authenticated, repeated with patience, bounded in time.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backup_core::{Context, Event, Result};
use bytes::Bytes;
use reqwest::Response;
use serde::Deserialize;

use super::credentials::Tokens;
use super::error::FirestoreError;

/// No whole answer that is kept in memory is longer.
const ANSWER_MAX: usize = 64 << 20;
/// The first pause between two tries; doubled each time.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest, unless the server asks for more.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A server that never answered is tried no longer than this.
const STRANGER: Duration = Duration::from_secs(3);

/// A client of one project's services.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    tokens: Tokens,
    patience: Duration,
    answered: AtomicBool,
}

/// A new HTTP client: TLS with the system's certificates, no redirects, since a token must not
/// follow them.
pub(super) fn plain_client(emulator: bool) -> Result<reqwest::Client, FirestoreError> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(60))
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("strongroom/", env!("CARGO_PKG_VERSION")));
    if emulator {
        builder = builder.no_proxy();
    }
    builder.build().map_err(broken)
}

/// A failure on the way; without the URL, which says nothing new.
pub(super) fn broken(error: reqwest::Error) -> FirestoreError {
    if error.is_timeout() {
        return FirestoreError::TimedOut;
    }
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    FirestoreError::Unreachable(text)
}

impl Client {
    pub(super) fn new(http: reqwest::Client, tokens: Tokens, patience: Duration) -> Self {
        Self { http, tokens, patience, answered: AtomicBool::new(false) }
    }

    /// Asks once, with a token; a token that ran out is renewed.
    pub(super) async fn once(&self, url: &str, body: Option<&Bytes>) -> Result<Response, FirestoreError> {
        let mut refused = None;
        loop {
            let token = self.tokens.get(refused.as_ref()).await?;
            let request = match body {
                Some(body) => {
                    self.http.post(url).header("content-type", "application/json").body(body.clone())
                }
                None => self.http.get(url),
            };
            let response = request.bearer_auth(token.expose()).send().await.map_err(broken)?;
            self.answered.store(true, Ordering::Relaxed);
            if response.status().is_success() {
                return Ok(response);
            }
            if response.status().as_u16() == 401 && refused.is_none() {
                refused = Some(token);
                continue;
            }
            return Err(refusal(response).await);
        }
    }

    /// Asks until there is a whole answer or no hope.
    pub(super) async fn ask(
        &self,
        cx: &Context,
        url: &str,
        body: Option<&Bytes>,
    ) -> Result<Bytes, FirestoreError> {
        let mut pauses = self.pauses();
        loop {
            let asked = async {
                let response = self.once(url, body).await?;
                whole(response).await
            };
            let answer = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => return Err(FirestoreError::Cancelled),
                answer = asked => answer,
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => pauses.wait(cx, error).await?,
            }
        }
    }

    /// The pauses between the tries of one request.
    pub(super) fn pauses(&self) -> Pauses<'_> {
        Pauses { client: self, began: None, tries: 0 }
    }
}

/// Exponential pauses with jitter, no longer in sum than the patience allows.
#[derive(Debug)]
pub(super) struct Pauses<'a> {
    client: &'a Client,
    began: Option<Instant>,
    tries: u32,
}

impl Pauses<'_> {
    /// Waits before the next try.
    ///
    /// # Errors
    /// The error itself where trying again cannot help or took long enough.
    pub(super) async fn wait(&mut self, cx: &Context, error: FirestoreError) -> Result<(), FirestoreError> {
        if !error.passes() {
            return Err(error);
        }
        let patience = match self.client.answered.load(Ordering::Relaxed) {
            true => self.client.patience,
            false => self.client.patience.min(STRANGER),
        };
        let spent = self.began.get_or_insert_with(Instant::now).elapsed();
        let pause = pause(self.tries, asked_for(&error), random());
        if spent + pause > patience {
            return Err(error);
        }
        if self.tries == 3 {
            cx.report(Event::Warning(&format!("Firestore: {error}; trying again")));
        }
        self.tries += 1;
        tokio::select! {
            biased;
            () = cx.cancel().cancelled() => Err(FirestoreError::Cancelled),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Progress was made: the patience begins anew.
    pub(super) fn reset(&mut self) {
        self.began = None;
        self.tries = 0;
    }
}

fn asked_for(error: &FirestoreError) -> Option<Duration> {
    match error {
        FirestoreError::Refused { retry_after, .. } => *retry_after,
        _ => None,
    }
}

/// Between half and all of the doubled pause, and never less than the server asked for.
fn pause(tries: u32, asked: Option<Duration>, random: u64) -> Duration {
    let full = PAUSE.saturating_mul(1 << tries.min(10)).min(PAUSE_MAX);
    let half = full / 2;
    let jitter = Duration::from_nanos(random % (half.as_nanos().max(1) as u64));
    match asked {
        Some(asked) => asked + jitter.min(Duration::from_secs(1)),
        None => half + jitter,
    }
}

/// Not for security: two clients should not wait for the same time.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The whole body, where it is not too long.
pub(super) async fn whole(mut response: Response) -> Result<Bytes, FirestoreError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > ANSWER_MAX {
            return Err(FirestoreError::Answer("it is too long".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

/// `google.rpc.Status` as JSON.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    details: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ErrorBody {
    pub(super) error: Status,
}

impl Status {
    pub(super) fn into_error(self, retry_after: Option<Duration>) -> FirestoreError {
        let delay = self
            .details
            .iter()
            .find_map(|detail| detail.get("retryDelay")?.as_str()?.strip_suffix('s')?.parse::<f64>().ok());
        let delay = delay.filter(|delay| (0.0..=3600.0).contains(delay)).map(Duration::from_secs_f64);
        FirestoreError::Refused {
            http: u16::try_from(self.code).unwrap_or_default(),
            word: if self.status.is_empty() { "no reason given".to_owned() } else { self.status },
            message: brief(&self.message),
            retry_after: retry_after.or(delay),
        }
    }
}

/// A refusal in the server's words, where it has some.
async fn refusal(response: Response) -> FirestoreError {
    let http = response.status().as_u16();
    let header =
        response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let retry_after = header.map(|seconds: u64| Duration::from_secs(seconds.min(3600)));
    let body = whole(response).await.unwrap_or_default();
    let status = serde_json::from_slice::<ErrorBody>(&body)
        .ok()
        .or_else(|| serde_json::from_slice::<Vec<ErrorBody>>(&body).ok()?.into_iter().next());
    match status {
        Some(ErrorBody { mut error }) => {
            error.code = http.into();
            error.into_error(retry_after)
        }
        None => FirestoreError::Refused {
            http,
            word: "no reason given".to_owned(),
            message: brief(&String::from_utf8_lossy(&body)),
            retry_after,
        },
    }
}

fn brief(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_obey_the_server() {
        for tries in 0..40 {
            for random in [0, 1, u64::MAX / 3, u64::MAX] {
                let plain = pause(tries, None, random);
                assert!(plain >= PAUSE / 2 && plain <= PAUSE_MAX, "{tries}: {plain:?}");
                let asked = pause(tries, Some(Duration::from_secs(7)), random);
                assert!((7.0..=8.0).contains(&asked.as_secs_f64()), "{asked:?}");
            }
        }
        assert!(pause(5, None, 0) > pause(0, None, u64::MAX));
    }

    #[test]
    fn a_status_tells_how_long_to_wait() {
        let text = r#"{"code":429,"message":"m\n","status":"RESOURCE_EXHAUSTED","details":[{"@type":"x"},{"retryDelay":"1.5s"}]}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        let FirestoreError::Refused { http, word, message, retry_after } = status.into_error(None) else {
            panic!()
        };
        assert_eq!((http, &*word, &*message), (429, "RESOURCE_EXHAUSTED", "m"));
        assert_eq!(retry_after, Some(Duration::from_millis(1500)));
    }
}
