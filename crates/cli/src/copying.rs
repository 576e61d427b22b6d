//! Two places of one repository: where backups are, and where they are copied to.

use std::sync::Arc;

use backup_core::pipeline::CopyParts;
use backup_core::{Auditor, Sink, SourceName};
use envelope_crypto::sign::SigningKey;
use envelope_crypto::trust::{RepositoryTrust, Role};

use crate::args::CopyArgs;
use crate::carry::{self, carry};
use crate::commands::Surroundings;
use crate::failure::{Failure, Outcome};
use crate::host;
use crate::reading::{OriginArgs, Reader};
use crate::repository::Repository;
use crate::settings::Settings;
use crate::wiring::{self, Place};

/// What copying works with.
pub(crate) struct Copying {
    /// Where backups are.
    pub(crate) from: Reader,
    /// Where they go.
    pub(crate) to: Place,
    /// Whom both places believe.
    pub(crate) trust: Arc<RepositoryTrust>,
    sink: Arc<dyn Sink>,
    auditor: Arc<dyn Auditor>,
    host: Option<SigningKey>,
    repair: bool,
}

impl Copying {
    /// Opens both places, and carries the repository to the second.
    ///
    /// # Errors
    /// Those of [`Reader::open`] and of [`carry`].
    pub(crate) async fn open(around: &Surroundings, settings: &Settings, args: &CopyArgs) -> Outcome<Self> {
        let to = settings.destination_named("flag --to", &args.to).map_err(Failure::Settings)?;
        let to = wiring::place(&to, &around.env)?;
        let from = Reader::open(around, settings, &OriginArgs::default()).await?;
        if to.name == from.place.name {
            return Err(Failure::usage(
                "flag --to",
                "is the place that is copied from",
                "a second copy in the same place is none: name another",
            ));
        }
        let Some(repository) = &from.repository else {
            return Err(backup_core::Error::bug("a copy without a repository").into());
        };
        let [here, there] =
            [&from.place, &to].map(|place| carry::reading(around, settings, &from.state, place));
        carry(&around.cx, here, there, to.ports.sink.as_ref(), repository.id(), args.repair).await?;
        let other = Repository::read(there).await?;
        let newer = other.trust.statement().n > repository.trust.statement().n;
        let trust = Arc::new(if newer { other.trust } else { repository.trust.clone() });
        // A key is not made for receipts that nobody would believe.
        let host = match host::host_key_here(&from.state)? {
            Some(_) => Some(host::host_key(&from.state, &around.printer)?),
            None => None,
        };
        let sink = wiring::limited(settings, &to);
        Ok(Self { trust, sink, auditor: wiring::auditor(), host, repair: args.repair, from, to })
    }

    /// The ports for a backup of `source`; `thorough` reads also what is there already.
    pub(crate) fn parts(&self, source: &SourceName, thorough: bool) -> CopyParts<'_> {
        let allows =
            |role| self.host.as_ref().is_some_and(|key| self.trust.allows(key.verifying_key(), role, source));
        let trusted = [Role::Backup, Role::Pruner, Role::Verifier, Role::Operator].into_iter().any(allows);
        CopyParts {
            from: self.from.place.ports.source.as_ref(),
            from_name: &self.from.place.name,
            to: self.sink.as_ref(),
            there: self.to.ports.source.as_ref(),
            to_name: &self.to.name,
            repair: self.repair.then_some(self.to.ports.remover.as_ref()),
            trust: self.trust.as_ref(),
            auditor: Arc::clone(&self.auditor),
            signer: self.host.as_ref().filter(|_| trusted).map(|key| key as _),
            tells_age: allows(Role::Pruner),
            thorough: thorough || self.repair,
        }
    }

    /// Whether copies of `source` get a receipt.
    pub(crate) fn signs(&self, source: &SourceName) -> bool {
        self.parts(source, false).signer.is_some()
    }
}
