//! Azure Blob Storage as a place.
//!
//! Small objects are one Put Blob; longer ones are blocks, each with its MD5 that the service compares, and one
//! Put Block List that makes the object. Both carry `If-None-Match: *`: only if there is no such object.

mod auth;
mod direct;
mod place;
mod upload;

use std::ops::Range;
use std::sync::Arc;

use ::http::{HeaderMap, Method, StatusCode};
use async_trait::async_trait;
use backup_core::{Limits, Result};
use jiff::Timestamp;
use reqwest::Url;
use serde::Deserialize;

pub(crate) use place::AzurePlace;

use crate::config::Retrying;
use crate::parts::{COUNT_MAX, Plan, Rules};
use crate::probe::http_date;
use crate::rest::http::{Answer, Ask, Client, Fault, url};
use crate::rest::upload::Pieces;
use crate::rest::{Api, Head, Page, RestStore};
use crate::trouble::Trouble;

/// The version of the interface that is spoken.
const VERSION: &str = "2021-12-02";
/// What metadata are called in headers.
const META: &str = "x-ms-meta-strongroom_upload";

/// One container.
pub(crate) struct Azure {
    client: Client,
    /// With the account in its path where the host does not name it.
    endpoint: Url,
    container: String,
    rules: Rules,
    put_if_absent: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct EnumerationResults {
    blobs: Blobs,
    next_marker: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Blobs {
    blob: Vec<Blob>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Blob {
    name: String,
    version_id: Option<String>,
    properties: Properties,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Properties {
    #[serde(rename = "Content-Length")]
    len: u64,
    #[serde(rename = "Etag")]
    etag: String,
    #[serde(rename = "Last-Modified")]
    modified: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Refusal {
    code: String,
    message: String,
}

/// Prepares the client; sends nothing. `environment` looks up variables. `account` is the name and key of a
/// storage account that the configuration gives.
pub(crate) fn open(
    place: &AzurePlace,
    account: Option<(&str, &str)>,
    retry: Retrying,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<RestStore<Azure>> {
    let http = crate::client::client(retry.patience, place.ca_file.as_deref())?;
    let found = auth::find(place, account, &http, retry, environment)?;
    let azure = found.endpoint.host_str().is_some_and(|host| host.contains(".blob.core."));
    let api = Azure {
        client: Client::new(http, found.sign, retry, explain),
        endpoint: found.endpoint,
        container: place.container.clone(),
        // No block is made of others, so they grow.
        rules: Rules { parts_max: COUNT_MAX, equal: false, memory: place.part_memory, segment: None },
        put_if_absent: place.put_if_absent.unwrap_or(azure),
    };
    Ok(RestStore::new(api, &place.to_string(), &place.prefix))
}

impl Azure {
    fn blob(&self, key: &str, query: &[(&str, &str)]) -> Url {
        let segments: Vec<&str> = std::iter::once(self.container.as_str()).chain(key.split('/')).collect();
        url(&self.endpoint, &segments, query)
    }

    fn container_url(&self, query: &[(&str, &str)]) -> Url {
        let query: Vec<(&str, &str)> = [("restype", "container")].iter().chain(query).copied().collect();
        url(&self.endpoint, &[&self.container], &query)
    }

    async fn listed(&self, query: &[(&str, &str)]) -> Result<EnumerationResults, Fault> {
        let ask = Ask::new(Method::GET, self.container_url(query)).missing(Trouble::NoSuchBucket);
        let body = self.client.send(&ask).await?.whole().await?;
        // Documents may begin with a byte order mark.
        let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&body);
        quick_xml::de::from_reader(body)
            .map_err(|error| Fault::new(Trouble::Other, format!("the answer is not understood: {error}")))
    }
}

fn explain(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> (Option<Trouble>, String) {
    let refusal: Refusal =
        quick_xml::de::from_reader(body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body)).unwrap_or_default();
    // Answers to HEAD have only the header.
    let code = headers.get("x-ms-error-code").and_then(|code| code.to_str().ok()).unwrap_or(&refusal.code);
    let trouble = match code {
        "ContainerNotFound" | "ContainerBeingDeleted" | "ResourceNotFound" => Some(Trouble::NoSuchBucket),
        "BlobNotFound" => Some(Trouble::NoSuchObject),
        "BlobAlreadyExists" | "UnauthorizedBlobOverwrite" => Some(Trouble::Taken),
        "AuthenticationFailed" | "InvalidAuthenticationInfo" if status != StatusCode::NOT_FOUND => {
            Some(Trouble::BadCredentials)
        }
        "AuthorizationFailure" | "AuthorizationPermissionMismatch" | "InsufficientAccountPermissions" => {
            Some(Trouble::AccessDenied)
        }
        "BlobImmutableDueToPolicy" | "BlobImmutableDueToLegalHold" | "LeaseIdMissing" => {
            Some(Trouble::AccessDenied)
        }
        "Md5Mismatch" | "Crc64Mismatch" | "InvalidMd5" => Some(Trouble::Corrupted),
        "ServerBusy" | "OperationTimedOut" | "InternalError" => Some(Trouble::Overloaded),
        "BlobArchived" | "BlobBeingRehydrated" => Some(Trouble::Archived),
        "InvalidBlockList" => Some(Trouble::UploadGone),
        "AccountIsDisabled" | "InvalidResourceName" => Some(Trouble::Other),
        _ => None,
    };
    let message = refusal.message.lines().next().unwrap_or_default();
    (trouble, format!("{code} {message}").trim().to_owned())
}

/// The version's name, without the quotes that only headers have.
fn tag(text: &str) -> String {
    text.trim_matches('"').to_owned()
}

#[async_trait]
impl Api for Azure {
    fn limits(&self) -> Limits {
        Limits {
            object_len_max: Plan::new(self.rules, None).object_len_max(),
            put_if_absent: self.put_if_absent,
        }
    }

    fn retries(&self) -> usize {
        self.client.retries()
    }

    async fn head(&self, key: &str) -> Result<Option<Head>, Fault> {
        match self.client.send(&Ask::new(Method::HEAD, self.blob(key, &[]))).await {
            Ok(answer) => {
                let unknown =
                    || Fault::new(Trouble::Other, "the answer names no length or version of the object");
                Ok(Some(Head {
                    len: answer
                        .text("content-length")
                        .and_then(|len| len.parse().ok())
                        .ok_or_else(unknown)?,
                    tag: answer.text("etag").map(tag).ok_or_else(unknown)?,
                    modified: answer.text("last-modified").and_then(http_date),
                    mark: answer.text(META).map(str::to_owned),
                    crc32c: None,
                }))
            }
            Err(fault) if fault.trouble == Trouble::NoSuchObject => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn get(&self, key: &str, range: Range<u64>, tag: &str) -> Result<Answer, Fault> {
        let ask = Ask::new(Method::GET, self.blob(key, &[]))
            .header("range", format!("bytes={}-{}", range.start, range.end - 1))
            .header("if-match", format!("\"{tag}\""));
        self.client.send(&ask).await
    }

    async fn page(&self, prefix: &str, after: Option<&str>) -> Result<Page, Fault> {
        let mut query = vec![("comp", "list"), ("maxresults", "5000")];
        if !prefix.is_empty() {
            query.push(("prefix", prefix));
        }
        if let Some(after) = after {
            query.push(("marker", after));
        }
        let listed = self.listed(&query).await?;
        let mut page =
            Page { objects: Vec::new(), next: Some(listed.next_marker).filter(|next| !next.is_empty()) };
        for Blob { name, properties, .. } in listed.blobs.blob {
            let head = Head {
                len: properties.len,
                tag: tag(&properties.etag),
                modified: http_date(&properties.modified)
                    .or_else(|| properties.modified.parse::<Timestamp>().ok()),
                mark: None,
                crc32c: None,
            };
            page.objects.push((name, head));
        }
        Ok(page)
    }

    async fn remove(&self, key: &str, tag: Option<&str>) -> Result<(), Fault> {
        let mut ask = Ask::new(Method::DELETE, self.blob(key, &[]));
        if let Some(tag) = tag {
            ask = ask.header("if-match", format!("\"{tag}\""));
        }
        match self.client.send(&ask).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.trouble == Trouble::NoSuchObject => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    fn pieces(self: Arc<Self>, key: &str, mark: &str, size_hint: Option<u64>) -> Box<dyn Pieces> {
        let plan = Plan::new(self.rules, size_hint);
        Box::new(upload::AzurePieces::new(self, key, mark, plan))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_azure_says_is_told_apart() {
        let body = |code: &str| {
            format!(
                "\u{feff}<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m\nx</Message></Error>"
            )
        };
        let table = [
            (404, "ContainerNotFound", Some(Trouble::NoSuchBucket)),
            (404, "BlobNotFound", Some(Trouble::NoSuchObject)),
            (409, "BlobAlreadyExists", Some(Trouble::Taken)),
            (409, "BlobImmutableDueToPolicy", Some(Trouble::AccessDenied)),
            (403, "AuthenticationFailed", Some(Trouble::BadCredentials)),
            (403, "AuthorizationPermissionMismatch", Some(Trouble::AccessDenied)),
            (400, "Md5Mismatch", Some(Trouble::Corrupted)),
            (412, "ConditionNotMet", None),
        ];
        for (status, code, wanted) in table {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                explain(status, &HeaderMap::new(), body(code).as_bytes()),
                (wanted, format!("{code} m"))
            );
            let mut headers = HeaderMap::new();
            headers.insert("x-ms-error-code", code.parse().unwrap());
            assert_eq!(explain(status, &headers, b"").0, wanted, "{code}");
        }
    }

    #[test]
    fn a_page_is_read_and_an_empty_one_too() {
        let text = "<?xml version=\"1.0\"?><EnumerationResults ContainerName=\"c\"><Prefix>p/</Prefix><Blobs><Blob>\
            <Name>p/a</Name><Properties><Last-Modified>Sun, 06 Nov 1994 08:49:37 GMT</Last-Modified><Etag>0x1</Etag>\
            <Content-Length>5</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob><Blob><Name>p/b</Name>\
            <Properties><Etag>0x2</Etag><Content-Length>6</Content-Length></Properties></Blob></Blobs>\
            <NextMarker>m</NextMarker></EnumerationResults>";
        let page: EnumerationResults = quick_xml::de::from_str(text).unwrap();
        assert_eq!((page.blobs.blob.len(), page.next_marker.as_str()), (2, "m"));
        assert_eq!(page.blobs.blob[0].properties.len, 5);
        let empty = "<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>";
        let page: EnumerationResults = quick_xml::de::from_str(empty).unwrap();
        assert!(page.blobs.blob.is_empty() && page.next_marker.is_empty());
    }
}
