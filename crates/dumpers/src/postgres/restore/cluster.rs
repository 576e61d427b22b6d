//! A whole server's bundle: roles first, each database under a temporary name, all names at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backup_core::{Context, Dump, Error, ErrorKind, RestorePlan, RestoreRequest, Restored, Result, Stage};

use super::super::PG_CUSTOM;
use super::super::cluster::globals::{Globals, Present};
use super::super::cluster::{
    DATABASES, GLOBALS_FORMAT, INDEX_FORMAT, Index, PG_BUNDLE, Patterns, index_of, text_of,
};
use super::super::error::PostgresError;
use super::draft::{Draft, discarded, hand_over};
use super::head::Head;
use super::run::Run;
use super::{NAME_MAX, PostgresRestorer};
use crate::bundle::{Member, Members};

/// What was made so far, to be handed over or undone together.
#[derive(Debug, Default)]
struct Made {
    globals: Globals,
    drafts: Vec<Draft>,
    warnings: Vec<String>,
}

impl PostgresRestorer {
    /// The name of one database, where the settings name one to make.
    fn single_target(&self) -> Option<&str> {
        // Those two exist everywhere and are connected to.
        self.connection.database().filter(|name| !["", "postgres", "template1"].contains(name))
    }

    fn wants_globals(&self) -> bool {
        self.config.globals.unwrap_or(true)
    }

    fn misconfigured(&self, what: String, hint: &str) -> Error {
        Error::new(ErrorKind::Config, self.connection.describe_server(), what)
            .with_hint(hint)
            .at(Stage::Restore)
    }

    /// Other names by old name.
    fn renames(&self) -> Result<BTreeMap<&str, &str>> {
        let pairs = self.config.rename_databases.iter().map(|pair| {
            pair.split_once('=').ok_or_else(|| {
                self.misconfigured(
                    format!("rename_databases holds {pair:?}, which is not old=new"),
                    "write rename_databases = [\"old=new\"]",
                )
            })
        });
        pairs.collect()
    }

    pub(super) async fn plan_cluster(&self, cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        let subject = self.connection.describe_server();
        if request.into_existing {
            return Err(Error::new(
                ErrorKind::Unsupported,
                subject,
                "the databases of a server are restored as new ones",
            )
            .with_hint("set database_prefix or rename_databases"));
        }
        for (set, setting) in [(self.is_partial(), "tables and schemas"), (self.config.clean, "clean")] {
            if set {
                let what = format!("{setting} cannot be used for a whole server");
                return Err(self.misconfigured(what, "restore one database first, then a part of that"));
            }
        }
        self.renames()?;
        let psql = self.maintenance(cx).await.map_err(|error| self.fail(error))?;
        let single: Vec<&str> = self.single_target().into_iter().collect();
        let looked = self.look(cx, &psql, &single).await.map_err(|error| self.fail(error))?;
        // Other names are known when the dump is read, before anything is made.
        if single.iter().any(|name| looked.exists(name)) {
            return Err(self.fail(PostgresError::Exists));
        }
        let client = self.client(cx, &looked, None).await.map_err(|error| self.fail(error))?;
        self.refuse_without_createdb(&looked)?;
        let mut steps = Vec::new();
        if self.wants_globals() {
            steps.push(
                "make the roles and tablespaces that do not exist here, where the dump has them; keep those that do"
                    .to_owned(),
            );
        }
        let which = match (&*self.config.databases, &*self.config.exclude_databases) {
            ([], []) => "each database".to_owned(),
            (databases, []) => format!("databases {}", databases.join(", ")),
            ([], but) => format!("each database but {}", but.join(", ")),
            (databases, but) => format!("databases {} but {}", databases.join(", "), but.join(", ")),
        };
        steps.push(format!(
            "create {which} under a temporary name on server {} and apply the dump with pg_restore {}",
            looked.server, client.version
        ));
        let names = match (self.single_target(), &self.config.database_prefix) {
            (Some(name), _) => format!("{name:?}, as there may be only one"),
            (None, Some(prefix)) => format!("its own name behind {prefix:?}"),
            (None, None) => "its own name, which must be free".to_owned(),
        };
        steps.push(format!("after the verified end of the dump give each {names}, all at once"));
        steps.extend(self.remarks(&looked));
        Ok(RestorePlan::looked_at(request, subject, steps))
    }

    pub(super) async fn restore_cluster(
        &self,
        cx: &Context,
        plan: RestorePlan,
        dump: Dump,
    ) -> Result<Restored> {
        cx.check(plan.target())?;
        let psql = self.maintenance(cx).await.map_err(|error| self.fail(error))?;
        let read = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&read);
        let bytes = dump.bytes.inspect(move |chunk| {
            counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        });
        let mut made = Made::default();
        let outcome = async {
            let run = Run::begin(cx, &psql).await.map_err(|error| self.fail(error))?;
            self.build_all(cx, &run, Members::new(PG_BUNDLE, bytes), &mut made).await?;
            cx.check(plan.target())?;
            hand_over(cx, &psql, &made.drafts).await.map_err(|error| self.fail(error))
        }
        .await;
        match outcome {
            Ok(()) => {
                let mut warnings = std::mem::take(&mut made.globals.warnings);
                warnings.append(&mut made.warnings);
                Ok(Restored {
                    target: plan.target().to_owned(),
                    bytes: read.load(Ordering::Relaxed),
                    warnings,
                })
            }
            Err(error) => {
                let error = discarded(&psql, &made.drafts, error).await;
                let left = made.globals.undo(&psql).await;
                if left.is_empty() {
                    return Err(error);
                }
                // What the hint says of databases comes first: they hold restored data.
                let left = format!("made by this restore and to be dropped by hand: {}", left.join(", "));
                let hint = match error.hint() {
                    Some(hint) => format!("{hint}; {left}"),
                    None => left,
                };
                Err(error.with_hint(hint))
            }
        }
    }

    async fn build_all(&self, cx: &Context, run: &Run, mut members: Members, made: &mut Made) -> Result<()> {
        let psql = &run.psql;
        let Some(first) = next(cx, &mut members).await?.filter(|member| member.head.format == INDEX_FORMAT)
        else {
            return Err(broken("it does not begin with a list of its databases"));
        };
        let index = index_of(first.bytes).await?;
        let names = self.names(&index)?;
        let targets: Vec<&str> = names.values().map(String::as_str).collect();
        let mut looked = self.look(cx, psql, &targets).await.map_err(|error| self.fail(error))?;
        let taken: Vec<String> =
            targets.iter().filter(|name| looked.exists(name)).map(|name| format!("{name:?}")).collect();
        if !taken.is_empty() {
            let what = format!("these databases exist already: {}", taken.join(", "));
            return Err(Error::new(ErrorKind::Conflict, self.connection.describe_server(), what)
                .with_hint("set database_prefix, rename_databases or exclude_databases")
                .at(Stage::Restore));
        }
        self.drop_leftovers(cx, psql, &looked, &mut made.warnings).await;
        let mut missing: BTreeSet<String> = names.keys().cloned().collect();
        while let Some(member) = next(cx, &mut members).await? {
            match member.head.format.as_str() {
                GLOBALS_FORMAT if self.wants_globals() => {
                    let script = text_of(&member.head.name, member.bytes).await?;
                    let present = Present::ask(cx, psql).await.map_err(|error| self.fail(error))?;
                    let mut globals = Globals::sorted(&script, &present)
                        .map_err(|error| broken(&format!("its member {:?}: {error}", member.head.name)))?;
                    let applied = globals.apply(cx, psql).await;
                    made.globals = globals;
                    applied.map_err(|error| {
                        let error = self.fail(error);
                        match error.kind() {
                            ErrorKind::Denied => error.with_hint(
                                "restore as a superuser, or set globals = false to leave roles out",
                            ),
                            _ => error,
                        }
                    })?;
                    looked = self.look(cx, psql, &targets).await.map_err(|error| self.fail(error))?;
                }
                GLOBALS_FORMAT => {}
                PG_CUSTOM => {
                    let old =
                        member.head.name.strip_prefix(DATABASES).unwrap_or(&member.head.name).to_owned();
                    let Some(target) = names.get(&old) else { continue };
                    if !missing.remove(&old) {
                        return Err(broken(&format!("database {old:?} is in it twice")));
                    }
                    let (head, bytes) = Head::read(cx, member.bytes).await?;
                    let mut warnings = Vec::new();
                    let built = self.build(cx, run, &looked, target, &head, bytes, &mut warnings).await;
                    made.warnings.extend(warnings.iter().map(|warning| format!("{target:?}: {warning}")));
                    made.drafts.push(built?.0);
                }
                other => return Err(broken(&format!("it has a member of the unknown format {other:?}"))),
            }
        }
        match missing.first() {
            Some(name) => Err(broken(&format!("database {name:?} is listed and not in it"))),
            None => Ok(()),
        }
    }

    /// The names of the databases to restore, by their names in the dump.
    fn names(&self, index: &Index) -> Result<BTreeMap<String, String>> {
        let patterns = Patterns::new(&self.config.databases, &self.config.exclude_databases);
        let all = index.databases.iter().map(|database| database.name.as_str());
        if let Some(pattern) = patterns.unmatched(&all) {
            let has: Vec<&str> = all.collect();
            return Err(Error::new(
                ErrorKind::NotFound,
                PG_BUNDLE,
                format!("no database in the dump fits {pattern:?}"),
            )
            .with_hint(format!("the dump has {}", has.join(", ")))
            .at(Stage::Restore));
        }
        let chosen: Vec<&str> = all.filter(|name| patterns.take(name)).collect();
        let renames = self.renames()?;
        if let Some(old) = renames.keys().find(|old| !chosen.contains(old)) {
            let what = format!("rename_databases names {old:?}, which is not restored");
            return Err(self.misconfigured(what, "correct rename_databases or databases"));
        }
        if let Some(name) = self.single_target() {
            let [old] = chosen.as_slice() else {
                let what = format!("names one database, and {} of the dump are to be restored", chosen.len());
                return Err(self
                    .misconfigured(what, "leave the name out of the target, or choose one with databases"));
            };
            return Ok([((*old).to_owned(), name.to_owned())].into());
        }
        let mut names = BTreeMap::new();
        let mut used = BTreeSet::new();
        for old in chosen {
            let plain = renames.get(old).copied().unwrap_or(old);
            let name = format!("{}{plain}", self.config.database_prefix.as_deref().unwrap_or_default());
            if name.is_empty() || name.len() > NAME_MAX {
                let what = format!("database {old:?} would be called {name:?}, which is no name for one");
                return Err(self.misconfigured(what, "names have 1 to 63 bytes"));
            }
            if !used.insert(name.clone()) {
                let what = format!("two databases would be called {name:?}");
                return Err(self.misconfigured(what, "correct rename_databases"));
            }
            names.insert(old.to_owned(), name);
        }
        Ok(names)
    }
}

/// The next member, also where the input stalls.
async fn next(cx: &Context, members: &mut Members) -> Result<Option<Member>> {
    tokio::select! {
        biased;
        () = cx.cancel().cancelled() => Err(Error::cancelled("restore").at(Stage::Restore)),
        member = members.next() => member,
    }
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::Integrity, PG_BUNDLE, format!("not a whole dump of a server: {what}"))
        .with_hint("use another backup")
        .at(Stage::Restore)
}
