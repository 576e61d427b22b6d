//! One object on its way to Azure.
//!
//! Blocks that were sent and never listed are no object; the service throws them away after a week.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::http::Method;
use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use tokio::task::JoinSet;

use crate::azure::{Azure, META};
use crate::parts::Plan;
use crate::rest::Api as _;
use crate::rest::http::{Answer, Ask, Fault};
use crate::rest::upload::Pieces;
use crate::trouble::Trouble;

pub(super) struct AzurePieces {
    api: Arc<Azure>,
    key: String,
    mark: String,
    plan: Plan,
    flying: JoinSet<(u32, Result<(), Fault>)>,
    under_way: BTreeSet<u32>,
    /// Blocks that the service has.
    landed: BTreeMap<u32, String>,
    /// Blocks that were sent or are on their way.
    number: u32,
    last: Bytes,
}

impl AzurePieces {
    pub(super) fn new(api: Arc<Azure>, key: &str, mark: &str, plan: Plan) -> Self {
        Self {
            api,
            key: key.to_owned(),
            mark: mark.to_owned(),
            plan,
            flying: JoinSet::new(),
            under_way: BTreeSet::new(),
            landed: BTreeMap::new(),
            number: 0,
            last: Bytes::new(),
        }
    }

    async fn land(&mut self) -> Result<(), Fault> {
        match self.flying.join_next().await {
            Some(Ok((number, done))) => {
                done?;
                self.under_way.remove(&number);
                self.landed.insert(number, block_id(&self.mark, number));
                Ok(())
            }
            Some(Err(error)) => Err(Fault::new(Trouble::Other, format!("a block was lost: {error}"))),
            None => Ok(()),
        }
    }

    async fn fly(&mut self, block: Bytes) -> Result<(), Fault> {
        while self.plan.waits(self.number, self.under_way.first().copied()) {
            self.land().await?;
        }
        let (api, key, number) = (Arc::clone(&self.api), self.key.clone(), self.number);
        let id = block_id(&self.mark, number);
        self.under_way.insert(number);
        self.number += 1;
        self.flying.spawn(async move { (number, api.put_block(&key, &id, block).await) });
        Ok(())
    }
}

/// The name of a block: those of one object must have one length, and those of two writers must differ.
pub(super) fn block_id(mark: &str, number: u32) -> String {
    BASE64_STANDARD.encode(format!("{mark}-{number:06}"))
}

#[async_trait]
impl Pieces for AzurePieces {
    fn next_len(&self) -> Option<u64> {
        self.plan.part(self.number).map(crate::parts::Part::bytes)
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), Fault> {
        self.fly(piece).await
    }

    async fn last(&mut self, piece: Bytes, _crc32c: u32) -> Result<(), Fault> {
        if self.number == 0 {
            self.last = piece;
            return Ok(());
        }
        self.fly(piece).await?;
        while !self.flying.is_empty() {
            self.land().await?;
        }
        // A block that is not there would be a hole.
        if self.landed.keys().copied().eq(0..self.number) {
            Ok(())
        } else {
            Err(Fault::new(Trouble::Other, "blocks are missing"))
        }
    }

    async fn publish(&mut self) -> Result<(), Fault> {
        if self.number == 0 {
            return self.publish_small().await;
        }
        let ids: Vec<String> = self.landed.values().cloned().collect();
        self.api.put_block_list(&self.key, &self.mark, &ids, true).await
    }

    async fn abort(&mut self) -> bool {
        self.last = Bytes::new();
        self.flying.shutdown().await;
        false
    }
}

impl AzurePieces {
    async fn publish_small(&mut self) -> Result<(), Fault> {
        let last = std::mem::take(&mut self.last);
        let put = self.api.put_blob(&self.key, &self.mark, last.clone(), true, Vec::new()).await;
        match put {
            // Azurite takes blocks that nobody listed, of an upload that was given up, for an object. A list of
            // blocks under the same condition it takes.
            Err(fault) if fault.trouble == Trouble::Taken && self.api.head(&self.key).await?.is_none() => {
                let id = block_id(&self.mark, 0);
                let mut ids = Vec::new();
                if !last.is_empty() {
                    self.api.put_block(&self.key, &id, last).await?;
                    ids.push(id);
                }
                self.api.put_block_list(&self.key, &self.mark, &ids, true).await
            }
            done => done.map(drop),
        }
    }
}

async fn md5_of(bytes: Bytes) -> Result<String, Fault> {
    let hash = move || BASE64_STANDARD.encode(Md5::digest(&bytes));
    let failed =
        |error| Fault::new(Trouble::Other, format!("the digest of a block was not finished: {error}"));
    tokio::task::spawn_blocking(hash).await.map_err(failed)
}

impl Azure {
    /// Sends a block with its MD5, which the service compares.
    pub(super) async fn put_block(&self, key: &str, id: &str, block: Bytes) -> Result<(), Fault> {
        let md5 = md5_of(block.clone()).await?;
        self.put_block_with(key, id, block, md5).await
    }

    pub(super) async fn put_block_with(
        &self,
        key: &str,
        id: &str,
        block: Bytes,
        md5: String,
    ) -> Result<(), Fault> {
        let ask = Ask::new(Method::PUT, self.blob(key, &[("comp", "block"), ("blockid", id)]))
            .header("content-md5", md5)
            .body(block)
            .missing(Trouble::NoSuchBucket);
        self.client.send(&ask).await.map(drop)
    }

    /// Makes an object of blocks.
    pub(super) async fn put_block_list(
        &self,
        key: &str,
        mark: &str,
        ids: &[String],
        only_new: bool,
    ) -> Result<(), Fault> {
        let mut body = String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
        for id in ids {
            // Base64 has no character that XML would take for its own.
            body.push_str("<Uncommitted>");
            body.push_str(id);
            body.push_str("</Uncommitted>");
        }
        body.push_str("</BlockList>");
        let mut ask = Ask::new(Method::PUT, self.blob(key, &[("comp", "blocklist")]))
            .header("content-type", "application/xml")
            .header("x-ms-blob-content-type", "application/octet-stream")
            .header(META, mark)
            .body(body)
            .missing(Trouble::NoSuchBucket);
        if only_new {
            ask = ask.header("if-none-match", "*");
        }
        self.client.send(&ask).await.map(drop)
    }

    /// One object in one request.
    pub(super) async fn put_blob(
        &self,
        key: &str,
        mark: &str,
        bytes: Bytes,
        only_new: bool,
        more: Vec<(&'static str, String)>,
    ) -> Result<Answer, Fault> {
        let md5 = md5_of(bytes.clone()).await?;
        let mut ask = Ask::new(Method::PUT, self.blob(key, &[]))
            .header("x-ms-blob-type", "BlockBlob")
            .header("content-type", "application/octet-stream")
            .header("content-md5", md5)
            .header(META, mark)
            .body(bytes)
            .missing(Trouble::NoSuchBucket);
        if only_new {
            ask = ask.header("if-none-match", "*");
        }
        // What is said again replaces what was said before.
        ask.headers.extend(more);
        self.client.send(&ask).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_blocks_have_one_length() {
        let mark = backup_core::BackupId::random().to_string();
        let (first, last) = (block_id(&mark, 0), block_id(&mark, 49_999));
        assert_eq!(first.len(), last.len());
        // 64 bytes before they are encoded, at most.
        assert!(BASE64_STANDARD.decode(&first).unwrap().len() <= 64);
        assert_ne!(first, last);
    }
}
