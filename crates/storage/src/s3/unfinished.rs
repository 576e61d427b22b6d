//! Multipart uploads that were begun and never finished, by ListMultipartUploads and
//! AbortMultipartUpload of the S3 API, and segments that nobody copied.

use backup_core::{BackupId, Error, ErrorKind, Result, SourceName, Swept};
use http::Method;
use jiff::Timestamp;
use opendal::Operator;
use serde::Deserialize;

use crate::s3::requests::{Ask, Requests, encoded};
use crate::s3::segment::Segment;
use crate::trouble::{Trouble, from_opendal};

/// Finds and removes them.
pub(super) struct Unfinished<'a> {
    pub(super) requests: &'a Requests,
    /// Paths are keys below the prefix.
    pub(super) operator: &'a Operator,
    /// The place, as people write it.
    pub(super) name: &'a str,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Page {
    is_truncated: bool,
    next_key_marker: String,
    next_upload_id_marker: String,
    upload: Vec<Begun>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Begun {
    key: String,
    upload_id: String,
    initiated: String,
}

impl Unfinished<'_> {
    /// Aborts every upload below the prefix that was begun before `older_than`, and removes segments
    /// of that age. Keys that are not ours are left alone.
    pub(super) async fn sweep(&self, older_than: Timestamp) -> Result<Swept> {
        let mut swept = Swept::default();
        // All pages first: aborting while listing would move the pages.
        for begun in self.list().await? {
            let ours = begun.key.strip_prefix(self.requests.prefix()).is_some_and(is_ours);
            let old = begun.initiated.parse::<Timestamp>().is_ok_and(|initiated| initiated < older_than);
            if ours && old && self.abort(&begun).await? {
                swept.uploads += 1;
            }
        }
        swept.uploads += self.sweep_segments(older_than).await?;
        Ok(swept)
    }

    async fn sweep_segments(&self, older_than: Timestamp) -> Result<u64> {
        let doing = |error| from_opendal(self.name, "looking for leftover segments", &error);
        let mut removed = 0;
        for found in self.operator.list_with("").recursive(true).await.map_err(doing)? {
            let age = found.metadata().last_modified().map(Timestamp::from);
            let segment = Segment::object_of(found.path()).is_some_and(is_ours);
            if segment && age.is_some_and(|modified| modified < older_than) {
                self.operator.delete(found.path()).await.map_err(doing)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    async fn list(&self) -> Result<Vec<Begun>> {
        let mut found = Vec::new();
        let mut after: Option<(String, String)> = None;
        loop {
            let mut query = format!("uploads=&prefix={}", encoded(self.requests.prefix(), false));
            if let Some((key, upload)) = &after {
                query += &format!(
                    "&key-marker={}&upload-id-marker={}",
                    encoded(key, false),
                    encoded(upload, false)
                );
            }
            let ask = Ask::new("ListMultipartUploads", Method::GET, "", query);
            let answer = self.requests.send(ask).await.map_err(|error| self.refused("listing", &error))?;
            let page: Page = quick_xml::de::from_reader(answer.body.as_slice()).map_err(|error| {
                Error::new(
                    ErrorKind::Unsupported,
                    self.name,
                    "listing unfinished uploads: the answer is not understood",
                )
                .with_source(error)
            })?;
            found.extend(page.upload);
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if !page.is_truncated || next.0.is_empty() || after.as_ref() == Some(&next) {
                return Ok(found);
            }
            after = Some(next);
        }
    }

    /// Whether it was there to be aborted.
    async fn abort(&self, begun: &Begun) -> Result<bool> {
        let query = format!("uploadId={}", encoded(&begun.upload_id, false));
        let ask = Ask::new("AbortMultipartUpload", Method::DELETE, &begun.key, query);
        match self.requests.send(ask).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.refused("aborting", &error)),
        }
    }

    fn refused(&self, doing: &str, error: &opendal::Error) -> Error {
        let said = from_opendal(self.name, &format!("{doing} unfinished uploads"), error);
        if Trouble::of_opendal(error) == Trouble::NotSupported {
            return said
                .with_hint("add a lifecycle rule to the bucket that aborts incomplete multipart uploads");
        }
        said
    }
}

/// Whether a repository has such a key. Other programs may use the same bucket, and a prefix may be
/// empty, so that keys are all that tells.
fn is_ours(key: &str) -> bool {
    if let Some(object) = Segment::object_of(key) {
        return is_ours(object);
    }
    let statement = |name: &str| name.ends_with(".json");
    match *key.split('/').collect::<Vec<&str>>() {
        ["repository.json"] => true,
        ["trust", name] => statement(name),
        ["history", source, name] => is_source(source) && statement(name),
        [source, id, "data.strongroom" | "data.tree" | "manifest.json"] => is_source(source) && is_id(id),
        [source, id, "statements" | "keys", name] => is_source(source) && is_id(id) && statement(name),
        _ => false,
    }
}

fn is_source(name: &str) -> bool {
    name.parse::<SourceName>().is_ok()
}

fn is_id(name: &str) -> bool {
    name.parse::<BackupId>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_programs_keep_there_is_not_ours() {
        let id = BackupId::random();
        for ours in [
            "repository.json".to_owned(),
            "trust/1.json".to_owned(),
            format!("history/orders/{id}.json"),
            format!("orders/{id}/data.strongroom"),
            format!("orders/{id}/statements/seen-{id}.json"),
            format!("orders/{id}/data.strongroom.segment-{id}-41"),
        ] {
            assert!(is_ours(&ours), "{ours}");
        }
        for other in [
            "video.mp4",
            "hls/video.segment-00001.ts",
            "a/b/data.strongroom",
            "releases/1.0/data.tree",
            "db/data.strongroom.segment-00c0ffee-41",
        ] {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn a_page_is_read_and_an_empty_one_too() {
        let page = "<ListMultipartUploadsResult><Bucket>b</Bucket><KeyMarker/><NextKeyMarker>k</NextKeyMarker>\
            <NextUploadIdMarker>u</NextUploadIdMarker><IsTruncated>true</IsTruncated>\
            <Upload><Key>a/b</Key><UploadId>1</UploadId><Initiated>2026-01-02T03:04:05.000Z</Initiated>\
            <Owner><ID>x</ID></Owner></Upload><Upload><Key>c</Key><UploadId>2</UploadId></Upload>\
            </ListMultipartUploadsResult>";
        let page: Page = quick_xml::de::from_str(page).unwrap();
        assert!(page.is_truncated && page.next_key_marker == "k" && page.next_upload_id_marker == "u");
        assert_eq!(page.upload.len(), 2);
        assert_eq!(page.upload[0].key, "a/b");
        page.upload[0].initiated.parse::<Timestamp>().unwrap();
        let empty: Page = quick_xml::de::from_str("<ListMultipartUploadsResult/>").unwrap();
        assert!(empty.upload.is_empty() && !empty.is_truncated);
    }
}
