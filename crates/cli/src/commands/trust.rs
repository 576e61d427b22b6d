//! `trust`: which hosts may back up into a repository. Needs the owner's key to change anything.

use std::fmt::Write as _;
use std::path::PathBuf;

use backup_core::{BackupId, Error, ErrorKind, Origin, Sha256Digest, SourceName, pipeline};
use clap::{Args, Subcommand};
use envelope_crypto::keys::read_key_file;
use envelope_crypto::sign::VerifyingKey;
use envelope_crypto::trust::{KeyGrant, LastGood, Revocation, Role, SourceScope, trust_object};
use serde_json::json;

use super::Surroundings;
use crate::args::{DestinationArgs, DestinationsArgs, SecretArgs};
use crate::carry::{self, carry};
use crate::failure::{Failure, Outcome};
use crate::reading::{OriginArgs, Reader};
use crate::repository;
use crate::settings::{Needs, Settings};
use crate::{keys, state::State, wiring};

/// Show and change whom a repository trusts.
#[derive(Debug, Args)]
pub(crate) struct Trust {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the repository's id, owner and keys
    Show(Show),
    /// Let a host back up, verify, prune or pin; replaces what it was allowed before
    Add(Add),
    /// Take a host's right away
    Revoke(Revoke),
}

#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    destination: DestinationArgs,
}

#[derive(Debug, Args)]
struct Add {
    /// The host's public key file
    key: PathBuf,
    /// Only for this source; repeatable
    #[arg(long, value_name = "NAME")]
    source: Vec<SourceName>,
    /// What the key may do: back up; say what verifications found; prune; pin; repeatable
    #[arg(long, value_name = "ROLE", default_value = "backup")]
    role: Vec<RoleName>,
    #[command(flatten)]
    owner: OwnerArgs,
}

/// A role as the command line names it.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum RoleName {
    Backup,
    Verifier,
    Pruner,
    Operator,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Backup => Self::Backup,
            RoleName::Verifier => Self::Verifier,
            RoleName::Pruner => Self::Pruner,
            RoleName::Operator => Self::Operator,
        }
    }
}

#[derive(Debug, Args)]
struct Revoke {
    /// The host's public key file, or its key id
    key: String,
    /// The last backup of this host that is still good; older ones of the same source stay good;
    /// repeat it for each source
    #[arg(long, value_name = "ID", conflicts_with = "nothing_good")]
    last_good: Vec<BackupId>,
    /// Nothing that this host ever signed is good
    #[arg(long)]
    nothing_good: bool,
    #[command(flatten)]
    owner: OwnerArgs,
}

#[derive(Debug, Args)]
struct OwnerArgs {
    /// The owner's private key file; by default the one in the state folder
    #[arg(long, value_name = "FILE")]
    owner_key: Option<PathBuf>,
    #[command(flatten)]
    destination: DestinationsArgs,
    #[command(flatten)]
    secrets: SecretArgs,
}

impl Trust {
    /// Runs the command.
    pub(crate) async fn run(self, mut around: Surroundings) -> Outcome {
        let needs = Needs { destination: true, ..Needs::default() };
        match self.what {
            What::Show(show) => {
                let settings = around.settings(&[&show.destination], needs)?;
                show_trust(&around, &settings).await
            }
            What::Add(add) => {
                let settings = around.settings(&[&add.owner.destination, &add.owner.secrets], needs)?;
                add_host(&around, &settings, &add).await
            }
            What::Revoke(revoke) => {
                let settings = around.settings(&[&revoke.owner.destination, &revoke.owner.secrets], needs)?;
                revoke_host(&around, &settings, &revoke).await
            }
        }
    }
}

async fn open(
    around: &Surroundings,
    settings: &Settings,
) -> Outcome<(Reader, crate::repository::Repository)> {
    let mut reader = Reader::open(around, settings, &OriginArgs::default()).await?;
    match reader.repository.take() {
        Some(repository) => Ok((reader, repository)),
        None => Err(Error::bug("a repository was read and is not there").into()),
    }
}

async fn show_trust(around: &Surroundings, settings: &Settings) -> Outcome {
    let (_, repository) = open(around, settings).await?;
    let (pin, statement) = (repository.trust.pin(), repository.trust.statement());
    let mut text = format!(
        "repository  {}\nowner       {}\ncreated     {}\ntrust file  {}\n",
        pin.repository,
        pin.owner,
        repository.trust.created(),
        statement.n
    );
    for grant in &statement.keys {
        let revoked = statement.revoked.iter().any(|r| r.key_id == grant.public_key.key_id());
        let roles: Vec<_> = grant.roles.iter().map(|role| format!("{role:?}").to_lowercase()).collect();
        let sources = match &grant.sources {
            SourceScope::All => "every source".to_owned(),
            SourceScope::Only(names) => names.iter().map(SourceName::as_str).collect::<Vec<_>>().join(", "),
        };
        let state = if revoked { "  REVOKED" } else { "" };
        let _ = writeln!(
            text,
            "key         {} ({}) {}: {sources}{state}",
            grant.public_key,
            grant.public_key.key_id(),
            roles.join(", ")
        );
    }
    let document = json!({
        "repository": pin.repository, "owner": pin.owner, "created": repository.trust.created(),
        "trust": statement,
    });
    around.printer.result(&document, &text)
}

async fn add_host(around: &Surroundings, settings: &Settings, add: &Add) -> Outcome {
    let (reader, repository) = open(around, settings).await?;
    let key = public_key(&add.key)?;
    let sources = match add.source.is_empty() {
        true => SourceScope::All,
        false => SourceScope::Only(add.source.iter().cloned().collect()),
    };
    let statement = repository.trust.statement();
    if statement.revoked.iter().any(|r| r.key_id == key.key_id()) {
        return Err(Error::new(ErrorKind::Conflict, key.to_string(), "was revoked, and stays so")
            .with_hint(
                "remove host.key.pem and host.pub.pem on that host; its next run makes a new key to add",
            )
            .into());
    }
    let mut grants: Vec<KeyGrant> =
        statement.keys.iter().filter(|grant| grant.public_key != key).cloned().collect();
    let revoked = statement.revoked.clone();
    let roles = add.role.iter().copied().map(Role::from).collect();
    grants.push(KeyGrant { public_key: key, roles, sources });
    succeed(around, settings, &add.owner, &reader, repository, grants, revoked).await
}

async fn revoke_host(around: &Surroundings, settings: &Settings, revoke: &Revoke) -> Outcome {
    if revoke.last_good.is_empty() && !revoke.nothing_good {
        return Err(Failure::usage(
            "argument --last-good ID or --nothing-good",
            "how much of what this host made stays good was not said",
            "--last-good ID keeps that backup and the older ones of its source; --nothing-good keeps none",
        ));
    }
    let (reader, repository) = open(around, settings).await?;
    let key_id = match Sha256Digest::from_hex(&revoke.key) {
        Some(key_id) => key_id,
        None => public_key(revoke.key.as_ref())?.key_id(),
    };
    let statement = repository.trust.statement();
    if !statement.keys.iter().any(|grant| grant.public_key.key_id() == key_id) {
        return Err(Error::new(ErrorKind::NotFound, key_id.to_string(), "this repository has no such key")
            .with_hint("`strongroom trust show` lists the keys")
            .into());
    }
    let source = reader.place.ports.source.as_ref();
    let mut last_good = Vec::new();
    for id in &revoke.last_good {
        let at = pipeline::find(source, *id).await?;
        let listed = pipeline::list(source, reader.trust.as_ref(), Some(&at.source)).await?;
        let entry = listed.into_iter().find(|entry| entry.at == at);
        let vouched = match entry {
            Some(entry) => entry.manifest.map_err(Failure::from)?,
            None => return Err(Error::new(ErrorKind::NotFound, id.to_string(), "no such backup").into()),
        };
        if vouched.origin() != (Origin::Trusted { signer: key_id }) {
            return Err(Error::new(
                ErrorKind::Config,
                id.to_string(),
                "was not signed by the key to be revoked",
            )
            .with_hint("`strongroom show` names the signer of a backup")
            .into());
        }
        let (seq, pae_sha256) = (vouched.manifest().seq, vouched.pae_sha256());
        last_good.push(LastGood { source: at.source, seq, pae_sha256 });
    }
    let mut revoked: Vec<Revocation> =
        statement.revoked.iter().filter(|r| r.key_id != key_id).cloned().collect();
    revoked.push(Revocation { key_id, last_good });
    let grants = statement.keys.clone();
    succeed(around, settings, &revoke.owner, &reader, repository, grants, revoked).await
}

async fn succeed(
    around: &Surroundings,
    settings: &Settings,
    owner: &OwnerArgs,
    reader: &Reader,
    mut repository: crate::repository::Repository,
    grants: Vec<KeyGrant>,
    revoked: Vec<Revocation>,
) -> Outcome {
    let state = State::open(&settings.state_dir)?;
    let path = owner.owner_key.clone().unwrap_or_else(|| state.owner_key());
    let owner = keys::signing_key(&path, &settings.passphrase, &around.printer)?;
    let (n, signed) = repository.trust.succeed(&owner, grants, revoked)?;
    repository::put(&around.cx, reader.place.ports.sink.as_ref(), &trust_object(n), &signed).await?;
    // Whoever removes the file now must not make this machine believe the one before again.
    repository.stored_trust(n, &signed, &state)?;
    for destination in settings.destinations.iter().skip(1) {
        let other = wiring::place(destination, &around.env)?;
        let [from, to] = [&reader.place, &other].map(|place| carry::reading(around, settings, &state, place));
        let carried = carry(&around.cx, from, to, other.ports.sink.as_ref(), repository.id(), false).await;
        if let Err(failure) = carried {
            let why = failure.for_a_person();
            around.printer.warn(&format!(
                "{} does not have {} yet; the next backup into both, or `strongroom copy`, takes it there: {}",
                other.name,
                trust_object(n),
                why.trim_end()
            ));
        }
    }
    let text = format!("wrote {}; `strongroom trust show` shows it", trust_object(n));
    around.printer.result(&json!({ "trust": n }), &text)
}

fn public_key(path: &std::path::Path) -> Outcome<VerifyingKey> {
    let about = |e: envelope_crypto::keys::KeyError| e.about(path.display().to_string());
    let file = read_key_file(path).map_err(about)?;
    Ok(VerifyingKey::from_pem(&file.contents).map_err(about)?)
}
