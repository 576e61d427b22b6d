//! Azure's interface as somebody would use it who keeps to none of our rules: for the probe alone.

use ::http::Method;
use async_trait::async_trait;
use backup_core::{ObjectKey, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use md5::{Digest as _, Md5};

use crate::azure::upload::block_id;
use crate::azure::{Azure, EnumerationResults};
use crate::probe::{Direct, Lock, Versioning, Way, Written, http_date, none};
use crate::rest::RestStore;
use crate::rest::http::{Answer, Ask, Fault};
use crate::trouble::Trouble;

const PUT: Way = Way { name: "a put", ours: true };
const BLOCKS: Way = Way { name: "a list of blocks", ours: true };
const COPY: Way = Way { name: "a copy", ours: false };

const PUT_MD5: &str = "Content-MD5 of an object";
const BLOCK_MD5: &str = "Content-MD5 of a block";

fn written(answer: &Answer) -> Written {
    Written {
        version: answer.text("x-ms-version-id").map(str::to_owned),
        date: answer.text("date").and_then(http_date),
    }
}

impl RestStore<Azure> {
    fn told<T>(&self, key: &ObjectKey, doing: &str, done: Result<T, Fault>) -> Result<T> {
        done.map_err(|fault| fault.at(self.subject(key), doing))
    }

    async fn in_blocks(&self, key: &str, bytes: &[u8], only_new: bool) -> Result<Written, Fault> {
        let mark = backup_core::BackupId::random().to_string();
        let id = block_id(&mark, 0);
        self.api.put_block(key, &id, Bytes::copy_from_slice(bytes)).await?;
        self.api.put_block_list(key, &mark, &[id], only_new).await.map(|()| Written::default())
    }
}

#[async_trait]
impl Direct for RestStore<Azure> {
    fn container(&self) -> &'static str {
        "container"
    }

    async fn exists(&self) -> Result<bool> {
        let found: Result<EnumerationResults, Fault> =
            self.api.listed(&[("comp", "list"), ("maxresults", "1")]).await;
        match found {
            Ok(_) => Ok(true),
            Err(fault) if fault.trouble == Trouble::NoSuchBucket => Ok(false),
            Err(fault) => Err(fault.at(&*self.name, "looking for the container")),
        }
    }

    async fn create(&self) -> Result<()> {
        let ask = Ask::new(Method::PUT, self.api.container_url(&[]));
        self.api
            .client
            .send(&ask)
            .await
            .map(drop)
            .map_err(|fault| fault.at(&*self.name, "making the container"))
    }

    fn has_parts(&self) -> bool {
        true
    }

    fn ways(&self) -> &'static [Way] {
        &[PUT, BLOCKS, COPY]
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
            let sent =
                self.api.put_blob(&full, "probe", Bytes::copy_from_slice(bytes), only_new, Vec::new()).await;
            sent.map(|answer| written(&answer))
        } else if way == BLOCKS {
            self.in_blocks(&full, bytes, only_new).await
        } else {
            let source = self.api.blob(&self.full(seed), &[]).to_string();
            let ask = Ask::new(Method::PUT, self.api.blob(&full, &[])).header("x-ms-copy-source", source);
            self.api.client.send(&ask).await.map(|answer| written(&answer))
        };
        self.told(key, "storing an object", done)
    }

    async fn abort(&self, _key: &ObjectKey) -> Result<bool> {
        none("aborting; the service removes blocks that no list names after a week")
    }

    fn checksums(&self) -> &'static [&'static str] {
        &[PUT_MD5, BLOCK_MD5]
    }

    async fn write_damaged(&self, checksum: &'static str, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
        let mut other = bytes.to_vec();
        if let Some(first) = other.first_mut() {
            *first ^= 1;
        }
        let (full, sent) = (self.full(key), Bytes::copy_from_slice(bytes));
        let md5 = BASE64_STANDARD.encode(Md5::digest(&other));
        let done = if checksum == PUT_MD5 {
            self.api.put_blob(&full, "probe", sent, true, vec![("content-md5", md5)]).await.map(drop)
        } else {
            let id = block_id(&backup_core::BackupId::random().to_string(), 0);
            self.api.put_block_with(&full, &id, sent, md5).await
        };
        self.told(key, "storing an object", done)
    }

    /// Whether versions are kept shows in the answer to a put; how the container is locked is known only to
    /// the account's manager.
    async fn versioning(&self) -> Result<Versioning> {
        let query = [("comp", "list"), ("include", "versions"), ("maxresults", "1")];
        let listed =
            self.api.listed(&query).await.map_err(|fault| fault.at(&*self.name, "asking for versions"))?;
        let on = listed.blobs.blob.iter().any(|blob| blob.version_id.is_some());
        let ask = Ask::new(Method::HEAD, self.api.container_url(&[]));
        let lock = self.api.client.send(&ask).await.ok().and_then(|answer| {
            let policy = answer.text("x-ms-has-immutability-policy") == Some("true");
            policy.then(|| "an immutability policy of the container".to_owned())
        });
        Ok(Versioning { on, default_lock: lock })
    }

    async fn read_version(&self, key: &ObjectKey, version: &str) -> Result<Vec<u8>> {
        let ask = Ask::new(Method::GET, self.api.blob(&self.full(key), &[("versionid", version)]));
        let read = async { self.api.client.send(&ask).await?.whole().await };
        self.told(key, "reading a version", read.await)
    }

    async fn remove_version(&self, key: &ObjectKey, version: &str, _force: bool) -> Result<()> {
        let ask = Ask::new(Method::DELETE, self.api.blob(&self.full(key), &[("versionid", version)]));
        self.told(key, "removing a version", self.api.client.send(&ask).await.map(drop))
    }

    async fn all_versions(&self, prefix: &str) -> Result<Vec<(ObjectKey, String)>> {
        let below = format!("{}{prefix}", self.prefix);
        let query = [("comp", "list"), ("include", "versions"), ("prefix", below.as_str())];
        let listed =
            self.api.listed(&query).await.map_err(|fault| fault.at(&*self.name, "listing versions"))?;
        let mut found = Vec::new();
        for blob in listed.blobs.blob {
            let key = blob.name.strip_prefix(&*self.prefix).unwrap_or_default();
            // Nothing but the probe's own.
            if let (true, Ok(key), Some(version)) =
                (key.starts_with(prefix), key.parse::<ObjectKey>(), blob.version_id)
            {
                found.push((key, version));
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
        let headers = vec![
            ("x-ms-immutability-policy-mode", mode.to_owned()),
            ("x-ms-immutability-policy-until-date", until.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()),
        ];
        let bytes = Bytes::copy_from_slice(bytes);
        let sent = self.api.put_blob(&self.full(key), "probe", bytes, true, headers).await;
        self.told(key, "storing a locked object", sent.map(|answer| written(&answer)))
    }

    fn advice(&self) -> String {
        let container = &self.api.container;
        format!(
            "Azure has no right to store large objects that is not also a right to replace them: blocks need w. For \
             append-only credentials switch on versioning for the account and an immutability policy with versions for \
             the container {container}, lock the policy, and give a host a signature without d:\n\n\
             az storage container generate-sas --name {container} --permissions rcwl --expiry DATE --https-only"
        )
    }
}
