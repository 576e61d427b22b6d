//! Requests, each within its time and tried again while its failure may pass.

use std::error::Error as StdError;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backup_core::Error;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::{Request, Response, Url};

use crate::client;
use crate::config::Retrying;
use crate::trouble::Trouble;

/// How much of a refusal is read.
const REFUSAL: usize = 64 << 10;
/// The longest pause that a server can ask for.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What went wrong with a request.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) trouble: Trouble,
    /// Whether the same request may succeed later.
    passing: bool,
    /// What the server or the system said, without URLs, which may hold a signature.
    said: String,
    /// What to try, where it is not what the trouble says.
    hint: Option<&'static str>,
}

impl Fault {
    pub(crate) fn new(trouble: Trouble, said: impl Into<String>) -> Self {
        Self { trouble, passing: false, said: said.into(), hint: None }
    }

    pub(crate) fn passing(mut self) -> Self {
        self.passing = true;
        self
    }

    pub(crate) fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// The error at the port.
    pub(crate) fn at(self, subject: impl Into<String>, doing: &str) -> Error {
        let error = self.trouble.with(subject, doing);
        let error = match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        };
        if self.said.is_empty() { error } else { error.with_source(self.said) }
    }

    pub(crate) fn is_passing(&self) -> bool {
        self.passing
    }

    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    fn of_client(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let trouble = if error.is_timeout() { Trouble::TimedOut } else { Trouble::of_chain(&error) };
        let trouble = match trouble {
            Trouble::Other if error.is_connect() => Trouble::Unreachable,
            Trouble::Other => Trouble::ConnectionLost,
            known => known,
        };
        let mut said = error.to_string();
        let mut next = StdError::source(&error);
        while let Some(cause) = next {
            said = format!("{said}: {cause}");
            next = cause.source();
        }
        Self { trouble, passing: trouble != Trouble::Certificate, said, hint: None }
    }
}

/// What is asked of a server.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    /// What a 404 means here.
    pub(crate) missing: Trouble,
    /// Statuses that are no failure beside those of 2xx.
    pub(crate) also: &'static [u16],
}

impl Ask {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: Vec::new(),
            body: Bytes::new(),
            missing: Trouble::NoSuchObject,
            also: &[],
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn missing(mut self, trouble: Trouble) -> Self {
        self.missing = trouble;
        self
    }

    pub(crate) fn also(mut self, statuses: &'static [u16]) -> Self {
        self.also = statuses;
        self
    }
}

/// An answer that is no failure.
#[derive(Debug)]
pub(crate) struct Answer {
    inner: Response,
    patience: Duration,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.inner.headers().get(name)?.to_str().ok()
    }

    /// The next piece of the body.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        match tokio::time::timeout(self.patience, self.inner.chunk()).await {
            Ok(chunk) => chunk.map_err(Fault::of_client),
            Err(_) => Err(silent(self.patience)),
        }
    }

    /// The whole body, which must be short.
    pub(crate) async fn whole(mut self) -> Result<Vec<u8>, Fault> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

/// Puts credentials on a request; asked again before each try.
#[async_trait]
pub(crate) trait Sign: Send + Sync {
    async fn sign(&self, request: &mut Request) -> Result<(), Fault>;
}

/// What a refusal's document says: the trouble, where its code is known, and words.
pub(crate) type Explain = fn(StatusCode, &HeaderMap, &[u8]) -> (Option<Trouble>, String);

/// Sends requests to one service.
#[derive(Clone)]
pub(crate) struct Client {
    inner: reqwest::Client,
    sign: Option<Arc<dyn Sign>>,
    retry: Retrying,
    explain: Explain,
}

impl Client {
    pub(crate) fn new(
        inner: reqwest::Client,
        sign: Option<Arc<dyn Sign>>,
        retry: Retrying,
        explain: Explain,
    ) -> Self {
        Self { inner, sign, retry, explain }
    }

    pub(crate) fn retries(&self) -> usize {
        self.retry.times
    }

    /// One request, tried again while the failure may pass.
    pub(crate) async fn send(&self, ask: &Ask) -> Result<Answer, Fault> {
        let mut pause = self.retry.min_delay;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.once(ask).await {
                Err((fault, wait)) if fault.passing && tries <= self.retry.times => {
                    let wait = wait.filter(|wait| *wait <= PAUSE_MAX).unwrap_or(pause);
                    tokio::time::sleep(wait + jitter(pause)).await;
                    pause = (pause * 2).min(self.retry.max_delay).max(Duration::from_millis(1));
                }
                Err((fault, _)) => return Err(fault),
                Ok(answer) => return Ok(answer),
            }
        }
    }

    /// One request, not tried again.
    pub(crate) async fn send_once(&self, ask: &Ask) -> Result<Answer, Fault> {
        self.once(ask).await.map_err(|(fault, _)| fault)
    }

    /// The pause before the next of several tries.
    pub(crate) fn pause(&self, tries: usize) -> Duration {
        let doubled = self.retry.min_delay.saturating_mul(1 << tries.min(16));
        let pause = doubled.min(self.retry.max_delay);
        pause + jitter(pause)
    }

    /// One try; with a failure, how long the server asks to wait.
    async fn once(&self, ask: &Ask) -> Result<Answer, (Fault, Option<Duration>)> {
        let plain = |fault| (fault, None);
        let mut request = Request::new(ask.method.clone(), ask.url.clone());
        for (name, value) in &ask.headers {
            let value = HeaderValue::from_str(value).map_err(|_| {
                plain(Fault::new(Trouble::Other, format!("the header {name} cannot be sent")))
            })?;
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
        if !ask.body.is_empty() || matches!(ask.method, Method::PUT | Method::POST) {
            // Said also for empty bodies, which some servers insist on.
            request.headers_mut().insert(http::header::CONTENT_LENGTH, ask.body.len().into());
            *request.body_mut() = Some(ask.body.clone().into());
        }
        if let Some(sign) = &self.sign {
            sign.sign(&mut request).await.map_err(plain)?;
        }
        let limit = self.retry.patience + client::sending(ask.body.len());
        let answer = match tokio::time::timeout(limit, self.inner.execute(request)).await {
            Ok(answer) => answer.map_err(|error| plain(Fault::of_client(error)))?,
            Err(_) => return Err(plain(silent(limit))),
        };
        let status = answer.status();
        let mut answer = Answer { inner: answer, patience: self.retry.patience };
        if status.is_success() || ask.also.contains(&status.as_u16()) {
            return Ok(answer);
        }
        let mut body = Vec::new();
        while body.len() < REFUSAL
            && let Ok(Some(chunk)) = answer.chunk().await
        {
            body.extend_from_slice(&chunk);
        }
        let (trouble, said) = (self.explain)(status, answer.headers(), &body);
        let trouble = trouble.unwrap_or_else(|| of_status(status, ask.missing));
        let passing =
            matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504) && trouble != Trouble::NoSpace;
        let wait = answer.text("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let said =
            format!("status {}{}{}", status.as_u16(), if said.is_empty() { "" } else { ": " }, short(&said));
        Err((Fault { trouble, passing, said, hint: None }, wait))
    }
}

fn of_status(status: StatusCode, missing: Trouble) -> Trouble {
    match status.as_u16() {
        401 => Trouble::BadCredentials,
        403 => Trouble::AccessDenied,
        404 => missing,
        409 | 412 => Trouble::Taken,
        416 => Trouble::Changed,
        408 | 429 | 500 | 502..=504 => Trouble::Overloaded,
        405 | 501 => Trouble::NotSupported,
        507 => Trouble::NoSpace,
        _ => Trouble::Other,
    }
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn silent(limit: Duration) -> Fault {
    Fault::new(Trouble::TimedOut, format!("nothing for {} seconds", limit.as_secs())).passing()
}

/// Up to as long again, so that many who were sent away together do not come back together.
fn jitter(pause: Duration) -> Duration {
    // A hasher's keys are random; nothing here needs better.
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
}

/// `base` with these segments added to its path and this query.
pub(crate) fn url(base: &Url, segments: &[&str], query: &[(&str, &str)]) -> Url {
    let mut url = base.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_segment_where_it_has_to_be() {
        let base: Url = "http://127.0.0.1:1/account".parse().unwrap();
        let made = url(&base, &["b", "o", "a/b c+d"], &[("alt", "media"), ("x", "a&b")]);
        assert_eq!(made.as_str(), "http://127.0.0.1:1/account/b/o/a%2Fb%20c+d?alt=media&x=a%26b");
    }

    #[test]
    fn statuses_mean_what_they_mean_to_every_place() {
        let table = [
            (401, Trouble::BadCredentials),
            (403, Trouble::AccessDenied),
            (404, Trouble::NoSuchBucket),
            (409, Trouble::Taken),
            (412, Trouble::Taken),
            (429, Trouble::Overloaded),
            (501, Trouble::NotSupported),
            (503, Trouble::Overloaded),
            (418, Trouble::Other),
        ];
        for (status, trouble) in table {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(of_status(status, Trouble::NoSuchBucket), trouble, "{status}");
        }
    }
}
