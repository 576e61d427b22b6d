//! `pg_restore` into a database of a temporary name, renamed when everything is there.
//!
//! A restore into an existing database runs as one transaction instead. In both cases the program
//! gets the last bytes of the archive only after the verified end of the dump, so it cannot finish
//! with less.

mod build;
mod cluster;
mod draft;
mod head;
mod look;
mod owners;
mod parallel;
mod run;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, Error, ErrorKind, RestorePlan, RestoreRequest, Restored, Restorer, Result,
    Stage,
};

use super::config::{Connection, Owners, PostgresConfig};
use super::error::PostgresError;
use super::names::identifier;
use super::{PG_BUNDLE, PG_CUSTOM, PG_PARALLEL, check_extra_args};
use crate::command::{unaccepted, waiting};
use crate::tool::{Places, Waiting};
pub(super) use draft::random_u32;
use draft::temporary;
use head::Head;
use look::Looked;
use run::Run;

/// PostgreSQL's names have at most so many bytes.
const NAME_MAX: usize = 63;

/// Restores into a database that is new, or on request into an existing one.
#[derive(Debug)]
pub struct PostgresRestorer {
    connection: Connection,
    config: PostgresConfig,
    places: Places,
    waiting: Waiting,
}

impl PostgresRestorer {
    /// The database of these settings; nothing is connected yet.
    ///
    /// # Errors
    /// `Config` for a name that no database can have, for a wrong URI, and for settings and arguments
    /// that are not those of a restore.
    pub fn new(config: &PostgresConfig) -> Result<Self> {
        check_extra_args(&config.extra_args)?;
        config.check_target()?;
        let connection = config.connection()?;
        if connection.database().is_some_and(|name| name.len() > NAME_MAX) {
            return Err(unnamed("names a database longer than 63 bytes"));
        }
        Ok(Self {
            connection,
            config: config.clone(),
            places: Places::new(&config.tool_dirs),
            waiting: waiting(config.stall_seconds),
        })
    }

    /// The database to make.
    fn target(&self) -> Result<&str> {
        match self.connection.database() {
            None | Some("") => Err(unnamed("names no database")),
            Some(name) => Ok(name),
        }
    }

    fn fail(&self, error: PostgresError) -> Error {
        error.about(&self.connection.describe()).at(Stage::Restore)
    }

    /// What a plan says about owners, leftovers and a selection.
    fn remarks(&self, looked: &Looked) -> Vec<String> {
        let mut remarks = vec![match self.config.owners {
            Owners::Keep => "keep owners and privileges; a role that is missing fails the restore".to_owned(),
            Owners::Drop => {
                format!("leave owners and privileges out: everything belongs to {:?}", looked.user)
            }
            Owners::Auto if looked.superuser => {
                "keep owners and privileges if all roles in the dump exist here, else leave them out"
                    .to_owned()
            }
            Owners::Auto => format!(
                "leave owners and privileges out unless all of them are {:?}, who is no superuser",
                looked.user
            ),
        }];
        if !self.config.tables.is_empty() {
            remarks.push(format!(
                "of the tables only {}, without their indexes, constraints and triggers",
                self.config.tables.join(", ")
            ));
        }
        if !self.config.schemas.is_empty() {
            remarks.push(format!("of the schemas only {}", self.config.schemas.join(", ")));
        }
        remarks.extend(looked.leftovers.iter().map(|leftover| leftover.remark(self.config.drop_leftovers)));
        remarks
    }
}

fn unnamed(what: &str) -> Error {
    Error::new(ErrorKind::Config, "PostgreSQL target", what)
        .with_hint("name the database to create: postgresql://user@host/new_database")
}

#[async_trait]
impl Restorer for PostgresRestorer {
    fn accepts(&self, format: &DumpFormat) -> bool {
        [PG_CUSTOM, PG_BUNDLE, PG_PARALLEL].contains(&format.as_str())
    }

    async fn plan(&self, cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        let subject = self.connection.describe();
        if !self.accepts(&request.format) {
            return Err(unaccepted(&subject, &request.format));
        }
        if request.format.as_str() == PG_BUNDLE {
            return self.plan_cluster(cx, request).await;
        }
        let target = self.target()?;
        let psql = self.maintenance(cx).await.map_err(|error| self.fail(error))?;
        let looked = self.look(cx, &psql, &[target]).await.map_err(|error| self.fail(error))?;
        let client = self.client(cx, &looked, None).await.map_err(|error| self.fail(error))?;
        let exists = looked.exists(target);
        if exists && !request.into_existing {
            return Err(self.fail(PostgresError::Exists));
        }
        if request.format.as_str() == PG_PARALLEL {
            self.refuse_for_parallel(exists)?;
        }
        if exists && self.is_partial() {
            return Err(Error::new(
                ErrorKind::Config,
                subject,
                "tables and schemas can be chosen for a new database only",
            )
            .with_hint(
                "restore them into a new database and copy from there: pg_restore may end before the \
                        verified end of the dump",
            ));
        }
        if !exists && self.config.clean {
            return Err(Error::new(ErrorKind::Config, subject, "clean is for a database that exists")
                .with_hint("leave clean out, or allow restoring into what exists (flag --into-existing)"));
        }
        if !exists {
            self.refuse_without_createdb(&looked)?;
        }
        let mut steps = if exists {
            let clean = if self.config.clean { "drop what the dump holds and " } else { "" };
            vec![format!(
                "{clean}apply the dump to database {target:?} with pg_restore {} in one transaction",
                client.version
            )]
        } else {
            vec![
                format!("create a database {:?} on server {}", temporary(target, "XXXXXXXX"), looked.server),
                format!("apply the dump to it with pg_restore {}", client.version),
                format!("after the verified end of the dump rename it to {target:?}"),
            ]
        };
        steps.extend(self.remarks(&looked));
        let exists = if exists { "yes" } else { "no" };
        Ok(RestorePlan::looked_at(request, subject, steps).with_detail("exists", exists))
    }

    async fn restore(&self, cx: &Context, plan: RestorePlan, dump: Dump) -> Result<Restored> {
        if dump.format.as_str() == PG_BUNDLE {
            return self.restore_cluster(cx, plan, dump).await;
        }
        cx.check(plan.target())?;
        let target = self.target()?;
        if plan.request().format.as_str() == PG_PARALLEL {
            return self.restore_parallel(cx, plan.target(), target, dump).await;
        }
        let (head, bytes) = Head::read(cx, dump.bytes).await?;
        let psql = self.maintenance(cx).await.map_err(|error| self.fail(error))?;
        let looked = self.look(cx, &psql, &[target]).await.map_err(|error| self.fail(error))?;
        let mut warnings = Vec::new();
        self.drop_leftovers(cx, &psql, &looked, &mut warnings).await;
        if looked.exists(target) {
            if plan.detail("exists") != Some("yes") {
                return Err(self.fail(PostgresError::Exists));
            }
            let bytes = self.apply_to_existing(cx, &looked, target, &head, bytes, &mut warnings).await?;
            return Ok(Restored { target: plan.target().to_owned(), bytes, warnings });
        }
        let run = Run::begin(cx, &psql).await.map_err(|error| self.fail(error))?;
        let (draft, bytes) = self.build(cx, &run, &looked, target, &head, bytes, &mut warnings).await?;
        let drafts = [draft];
        let handed = match cx.check(plan.target()) {
            Ok(()) => draft::hand_over(cx, &psql, &drafts).await.map_err(|error| self.fail(error)),
            Err(error) => Err(error),
        };
        match handed {
            Ok(()) => Ok(Restored { target: plan.target().to_owned(), bytes, warnings }),
            Err(error) => Err(draft::discarded(&psql, &drafts, error).await),
        }
    }
}

impl PostgresRestorer {
    fn refuse_without_createdb(&self, looked: &Looked) -> Result<()> {
        if looked.may_create {
            return Ok(());
        }
        let grant = format!("run as an administrator: ALTER ROLE {} CREATEDB;", identifier(&looked.user));
        let what = "this user may not create databases";
        Err(Error::new(ErrorKind::Denied, self.connection.describe(), what)
            .with_hint(grant)
            .at(Stage::Restore))
    }
}
