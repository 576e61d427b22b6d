//! What protects what is stored: conditions, checksums, refused overwrites and deletes, versions, locks.

use backup_core::{Context, ErrorKind, ObjectKey, Result};
use bytes::Bytes;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};

use crate::probe::basics::pattern;
use crate::probe::direct::{Direct, Lock, Versioning, Way, may_replace};
use crate::probe::report::{AppendOnly, Outcome, ProbeReport};
use crate::probe::run::{Names, Subject, outcome, read, store};

/// How many write one name at the same time.
const WRITERS: usize = 6;
/// How long an object is locked.
const LOCKED: SignedDuration = SignedDuration::from_secs(6);
/// A clock that differs by more is worth a warning.
const SKEW_SECONDS: f64 = 60.0;

pub(super) async fn try_all(
    cx: &Context,
    subject: &Subject<'_>,
    names: &Names,
    report: &mut ProbeReport,
) -> Result<()> {
    let Some(direct) = subject.direct else {
        let deleted = delete(subject, names, report).await?;
        report.append_only = if deleted == Some(true) { AppendOnly::No } else { AppendOnly::Unknown };
        report.because.push(
            if deleted == Some(true) { "a delete succeeded" } else { "overwriting cannot be tried here" }
                .to_owned(),
        );
        return Ok(());
    };
    let guard = Guard {
        cx,
        subject,
        direct,
        names,
        old: pattern(500, 3),
        new: pattern(700, 4),
        seed: names.key("seed")?,
    };
    guard.run(report).await
}

async fn delete(subject: &Subject<'_>, names: &Names, report: &mut ProbeReport) -> Result<Option<bool>> {
    let key = names.key("object")?;
    let (outcome, detail, deleted) = match subject.opened.remover.remove(&key).await {
        Ok(()) => match subject.opened.source.stat(&key).await {
            Ok(None) => (Outcome::Yes, "an object was deleted".to_owned(), Some(true)),
            Ok(Some(_)) => {
                report.not_obeyed.push("deleting an object".to_owned());
                (Outcome::NotObeyed, "the delete was accepted and the object is still there".to_owned(), None)
            }
            Err(error) => (outcome(&error), error.what().to_owned(), None),
        },
        Err(error) => (outcome(&error), error.what().to_owned(), may_replace(&error)),
    };
    report.note("delete", outcome, detail);
    Ok(deleted)
}

struct Guard<'a> {
    cx: &'a Context,
    subject: &'a Subject<'a>,
    direct: &'a dyn Direct,
    names: &'a Names,
    /// What is stored first.
    old: Bytes,
    /// What is stored over it.
    new: Bytes,
    /// Holds `new` too.
    seed: ObjectKey,
}

impl Guard<'_> {
    async fn run(&self, report: &mut ProbeReport) -> Result<()> {
        let check = || self.cx.check(self.subject.name);
        store(self.cx, self.subject, &self.seed, &self.new).await?;
        self.conditions(report).await?;
        check()?;
        self.checksums(report).await?;
        check()?;
        let versions = self.versions(report).await?;
        check()?;
        let replaced = self.overwrites(report).await?;
        check()?;
        self.locks(report).await?;
        check()?;
        let deleted = delete(self.subject, self.names, report).await?;
        conclude(report, replaced.as_deref(), deleted, versions);
        if !matches!(report.append_only, AppendOnly::Refused | AppendOnly::Versions) {
            report.advice = Some(self.direct.advice());
        }
        Ok(())
    }

    async fn write(&self, way: Way, key: &ObjectKey, bytes: &Bytes, only_new: bool) -> Result<()> {
        self.direct.write(way, key, bytes, &self.seed, only_new).await.map(drop)
    }

    async fn holds(&self, key: &ObjectKey, bytes: &Bytes) -> Option<bool> {
        read(self.subject.opened.source.as_ref(), key, None).await.ok().map(|got| got == *bytes)
    }

    /// Whether "only if the name is free" is kept, one after the other and in a race.
    async fn conditions(&self, report: &mut ProbeReport) -> Result<()> {
        let mut kept = Vec::new();
        let mut ignored = Vec::new();
        for (n, way) in self.direct.ways().iter().filter(|way| way.ours).enumerate() {
            let key = self.names.key(&format!("once-{n}"))?;
            if let Err(error) = self.write(*way, &key, &self.old, true).await {
                report.note("refuse-overwrite", outcome(&error), format!("{}: {}", way.name, error.what()));
                return Ok(());
            }
            match self.write(*way, &key, &self.new, true).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                // Where no overwrite is allowed at all, nobody can tell which rule refused.
                Err(error) if error.kind() == ErrorKind::Denied => {
                    kept.push(format!("{}: refused", way.name));
                    continue;
                }
                Err(error) => {
                    let detail = format!("{}: {}", way.name, error.what());
                    report.note("refuse-overwrite", outcome(&error), detail);
                    return Ok(());
                }
                Ok(()) if self.holds(&key, &self.old).await == Some(true) => {
                    ignored.push(format!("{}: a second object was accepted and thrown away", way.name));
                    continue;
                }
                Ok(()) => {
                    ignored.push(format!("{}: a second object replaced the first", way.name));
                    continue;
                }
            }
            let key = self.names.key(&format!("race-{n}"))?;
            let writers = (0..WRITERS).map(|_| self.write(*way, &key, &self.old, true));
            let won = join_all(writers).await.iter().filter(|done| done.is_ok()).count();
            if won == 1 {
                kept.push(format!("{}: refused, also in a race of {WRITERS}", way.name));
            } else {
                ignored.push(format!("{}: refused, but {won} of {WRITERS} at once were accepted", way.name));
            }
        }
        let detail = kept.iter().chain(&ignored).map(String::as_str).collect::<Vec<_>>().join("; ");
        let outcome = if ignored.is_empty() { Outcome::Yes } else { Outcome::NotObeyed };
        report.note("refuse-overwrite", outcome, detail);
        report.not_obeyed.extend(ignored.iter().map(|what| format!("\"only if the name is free\", {what}")));
        Ok(())
    }

    async fn checksums(&self, report: &mut ProbeReport) -> Result<()> {
        let (mut compared, mut ignored) = (Vec::new(), Vec::new());
        for (n, &checksum) in self.direct.checksums().iter().enumerate() {
            let key = self.names.key(&format!("damaged-{n}"))?;
            match self.direct.write_damaged(checksum, &key, &self.old).await {
                Ok(()) => ignored.push(checksum),
                // Refused after it was stored would be no protection.
                Err(_) if self.holds(&key, &self.old).await == Some(true) => ignored.push(checksum),
                Err(_) => compared.push(checksum),
            }
        }
        let outcome = match (compared.is_empty(), ignored.is_empty()) {
            (true, true) => Outcome::Unsupported,
            (true, false) => Outcome::NotObeyed,
            (false, _) => Outcome::Yes,
        };
        let mut parts = Vec::new();
        if !compared.is_empty() {
            parts.push(format!("other bytes refused: {}", compared.join(", ")));
        }
        if !ignored.is_empty() {
            parts.push(format!("not compared: {}", ignored.join(", ")));
            report.not_obeyed.push(format!("a wrong checksum is accepted: {}", ignored.join(", ")));
        }
        let detail = if parts.is_empty() {
            "no checksum is sent to this kind of place".to_owned()
        } else {
            parts.join("; ")
        };
        report.note("checksum", outcome, detail);
        Ok(())
    }

    /// Ways by which an object was replaced; `None` where one of them is not known.
    async fn overwrites(&self, report: &mut ProbeReport) -> Result<Option<Vec<&'static str>>> {
        let (mut replaced, mut refused, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for (n, way) in self.direct.ways().iter().enumerate() {
            let key = self.names.key(&format!("over-{n}"))?;
            store(self.cx, self.subject, &key, &self.old).await?;
            match self.write(*way, &key, &self.new, false).await {
                Ok(()) if self.holds(&key, &self.old).await == Some(true) => unknown.push(way.name),
                Ok(()) => replaced.push(way.name),
                Err(error) if may_replace(&error) == Some(false) => refused.push(way.name),
                Err(_) => unknown.push(way.name),
            }
        }
        let mut parts = Vec::new();
        for (what, ways) in [("succeeded", &replaced), ("refused", &refused), ("not known", &unknown)] {
            if !ways.is_empty() {
                parts.push(format!("{what}: {}", ways.join(", ")));
            }
        }
        let outcome = match (replaced.is_empty(), unknown.is_empty()) {
            (false, _) => Outcome::Yes,
            (true, false) => Outcome::Unknown,
            (true, true) => Outcome::Denied,
        };
        report.note("overwrite", outcome, parts.join("; "));
        Ok((!replaced.is_empty() || unknown.is_empty()).then_some(replaced))
    }

    /// Replaces and deletes an object and looks whether the first version is still there and stays.
    async fn versions(&self, report: &mut ProbeReport) -> Result<Kept> {
        let Some(way) = self.direct.ways().first() else { return Ok(Kept::Nothing) };
        let key = self.names.key("kept")?;
        let before = Timestamp::now();
        let written = match self.direct.write(*way, &key, &self.old, &self.seed, true).await {
            Ok(written) => written,
            Err(error) => {
                report.note("versions", outcome(&error), error.what());
                return Ok(Kept::Nothing);
            }
        };
        clock(report, written.date, before, Timestamp::now());
        let versioning = match self.direct.versioning().await {
            Ok(versioning) => versioning,
            Err(error) if written.version.is_none() => {
                report.note("versions", outcome(&error), error.what());
                return Ok(Kept::Nothing);
            }
            // The answer names a version, which needs no right to ask.
            Err(_) => Versioning { on: true, default_lock: None },
        };
        let Some(version) = written.version.filter(|_| versioning.on) else {
            report.note("versions", Outcome::No, "what is replaced or deleted is gone");
            return Ok(Kept::Nothing);
        };
        // Refused or not: what matters is the version.
        let _ = self.write(*way, &key, &self.new, false).await;
        let _ = self.subject.opened.remover.remove(&key).await;
        let back = self.direct.read_version(&key, &version).await;
        if !back.as_ref().is_ok_and(|bytes| *bytes == self.old) {
            let why =
                back.err().map_or_else(|| "it has other bytes".to_owned(), |error| error.what().to_owned());
            report.note("versions", Outcome::No, format!("the old version could not be read back: {why}"));
            return Ok(Kept::Nothing);
        }
        let removed = self.direct.remove_version(&key, &version, true).await;
        let gone = removed.is_ok() && self.direct.read_version(&key, &version).await.is_err();
        let lock = versioning.default_lock.as_deref().unwrap_or("no lock by default");
        let (outcome, detail) = match (&removed, gone) {
            (Err(error), _) if error.kind() == ErrorKind::Denied => {
                (Outcome::Yes, "read back and not removable")
            }
            (Ok(()), true) => (Outcome::Yes, "read back, and removable for good with the same credentials"),
            _ => (Outcome::Unknown, "read back; whether it can be removed is not known"),
        };
        report.note("versions", outcome, format!("the old version was {detail}; {lock}"));
        Ok(match removed {
            Err(error) if error.kind() == ErrorKind::Denied && versioning.default_lock.is_some() => {
                Kept::Locked
            }
            Err(error) if error.kind() == ErrorKind::Denied => Kept::Unlocked,
            _ => Kept::Removable,
        })
    }

    async fn locks(&self, report: &mut ProbeReport) -> Result<()> {
        let ahead =
            SignedDuration::from_millis((report.clock_ahead_seconds.unwrap_or_default() * 1e3) as i64);
        let mut details = Vec::new();
        let mut worst = Outcome::Yes;
        for (n, lock) in [Lock::Compliance, Lock::Governance].into_iter().enumerate() {
            let until = Timestamp::now() + ahead + LOCKED;
            let key = self.names.key(&format!("locked-{n}"))?;
            let written = match self.direct.write_locked(&key, &self.old, lock, until).await {
                Ok(written) => written,
                Err(error) => {
                    worst = match outcome(&error) {
                        Outcome::Denied => Outcome::Denied,
                        Outcome::Unsupported => Outcome::Unsupported,
                        _ => Outcome::No,
                    };
                    details.push(format!("{}: {}", lock.as_str(), error.what()));
                    break;
                }
            };
            // Whoever has a special right is not asked to refrain from it.
            let removed = match &written.version {
                Some(version) => self.direct.remove_version(&key, version, true).await,
                None => self.subject.opened.remover.remove(&key).await,
            };
            let stays = match &written.version {
                Some(version) => self.direct.read_version(&key, version).await.is_ok(),
                None => matches!(self.subject.opened.source.stat(&key).await, Ok(Some(_))),
            };
            match (removed, stays, lock) {
                (Err(_), true, _) => {
                    self.names.lock_until(until);
                    details.push(format!("{}: kept against a delete", lock.as_str()));
                }
                (_, false, Lock::Governance) if written.version.is_some() => {
                    details.push("GOVERNANCE: these credentials may bypass it".to_owned());
                }
                (_, false, _) => {
                    worst = Outcome::NotObeyed;
                    details.push(format!("{}: accepted, and the object could be deleted", lock.as_str()));
                    report
                        .not_obeyed
                        .push(format!("a retention ({}) is accepted and not kept", lock.as_str()));
                }
                (Ok(()), true, _) => {
                    worst = Outcome::Unknown;
                    details.push(format!("{}: a delete was accepted and did nothing", lock.as_str()));
                }
            }
        }
        report.note("lock", worst, details.join("; "));
        Ok(())
    }
}

/// What remains of an object that was replaced and deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Nothing,
    /// Its version, which the same credentials can remove.
    Removable,
    /// Its version, which they may not remove, and which no lock holds.
    Unlocked,
    /// Its version, under a lock that every new object gets.
    Locked,
}

fn conclude(report: &mut ProbeReport, replaced: Option<&[&'static str]>, deleted: Option<bool>, kept: Kept) {
    let because = &mut report.because;
    if kept == Kept::Locked {
        report.append_only = AppendOnly::Versions;
        because.push("what is replaced or deleted stays as a locked version, which was read back".to_owned());
        return;
    }
    match (replaced, deleted) {
        (Some([]), Some(false)) => {
            report.append_only = AppendOnly::Refused;
            because.push("every overwrite and a delete with these credentials were refused".to_owned());
            return;
        }
        (Some(ways), _) if !ways.is_empty() => {
            report.append_only = AppendOnly::No;
            because.push(format!("an object was replaced by {}", ways.join(", by ")));
        }
        (_, Some(true)) => report.append_only = AppendOnly::No,
        _ => report.append_only = AppendOnly::Unknown,
    }
    match deleted {
        Some(true) => because.push("an object was deleted".to_owned()),
        Some(false) => because.push("a delete was refused".to_owned()),
        None => because.push("whether a delete works could not be found out".to_owned()),
    }
    if replaced.is_none() {
        because.push("whether every overwrite is refused could not be found out".to_owned());
    }
    match kept {
        Kept::Removable => because.push("old versions are kept and can be removed for good".to_owned()),
        Kept::Unlocked => because.push("old versions are kept, and no lock holds them".to_owned()),
        Kept::Nothing | Kept::Locked => {}
    }
}

/// Compares the clocks. The store's time is that of some moment between `before` and `after`, cut to a
/// whole second.
fn clock(report: &mut ProbeReport, date: Option<Timestamp>, before: Timestamp, after: Timestamp) {
    let Some(date) = date else {
        report.note("clock", Outcome::Unsupported, "the place does not tell its time");
        return;
    };
    let seconds = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64();
    let (least, most) = (seconds(after, date), seconds(before, date) + 1.0);
    let ahead = if least > 0.0 {
        least
    } else if most < 0.0 {
        most
    } else {
        0.0
    };
    report.clock_ahead_seconds = Some(ahead);
    let detail = if ahead == 0.0 {
        "the store's clock agrees with ours".to_owned()
    } else {
        let which = if ahead > 0.0 { "ahead of" } else { "behind" };
        format!("the store's clock is {:.0} seconds {which} ours", ahead.abs())
    };
    let outcome = if ahead.abs() > SKEW_SECONDS { Outcome::No } else { Outcome::Yes };
    report.note("clock", outcome, detail);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_clock_is_ahead_or_behind_only_beyond_what_cannot_be_known() {
        let table = [
            ("2026-01-01T00:00:10Z", 0.0, Outcome::Yes),
            ("2026-01-01T00:00:09Z", 0.0, Outcome::Yes),
            ("2026-01-01T00:00:08Z", -1.0, Outcome::Yes),
            ("2026-01-01T00:00:14Z", 3.0, Outcome::Yes),
            ("2026-01-01T00:20:10Z", 1_199.0, Outcome::No),
            ("2025-12-31T23:00:00Z", -3_609.0, Outcome::No),
        ];
        for (date, ahead, outcome) in table {
            let mut report = ProbeReport::new("x");
            let (before, after) = (time("2026-01-01T00:00:10Z"), time("2026-01-01T00:00:11Z"));
            clock(&mut report, Some(time(date)), before, after);
            assert_eq!(
                (report.clock_ahead_seconds, report.outcome("clock")),
                (Some(ahead), Some(outcome)),
                "{date}"
            );
        }
    }

    /// trust.md's definition, and nothing less.
    #[test]
    fn only_refusals_or_locked_versions_are_called_append_only() {
        let put: &[&str] = &["a put"];
        let none: &[&str] = &[];
        let table = [
            (Some(none), Some(false), Kept::Nothing, AppendOnly::Refused),
            (Some(none), Some(true), Kept::Nothing, AppendOnly::No),
            (Some(put), Some(false), Kept::Nothing, AppendOnly::No),
            (Some(none), None, Kept::Nothing, AppendOnly::Unknown),
            (None, Some(false), Kept::Nothing, AppendOnly::Unknown),
            (None, Some(true), Kept::Nothing, AppendOnly::No),
            (Some(put), Some(true), Kept::Removable, AppendOnly::No),
            (Some(put), Some(true), Kept::Unlocked, AppendOnly::No),
            (Some(put), Some(true), Kept::Locked, AppendOnly::Versions),
        ];
        for (replaced, deleted, kept, wanted) in table {
            let mut report = ProbeReport::new("x");
            conclude(&mut report, replaced, deleted, kept);
            assert_eq!(report.append_only, wanted, "{replaced:?} {deleted:?} {kept:?}");
            assert!(!report.because.is_empty());
        }
    }
}
