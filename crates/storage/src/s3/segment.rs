//! A piece of a very long object, on its way as an object of its own.
//!
//! S3 takes 10,000 parts of an object, and a part has to be in memory until the server has it. So an
//! object that outgrows 10,000 short parts goes on in segments: each is uploaded in short parts under
//! a name of its own, the server copies it as one long part of the object (UploadPartCopy), and it is
//! removed. Memory stays that of short parts, whatever the length.
//!
//! A segment is sealed bytes and no backup: no manifest names it. What a killed run leaves of them
//! is swept as unfinished uploads are.

use std::collections::{BTreeMap, BTreeSet};

use backup_core::{BackupId, ObjectKey};
use http::Method;
use opendal::{Buffer, Operator};
use tokio::task::JoinSet;

use crate::parts::Plan;
use crate::s3::multipart::{Landed, Multipart};
use crate::s3::requests::{Ask, Requests, encoded};

/// A segment on its way.
pub(super) struct Segment {
    /// Below the prefix.
    key: String,
    requests: Requests,
    upload: Multipart,
    flying: JoinSet<(u32, opendal::Result<Landed>)>,
    under_way: BTreeSet<u32>,
    landed: BTreeMap<u32, Landed>,
    number: u32,
    len: u64,
}

impl Segment {
    /// What stands in the name of a segment between that of its object and its own.
    const INFIX: &'static str = ".segment-";

    /// The name of the segment for part `number` of an object, in an upload with this mark.
    pub(super) fn key(object: &ObjectKey, mark: &str, number: u32) -> String {
        format!("{object}{}{mark}-{number}", Self::INFIX)
    }

    /// The key of the object that a segment of this name belongs to; `None` for any other name.
    pub(super) fn object_of(key: &str) -> Option<&str> {
        let (object, tail) = key.rsplit_once(Self::INFIX)?;
        let (mark, number) = tail.rsplit_once('-')?;
        (mark.parse::<BackupId>().is_ok() && number.parse::<u32>().is_ok()).then_some(object)
    }

    pub(super) async fn begin(requests: &Requests, key: String, mark: &str) -> opendal::Result<Self> {
        let upload = Multipart::create(requests, &key, mark, None).await?;
        Ok(Self {
            key,
            requests: requests.clone(),
            upload,
            flying: JoinSet::new(),
            under_way: BTreeSet::new(),
            landed: BTreeMap::new(),
            number: 0,
            len: 0,
        })
    }

    /// Bytes that were sent.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Sends a part of it when the plan has room for it on its way.
    pub(super) async fn send(&mut self, part: Buffer, plan: &Plan) -> opendal::Result<()> {
        self.number += 1;
        while plan.waits(self.number, self.under_way.first().copied()) {
            self.land().await?;
        }
        self.under_way.insert(self.number);
        self.len += part.len() as u64;
        let (upload, number) = (self.upload.clone(), self.number);
        self.flying.spawn(async move { (number, upload.put(number, part).await) });
        Ok(())
    }

    async fn land(&mut self) -> opendal::Result<()> {
        match self.flying.join_next().await {
            Some(Ok((number, landed))) => {
                self.under_way.remove(&number);
                self.landed.insert(number, landed?);
                Ok(())
            }
            Some(Err(error)) => {
                Err(opendal::Error::new(opendal::ErrorKind::Unexpected, "a part was lost").set_source(error))
            }
            None => Ok(()),
        }
    }

    /// Ends it, lets the server copy it as part `number` of `whole`, and removes it. On an error what
    /// is left of it is removed as far as the server allows.
    pub(super) async fn compose(
        mut self,
        whole: &Multipart,
        number: u32,
        operator: &Operator,
    ) -> opendal::Result<Landed> {
        let ended = async {
            while !self.flying.is_empty() {
                self.land().await?;
            }
            self.upload.complete_if(&self.landed, true).await
        };
        let version = match ended.await {
            Ok(completed) => completed.version,
            // The answer may be lost and the segment there.
            Err(_) if self.is_whole(operator).await => None,
            Err(error) => {
                let key = self.key.clone();
                self.abort(&key).await;
                remove(operator, &key).await;
                return Err(error);
            }
        };
        let copied = whole.copy(number, &self.key).await;
        if !self.remove_version(version).await {
            remove(operator, &self.key).await;
        }
        copied
    }

    /// Removes the one version of the segment for good: in a bucket that keeps versions, a plain delete would leave it
    /// there, unseen and paid for.
    async fn remove_version(&self, version: Option<String>) -> bool {
        let Some(version) = version else { return false };
        let full = format!("{}{}", self.requests.prefix(), self.key);
        let query = format!("versionId={}", encoded(&version, false));
        let removed = self.requests.send(Ask::new("DeleteObject", Method::DELETE, &full, query)).await;
        if let Err(error) = &removed {
            tracing::warn!(
                object = self.key,
                error = %error.message(),
                "the version of a segment could not be removed; a lifecycle rule for old versions does it later"
            );
        }
        removed.is_ok()
    }

    async fn is_whole(&self, operator: &Operator) -> bool {
        // Its name holds the mark, which nobody else knows.
        operator.stat(&self.key).await.is_ok_and(|found| found.content_length() == self.len)
    }

    /// Stops sending and removes what the server has of it.
    pub(super) async fn abort(mut self, subject: &str) {
        self.flying.shutdown().await;
        if let Err(error) = self.upload.abort().await
            && error.kind() != opendal::ErrorKind::NotFound
        {
            tracing::warn!(object = subject, error = %error.message(), "a segment could not be aborted");
        }
    }
}

/// Removes a segment. A key that may not remove leaves it to the sweep.
async fn remove(operator: &Operator, key: &str) {
    if let Err(error) = operator.delete(key).await
        && error.kind() != opendal::ErrorKind::NotFound
    {
        tracing::warn!(
            object = key,
            error = %error.message(),
            "a segment was copied and could not be removed; `strongroom sweep` removes it later"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_give_are_segments() {
        let object: ObjectKey = "orders/x/data.strongroom".parse().unwrap();
        let mark = BackupId::random().to_string();
        assert_eq!(Segment::object_of(&Segment::key(&object, &mark, 41)), Some(object.as_str()));
        for other in ["hls/video.segment-00001.ts", "a.segment-b-1", "orders/x/data.strongroom", "x.segment-"]
        {
            assert_eq!(Segment::object_of(other), None, "{other}");
        }
    }
}
