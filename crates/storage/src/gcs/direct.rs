//! Google's interface as somebody would use it who keeps to none of our rules: for the probe alone.

use ::http::Method;
use async_trait::async_trait;
use backup_core::{Error, ErrorKind, ObjectKey, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use md5::{Digest as _, Md5};
use serde::Deserialize;
use serde_json::json;

use crate::gcs::{Gcs, Object, crc32c_text, understood};
use crate::probe::{Direct, Lock, Versioning, Way, Written, http_date};
use crate::rest::http::{Answer, Ask, Fault, url};
use crate::rest::{Api as _, RestStore};
use crate::trouble::Trouble;

const PUT: Way = Way { name: "an upload", ours: true };
const PARTS: Way = Way { name: "a resumable upload", ours: true };
const COPY: Way = Way { name: "a copy", ours: false };

const MD5: &str = "MD5 of an object";
const CRC: &str = "CRC-32C of an object";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Bucket {
    versioning: Switch,
    retention_policy: Option<RetentionPolicy>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Switch {
    enabled: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RetentionPolicy {
    retention_period: String,
    is_locked: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Versions {
    items: Vec<Object>,
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

async fn written(answer: Answer) -> Result<Written, Fault> {
    let date = answer.text("date").and_then(http_date);
    let object: Object = understood(&answer.whole().await?)?;
    Ok(Written { version: Some(object.generation).filter(|generation| !generation.is_empty()), date })
}

impl RestStore<Gcs> {
    fn told<T>(&self, key: &ObjectKey, doing: &str, done: Result<T, Fault>) -> Result<T> {
        done.map_err(|fault| fault.at(self.subject(key), doing))
    }

    async fn in_parts(&self, key: &str, bytes: &[u8], only_new: bool) -> Result<Written, Fault> {
        let session = self.api.begin(key, "probe", only_new).await?;
        let sent = self.api.put_piece(&session, 0, Bytes::copy_from_slice(bytes), Some(crc32c(bytes))).await;
        if sent.is_err() {
            self.api.cancel(&session).await;
        }
        sent.map(|()| Written::default())
    }

    async fn copy(&self, key: &str, seed: &str) -> Result<Written, Fault> {
        let bucket = self.api.bucket.as_str();
        let path = ["storage", "v1", "b", bucket, "o", seed, "rewriteTo", "b", bucket, "o", key];
        let ask = Ask::new(Method::POST, url(&self.api.endpoint, &path, &[]))
            .header("content-type", "application/json")
            .body("{}");
        self.api.client.send(&ask).await.map(|_| Written::default())
    }
}

#[async_trait]
impl Direct for RestStore<Gcs> {
    fn container(&self) -> &'static str {
        "bucket"
    }

    async fn exists(&self) -> Result<bool> {
        let path = ["storage", "v1", "b", &self.api.bucket, "o"];
        let ask = Ask::new(Method::GET, url(&self.api.endpoint, &path, &[("maxResults", "1")]))
            .missing(Trouble::NoSuchBucket);
        match self.api.client.send(&ask).await {
            Ok(_) => Ok(true),
            Err(fault) if fault.trouble == Trouble::NoSuchBucket => Ok(false),
            Err(fault) => Err(fault.at(&*self.name, "looking for the bucket")),
        }
    }

    async fn create(&self) -> Result<()> {
        let project = self.api.project.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::Config, &*self.name, "a bucket is made in a project, and none is named")
                .with_hint("add project=NAME to the destination, and location= for another than the US")
        })?;
        let mut bucket = json!({
            "name": self.api.bucket,
            // Rights by IAM alone, and nobody outside.
            "iamConfiguration": {
                "uniformBucketLevelAccess": { "enabled": true }, "publicAccessPrevention": "enforced",
            },
        });
        if let Some(location) = &self.api.location {
            bucket["location"] = json!(location);
        }
        let ask =
            Ask::new(Method::POST, url(&self.api.endpoint, &["storage", "v1", "b"], &[("project", project)]))
                .header("content-type", "application/json")
                .body(bucket.to_string());
        self.api.client.send(&ask).await.map(drop).map_err(|fault| fault.at(&*self.name, "making the bucket"))
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
        let full = self.full(key);
        let done = if way == PUT {
            let metadata = json!({ "name": full, "crc32c": crc32c_text(crc32c(bytes)) });
            match self.api.insert(&metadata, bytes, only_new).await {
                Ok(answer) => written(answer).await,
                Err(fault) => Err(fault),
            }
        } else if way == PARTS {
            self.in_parts(&full, bytes, only_new).await
        } else {
            self.copy(&full, &self.full(seed)).await
        };
        self.told(key, "storing an object", done)
    }

    async fn abort(&self, key: &ObjectKey) -> Result<bool> {
        let session = self.api.begin(&self.full(key), "probe", true).await;
        let session = self.told(key, "beginning an upload", session)?;
        self.api.cancel(&session).await;
        let sent = self.api.put_piece(&session, 0, Bytes::from_static(b"x"), Some(crc32c(b"x"))).await;
        let there = self.told(key, "looking for it", self.api.head(&self.full(key)).await)?;
        Ok(sent.is_err() && there.is_none())
    }

    fn checksums(&self) -> &'static [&'static str] {
        &[MD5, CRC]
    }

    async fn write_damaged(&self, checksum: &'static str, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
        let mut other = bytes.to_vec();
        if let Some(first) = other.first_mut() {
            *first ^= 1;
        }
        let mut metadata = json!({ "name": self.full(key) });
        if checksum == MD5 {
            metadata["md5Hash"] = json!(BASE64_STANDARD.encode(Md5::digest(&other)));
        } else {
            metadata["crc32c"] = json!(crc32c_text(crc32c(&other)));
        }
        self.told(key, "storing an object", self.api.insert(&metadata, bytes, true).await.map(drop))
    }

    async fn versioning(&self) -> Result<Versioning> {
        let ask = Ask::new(Method::GET, self.api.bucket_url(&[("fields", "versioning,retentionPolicy")]))
            .missing(Trouble::NoSuchBucket);
        let asked = async { understood::<Bucket>(&self.api.client.send(&ask).await?.whole().await?) };
        let bucket = asked.await.map_err(|fault| fault.at(&*self.name, "asking for versions"))?;
        let default_lock = bucket.retention_policy.map(|policy| {
            let locked = if policy.is_locked { "locked" } else { "not locked" };
            format!("a retention policy of {} seconds, {locked}", policy.retention_period)
        });
        Ok(Versioning { on: bucket.versioning.enabled, default_lock })
    }

    async fn read_version(&self, key: &ObjectKey, version: &str) -> Result<Vec<u8>> {
        let ask = Ask::new(
            Method::GET,
            self.api.object_url(&self.full(key), &[("alt", "media"), ("generation", version)]),
        );
        let read = async { self.api.client.send(&ask).await?.whole().await };
        self.told(key, "reading a version", read.await)
    }

    async fn remove_version(&self, key: &ObjectKey, version: &str, _force: bool) -> Result<()> {
        let url = self.api.object_url(&self.full(key), &[("generation", version)]);
        let removed = self.api.client.send(&Ask::new(Method::DELETE, url)).await.map(drop);
        self.told(key, "removing a version", removed)
    }

    async fn all_versions(&self, prefix: &str) -> Result<Vec<(ObjectKey, String)>> {
        let below = format!("{}{prefix}", self.prefix);
        let path = ["storage", "v1", "b", &self.api.bucket, "o"];
        let query = [("versions", "true"), ("prefix", below.as_str()), ("fields", "items(name,generation)")];
        let ask = Ask::new(Method::GET, url(&self.api.endpoint, &path, &query));
        let asked = async { understood::<Versions>(&self.api.client.send(&ask).await?.whole().await?) };
        let listed = asked.await.map_err(|fault| fault.at(&*self.name, "listing versions"))?;
        let mut found = Vec::new();
        for object in listed.items {
            let key = object.name.strip_prefix(&*self.prefix).unwrap_or_default();
            // Nothing but the probe's own.
            if let (true, Ok(key)) = (key.starts_with(prefix), key.parse::<ObjectKey>()) {
                found.push((key, object.generation));
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
        let mode = if lock == Lock::Compliance { "Locked" } else { "Unlocked" };
        let metadata = json!({
            "name": self.full(key),
            "retention": { "mode": mode, "retainUntilTime": until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string() },
        });
        let stored = match self.api.insert(&metadata, bytes, true).await {
            Ok(answer) => written(answer).await,
            Err(fault) => Err(fault),
        };
        self.told(key, "storing a locked object", stored)
    }

    fn advice(&self) -> String {
        let bucket = &self.api.bucket;
        format!(
            "Rights that let the account of a host (HOST) add and read, and neither replace nor delete:\n\n\
             gcloud storage buckets add-iam-policy-binding gs://{bucket} --member=serviceAccount:HOST --role=roles/storage.objectCreator\n\
             gcloud storage buckets add-iam-policy-binding gs://{bucket} --member=serviceAccount:HOST --role=roles/storage.objectViewer\n\n\
             Replacing an object needs storage.objects.delete, which neither role has. Against whoever holds more: \
             a retention policy on the bucket, locked."
        )
    }
}
