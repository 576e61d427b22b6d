//! Going on with a multipart upload that another process began.
//!
//! The journal says which upload that is and what the server acknowledged. A part counts as kept only
//! if the server still lists it, with the tag it had, and if the bytes that are written again have its
//! CRC-32C. Where the key may not list parts, the journal's word is taken: the server itself checks tags
//! and checksums when the upload is completed.

use std::collections::BTreeMap;
use std::sync::Arc;

use backup_core::{BackupId, Journal, Result};
use serde::{Deserialize, Serialize};

use crate::parts::Plan;
use crate::s3::multipart::{Landed, ListedPart, Multipart};
use crate::s3::requests::Requests;
use crate::trouble::{Trouble, from_opendal};

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "lowercase")]
enum Line {
    /// An upload was begun.
    Upload { object: String, id: String, mark: String },
    /// The server has a part of it.
    Part {
        number: u32,
        len: u64,
        crc32c: String,
        #[serde(flatten)]
        landed: Landed,
    },
}

/// A part that the server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) len: u64,
    /// The CRC-32C of its bytes, as S3 writes it.
    pub(super) crc32c: String,
    pub(super) landed: Landed,
}

/// An upload that can be continued, by this process and by others.
#[derive(Debug)]
pub(super) struct Continued {
    journal: Arc<dyn Journal>,
    /// The bucket and the key.
    object: String,
    /// The upload's id and mark, if one was begun.
    begun: Option<(String, String)>,
    kept: BTreeMap<u32, Kept>,
}

impl Continued {
    /// Reads the journal and asks the server what it still has. `key` stands below the prefix.
    ///
    /// # Errors
    /// Those of the journal, and of a server that does not answer.
    pub(super) async fn load(
        requests: &Requests,
        key: &str,
        subject: &str,
        journal: Arc<dyn Journal>,
    ) -> Result<Self> {
        let object = format!("{}/{}{key}", requests.bucket_name(), requests.prefix());
        let (begun, noted) = understood(&object, &journal.read().await?);
        let mut continued = Self { journal, object, begun, kept: BTreeMap::new() };
        let Some((id, _)) = &continued.begun else { return Ok(continued) };
        match Multipart::begun(requests, key, id).parts().await {
            Ok(listed) => continued.kept = confirmed(noted, &listed),
            Err(error) => match Trouble::of_opendal(&error) {
                Trouble::UploadGone | Trouble::NoSuchObject => continued.forget().await,
                Trouble::AccessDenied | Trouble::NotSupported => continued.kept = noted,
                _ => return Err(from_opendal(subject, "looking for its unfinished upload", &error)),
            },
        }
        Ok(continued)
    }

    /// The mark that the object will bear.
    pub(super) fn mark(&self) -> String {
        self.begun.as_ref().map_or_else(|| BackupId::random().to_string(), |(_, mark)| mark.clone())
    }

    /// The upload's id at the server.
    pub(super) fn id(&self) -> Option<&str> {
        self.begun.as_ref().map(|(id, _)| id.as_str())
    }

    /// A part that the server has.
    pub(super) fn kept(&self, number: u32) -> Option<&Kept> {
        self.kept.get(&number)
    }

    /// Bytes from the beginning that the server has, where parts are as `plan` says.
    pub(super) fn len(&self, plan: &Plan) -> u64 {
        let parts = (0..).map_while(|number| Some((plan.part(number)?, self.kept.get(&(number + 1))?)));
        let mut whole = true;
        parts
            .take_while(|(part, kept)| std::mem::replace(&mut whole, part.bytes() == kept.len))
            .map(|(_, kept)| kept.len)
            .sum()
    }

    /// Notes a new upload, in the place of what was noted before.
    pub(super) async fn note_begun(&self, id: &str, mark: &str) {
        let line = Line::Upload { object: self.object.clone(), id: id.to_owned(), mark: mark.to_owned() };
        self.note(&line).await;
    }

    /// Notes a part that the server acknowledged.
    pub(super) async fn note_part(&self, number: u32, len: u64, crc32c: String, landed: &Landed) {
        self.note(&Line::Part { number, len, crc32c, landed: landed.clone() }).await;
    }

    /// A part that cannot be noted is sent again one day; the upload goes on.
    async fn note(&self, line: &Line) {
        let noted = match serde_json::to_string(line) {
            Ok(line) => self.journal.add(line).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = noted {
            tracing::warn!(object = %self.object, %error, "how far the upload came could not be noted");
        }
    }

    /// The upload is gone: the next process begins a new one.
    pub(super) async fn forget(&mut self) {
        (self.begun, self.kept) = (None, BTreeMap::new());
        self.clear().await;
    }

    /// The same for the next process alone.
    pub(super) async fn clear(&self) {
        if let Err(error) = self.journal.clear().await {
            tracing::warn!(object = %self.object, %error, "the journal of the upload could not be cleared");
        }
    }
}

/// The last upload of this object that was begun, and the parts that were noted of it.
fn understood(object: &str, lines: &[String]) -> (Option<(String, String)>, BTreeMap<u32, Kept>) {
    let (mut begun, mut kept) = (None, BTreeMap::new());
    for line in lines.iter().filter_map(|line| serde_json::from_str(line).ok()) {
        match line {
            Line::Upload { object: of, id, mark } => {
                kept.clear();
                begun = (of == object).then_some((id, mark));
            }
            Line::Part { number, len, crc32c, landed } => {
                kept.insert(number, Kept { len, crc32c, landed });
            }
        }
    }
    if begun.is_none() {
        kept.clear();
    }
    (begun, kept)
}

/// What both the journal and the server know; and what the server alone knows, with its checksum: the
/// process may have been killed between the answer and the note.
fn confirmed(mut noted: BTreeMap<u32, Kept>, listed: &[ListedPart]) -> BTreeMap<u32, Kept> {
    let one = |part: &ListedPart| {
        // A server that lists no tags compares them when the upload is completed.
        let tag = |text: &str| text.trim_matches('"').to_owned();
        let known = noted.remove(&part.number).filter(|known| {
            known.len == part.len && (part.etag.is_empty() || tag(known.landed.etag()) == tag(&part.etag))
        });
        let told = || {
            let crc32c = part.checksum.clone().filter(|_| !part.etag.is_empty())?;
            let landed = Landed::new(part.etag.clone(), Some(crc32c.clone()));
            Some(Kept { len: part.len, crc32c, landed })
        };
        Some((part.number, known.or_else(told)?))
    };
    listed.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::{PART_LEN_MIN, Rules};

    fn part(number: u32, len: u64, etag: &str) -> String {
        let landed = Landed::new(format!("\"{etag}\""), None);
        serde_json::to_string(&Line::Part { number, len, crc32c: "c".into(), landed }).unwrap()
    }

    fn upload(object: &str, id: &str) -> String {
        serde_json::to_string(&Line::Upload { object: object.into(), id: id.into(), mark: "m".into() })
            .unwrap()
    }

    #[test]
    fn the_last_upload_of_the_object_counts_and_torn_lines_are_passed_over() {
        let lines = [upload("o", "1"), part(1, 8, "a"), upload("o", "2"), part(2, 8, "b"), part(3, 8, "c")];
        let mut lines = lines.to_vec();
        lines[4].truncate(9);
        let (begun, kept) = understood("o", &lines);
        assert_eq!(begun, Some(("2".into(), "m".into())));
        assert_eq!(kept.keys().copied().collect::<Vec<_>>(), [2]);
        assert_eq!(understood("other", &lines), (None, BTreeMap::new()));
        assert_eq!(understood("o", &[]), (None, BTreeMap::new()));
    }

    #[test]
    fn a_part_counts_only_as_the_server_has_it() {
        let lines = [upload("o", "1"), part(1, 8, "a"), part(2, 8, "b"), part(3, 8, "c"), part(4, 8, "d")];
        let (_, noted) = understood("o", &lines);
        let listed = |number, len, etag: &str, checksum: Option<&str>| ListedPart {
            number,
            len,
            etag: etag.into(),
            checksum: checksum.map(str::to_owned),
        };
        let listed = [
            listed(1, 8, "a", None),
            listed(2, 8, "replaced", None),
            listed(3, 7, "c", None),
            listed(5, 8, "e", Some("sum")),
            listed(6, 8, "f", None),
        ];
        let kept = confirmed(noted, &listed);
        assert_eq!(kept.keys().copied().collect::<Vec<_>>(), [1, 5]);
        assert_eq!(kept[&5].crc32c, "sum");
    }

    #[derive(Debug)]
    struct NoJournal;

    #[async_trait::async_trait]
    impl Journal for NoJournal {
        async fn read(&self) -> Result<Vec<String>> {
            Ok(Vec::new())
        }

        async fn add(&self, _line: String) -> Result<()> {
            Ok(())
        }

        async fn clear(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_kept_ends_at_the_first_part_that_is_missing_or_of_another_length() {
        let plan = Plan::new(Rules::default(), Some(0));
        let full = plan.part(0).unwrap().bytes();
        let kept = |parts: &[(u32, u64)]| {
            let one = |&(number, len)| {
                (number, Kept { len, crc32c: "c".into(), landed: Landed::new("e".into(), None) })
            };
            let kept = parts.iter().map(one).collect();
            Continued { journal: Arc::new(NoJournal), object: "o".into(), begun: None, kept }.len(&plan)
        };
        assert_eq!(kept(&[]), 0);
        assert_eq!(kept(&[(2, full)]), 0);
        assert_eq!(kept(&[(1, full), (2, full), (4, full)]), 2 * full);
        assert_eq!(kept(&[(1, full), (2, PART_LEN_MIN), (3, full)]), full + PART_LEN_MIN);
    }
}
