//! Object lock: a date written with every object of a backup and looked at afterwards, and legal holds.
//!
//! A store that takes the headers and keeps no lock is found out: before the first byte by asking for the retention
//! of the object that is to be written, and afterwards by reading what it keeps.

use backup_core::{BackupRef, Error, ErrorKind, Held, ObjectKey, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use md5::{Digest as _, Md5};
use opendal::Buffer;
use serde::Deserialize;

use crate::config::LockOnWrite;
use crate::probe::http_date;
use crate::s3::S3Store;
use crate::s3::requests::{Ask, Requests, encoded};
use crate::trouble::{Trouble, from_opendal};

/// How far the clocks may differ where a lock is written: it cannot be taken back.
const SKEW_MAX: SignedDuration = SignedDuration::from_hours(24);
/// What an answer may lose of a date.
const ROUNDING: SignedDuration = SignedDuration::from_secs(2);

/// The lock of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lock {
    compliance: bool,
    until: Timestamp,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Retention {
    mode: String,
    retain_until_date: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct LegalHold {
    status: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ObjectLockConfiguration {
    object_lock_enabled: String,
}

/// What came of a question about locks.
enum Told<T> {
    Yes(T),
    /// The object, or its bucket, has none.
    None,
    /// The server has no such thing, or the bucket was made without it.
    Unsupported,
}

impl Lock {
    /// The headers of the request that makes the object or begins its upload.
    pub(super) fn headers(self) -> [(&'static str, String); 2] {
        let until = self.until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        [
            ("x-amz-object-lock-mode", mode(self.compliance).to_owned()),
            ("x-amz-object-lock-retain-until-date", until),
        ]
    }

    /// Whether what the server keeps is at least this.
    fn is_kept_by(self, held: &Held) -> bool {
        let as_strict = held.mode.as_deref() == Some("COMPLIANCE") || !self.compliance && held.mode.is_some();
        as_strict && held.until.is_some_and(|until| until + ROUNDING >= self.until)
    }

    /// Asks for it once more, for an object that is there: Ceph's gateway takes the headers on the beginning of an upload
    /// in parts and forgets them.
    async fn ask_again(self, requests: &Requests, full: &str) -> opendal::Result<()> {
        let [(_, mode), (_, until)] = self.headers();
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{mode}</Mode>\
             <RetainUntilDate>{until}</RetainUntilDate></Retention>"
        );
        let mut ask = Ask::new("PutObjectRetention", Method::PUT, full, "retention=".to_owned());
        ask.headers.push(("content-md5", BASE64_STANDARD.encode(Md5::digest(body.as_bytes()))));
        ask.headers.push(("content-type", "application/xml".to_owned()));
        ask.body = Buffer::from(body);
        requests.send(ask).await.map(drop)
    }

    /// Reads back what the server keeps of an object that was just stored.
    pub(super) async fn check(self, requests: &Requests, key: &ObjectKey, subject: &str) -> Result<()> {
        let full = format!("{}{key}", requests.prefix());
        let mut kept = retention(requests, &full).await;
        if let Ok(told) = &kept
            && !matches!(told, Told::Yes(held) if self.is_kept_by(held))
        {
            // Refused or not: what counts is what is kept afterwards.
            let _ = self.ask_again(requests, &full).await;
            kept = retention(requests, &full).await;
        }
        let kept = match kept {
            Ok(Told::Yes(held)) if self.is_kept_by(&held) => return Ok(()),
            Ok(Told::Yes(held)) => format!("keeps it {held}"),
            Ok(Told::None | Told::Unsupported) => "keeps no lock".to_owned(),
            Err(error) => return Err(from_opendal(subject, "reading its lock back", &error)),
        };
        let what = format!("the store took a lock until {} and {kept}", self.until);
        Err(Error::new(ErrorKind::Unsupported, subject, what).with_hint(
            "this store does not obey locks: leave lock_days out, and do not count on it to hold what is stored there",
        ))
    }
}

fn mode(compliance: bool) -> &'static str {
    if compliance { "COMPLIANCE" } else { "GOVERNANCE" }
}

/// Whether an object is locked when it is written: what makes a backup, and the receipts of its copies. Words about a
/// backup that come later go with it, and a pruner's last word could not go if it were locked.
fn is_of_a_backup(key: &ObjectKey) -> bool {
    let Some(at) = BackupRef::of_object(key) else { return false };
    let name = key.as_str().strip_prefix(&at.prefix()).unwrap_or_default();
    *key == at.data()
        || *key == at.tree()
        || *key == at.manifest()
        || name.starts_with("keys/")
        || name.starts_with("statements/copied-")
}

fn was_not_made_for_it(error: &opendal::Error) -> bool {
    error.message().contains("code: \"InvalidRequest\"")
        || error.message().contains("code: \"InvalidBucketState\"")
}

/// An answer to a question about locks, which servers give in many ways where there is none.
async fn ask<T: for<'de> Deserialize<'de>>(
    requests: &Requests,
    operation: &'static str,
    key: &str,
    query: &str,
) -> opendal::Result<Told<T>> {
    match requests.send(Ask::new(operation, Method::GET, key, query.to_owned())).await {
        // A server that knows nothing of it may answer with the object, or with nothing.
        Ok(answer) => {
            Ok(quick_xml::de::from_reader(answer.body.as_slice()).map_or(Told::Unsupported, Told::Yes))
        }
        Err(error) if error.kind() == opendal::ErrorKind::NotFound => Ok(Told::None),
        Err(error) if Trouble::of_opendal(&error) == Trouble::NotSupported => Ok(Told::Unsupported),
        Err(error) if was_not_made_for_it(&error) => Ok(Told::Unsupported),
        Err(error) => Err(error),
    }
}

/// The retention of an object, by GetObjectRetention.
async fn retention(requests: &Requests, key: &str) -> opendal::Result<Told<Held>> {
    Ok(match ask::<Retention>(requests, "GetObjectRetention", key, "retention=").await? {
        Told::Yes(found) => match found.retain_until_date.parse() {
            Ok(until) => Told::Yes(Held { until: Some(until), mode: Some(found.mode), legal_hold: false }),
            Err(_) => Told::None,
        },
        Told::None => Told::None,
        Told::Unsupported => Told::Unsupported,
    })
}

impl S3Store {
    /// The lock that an object is to be written with, if any.
    ///
    /// # Errors
    /// `Unsupported` where the bucket has no locks; `Denied` where they could not be read back; `Unavailable` where the
    /// clocks are apart.
    pub(super) async fn lock_for(&self, key: &ObjectKey) -> Result<Option<Lock>> {
        let Some(LockOnWrite { days, compliance }) = self.lock else { return Ok(None) };
        if !is_of_a_backup(key) {
            return Ok(None);
        }
        let no_locks = || {
            Error::new(ErrorKind::Unsupported, &*self.name, "lock_days is set, and the bucket has no object lock")
                .with_hint("make a bucket with object lock (S3 has it only for buckets made with it), or leave lock_days out")
        };
        let refused = |error: &opendal::Error| from_opendal(&*self.name, "asking for its locks", error);
        if self.has_locks().await == Some(false) {
            return Err(no_locks());
        }
        // Whether a lock can be read back shows before anything is sent.
        match retention(&self.requests, &format!("{}{key}", self.requests.prefix())).await {
            Ok(Told::Unsupported) => return Err(no_locks()),
            Ok(Told::Yes(_) | Told::None) => {}
            Err(error) if Trouble::of_opendal(&error) == Trouble::AccessDenied => {
                return Err(refused(&error)
                    .with_hint("lock_days needs the rights s3:PutObjectRetention and s3:GetObjectRetention on the prefix"));
            }
            Err(error) => return Err(refused(&error)),
        }
        let (there, here) = (self.now_there().await?, Timestamp::now());
        if there.duration_since(here).abs() > SKEW_MAX {
            let what = format!("the store's clock says {there} and this machine's {here}");
            return Err(Error::new(ErrorKind::Unavailable, &*self.name, what)
                .with_hint("a lock cannot be taken back: set the clock that is wrong"));
        }
        let span = SignedDuration::from_hours(24 * i64::from(days));
        Ok(Some(Lock { compliance, until: there + span }))
    }

    /// The store's own time, from the answer to a listing of one name.
    async fn now_there(&self) -> Result<Timestamp> {
        let query = format!("list-type=2&max-keys=1&prefix={}", encoded(self.requests.prefix(), false));
        let asked = self.requests.send(Ask::new("ListObjectsV2", Method::GET, "", query)).await;
        let answer = asked.map_err(|error| from_opendal(&*self.name, "asking for its time", &error))?;
        let date =
            answer.headers.get(http::header::DATE).and_then(|date| date.to_str().ok()).and_then(http_date);
        date.ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                &*self.name,
                "the store does not tell its time, which lock_days counts from",
            )
        })
    }

    /// Whether the bucket has object lock; `None` where the key may not ask. Asked once.
    async fn has_locks(&self) -> Option<bool> {
        let asked = self.has_locks.get_or_try_init(|| async {
            match ask::<ObjectLockConfiguration>(
                &self.requests,
                "GetObjectLockConfiguration",
                "",
                "object-lock=",
            )
            .await
            {
                Ok(Told::Yes(found)) => Ok(found.object_lock_enabled == "Enabled"),
                Ok(Told::None | Told::Unsupported) => Ok(false),
                Err(_) => Err(()),
            }
        });
        asked.await.ok().copied()
    }

    /// What the server keeps an object by; `None` where the bucket has no locks.
    pub(super) async fn held_by(&self, key: &ObjectKey) -> Result<Option<Held>> {
        if self.has_locks().await == Some(false) {
            return Ok(None);
        }
        let full = format!("{}{key}", self.requests.prefix());
        let refused = |error: opendal::Error| from_opendal(self.subject(key), "asking for its lock", &error);
        let held = match retention(&self.requests, &full).await.map_err(refused)? {
            Told::Yes(held) => held,
            Told::None => Held::default(),
            Told::Unsupported => return Ok(None),
        };
        let legal = ask::<LegalHold>(&self.requests, "GetObjectLegalHold", &full, "legal-hold=")
            .await
            .map_err(refused)?;
        let legal_hold = matches!(legal, Told::Yes(found) if found.status == "ON");
        Ok(Some(Held { legal_hold, ..held }))
    }

    /// Puts a legal hold on an object, or takes it off, and looks.
    pub(super) async fn set_hold(&self, key: &ObjectKey, on: bool) -> Result<()> {
        let unsupported = |what: &str| {
            Error::new(ErrorKind::Unsupported, self.subject(key), what)
                .with_hint("a legal hold needs a bucket made with object lock; a pin alone is heeded by `strongroom prune`")
        };
        if self.has_locks().await == Some(false) {
            return Err(unsupported("its bucket has no object lock, so there is no legal hold"));
        }
        let full = format!("{}{key}", self.requests.prefix());
        let body = format!(
            "<LegalHold xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>{}</Status></LegalHold>",
            if on { "ON" } else { "OFF" }
        );
        let mut put = Ask::new("PutObjectLegalHold", Method::PUT, &full, "legal-hold=".to_owned());
        put.headers.push(("content-md5", BASE64_STANDARD.encode(Md5::digest(body.as_bytes()))));
        put.headers.push(("content-type", "application/xml".to_owned()));
        put.body = Buffer::from(body);
        match self.requests.send(put).await {
            Ok(_) => {}
            Err(error)
                if Trouble::of_opendal(&error) == Trouble::NotSupported || was_not_made_for_it(&error) =>
            {
                return Err(unsupported("the store has no legal hold"));
            }
            Err(error) => {
                let refused = from_opendal(self.subject(key), "setting its legal hold", &error);
                return Err(match refused.kind() {
                    ErrorKind::Denied => {
                        refused.with_hint("allow s3:PutObjectLegalHold and s3:GetObjectLegalHold")
                    }
                    _ => refused,
                });
            }
        }
        match self.held_by(key).await? {
            Some(held) if held.legal_hold == on => Ok(()),
            _ if !on => Err(unsupported("the store said that the legal hold ended, and it is still there")),
            _ => Err(unsupported("the store said that there is a legal hold, and there is none")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_a_backup_is_locked_and_what_is_said_of_it_later_is_not() {
        let id = backup_core::BackupId::random();
        let table = [
            ("data.strongroom", true),
            ("data.tree", true),
            ("manifest.json", true),
            ("keys/x.json", true),
            ("statements/copied-x.json", true),
            ("statements/leaving-x.json", false),
            ("statements/seen-x.json", false),
            ("data.strongroom.segment-x-1", false),
        ];
        for (name, locked) in table {
            let key: ObjectKey = format!("orders/{id}/{name}").parse().unwrap();
            assert_eq!(is_of_a_backup(&key), locked, "{name}");
        }
        for key in ["repository.json", "trust/1.json", ".probe/x/locked-1"] {
            assert!(!is_of_a_backup(&key.parse().unwrap()), "{key}");
        }
        assert!(!is_of_a_backup(&format!("history/orders/{id}.json").parse().unwrap()));
    }

    #[test]
    fn a_shorter_or_weaker_lock_is_not_the_one_asked_for() {
        let until: Timestamp = "2030-01-01T00:00:00.5Z".parse().unwrap();
        let held = |mode: &str, date: &str| Held {
            until: Some(date.parse().unwrap()),
            mode: Some(mode.to_owned()),
            legal_hold: false,
        };
        let (strict, weak) = (Lock { compliance: true, until }, Lock { compliance: false, until });
        assert!(strict.is_kept_by(&held("COMPLIANCE", "2030-01-01T00:00:00Z")));
        assert!(strict.is_kept_by(&held("COMPLIANCE", "2031-01-01T00:00:00Z")));
        assert!(weak.is_kept_by(&held("COMPLIANCE", "2030-01-01T00:00:00Z")));
        assert!(weak.is_kept_by(&held("GOVERNANCE", "2030-01-01T00:00:00Z")));
        assert!(!strict.is_kept_by(&held("GOVERNANCE", "2030-01-01T00:00:00Z")));
        assert!(!strict.is_kept_by(&held("COMPLIANCE", "2029-12-31T00:00:00Z")));
        assert!(!weak.is_kept_by(&Held::default()));
        assert_eq!(strict.headers()[1].1, "2030-01-01T00:00:00Z");
    }
}
