//! Requests to a WebDAV server, and what its answers mean.

use std::time::Duration;

use backup_core::{Error, ErrorKind, Retry};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Body, Response};
use zeroize::Zeroizing;

use crate::again::Again;
use crate::config::{Login, Retrying};
use crate::trouble::Trouble;
use crate::webdav::multistatus::{self, Found};
use crate::webdav::place::WebDavPlace;

/// Connections that rested longer are not used again: servers close them after 5 seconds or more.
const RESTING: Duration = Duration::from_secs(4);
/// The longest document taken from a server, in bytes: some 100,000 names.
const DOCUMENT_LEN_MAX: usize = 64 << 20;
/// What is kept of a server's words.
const SAID_MAX: usize = 200;

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The server answered, and said no.
    Refused { status: StatusCode, said: String },
    /// There was no answer, or not all of it.
    Failed { trouble: Trouble, said: String },
    /// The answer is not what it should be.
    Malformed(&'static str),
}

impl Fault {
    pub(super) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the same may succeed a moment later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                matches!(status.as_u16(), 408 | 423 | 429 | 500 | 502 | 503 | 504)
            }
            Self::Failed { trouble, .. } => trouble.kind().retry() == Retry::BackedOff,
            Self::Malformed(_) => false,
        }
    }

    /// Whether it is unknown what the server did with the request.
    pub(super) fn is_unsettled(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                status.is_server_error() && *status != StatusCode::INSUFFICIENT_STORAGE
            }
            Self::Failed { trouble, .. } => {
                !matches!(trouble, Trouble::ConnectionRefused | Trouble::Unreachable | Trouble::Certificate)
            }
            Self::Malformed(_) => true,
        }
    }

    fn trouble(&self) -> Trouble {
        match self {
            Self::Failed { trouble, .. } => *trouble,
            Self::Malformed(_) => Trouble::NotSupported,
            Self::Refused { status, .. } => match status.as_u16() {
                401 => Trouble::BadCredentials,
                403 => Trouble::AccessDenied,
                404 => Trouble::NoSuchObject,
                412 => Trouble::Taken,
                405 | 411 | 413 | 415 | 501 => Trouble::NotSupported,
                507 => Trouble::NoSpace,
                408 | 423 | 429 | 500 | 502 | 503 | 504 => Trouble::Overloaded,
                _ => Trouble::Other,
            },
        }
    }

    /// The error at the port: it happened to `subject`, while we were `doing` something.
    pub(super) fn at(self, subject: impl Into<String>, doing: &str) -> Error {
        let trouble = self.trouble();
        let error = trouble.with(subject, doing);
        let error = match trouble {
            Trouble::BadCredentials => error.with_hint(
                "check the user in the URL and the password (password_file); only Basic authentication is spoken",
            ),
            Trouble::AccessDenied => error.with_hint("allow the user to read and write there"),
            Trouble::NotSupported => match self.status().map(|status| status.as_u16()) {
                Some(411) => error.with_hint("the server must take uploads whose length is not known beforehand (chunked)"),
                Some(413) => error.with_hint("raise the server's limit for the length of a request (nginx: client_max_body_size 0)"),
                _ => error.with_hint("check that the URL is that of a WebDAV folder, and that the server allows PUT, MOVE, MKCOL and PROPFIND; some servers answer so when their disk is full"),
            },
            _ => error,
        };
        match self {
            Self::Refused { status, said } if said.is_empty() => {
                error.with_source(format!("the server said {status}"))
            }
            Self::Refused { status, said } => error.with_source(format!("the server said {status}: {said}")),
            Self::Failed { said, .. } => error.with_source(said),
            Self::Malformed(what) => error.with_source(what),
        }
    }
}

/// Nobody knows whether the object is there.
pub(super) fn uncertain(subject: &str, fault: Fault) -> Error {
    Error::new(ErrorKind::Uncertain, subject, "it is not known whether it was stored")
        .with_hint("look whether the object is there before anything else")
        .with_source(fault.at(subject, "committing"))
        .at(backup_core::Stage::Commit)
}

/// Sends requests to one server.
#[derive(Debug, Clone)]
pub(super) struct Requests {
    client: reqwest::Client,
    authorization: Option<HeaderValue>,
    retry: Retrying,
}

impl Requests {
    pub(super) fn new(place: &WebDavPlace, login: &Login, retry: Retrying) -> Result<Self, Error> {
        let client = crate::client::client_with(retry.patience, place.ca_file.as_deref(), |client| {
            client.pool_idle_timeout(RESTING)
        })?;
        let authorization = match (&place.user, &login.password) {
            (None, None) => None,
            (Some(user), Some(password)) => Some(basic(user, password).ok_or_else(|| {
                Error::new(ErrorKind::Config, place.to_string(), "the password cannot be sent")
            })?),
            (Some(_), None) => {
                return Err(Error::new(ErrorKind::Config, place.to_string(), "has a user and no password")
                    .with_hint("set password_file in the destination's table"));
            }
            (None, Some(_)) => {
                return Err(Error::new(ErrorKind::Config, place.to_string(), "has a password and no user")
                    .with_hint("write the user into the URL, as in webdavs://user@host/path"));
            }
        };
        Ok(Self { client, authorization, retry })
    }

    pub(super) fn retry(&self) -> Retrying {
        self.retry
    }

    /// One request; the answer is one of success, and its body not read yet. `limit` is for the answer to begin.
    pub(super) async fn once(
        &self,
        method: &str,
        url: &str,
        headers: HeaderMap,
        body: Body,
        limit: Duration,
    ) -> Result<Response, Fault> {
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| Fault::Malformed("no such method"))?;
        let mut request = self.client.request(method, url).headers(headers).body(body);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let response = match tokio::time::timeout(limit, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(silent(limit)),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let said = tokio::time::timeout(limit, beginning(response)).await.unwrap_or_default();
        Err(Fault::Refused { status, said })
    }

    /// A request without a body that may be made twice, made again while what keeps it from succeeding may pass.
    pub(super) async fn again(
        &self,
        method: &str,
        url: &str,
        headers: &HeaderMap,
    ) -> Result<Response, Fault> {
        let mut again = Again::new(self.retry);
        loop {
            let done = self.once(method, url, headers.clone(), Body::default(), self.retry.patience).await;
            match done {
                Err(fault) if fault.may_pass() => {
                    if !again.wait().await {
                        return Err(fault);
                    }
                }
                done => return done,
            }
        }
    }

    /// What the server says of a name, and of what is in it with a depth of 1; `None` where there is nothing.
    pub(super) async fn look(&self, url: &str, depth: &'static str) -> Result<Option<Vec<Found>>, Fault> {
        let mut again = Again::new(self.retry);
        loop {
            match self.look_once(url, depth).await {
                Err(Fault::Refused { status: StatusCode::NOT_FOUND | StatusCode::GONE, .. }) => {
                    return Ok(None);
                }
                Err(fault) if fault.may_pass() => {
                    if !again.wait().await {
                        return Err(fault);
                    }
                }
                found => return found.map(Some),
            }
        }
    }

    async fn look_once(&self, url: &str, depth: &'static str) -> Result<Vec<Found>, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert("depth", HeaderValue::from_static(depth));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml; charset=utf-8"));
        let body = Body::from(multistatus::ASK);
        let mut response = self.once("PROPFIND", url, headers, body, self.retry.patience).await?;
        if response.status() != StatusCode::MULTI_STATUS {
            return Err(Fault::Malformed("the server does not answer PROPFIND as WebDAV does"));
        }
        let mut document = BytesMut::new();
        while let Some(piece) = chunk(&mut response, self.retry.patience).await? {
            if document.len() + piece.len() > DOCUMENT_LEN_MAX {
                return Err(Fault::Malformed("a listing is too long"));
            }
            document.extend_from_slice(&piece);
        }
        multistatus::parse(&document)
            .map_err(|_| Fault::Malformed("a listing is not the XML that WebDAV has"))
    }
}

/// The next piece of a body; `None` only at its declared end.
pub(super) async fn chunk(response: &mut Response, patience: Duration) -> Result<Option<Bytes>, Fault> {
    match tokio::time::timeout(patience, response.chunk()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(silent(patience)),
    }
}

/// The beginning of a refusal's text, in one line and without tags.
async fn beginning(mut response: Response) -> String {
    let mut text = Vec::new();
    while text.len() < 4 * SAID_MAX {
        match response.chunk().await {
            Ok(Some(piece)) => text.extend_from_slice(&piece),
            _ => break,
        }
    }
    let (mut said, mut in_tag) = (String::new(), false);
    for character in String::from_utf8_lossy(&text).chars() {
        match character {
            '<' => in_tag = true,
            '>' => in_tag = false,
            _ if in_tag => {}
            _ if character.is_whitespace() || character.is_control() => {
                if !said.ends_with(' ') {
                    said.push(' ');
                }
            }
            _ => said.push(character),
        }
    }
    said.trim().chars().take(SAID_MAX).collect()
}

pub(super) fn failed(error: &reqwest::Error) -> Fault {
    let trouble = match Trouble::of_chain(error) {
        Trouble::Other if error.is_timeout() => Trouble::TimedOut,
        Trouble::Other => Trouble::ConnectionLost,
        trouble => trouble,
    };
    let mut said = Vec::new();
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        said.push(cause.to_string());
        next = cause.source();
    }
    Fault::Failed { trouble, said: said.join(": ") }
}

fn silent(limit: Duration) -> Fault {
    Fault::Failed { trouble: Trouble::TimedOut, said: format!("nothing for {} seconds", limit.as_secs()) }
}

/// Basic authentication (RFC 7617).
fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let pair = Zeroizing::new(format!("{user}:{password}"));
    let value = Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(pair.as_bytes())));
    let mut value = HeaderValue::from_str(&value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_sent_and_not_shown() {
        let value = basic("Aladdin", "open sesame").unwrap();
        assert_eq!(value.as_bytes(), b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(!format!("{value:?}").contains("QWxh"));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, passes) in [
            (401, false),
            (403, false),
            (404, false),
            (412, false),
            (423, true),
            (429, true),
            (500, true),
            (503, true),
            (507, false),
        ] {
            let fault = Fault::Refused { status: StatusCode::from_u16(status).unwrap(), said: String::new() };
            assert_eq!(fault.may_pass(), passes, "{status}");
        }
    }
}
