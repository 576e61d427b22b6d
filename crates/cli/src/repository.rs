//! A repository as this machine knows it: whose it is, whom it trusts, what was seen of it.

use backup_core::{
    BackupRef, ByteStream, Context, Error, ErrorKind, RepositoryId, Result, Sha256Digest, SignedStatement,
    Sink, Source, SourceName, StatementKind, VouchedManifest, pipeline,
};
use bytes::Bytes;
use envelope_crypto::sign::{SigningKey, StoredStatement, VerifyingKey};
use envelope_crypto::trust::{
    KeyGrant, NewRepository, OwnerPin, RepositoryStatement, RepositoryTrust, Role, TrustState,
    TrustStatement, repository_object, trust_number, trust_object,
};

use crate::failure::Outcome;
use crate::host;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::state::{Compared, Pin, Reach, SeenHead, State, durable};

/// The largest statement that is read, in bytes.
const STATEMENT_LEN_MAX: u64 = 4 << 20;

/// A repository whose owner is known and whose trust files were checked.
#[derive(Debug)]
pub(crate) struct Repository {
    /// Whom it trusts.
    pub(crate) trust: RepositoryTrust,
    /// What this machine remembers of it.
    pub(crate) pin: Pin,
}

/// The place and the memory that a repository is read with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading<'a> {
    /// The destination.
    pub(crate) source: &'a dyn Source,
    /// What the destination is called in the memory: unique, without a secret.
    pub(crate) place: &'a str,
    /// This machine's memory.
    pub(crate) state: &'a State,
    /// The settings.
    pub(crate) settings: &'a Settings,
    /// How to speak.
    pub(crate) printer: &'a Printer,
}

impl Repository {
    /// Reads the repository of a destination, under the owner's key that is known from the settings
    /// or from this machine's memory, and remembers it.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Denied` when its owner is not known or another than expected;
    /// `Integrity` when it is not the one that was there before, or went back in time.
    pub(crate) async fn read(reading: Reading<'_>) -> Outcome<Self> {
        let stored = small(reading.source, &repository_object()).await?;
        let known = reading.state.pins().at(reading.place)?;
        let Some(stored) = stored else { return Err(absent(&reading, known.as_ref()).into()) };
        let claimed = claimed(&stored)?;
        if let Some(known) = known.as_ref().filter(|known| known.repository != claimed.repository) {
            return Err(Error::new(
                ErrorKind::Integrity,
                reading.place,
                format!("held repository {} before and holds {} now", known.repository, claimed.repository),
            )
            .with_hint("find out who replaced it; to use the new one all the same, pass another --state-dir and compare its owner with the recovery sheet")
            .into());
        }
        if let Some(expected) = reading.settings.repository.filter(|id| *id != claimed.repository) {
            return Err(Error::new(
                ErrorKind::Denied,
                reading.place,
                format!("holds repository {}, not {expected}", claimed.repository),
            )
            .with_hint("check --repository and the destination")
            .into());
        }
        let pin = reading.state.pins().of(&claimed.repository)?;
        let owner = owner(&reading, &claimed, pin.as_ref())?;
        let mut pin = pin.unwrap_or_else(|| Pin::new(claimed.repository, owner, reading.place.to_owned()));
        if !pin.destinations.iter().any(|d| d == reading.place) {
            pin.destinations.push(reading.place.to_owned());
        }
        let trust =
            load(&reading, &OwnerPin { repository: claimed.repository, owner }, &stored, &pin).await?;
        pin.trust = Some(trust.state());
        let mut repository = Self { trust, pin };
        if let Err(error) = repository.recall_signed(reading.state) {
            let what =
                "what this host signed last cannot be read, so a loss of its newest backups may go unseen";
            reading.printer.warn(&format!("{what}: {error}"));
        }
        repository.remember(&reading)?;
        Ok(repository)
    }

    /// Reads the repository, or makes it where the destination is empty and was never seen
    /// otherwise; finishes what an interrupted run began.
    ///
    /// # Errors
    /// As [`Repository::read`], and those of writing.
    pub(crate) async fn read_or_make(
        cx: &Context,
        reading: Reading<'_>,
        sink: &dyn Sink,
        host: &SigningKey,
    ) -> Outcome<Self> {
        let _lock = reading.state.lock_setup()?;
        let there = reading.source.stat(&repository_object()).await?.is_some();
        let known = reading.state.pins().at(reading.place)?;
        if !there && known.is_none() && reading.settings.repository.is_none() {
            make(cx, &reading, sink, host).await?;
        } else if there && reading.source.list("trust/").await?.is_empty() {
            finish_making(cx, &reading, sink, host).await?;
        }
        Self::read(reading).await
    }

    /// The repository's id.
    pub(crate) fn id(&self) -> RepositoryId {
        self.trust.pin().repository
    }

    /// `Denied`, with what to do, unless this host may back up `source`.
    pub(crate) fn check_host(
        &self,
        host: &SigningKey,
        source: &SourceName,
        reading: &Reading<'_>,
    ) -> Result<()> {
        let key = host.verifying_key();
        if self.trust.may_back_up(key, source) {
            return Ok(());
        }
        if self.trust.statement().revoked.iter().any(|r| r.key_id == key.key_id()) {
            return Err(Error::new(
                ErrorKind::Denied,
                reading.place,
                format!("this host's key {key} was revoked, so it may not back up {source} there"),
            )
            .with_hint(format!(
                "a revoked key stays so; if this host is to be trusted again, remove {} and {}: the next run makes a new key for the owner to add",
                reading.state.host_key().display(),
                reading.state.host_public_key().display()
            )));
        }
        Err(Error::new(
            ErrorKind::Denied,
            reading.place,
            format!("this host's key {key} may not back up {source} there"),
        )
        .with_hint(format!(
            "where the owner's key is, run: strongroom trust add --owner-key owner.key.pem -d {} {}",
            reading.place,
            reading.state.host_public_key().display()
        )))
    }

    /// `Denied`, with what to do, unless this machine's key has `role` for `source`.
    pub(crate) fn check_role(&self, key: &SigningKey, role: Role, source: &SourceName) -> Result<()> {
        let key = key.verifying_key();
        if self.trust.allows(key, role, source) {
            return Ok(());
        }
        let what = format!("this machine's key {key} is not allowed as {} of {source} there", role.name());
        Err(Error::new(ErrorKind::Denied, self.id().to_string(), what).with_hint(format!(
            "where the owner's key is, run: strongroom trust add --role {} with this machine's host.pub.pem",
            role.name()
        )))
    }

    /// What this host signed and stored was seen by it, though it may never have listed it.
    fn recall_signed(&mut self, state: &State) -> Result<()> {
        let Some(key) = host::host_key_here(state)? else { return Ok(()) };
        let (signer, trust) = (key.key_id(), self.trust.statement());
        for (source, head) in state.ledger(&signer).heads(&self.id())? {
            if reach(trust, signer, source.as_str()) == Reach::Everything {
                let seen = SeenHead { seq: head.seq, pae_sha256: head.pae_sha256 };
                self.pin.saw(signer, source.as_str(), seen);
            }
        }
        Ok(())
    }

    /// Compares a listing with what was seen before and remembers it.
    pub(crate) fn compare<'a>(
        &mut self,
        listed: impl Iterator<Item = &'a VouchedManifest>,
        only: Option<&SourceName>,
        reading: &Reading<'_>,
    ) -> Result<Compared> {
        let trust = self.trust.statement();
        let compared =
            self.pin.compare(listed, only.map(SourceName::as_str), |signer, name| reach(trust, signer, name));
        self.remember(reading)?;
        Ok(compared)
    }

    /// Remembers a trust file that this machine has just stored, so that it is missed from now on.
    ///
    /// # Errors
    /// Those of the state folder.
    pub(crate) fn stored_trust(&mut self, n: u64, stored: &SignedStatement, state: &State) -> Result<()> {
        self.pin.trust = Some(TrustState { repository: self.id(), n, pae_sha256: stored.pae_sha256() });
        state.pins().keep(&self.pin)
    }

    fn remember(&self, reading: &Reading<'_>) -> Result<()> {
        reading.state.pins().keep(&self.pin)
    }
}

/// How far the owner lets the backups of a signer count.
fn reach(trust: &TrustStatement, signer: Sha256Digest, source: &str) -> Reach {
    let Ok(source) = source.parse::<SourceName>() else { return Reach::Nothing };
    let grant = trust.keys.iter().find(|grant| grant.public_key.key_id() == signer);
    if !grant.is_some_and(|grant| grant.allows(Role::Backup, &source)) {
        return Reach::Nothing;
    }
    let Some(revoked) = trust.revoked.iter().find(|r| r.key_id == signer) else { return Reach::Everything };
    match revoked.last_good.iter().find(|last| last.source == source) {
        Some(last) => Reach::UpTo(SeenHead { seq: last.seq, pae_sha256: last.pae_sha256 }),
        None => Reach::Nothing,
    }
}

/// What `repository.json` says of itself, not yet believed.
pub(crate) fn claimed(stored: &[u8]) -> Result<RepositoryStatement> {
    let name = repository_object().to_string();
    let statement =
        StoredStatement::parse(StatementKind::Repository, stored).map_err(|e| e.about(name.clone()))?;
    backup_core::strict_json::from_slice(&statement.into_unbelieved_payload())
        .map_err(|e| Error::new(ErrorKind::Integrity, name, format!("cannot be read: {e}")))
}

/// The owner's key from outside the destination: the settings, the memory, or the key itself.
fn owner(reading: &Reading<'_>, claimed: &RepositoryStatement, pin: Option<&Pin>) -> Result<VerifyingKey> {
    match (reading.settings.owner, pin.map(|pin| pin.owner)) {
        (Some(said), Some(pinned)) if said != pinned => Err(Error::new(
            ErrorKind::Denied,
            reading.place,
            format!("the owner given is {said}, and {pinned} was pinned before"),
        )
        .with_hint("compare both with the recovery sheet")),
        (Some(owner), _) | (None, Some(owner)) => Ok(owner),
        (None, None) => {
            let here = host::owner_key_here(reading.state, reading.settings, reading.printer)?;
            if here.is_some_and(|key| *key.verifying_key() == claimed.owner) {
                return Ok(claimed.owner);
            }
            Err(Error::new(
                ErrorKind::Denied,
                reading.place,
                format!(
                    "this machine does not know whose repository this is; it claims the owner {}",
                    claimed.owner
                ),
            )
            .with_hint(format!(
                "compare that key with the recovery sheet; if they are the same, pass --owner {} once; --unsigned-origin reads backups whose origin nobody vouches for",
                claimed.owner
            )))
        }
    }
}

async fn load(reading: &Reading<'_>, pin: &OwnerPin, stored: &[u8], known: &Pin) -> Result<RepositoryTrust> {
    let mut files = Vec::new();
    for object in reading.source.list("trust/").await? {
        // What is no trust file by its name is nobody's statement.
        if let Some(n) = trust_number(&object.key)
            && let Some(bytes) = small(reading.source, &object.key).await?
        {
            files.push((n, bytes));
        }
    }
    let mut trust = RepositoryTrust::load(pin, stored, files, known.trust.as_ref())?;
    if trust.needs_history() {
        let mut manifests = Vec::new();
        for object in reading.source.list("").await? {
            if let Some(at) = BackupRef::of_manifest(&object.key)
                && let Some(bytes) = small(reading.source, &object.key).await?
            {
                manifests.push((at, bytes));
            }
        }
        trust.prove_history(manifests);
    }
    Ok(trust)
}

async fn make(cx: &Context, reading: &Reading<'_>, sink: &dyn Sink, host: &SigningKey) -> Outcome {
    let printer = reading.printer;
    let owner = host::make_owner_key(reading.state, printer)?;
    let public = owner.verifying_key();
    if reading.settings.owner.is_some_and(|said| said != *public) {
        return Err(Error::new(
            ErrorKind::Denied,
            reading.place,
            "there is no repository yet, and the private key of the owner given is not on this machine",
        )
        .with_hint(format!("put it at {} for the first backup", reading.state.owner_key().display()))
        .into());
    }
    let new = NewRepository::create(&owner, cx.now(), vec![KeyGrant::backup_of_all(*host.verifying_key())])?;
    match put(cx, sink, &repository_object(), &new.repository_json).await {
        // Somebody else made one in the same moment: that one counts.
        Err(error) if error.kind() == ErrorKind::Conflict => return Ok(()),
        put => put?,
    }
    put(cx, sink, &trust_object(1), &new.trust_json).await?;
    printer.say(&format!("made repository {} in {}", new.pin.repository, reading.place));
    printer.say(&format!("  its owner is {public}: write that down, on paper"));
    printer.say(&format!("  move the owner's key offline: {}", reading.state.owner_key().display()));
    write_sheet(reading, &new.pin)?;
    Ok(())
}

/// What to print and keep where the recovery key is kept. Holds nothing secret.
fn write_sheet(reading: &Reading<'_>, pin: &OwnerPin) -> Result<()> {
    let OwnerPin { repository, owner } = pin;
    let place = reading.place;
    let sheet = format!(
        "Strongroom recovery sheet\n\n\
         repository   {repository}\n\
         kept in      {place}\n\
         owner        {owner}\n\n\
         To restore, a machine needs this sheet, the private key and access to the place above:\n\n\
         \x20 strongroom list -d {place} --owner {owner}\n\
         \x20 strongroom restore SOURCE@latest -d {place} --owner {owner} -i key.pem --to sqlite:new.db\n\n\
         docs/format.md says how to do it without this program.\n"
    );
    let path = reading.state.recovery_sheet(repository);
    durable::replace(&path, sheet.as_bytes(), 0o600)?;
    reading.printer.say(&format!("  print the recovery sheet: {}", path.display()));
    Ok(())
}

/// A run that was killed between the two first statements left a repository without a trust file.
async fn finish_making(cx: &Context, reading: &Reading<'_>, sink: &dyn Sink, host: &SigningKey) -> Outcome {
    let Some(stored) = small(reading.source, &repository_object()).await? else { return Ok(()) };
    let claimed = claimed(&stored)?;
    let Some(owner) = host::owner_key_here(reading.state, reading.settings, reading.printer)? else {
        return Ok(());
    };
    // Only for a repository that this machine was making: its memory has nothing of it yet.
    if *owner.verifying_key() != claimed.owner || reading.state.pins().of(&claimed.repository)?.is_some() {
        return Ok(());
    }
    let first = TrustStatement {
        repository: claimed.repository,
        n: 1,
        prev: None,
        keys: vec![KeyGrant::backup_of_all(*host.verifying_key())],
        revoked: Vec::new(),
    };
    let body = serde_json::to_vec(&first)
        .map_err(|e| Error::bug(format!("a trust file could not be written: {e}")))?;
    let signed = backup_core::Signer::sign(&owner, StatementKind::Trust, &body)?;
    reading.printer.say(&format!("finished making repository {}", claimed.repository));
    write_sheet(reading, &OwnerPin { repository: claimed.repository, owner: claimed.owner })?;
    match put(cx, sink, &trust_object(1), &signed).await {
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
        put => Ok(put?),
    }
}

/// Stores a statement, if nothing is there.
pub(crate) async fn put(
    cx: &Context,
    sink: &dyn Sink,
    key: &backup_core::ObjectKey,
    statement: &backup_core::SignedStatement,
) -> Result<()> {
    let len = statement.stored().len() as u64;
    pipeline::store(cx, sink, key, ByteStream::of_statement(statement), Some(len)).await.map(drop)
}

/// A small object as a whole, or `None` where there is none.
pub(crate) async fn small(source: &dyn Source, key: &backup_core::ObjectKey) -> Result<Option<Bytes>> {
    let Some(info) = source.stat(key).await? else { return Ok(None) };
    let too_long = || Error::new(ErrorKind::Integrity, key.as_str(), "longer than any statement");
    if info.len > STATEMENT_LEN_MAX {
        return Err(too_long());
    }
    let mut stream = source.fetch(key, None, info.tag.as_ref()).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() as u64 > STATEMENT_LEN_MAX {
            return Err(too_long());
        }
    }
    Ok(Some(bytes.into()))
}

/// Why a place holds no repository.
pub(crate) fn absent(reading: &Reading<'_>, known: Option<&Pin>) -> Error {
    match known {
        Some(known) => Error::new(
            ErrorKind::Integrity,
            reading.place,
            format!("held repository {} before and holds none now", known.repository),
        )
        .with_hint(
            "check that the right disk is mounted or the right bucket is named; somebody may have removed it",
        ),
        None => Error::new(ErrorKind::NotFound, reading.place, "holds no repository")
            .with_hint("check the destination; the first `strongroom backup` makes a repository"),
    }
}
