//! The S3 API as somebody would use it who keeps to none of our rules: for the probe alone.

use async_trait::async_trait;
use backup_core::{Error, ErrorKind, ObjectKey, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, Method};
use jiff::Timestamp;
use md5::{Digest as _, Md5};
use opendal::Buffer;
use serde::Deserialize;

use crate::probe::{Direct, Lock, Versioning, Way, Written};
use crate::s3::S3Store;
use crate::s3::multipart::Multipart;
use crate::s3::proof::CHECKSUM;
use crate::s3::requests::{Answer, Ask, encoded};
use crate::trouble::{Trouble, from_opendal};

const PUT: Way = Way { name: "a put", ours: true };
const PARTS: Way = Way { name: "the completion of a multipart upload", ours: true };
const COPY: Way = Way { name: "a copy", ours: false };

const PUT_MD5: &str = "Content-MD5 of an object";
const PUT_CRC: &str = "CRC-32C of an object";
const PART_MD5: &str = "Content-MD5 of a part";
const PART_CRC: &str = "CRC-32C of a part";

/// The right to end a retention of the kind GOVERNANCE, used only on the probe's own objects.
const BYPASS: &str = "x-amz-bypass-governance-retention";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct VersioningConfiguration {
    status: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ObjectLockConfiguration {
    object_lock_enabled: String,
    rule: LockRule,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct LockRule {
    default_retention: DefaultRetention,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DefaultRetention {
    mode: String,
    days: String,
    years: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ListVersionsResult {
    #[serde(rename = "$value")]
    items: Vec<Item>,
}

#[derive(Debug, Deserialize)]
enum Item {
    Version(OneVersion),
    DeleteMarker(OneVersion),
    #[serde(other)]
    Other,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct OneVersion {
    key: String,
    version_id: String,
}

impl S3Store {
    fn full(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.requests.prefix())
    }

    /// One request of the probe, with an error of the port.
    async fn ask(&self, doing: &str, subject: &str, ask: Ask<'_>) -> Result<Answer> {
        self.requests.send(ask).await.map_err(|error| {
            use opendal::ErrorKind as Kind;
            if matches!(error.kind(), Kind::ConditionNotMatch | Kind::Conflict) {
                return Trouble::Taken.with(subject, doing);
            }
            from_opendal(subject, doing, &error)
        })
    }

    async fn put(
        &self,
        key: &ObjectKey,
        bytes: &[u8],
        headers: Vec<(&'static str, String)>,
    ) -> Result<Written> {
        let full = self.full(key);
        // Not called PutObject, so that the transport adds no checksum of its own.
        let mut ask = Ask::new("ProbePut", Method::PUT, &full, String::new());
        ask.headers = headers;
        ask.body = Buffer::from(bytes.to_vec());
        let answer = self.ask("storing an object", &self.subject(key), ask).await?;
        Ok(Written { version: version(&answer.headers), date: date(&answer.headers) })
    }

    async fn in_parts(&self, key: &ObjectKey, bytes: &[u8], only_new: bool) -> Result<()> {
        let failed = |error: &opendal::Error| {
            use opendal::ErrorKind as Kind;
            if matches!(error.kind(), Kind::ConditionNotMatch | Kind::Conflict) {
                return Trouble::Taken.with(self.subject(key), "completing an upload");
            }
            from_opendal(self.subject(key), "completing an upload", error)
        };
        let upload =
            Multipart::create(&self.requests, key.as_str(), "probe", None).await.map_err(|e| failed(&e))?;
        let done = async {
            let landed = upload.put(1, Buffer::from(bytes.to_vec())).await?;
            upload.complete_if(&[(1, landed)].into(), only_new).await.map(drop)
        };
        let done = done.await;
        if done.is_err() {
            // Hygiene: the sweeper finds what stays.
            let _ = upload.abort().await;
        }
        done.map_err(|e| failed(&e))
    }
}

#[async_trait]
impl Direct for S3Store {
    fn container(&self) -> &'static str {
        "bucket"
    }

    async fn exists(&self) -> Result<bool> {
        // A listing of one name says more than HEAD does, which has no document.
        let query = format!("list-type=2&max-keys=1&prefix={}", encoded(self.requests.prefix(), false));
        match self.requests.send(Ask::new("ProbeList", Method::GET, "", query)).await {
            Ok(_) => Ok(true),
            Err(error) if Trouble::of_opendal(&error) == Trouble::NoSuchBucket => Ok(false),
            Err(error) => Err(from_opendal(&*self.name, "looking for the bucket", &error)),
        }
    }

    async fn create(&self) -> Result<()> {
        let region = self.requests.region();
        let mut ask = Ask::new("CreateBucket", Method::PUT, "", String::new());
        // us-east-1 is what no constraint means, and other servers know only that.
        if self.requests.is_amazon() && region != "us-east-1" {
            ask.body = Buffer::from(format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            ));
        }
        self.ask("making the bucket", &self.name, ask).await.map(drop)
    }

    fn has_parts(&self) -> bool {
        true
    }

    fn ways(&self) -> &'static [Way] {
        &[PUT, PARTS, COPY]
    }

    async fn write(
        &self,
        way: Way,
        key: &ObjectKey,
        bytes: &[u8],
        seed: &ObjectKey,
        only_new: bool,
    ) -> Result<Written> {
        let mut headers = Vec::new();
        if only_new {
            headers.push(("if-none-match", "*".to_owned()));
        }
        if way == PARTS {
            return self.in_parts(key, bytes, only_new).await.map(|()| Written::default());
        }
        if way == PUT {
            return self.put(key, bytes, headers).await;
        }
        headers.push(("x-amz-copy-source", self.requests.copy_source(&self.full(seed))));
        self.put(key, &[], headers).await
    }

    async fn abort(&self, key: &ObjectKey) -> Result<bool> {
        let failed = |error: opendal::Error| from_opendal(self.subject(key), "aborting an upload", &error);
        let upload = Multipart::create(&self.requests, key.as_str(), "probe", None).await.map_err(failed)?;
        upload.put(1, Buffer::from("x")).await.map_err(failed)?;
        upload.abort().await.map_err(failed)?;
        match upload.put(2, Buffer::from("y")).await {
            Ok(_) => {
                let _ = upload.abort().await;
                Ok(false)
            }
            Err(_) => Ok(true),
        }
    }

    fn checksums(&self) -> &'static [&'static str] {
        &[PUT_MD5, PUT_CRC, PART_MD5, PART_CRC]
    }

    async fn write_damaged(&self, checksum: &'static str, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
        let mut other = bytes.to_vec();
        if let Some(first) = other.first_mut() {
            *first ^= 1;
        }
        let header = match checksum {
            PUT_MD5 | PART_MD5 => ("content-md5", BASE64_STANDARD.encode(Md5::digest(&other))),
            _ => {
                let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &other) as u32;
                (CHECKSUM, BASE64_STANDARD.encode(crc.to_be_bytes()))
            }
        };
        if matches!(checksum, PUT_MD5 | PUT_CRC) {
            return self.put(key, bytes, vec![header]).await.map(drop);
        }
        let failed = |error: opendal::Error| from_opendal(self.subject(key), "storing a part", &error);
        let upload = Multipart::create(&self.requests, key.as_str(), "probe", None).await.map_err(failed)?;
        let sent = upload.put_with(1, Buffer::from(bytes.to_vec()), header).await;
        let _ = upload.abort().await;
        sent.map_err(failed)
    }

    async fn versioning(&self) -> Result<Versioning> {
        let unreadable = |_| {
            Error::new(ErrorKind::Unsupported, &*self.name, "the answer about versions is not understood")
        };
        let ask = Ask::new("GetBucketVersioning", Method::GET, "", "versioning=".to_owned());
        let answer = self.ask("asking for versions", &self.name, ask).await?;
        let found: VersioningConfiguration =
            quick_xml::de::from_reader(answer.body.as_slice()).map_err(unreadable)?;
        if found.status != "Enabled" {
            return Ok(Versioning::default());
        }
        let ask = Ask::new("GetObjectLockConfiguration", Method::GET, "", "object-lock=".to_owned());
        let default_lock = match self.requests.send(ask).await {
            // A bucket without lock answers 404, and a server without it 501.
            Err(_) => None,
            Ok(answer) => {
                let found: ObjectLockConfiguration =
                    quick_xml::de::from_reader(answer.body.as_slice()).map_err(unreadable)?;
                let DefaultRetention { mode, days, years } = found.rule.default_retention;
                let on = found.object_lock_enabled == "Enabled" && !mode.is_empty();
                let span = if days.is_empty() { format!("{years} years") } else { format!("{days} days") };
                on.then(|| format!("{mode} for {span} by default"))
            }
        };
        Ok(Versioning { on: true, default_lock })
    }

    async fn read_version(&self, key: &ObjectKey, version: &str) -> Result<Vec<u8>> {
        let full = self.full(key);
        let query = format!("versionId={}", encoded(version, false));
        let ask = Ask::new("GetObject", Method::GET, &full, query);
        Ok(self.ask("reading a version", &self.subject(key), ask).await?.body)
    }

    async fn remove_version(&self, key: &ObjectKey, version: &str, force: bool) -> Result<()> {
        let full = self.full(key);
        let query = format!("versionId={}", encoded(version, false));
        let plain = self
            .ask(
                "removing a version",
                &self.subject(key),
                Ask::new("DeleteObject", Method::DELETE, &full, query.clone()),
            )
            .await;
        match plain {
            Err(error) if force && error.kind() == ErrorKind::Denied => {
                let mut ask = Ask::new("DeleteObject", Method::DELETE, &full, query);
                ask.headers.push((BYPASS, "true".to_owned()));
                self.ask("removing a version", &self.subject(key), ask).await.map(drop)
            }
            done => done.map(drop),
        }
    }

    async fn all_versions(&self, prefix: &str) -> Result<Vec<(ObjectKey, String)>> {
        let query =
            format!("versions=&prefix={}", encoded(&format!("{}{prefix}", self.requests.prefix()), false));
        let answer = self
            .ask("listing versions", &self.name, Ask::new("ListObjectVersions", Method::GET, "", query))
            .await?;
        let listed: ListVersionsResult =
            quick_xml::de::from_reader(answer.body.as_slice()).map_err(|error| {
                Error::new(ErrorKind::Unsupported, &*self.name, "the list of versions is not understood")
                    .with_source(error)
            })?;
        let mut found = Vec::new();
        for item in listed.items {
            let (Item::Version(one) | Item::DeleteMarker(one)) = item else { continue };
            let key = one.key.strip_prefix(self.requests.prefix()).unwrap_or_default();
            // Nothing but the probe's own.
            if let (true, Ok(key)) = (key.starts_with(prefix), key.parse::<ObjectKey>()) {
                found.push((key, one.version_id));
            }
        }
        Ok(found)
    }

    async fn write_locked(
        &self,
        key: &ObjectKey,
        bytes: &[u8],
        lock: Lock,
        until: Timestamp,
    ) -> Result<Written> {
        let headers = vec![
            ("content-md5", BASE64_STANDARD.encode(Md5::digest(bytes))),
            ("x-amz-object-lock-mode", lock.as_str().to_owned()),
            ("x-amz-object-lock-retain-until-date", until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        ];
        self.put(key, bytes, headers).await
    }

    fn advice(&self) -> String {
        let (bucket, prefix) = (self.requests.bucket_name(), self.requests.prefix());
        format!(
            r#"A bucket policy that lets the key of a host (PRINCIPAL) add and read, and neither replace nor delete:

{{ "Version": "2012-10-17", "Statement": [
  {{ "Effect": "Allow", "Principal": {{ "AWS": "PRINCIPAL" }},
    "Action": ["s3:PutObject", "s3:GetObject", "s3:AbortMultipartUpload"],
    "Resource": "arn:aws:s3:::{bucket}/{prefix}*" }},
  {{ "Effect": "Allow", "Principal": {{ "AWS": "PRINCIPAL" }}, "Action": "s3:ListBucket",
    "Resource": "arn:aws:s3:::{bucket}" }},
  {{ "Effect": "Deny", "Principal": {{ "AWS": "PRINCIPAL" }}, "Action": "s3:PutObject",
    "Resource": "arn:aws:s3:::{bucket}/{prefix}*",
    "Condition": {{ "Null": {{ "s3:if-none-match": "true" }}, "Bool": {{ "s3:ObjectCreationOperation": "true" }} }} }},
  {{ "Effect": "Deny", "Principal": {{ "AWS": "PRINCIPAL" }},
    "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy",
               "s3:PutLifecycleConfiguration", "s3:PutBucketVersioning", "s3:BypassGovernanceRetention"],
    "Resource": ["arn:aws:s3:::{bucket}", "arn:aws:s3:::{bucket}/{prefix}*"] }} ] }}

Where the server does not know s3:if-none-match: switch on versioning and object lock with a default retention."#
        )
    }
}

fn version(headers: &HeaderMap) -> Option<String> {
    let version = headers.get("x-amz-version-id")?.to_str().ok()?;
    (!version.is_empty() && version != "null").then(|| version.to_owned())
}

/// The time of an answer (RFC 9110 section 6.6.1).
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    crate::probe::http_date(headers.get(http::header::DATE)?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_markers_are_read_and_the_rest_is_passed_over() {
        let text = "<ListVersionsResult><Name>b</Name><Prefix>p/</Prefix><KeyMarker/><IsTruncated>false</IsTruncated>\
            <DeleteMarker><Key>p/a</Key><VersionId>2</VersionId><IsLatest>true</IsLatest></DeleteMarker>\
            <Version><Key>p/a</Key><VersionId>1</VersionId><Owner><ID>x</ID></Owner></Version>\
            <DeleteMarker><Key>p/c</Key><VersionId>3</VersionId></DeleteMarker></ListVersionsResult>";
        let listed: ListVersionsResult = quick_xml::de::from_str(text).unwrap();
        let ids: Vec<&str> = listed
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Version(one) | Item::DeleteMarker(one) => Some(one.version_id.as_str()),
                Item::Other => None,
            })
            .collect();
        assert_eq!(ids, ["2", "1", "3"]);
        let empty: ListVersionsResult = quick_xml::de::from_str("<ListVersionsResult/>").unwrap();
        assert!(empty.items.is_empty());
    }

    #[test]
    fn a_default_retention_is_read() {
        let text = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
            <Mode>COMPLIANCE</Mode><Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
        let found: ObjectLockConfiguration = quick_xml::de::from_str(text).unwrap();
        assert_eq!(found.rule.default_retention.mode, "COMPLIANCE");
        assert_eq!(found.rule.default_retention.days, "30");
        let none: ObjectLockConfiguration =
            quick_xml::de::from_str("<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>")
                .unwrap();
        assert_eq!(none.rule.default_retention.mode, "");
    }
}
