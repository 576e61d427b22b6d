//! Google Cloud Storage as a place, over its JSON interface.
//!
//! Small objects are one request with their metadata and CRC-32C; longer ones a resumable upload in pieces, the
//! last of which carries the CRC-32C of all. Both say `ifGenerationMatch=0`: only if there is no such object.
//! What the service says it stored is compared with what was sent.

mod auth;
mod direct;
mod place;
mod upload;

pub(crate) use auth::{explain as explain_token, form};

use std::ops::Range;
use std::sync::Arc;

use ::http::{HeaderMap, Method, StatusCode};
use async_trait::async_trait;
use backup_core::{Error, ErrorKind, Limits, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use reqwest::Url;
use serde::Deserialize;

pub(crate) use place::GcsPlace;

use crate::config::{Retrying, check_endpoint};
use crate::rest::http::{Answer, Ask, Client, Fault, url};
use crate::rest::upload::Pieces;
use crate::rest::{Api, Head, MARK, Page, RestStore};
use crate::trouble::Trouble;

/// The longest object.
const OBJECT_LEN_MAX: u64 = 5 << 40;
/// Google's own server.
const GOOGLE: &str = "https://storage.googleapis.com";

/// One bucket.
pub(crate) struct Gcs {
    client: Client,
    endpoint: Url,
    bucket: String,
    project: Option<String>,
    location: Option<String>,
    put_if_absent: bool,
}

/// What the interface says of an object, of the fields that are asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Object {
    name: String,
    size: String,
    generation: String,
    updated: String,
    crc32c: String,
    metadata: std::collections::BTreeMap<String, String>,
}

/// The fields of [`Object`].
const FIELDS: &str = "name,size,generation,updated,crc32c,metadata";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Listed {
    items: Vec<Object>,
    next_page_token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: Refused,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refused {
    message: String,
    errors: Vec<Reason>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    reason: String,
}

/// Prepares the client; sends nothing. `environment` looks up variables.
pub(crate) fn open(
    place: &GcsPlace,
    retry: Retrying,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<RestStore<Gcs>> {
    let emulator = environment("STORAGE_EMULATOR_HOST").filter(|host| !host.is_empty());
    let given = match (&place.endpoint, emulator) {
        (Some(endpoint), _) => Some(endpoint.clone()),
        (None, Some(host)) => {
            let endpoint = if host.contains("://") { host } else { format!("http://{host}") };
            check_endpoint(&endpoint, place.allow_http).map_err(|problem| {
                Error::new(
                    ErrorKind::Config,
                    "environment variable STORAGE_EMULATOR_HOST",
                    problem.to_string(),
                )
                .with_hint("set it to http://host:port of an emulator, or unset it")
            })?;
            Some(endpoint.trim_end_matches('/').to_owned())
        }
        (None, None) => None,
    };
    let endpoint: Url = given.as_deref().unwrap_or(GOOGLE).parse().map_err(|_| {
        Error::new(ErrorKind::Config, place.to_string(), "the endpoint is not a URL")
            .with_hint("write endpoint=https://host")
    })?;
    // Private ways to Google have names of their own.
    let google = endpoint.host_str().is_some_and(|host| host.ends_with(".googleapis.com"));
    let http = crate::client::client(retry.patience, place.ca_file.as_deref())?;
    let sign = auth::find(place, google, &http, retry, environment)?;
    let api = Gcs {
        client: Client::new(http, sign, retry, explain),
        endpoint,
        bucket: place.bucket.clone(),
        project: place.project.clone(),
        location: place.location.clone(),
        put_if_absent: place.put_if_absent.unwrap_or(google),
    };
    Ok(RestStore::new(api, &place.to_string(), &place.prefix))
}

impl Gcs {
    fn bucket_url(&self, query: &[(&str, &str)]) -> Url {
        url(&self.endpoint, &["storage", "v1", "b", &self.bucket], query)
    }

    fn object_url(&self, key: &str, query: &[(&str, &str)]) -> Url {
        url(&self.endpoint, &["storage", "v1", "b", &self.bucket, "o", key], query)
    }

    fn upload_url(&self, query: &[(&str, &str)]) -> Url {
        url(&self.endpoint, &["upload", "storage", "v1", "b", &self.bucket, "o"], query)
    }
}

/// Reads a document.
fn understood<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body)
        .map_err(|error| Fault::new(Trouble::Other, format!("the answer is not understood: {error}")))
}

fn explain(status: StatusCode, _headers: &HeaderMap, body: &[u8]) -> (Option<Trouble>, String) {
    let Ok(Refusal { error }) = serde_json::from_slice::<Refusal>(body) else {
        return (None, String::from_utf8_lossy(body).into_owned());
    };
    let reason = error.errors.first().map_or("", |first| first.reason.as_str());
    let lower = error.message.to_ascii_lowercase();
    let trouble = match (status.as_u16(), reason) {
        (404, _) if lower.contains("bucket does not exist") => Some(Trouble::NoSuchBucket),
        (403 | 429, "rateLimitExceeded" | "userRateLimitExceeded") => Some(Trouble::Overloaded),
        (400, _) if lower.contains("match") && (lower.contains("md5") || lower.contains("crc32c")) => {
            Some(Trouble::Corrupted)
        }
        (400, _) if lower.contains("invalid_grant") || lower.contains("jwt") => Some(Trouble::BadCredentials),
        _ => None,
    };
    (trouble, error.message)
}

fn crc32c_text(crc: u32) -> String {
    BASE64_STANDARD.encode(crc.to_be_bytes())
}

impl Object {
    fn head(self) -> Result<Head, Fault> {
        let len = self.size.parse();
        let len = len.map_err(|_| Fault::new(Trouble::Other, "the answer names no length of the object"))?;
        let crc = BASE64_STANDARD.decode(&self.crc32c).ok().and_then(|bytes| bytes.try_into().ok());
        Ok(Head {
            len,
            tag: self.generation,
            modified: self.updated.parse::<Timestamp>().ok(),
            mark: self.metadata.get(MARK).cloned(),
            crc32c: crc.map(u32::from_be_bytes),
        })
    }
}

#[async_trait]
impl Api for Gcs {
    fn limits(&self) -> Limits {
        Limits { object_len_max: OBJECT_LEN_MAX, put_if_absent: self.put_if_absent }
    }

    fn retries(&self) -> usize {
        self.client.retries()
    }

    async fn head(&self, key: &str) -> Result<Option<Head>, Fault> {
        let ask = Ask::new(Method::GET, self.object_url(key, &[("fields", FIELDS)]));
        match self.client.send(&ask).await {
            Ok(answer) => understood::<Object>(&answer.whole().await?)?.head().map(Some),
            Err(fault) if fault.trouble == Trouble::NoSuchObject => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn get(&self, key: &str, range: Range<u64>, tag: &str) -> Result<Answer, Fault> {
        let url = self.object_url(key, &[("alt", "media"), ("generation", tag)]);
        let ask =
            Ask::new(Method::GET, url).header("range", format!("bytes={}-{}", range.start, range.end - 1));
        self.client.send(&ask).await
    }

    async fn page(&self, prefix: &str, after: Option<&str>) -> Result<Page, Fault> {
        let fields = format!("nextPageToken,items({FIELDS})");
        let mut query = vec![("maxResults", "1000"), ("fields", fields.as_str())];
        if !prefix.is_empty() {
            query.push(("prefix", prefix));
        }
        if let Some(after) = after {
            query.push(("pageToken", after));
        }
        let url = url(&self.endpoint, &["storage", "v1", "b", &self.bucket, "o"], &query);
        let answer = self.client.send(&Ask::new(Method::GET, url).missing(Trouble::NoSuchBucket)).await?;
        let listed: Listed = understood(&answer.whole().await?)?;
        let mut page =
            Page { objects: Vec::new(), next: listed.next_page_token.filter(|next| !next.is_empty()) };
        for object in listed.items {
            page.objects.push((object.name.clone(), object.head()?));
        }
        Ok(page)
    }

    async fn remove(&self, key: &str, tag: Option<&str>) -> Result<(), Fault> {
        let query: Vec<(&str, &str)> = tag.map(|tag| ("ifGenerationMatch", tag)).into_iter().collect();
        match self.client.send(&Ask::new(Method::DELETE, self.object_url(key, &query))).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.trouble == Trouble::NoSuchObject => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    fn pieces(self: Arc<Self>, key: &str, mark: &str, _size_hint: Option<u64>) -> Box<dyn Pieces> {
        Box::new(upload::GcsPieces::new(self, key, mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_google_says_is_told_apart() {
        let body = |message: &str, reason: &str| {
            format!(
                "{{\"error\":{{\"code\":1,\"message\":\"{message}\",\"errors\":[{{\"reason\":\"{reason}\"}}]}}}}"
            )
        };
        let table = [
            (404, body("The specified bucket does not exist.", "notFound"), Some(Trouble::NoSuchBucket)),
            (404, body("No such object: b/o", "notFound"), None),
            (403, body("slow", "rateLimitExceeded"), Some(Trouble::Overloaded)),
            (
                400,
                body("Provided CRC32C x doesn't match calculated CRC32C y", "invalid"),
                Some(Trouble::Corrupted),
            ),
            (500, "oops".to_owned(), None),
        ];
        for (status, body, wanted) in table {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(explain(status, &HeaderMap::new(), body.as_bytes()).0, wanted, "{body}");
        }
    }

    #[test]
    fn an_object_is_read() {
        let text = r#"{"name":"p/a","size":"5","generation":"17","updated":"2026-01-02T03:04:05.678Z",
            "crc32c":"yZRlqg==","metadata":{"strongroom_upload":"m"},"more":{}}"#;
        let head = understood::<Object>(text.as_bytes()).unwrap().head().unwrap();
        assert_eq!((head.len, head.tag.as_str(), head.mark.as_deref()), (5, "17", Some("m")));
        assert_eq!(head.crc32c, Some(0xc994_65aa));
        assert!(understood::<Object>(b"{}").unwrap().head().is_err());
    }

    #[test]
    fn only_google_is_trusted_to_refuse_seconds_by_itself() {
        let open = |text: &str, emulator: Option<&str>| {
            let place = GcsPlace::parse(text, text.strip_prefix("gs://").unwrap()).unwrap();
            let emulator = emulator.map(str::to_owned);
            super::open(&place, Retrying::default(), |name| {
                emulator.clone().filter(|_| name == "STORAGE_EMULATOR_HOST")
            })
        };
        assert!(open("gs://b?anonymous=true", None).unwrap().api.limits().put_if_absent);
        let other = open("gs://b?endpoint=https://other.example&anonymous=true", None).unwrap();
        assert!(!other.api.limits().put_if_absent);
        let emulated = open("gs://b", Some("127.0.0.1:4443")).unwrap();
        assert_eq!(emulated.api.endpoint.as_str(), "http://127.0.0.1:4443/");
        assert_eq!(open("gs://b", Some("10.0.0.1:4443")).unwrap_err().kind(), ErrorKind::Config);
    }
}
