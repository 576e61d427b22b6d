//! One backup into several places: one dump, one envelope, one manifest, as many copies.
//!
//! All places hold the same repository, so that the same signed bytes are good in each. They are
//! written in step; one that fails or stalls is given up, and the run goes on while enough are left.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use crate::attestation::Claim;
use crate::catalog::Catalog;
use crate::context::Context;
use crate::dump::Dumper;
use crate::error::{Error, ErrorKind, Result, Stage};
use crate::id::ObjectKey;
use crate::ledger::Ledger;
use crate::manifest::BackupRef;
use crate::progress::Event;
use crate::seal::Encryptor;
use crate::statement::{SignedStatement, Signer, VouchedManifest};
use crate::store::{Journal, Receipt, Sink, Source};
use crate::stream::{ByteStream, Sealed};

use super::backup::{BackedUp, BackupParts, BackupRequest, Work, backup_into, quiet, unread};
use super::spool::Spool;
use super::store::{Branch, patiently, tee};
use super::{attest, read, verify};

/// A place for one copy.
#[derive(Debug, Clone)]
pub struct Destination {
    /// What it is called in messages and receipts. Holds no secret.
    pub name: String,
    /// Where it goes.
    pub sink: Arc<dyn Sink>,
    /// The same place, for reading back.
    pub reader: Arc<dyn Source>,
    /// How long one call may hold up the other places before this one is given up.
    pub patience: Option<Duration>,
}

/// How many copies are enough for a run to have done what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Enough {
    /// One in each destination.
    #[default]
    All,
    /// So many, wherever they are.
    AtLeast(NonZeroUsize),
}

impl Enough {
    /// How many these are of `total` destinations.
    #[must_use]
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::All => total,
            Self::AtLeast(count) => count.get(),
        }
    }
}

/// The ports that a backup into several places runs on.
#[derive(Debug, Clone)]
pub struct MirrorParts {
    /// The database.
    pub dumper: Arc<dyn Dumper>,
    /// The cipher, with public keys only.
    pub encryptor: Arc<dyn Encryptor>,
    /// Where the copies go. All hold the repository of the request.
    pub destinations: Vec<Destination>,
    /// Destinations that were found unusable before: name and reason. They count as asked for.
    pub unusable: Vec<(String, Arc<Error>)>,
    /// How many copies are enough.
    pub enough: Enough,
    /// This host's signing key.
    pub signer: Arc<dyn Signer>,
    /// What this host signed last.
    pub ledger: Arc<dyn Ledger>,
    /// An index of runs, if one is kept.
    pub catalog: Option<Arc<dyn Catalog>>,
}

impl From<&BackupParts> for MirrorParts {
    fn from(parts: &BackupParts) -> Self {
        let BackupParts { dumper, encryptor, sink, reader, signer, ledger, catalog } = parts.clone();
        let name = sink.to_string();
        Self {
            dumper,
            encryptor,
            destinations: vec![Destination { name, sink, reader, patience: None }],
            unusable: Vec::new(),
            enough: Enough::All,
            signer,
            ledger,
            catalog,
        }
    }
}

/// What a backup into several places came to.
#[derive(Debug)]
pub struct Mirrored {
    /// The backup, or why it is not what was asked for. `Incomplete` when it exists in fewer places.
    pub outcome: Result<BackedUp>,
    /// What each destination holds of it, the unusable ones last.
    pub copies: Vec<CopyOutcome>,
}

/// What one destination holds of a backup.
#[derive(Debug)]
pub struct CopyOutcome {
    /// The destination.
    pub name: String,
    /// What is there.
    pub state: CopyState,
}

/// Whether a copy of a backup is there.
#[derive(Debug)]
pub enum CopyState {
    /// A whole backup.
    Stored,
    /// No backup: the place was given up.
    Failed(Error),
    /// A whole backup or none: its manifest was sent, and what became of it is not known.
    Uncertain(Error),
    /// No backup: the place was good, and the run ended for another reason.
    Stopped,
}

impl CopyState {
    /// The word for it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Failed(_) => "failed",
            Self::Uncertain(_) => "uncertain",
            Self::Stopped => "stopped",
        }
    }

    /// What went wrong.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        match self {
            Self::Failed(error) | Self::Uncertain(error) => Some(error),
            Self::Stored | Self::Stopped => None,
        }
    }
}

/// Makes one backup in several places at the same time, as [`backup`](super::backup) does in one.
///
/// Nothing becomes visible as a backup anywhere before enough places hold all of its data, read back
/// where that is asked for. A place in which the backup exists holds a whole one.
///
/// Not cancel safe: stop it through the context's token.
pub async fn mirror(cx: &Context, parts: &MirrorParts, request: BackupRequest) -> Mirrored {
    let mut lanes = Lanes::new(parts);
    let outcome = match lanes.check_request() {
        Ok(()) => backup_into(cx, parts, &mut lanes, request, Work::Stream).await,
        Err(error) => Err(error),
    };
    Mirrored { outcome, copies: lanes.into_copies() }
}

/// The places of one run, and which of them are still with us.
#[derive(Debug)]
pub(super) struct Lanes<'a> {
    lanes: Vec<Lane<'a>>,
    unusable: &'a [(String, Arc<Error>)],
    need: usize,
    /// Whether what the spool holds of this backup can never become one.
    pub(super) hopeless: bool,
}

/// One place of a run.
#[derive(Debug)]
pub(super) struct Lane<'a> {
    place: &'a Destination,
    /// Why it was given up.
    lost: Option<Error>,
    /// Whether that was told.
    told: bool,
    /// Whether it was found to hold the object that is being stored, byte for byte.
    holds: bool,
    /// What became of its manifest, once that was sent or found.
    manifest: Option<Result<()>>,
}

impl<'a> Lane<'a> {
    /// The place.
    pub(super) fn place(&self) -> &'a Destination {
        self.place
    }

    /// Gives the place up.
    pub(super) fn lose(&mut self, error: Error) {
        self.lost.get_or_insert(error);
    }

    /// Waits for an answer of the place no longer than it may hold up the others.
    pub(super) async fn ask<T>(&self, key: &ObjectKey, answer: impl Future<Output = Result<T>>) -> Result<T> {
        patiently(self.place.patience, key, answer).await
    }

    async fn same_bytes(&self, cx: &Context, key: &ObjectKey, sent: &Receipt) -> Result<()> {
        let source = self.place.reader.as_ref();
        let mut stream = self.ask(key, verify::checked(cx, source, key, sent)).await?;
        while self.ask(key, async { stream.next().await.transpose() }).await?.is_some() {}
        Ok(())
    }

    /// Looks whether the place holds an object already, byte for byte: an earlier run may have got so far.
    async fn look_for(&mut self, cx: &Context, key: &ObjectKey, sent: &Receipt) {
        self.holds = false;
        let found = self.ask(key, self.place.reader.stat(key)).await;
        let compared = match found {
            Ok(None) => return,
            // A key that may only write cannot look; the place's own refusal has to do.
            Err(error) if error.kind() == ErrorKind::Denied => return,
            Ok(Some(info)) if info.len == sent.len => self.same_bytes(cx, key, sent).await,
            Ok(Some(_)) => {
                Err(Error::new(ErrorKind::Conflict, key.as_str(), "something else stands in its place"))
            }
            Err(error) => Err(error),
        };
        match compared {
            Ok(()) => self.holds = true,
            Err(error) => self.lose(error.at(Stage::Upload)),
        }
    }

    /// Looks whether the place holds this very manifest already.
    async fn look_for_manifest(&mut self, at: &BackupRef, signed: &SignedStatement) {
        let key = at.manifest();
        let found = read::small(self.place.reader.as_ref(), &key, read::STATEMENT_LEN_MAX);
        match self.ask(&key, found).await {
            Ok(stored) if stored == *signed.stored() => self.manifest = Some(Ok(())),
            Ok(_) => {
                let what = "another manifest stands in its place";
                self.lose(Error::new(ErrorKind::Conflict, key.as_str(), what).at(Stage::Manifest));
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {}
            Err(error) => self.lose(error.at(Stage::Manifest)),
        }
    }

    /// Whether the object that is being stored has still to be sent there.
    fn lacks(&self) -> bool {
        self.lost.is_none() && !self.holds && self.manifest.is_none()
    }

    async fn read_back(&mut self, cx: &Context, key: &ObjectKey, sent: &Receipt) {
        // Compared byte for byte when it was found, in this run or in the one that stored its manifest.
        if !self.lacks() {
            return;
        }
        if let Err(error) = self.same_bytes(cx, key, sent).await {
            self.lose(error);
        }
    }

    /// Looks at a manifest that was sent; `unread` says what it means when that cannot be done.
    async fn look_back(&mut self, cx: &Context, at: &BackupRef, sent: Option<&Receipt>) {
        if let (Some(Ok(())), Some(sent)) = (&self.manifest, sent)
            && let Err(error) = self.same_bytes(cx, &at.manifest(), sent).await
        {
            self.manifest = Some(Err(unread(at, error)));
        }
    }
}

impl<'a> Lanes<'a> {
    /// One for each destination.
    pub(super) fn new(parts: &'a MirrorParts) -> Self {
        let lane = |place| Lane { place, lost: None, told: false, holds: false, manifest: None };
        let total = parts.destinations.len() + parts.unusable.len();
        Self {
            lanes: parts.destinations.iter().map(lane).collect(),
            unusable: &parts.unusable,
            need: parts.enough.of(total),
            hopeless: false,
        }
    }

    pub(super) fn check_request(&self) -> Result<()> {
        let total = self.total();
        if self.need >= 1 && self.need <= total {
            return Ok(());
        }
        let what = format!("{} copies are asked for, and there are {total} destinations", self.need);
        Err(Error::new(ErrorKind::Config, "mirror", what)
            .with_hint("name more destinations, or ask for fewer"))
    }

    fn total(&self) -> usize {
        self.lanes.len() + self.unusable.len()
    }

    /// Whether there is one place alone, whose errors are those of the run.
    fn is_single(&self) -> bool {
        self.total() == 1
    }

    /// Whether more than one place was asked for.
    pub(super) fn are_several(&self) -> bool {
        !self.is_single()
    }

    /// The places that are still with us.
    pub(super) fn alive(&mut self) -> impl Iterator<Item = &mut Lane<'a>> {
        self.lanes.iter_mut().filter(|lane| lane.lost.is_none())
    }

    /// Whether every place that was asked for holds the backup.
    pub(super) fn all_stored(&self) -> bool {
        self.unusable.is_empty() && self.lanes.iter().all(|lane| matches!(lane.manifest, Some(Ok(()))))
    }

    /// Looks in every place for this very manifest. How many hold it.
    ///
    /// # Errors
    /// Those of [`Lanes::enough`].
    pub(super) async fn find_manifest(
        &mut self,
        cx: &Context,
        at: &BackupRef,
        signed: &SignedStatement,
    ) -> Result<usize> {
        join_all(self.alive().map(|lane| lane.look_for_manifest(at, signed))).await;
        self.enough(cx)?;
        Ok(self.alive().filter(|lane| lane.manifest.is_some()).count())
    }

    /// Whether every place that was asked for is still with us.
    pub(super) fn is_complete(&self) -> bool {
        self.unusable.is_empty() && self.lanes.iter().all(|lane| lane.lost.is_none())
    }

    /// A place that is not with us, and why.
    pub(super) fn first_lost(&self) -> Option<(&str, &Error)> {
        let lost = self.lanes.iter().filter_map(|lane| Some((lane.place.name.as_str(), lane.lost.as_ref()?)));
        let unusable = self.unusable.iter().map(|(name, error)| (name.as_str(), error.as_ref()));
        lost.chain(unusable).next()
    }

    /// Tells who was given up since the last time.
    ///
    /// # Errors
    /// Why fewer places are left than are asked for.
    pub(super) fn enough(&mut self, cx: &Context) -> Result<()> {
        let (total, left) = (self.total(), self.lanes.iter().filter(|lane| lane.lost.is_none()).count());
        if self.is_single() {
            let lost = self.lanes.first_mut().and_then(|lane| lane.lost.as_mut());
            return match lost {
                Some(lost) => Err(passed_on(lost)),
                None if left >= self.need => Ok(()),
                None => Err(self.unusable.first().map_or_else(|| Error::bug("no place"), |(_, e)| e.told())),
            };
        }
        for lane in &mut self.lanes {
            if let Some(error) = lane.lost.as_ref().filter(|_| !lane.told) {
                if error.kind() == ErrorKind::Cancelled {
                    return Err(error.told());
                }
                let name = &lane.place.name;
                cx.report(Event::Warning(&format!(
                    "destination {name} is given up, {left} of {total} are left: {error}"
                )));
                lane.told = true;
            }
        }
        if left >= self.need {
            return Ok(());
        }
        let Some((_, first)) = self.first_lost() else {
            return Err(Error::bug("too few places, and none is lost"));
        };
        let kind = first.kind();
        let hint = first.hint().map(str::to_owned);
        let stage = first.stage();
        let mut what = format!("{left} of {total} destinations are left where {} are asked for", self.need);
        for (name, error) in self.failures() {
            let _ = write!(what, "; {name}: {error}");
        }
        let error = Error::new(kind, "destinations", what).with_hint(hint.unwrap_or_else(|| {
            "mend the destination, or ask for fewer copies with mirror = \"at_least:1\"".to_owned()
        }));
        Err(match stage {
            Some(stage) => error.at(stage),
            None => error,
        })
    }

    fn failures(&self) -> impl Iterator<Item = (&str, &Error)> {
        let lanes = self.lanes.iter().filter_map(|lane| {
            let failed = lane.manifest.as_ref().and_then(|sent| sent.as_ref().err());
            Some((lane.place.name.as_str(), lane.lost.as_ref().or(failed)?))
        });
        lanes.chain(self.unusable.iter().map(|(name, error)| (name.as_str(), error.as_ref())))
    }

    /// Stores one stream in every place that is left. What was stored where, one for each place that
    /// was left; places in which it failed are given up.
    ///
    /// # Errors
    /// The stream's own, `Cancelled`, and those of [`Lanes::enough`].
    pub(super) async fn store(
        &mut self,
        cx: &Context,
        key: &ObjectKey,
        sealed: ByteStream<Sealed>,
        size_hint: Option<u64>,
    ) -> Result<Receipt> {
        let stored = self.fan_out(cx, key, sealed, size_hint, self.need, |_| None).await?;
        self.enough(cx)?;
        // Names of versions differ from place to place.
        let stored = stored.ok_or_else(|| Error::bug(format!("nobody told how storing {key} ended")))?;
        Ok(Receipt { tag: if self.is_single() { stored.tag } else { None }, ..stored })
    }

    /// Stores an object of the spool in every place that is left and does not hold it already; with
    /// `resume`, where an earlier process was cut off.
    ///
    /// # Errors
    /// As [`Lanes::store`]; what the spool holds is [`Lanes::hopeless`] when it is damaged.
    pub(super) async fn store_from(
        &mut self,
        cx: &Context,
        spool: &Spool,
        at: &BackupRef,
        key: &ObjectKey,
        whole: &Receipt,
        resume: bool,
    ) -> Result<()> {
        let looking = quiet(cx);
        let looks = self.alive().filter(|lane| lane.manifest.is_none());
        join_all(looks.map(|lane| lane.look_for(&looking, key, whole))).await;
        self.hopeless |= self.lanes.iter().any(|lane| {
            lane.lost
                .as_ref()
                .is_some_and(|lost| matches!(lost.kind(), ErrorKind::Conflict | ErrorKind::Integrity))
        });
        self.enough(cx)?;
        let lacking = self.lanes.iter().filter(|lane| lane.lacks()).count();
        if lacking == 0 {
            return Ok(());
        }
        let need = self.need.saturating_sub(self.alive().count() - lacking).max(1);
        let stored = match spool.read(&looking, key, whole).await {
            Ok(stream) => {
                let journal = |name: &str| resume.then(|| spool.journals.of(at, name));
                self.fan_out(cx, key, stream, Some(whole.len), need, journal).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = stored {
            self.hopeless |= matches!(error.kind(), ErrorKind::Integrity | ErrorKind::NotFound);
            return Err(error);
        }
        self.enough(cx)
    }

    /// Stores one stream in every place that lacks it; places in which it failed are given up.
    async fn fan_out(
        &mut self,
        cx: &Context,
        key: &ObjectKey,
        sealed: ByteStream<Sealed>,
        size_hint: Option<u64>,
        need: usize,
        journal: impl Fn(&str) -> Option<Arc<dyn Journal>>,
    ) -> Result<Option<Receipt>> {
        let mut lanes: Vec<_> = self.lanes.iter_mut().filter(|lane| lane.lacks()).collect();
        let branch = |lane: &&mut Lane<'a>| {
            let place = lane.place;
            Branch::new(place.sink.as_ref(), place.patience).with_journal(journal(&place.name))
        };
        let mut branches: Vec<_> = lanes.iter().map(branch).collect();
        tee(cx, key, sealed, size_hint, &mut branches, need).await?;
        let mut stored = None;
        for (lane, branch) in lanes.iter_mut().zip(branches) {
            match branch.ended {
                Some(Ok(receipt)) => stored = Some(receipt),
                Some(Err(error)) => lane.lose(error),
                None => {}
            }
        }
        Ok(stored)
    }

    /// Reads an object back in every place that is left; places that hold other bytes are given up.
    ///
    /// # Errors
    /// Those of [`Lanes::enough`].
    pub(super) async fn read_back(&mut self, cx: &Context, key: &ObjectKey, sent: &Receipt) -> Result<()> {
        join_all(self.alive().map(|lane| lane.read_back(cx, key, sent))).await;
        self.enough(cx)
    }

    /// Stores the manifest in every place that is left, and looks at it where `look` says so. Whether
    /// it is known to be in one place at least is `stands`; the result, whether in enough.
    pub(super) async fn publish(
        &mut self,
        cx: &Context,
        at: &BackupRef,
        signed: &SignedStatement,
        look: bool,
    ) -> Published {
        let key = at.manifest();
        let len = signed.stored().len() as u64;
        let held = self.alive().filter(|lane| lane.manifest.is_some()).count();
        let need = self.need.saturating_sub(held).max(1);
        let mut lanes: Vec<_> = self.alive().filter(|lane| lane.manifest.is_none()).collect();
        let mut branches: Vec<_> =
            lanes.iter().map(|lane| Branch::new(lane.place.sink.as_ref(), lane.place.patience)).collect();
        if !branches.is_empty()
            && let Err(error) =
                tee(cx, &key, ByteStream::of_statement(signed), Some(len), &mut branches, need).await
        {
            return Published { stands: held > 0, enough: Err(error.at(Stage::Manifest)) };
        }
        let mut receipts = Vec::new();
        for (lane, branch) in lanes.iter_mut().zip(branches) {
            let mut receipt = None;
            match branch.ended {
                Some(Ok(stored)) => {
                    receipt = Some(stored);
                    lane.manifest = Some(Ok(()));
                }
                Some(Err(error)) if error.kind() == ErrorKind::Uncertain => lane.manifest = Some(Err(error)),
                Some(Err(error)) => lane.lose(error),
                None => {}
            }
            receipts.push(receipt.filter(|_| look));
        }
        let looks = lanes.iter_mut().zip(&receipts).map(|(lane, sent)| lane.look_back(cx, at, sent.as_ref()));
        join_all(looks).await;
        let stored = self.lanes.iter().filter(|lane| matches!(lane.manifest, Some(Ok(())))).count();
        Published { stands: stored > 0, enough: self.published(cx, at, stored) }
    }

    /// What it means that so many places hold the manifest.
    fn published(&mut self, cx: &Context, at: &BackupRef, stored: usize) -> Result<()> {
        if self.is_single() {
            let sent = self.lanes.iter_mut().find_map(|lane| lane.manifest.as_mut()?.as_mut().err());
            return match sent {
                Some(error) => Err(passed_on(error).at(Stage::Manifest)),
                None => self.enough(cx).map_err(|error| error.at(Stage::Manifest)),
            };
        }
        let doubted = self.lanes.iter().filter_map(|lane| lane.manifest.as_ref()?.as_ref().err());
        let doubt = doubted.map(Error::kind).next();
        if stored >= self.need {
            for lane in &self.lanes {
                if let Some(Err(error)) = &lane.manifest {
                    let name = &lane.place.name;
                    cx.report(Event::Warning(&format!(
                        "whether destination {name} holds the backup is not known: {error}"
                    )));
                }
            }
            // Tells who was lost at the last step; enough are left.
            let _ = self.enough(cx);
            return Ok(());
        }
        if stored == 0 && doubt.is_none() {
            return self.enough(cx).map_err(|error| error.at(Stage::Manifest));
        }
        let kind = if stored > 0 { ErrorKind::Incomplete } else { doubt.unwrap_or(ErrorKind::Uncertain) };
        let total = self.total();
        let mut what =
            format!("is stored in {stored} of {total} destinations where {} are asked for", self.need);
        for (name, error) in self.failures() {
            let _ = write!(what, "; {name}: {error}");
        }
        let hint = match stored {
            0 => format!("look again: strongroom verify {}", at.id),
            _ => format!(
                "it is whole where it is; `strongroom copy {} --from A --to B` adds what is missing",
                at.id
            ),
        };
        Err(Error::new(kind, at.to_string(), what).with_hint(hint).at(Stage::Manifest))
    }

    /// Says beside each copy, signed, that it is one of several. What cannot be said is a warning: the
    /// backup is whole without it.
    pub(super) async fn receipts(&mut self, cx: &Context, signer: &dyn Signer, about: &VouchedManifest) {
        if self.is_single() {
            return;
        }
        let quiet = quiet(cx);
        let stored: Vec<_> = self.lanes.iter().filter(|lane| matches!(lane.manifest, Some(Ok(())))).collect();
        let said = stored.iter().map(|lane| {
            let claim = Claim::Copied {
                from: None,
                to: crate::manifest::printable(&lane.place.name),
                object_len: about.manifest().object_len,
                first_seen: None,
            };
            let key = about.manifest().backup().manifest();
            let quiet = &quiet;
            async move {
                let said = attest(quiet, lane.place.sink.as_ref(), signer, about, claim);
                lane.ask(&key, said).await.map_err(|error| (lane.place.name.as_str(), error))
            }
        });
        for (name, error) in join_all(said).await.into_iter().filter_map(Result::err) {
            cx.report(Event::Warning(&format!(
                "destination {name} holds the backup, but no receipt of it: {error}"
            )));
        }
    }

    pub(super) fn into_copies(self) -> Vec<CopyOutcome> {
        let lanes = self.lanes.into_iter().map(|lane| {
            let state = match (lane.manifest, lane.lost) {
                (Some(Ok(())), _) => CopyState::Stored,
                (Some(Err(error)), _) => CopyState::Uncertain(error),
                (None, Some(error)) => CopyState::Failed(error),
                (None, None) => CopyState::Stopped,
            };
            CopyOutcome { name: lane.place.name.clone(), state }
        });
        let unusable = self
            .unusable
            .iter()
            .map(|(name, error)| CopyOutcome { name: name.clone(), state: CopyState::Failed(error.told()) });
        lanes.chain(unusable).collect()
    }
}

/// How storing the manifests ended.
pub(super) struct Published {
    /// Whether one place at least is known to hold it.
    pub(super) stands: bool,
    /// Whether enough do.
    pub(super) enough: Result<()>,
}

/// The error itself, leaving a copy of what it says.
fn passed_on(error: &mut Error) -> Error {
    let told = error.told();
    std::mem::replace(error, told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_are_all_or_so_many() {
        assert_eq!(Enough::All.of(3), 3);
        assert_eq!(Enough::AtLeast(NonZeroUsize::MIN).of(3), 1);
    }
}
