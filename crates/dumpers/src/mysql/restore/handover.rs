//! From the temporary databases to the targets.

use std::collections::BTreeSet;

use backup_core::{Context, Error, RestoreRequest, Result, Stage};

use super::route::{Part, Waiting};
use super::{Looked, MysqlRestorer, family, held};
use crate::mysql::config::Definers;
use crate::mysql::error::MysqlError;
use crate::mysql::look::tables;
use crate::mysql::names::identifier;
use crate::mysql::query::Sql;
use crate::mysql::tools::Flavour;

impl MysqlRestorer {
    /// Moves all tables to their targets, makes what waits there, and drops what is empty then.
    pub(super) async fn hand_over(
        &self,
        cx: &Context,
        looked: &Looked,
        mut waiting: Waiting,
        request: &RestoreRequest,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let sql = &looked.sql.patient();
        if waiting.parts.is_empty() {
            return Err(Error::bug("a dump without a database was applied"));
        }
        let parts: Vec<Part> = waiting.parts.iter().map(|(_, part)| part.clone()).collect();
        let made = self.make_targets(cx, looked, &parts, request.into_existing).await?;
        let (from, to) = (family(&request.format), looked.server.flavour);
        // From here on what was begun is finished: a stop in between would leave less than nothing.
        let cx = &Context::new();
        let mut ours = waiting.names.clone();
        match move_tables(cx, sql, &parts, &mut ours).await {
            Ok(()) => {}
            // The answer is lost, so nothing is taken back: the server may still be at it.
            Err(MysqlError::Unreachable(said)) => {
                if !are_moved(cx, sql, &parts, &ours).await {
                    let drafts: Vec<&str> = parts.iter().map(|part| &*part.draft).collect();
                    let said = format!("{said}; what was not moved is in {}", drafts.join(", "));
                    return Err(self.fail(MysqlError::Unsettled(said)));
                }
            }
            // Nothing was moved then, so whatever is there is somebody else's.
            Err(error) => return Err(with_left(self.fail(error), &undo(sql, &made, &BTreeSet::new()).await)),
        }
        let accounts = self.settle_accounts(cx, looked, &mut waiting, warnings).await;
        let mut met = false;
        let defined = match accounts {
            Ok(()) => match self.settle_definers(cx, looked, &mut waiting, warnings).await {
                Ok(()) => define(cx, sql, &waiting.definitions).await.map_err(|error| {
                    met = matches!(error, MysqlError::Clash(_));
                    self.fail(error.of_other_family(from, to))
                }),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if let Err(error) = defined {
            // What somebody else made there meanwhile has a name of ours, and is not to be dropped.
            let error = if made.len() == parts.len() && !met {
                with_left(error, &undo(sql, &made, &ours).await)
            } else {
                let what = format!(
                    "the tables of the dump are in place, but a view, trigger, routine, event or account could not be \
                     made: {}",
                    error.what()
                );
                Error::new(error.kind(), error.subject().to_owned(), what)
                    .with_hint("make what is missing by hand, or remove the tables and restore to a new name")
                    .at(Stage::Restore)
                    .with_source(error)
            };
            return Err(if self.accounts && !waiting.accounts.is_empty() {
                let what =
                    format!("{}; accounts and grants of the dump were made, all or some", error.what());
                let hint = error.hint().unwrap_or("look which accounts are there").to_owned();
                Error::new(error.kind(), error.subject().to_owned(), what)
                    .with_hint(hint)
                    .at(Stage::Restore)
                    .with_source(error)
            } else {
                error
            });
        }
        if let Err(error) = drop_empty(cx, sql, &parts).await {
            warnings.push(format!("a temporary database could not be dropped: {error}"));
        }
        Ok(())
    }

    /// Creates the accounts of a dump on request, else says that they are there.
    async fn settle_accounts(
        &self,
        cx: &Context,
        looked: &Looked,
        waiting: &mut Waiting,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        if waiting.accounts.is_empty() {
            return Ok(());
        }
        if self.accounts {
            // What the program says repeats statements, and with them the hashes of passwords.
            let done = define(cx, &looked.sql, &waiting.accounts).await;
            done.map_err(|error| self.fail(error.without_statement()))
        } else {
            warnings.push(
                "the dump holds accounts and grants, which were not asked for: they were left out".to_owned(),
            );
            Ok(())
        }
    }

    async fn settle_definers(
        &self,
        cx: &Context,
        looked: &Looked,
        waiting: &mut Waiting,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let mine = |name: &String| *name == looked.server.user;
        let why = match self.definers {
            Definers::Keep => None,
            Definers::Current => Some(String::new()),
            Definers::Auto if waiting.definers.iter().all(mine) => None,
            Definers::Auto => {
                let may = ["SUPER", "SET USER", "SET_USER_ID", "SET_ANY_DEFINER", "ALL PRIVILEGES"];
                let grants = &looked.server.grants;
                let known = accounts(cx, &looked.sql, looked.server.flavour).await;
                if !may.iter().any(|privilege| grants.everywhere(privilege)) {
                    Some("this user may not set another definer".to_owned())
                } else {
                    match known {
                        Ok(known) => {
                            let missing: Vec<&str> = waiting
                                .definers
                                .iter()
                                .filter(|name| !known.contains(*name))
                                .map(String::as_str)
                                .collect();
                            (!missing.is_empty())
                                .then(|| format!("these do not exist here: {}", missing.join(", ")))
                        }
                        Err(_) => Some("this user may not see which accounts exist".to_owned()),
                    }
                }
            }
        };
        if let Some(why) = why {
            waiting.define_as_current_user();
            if self.definers == Definers::Auto {
                warnings
                    .push(format!("{} became the definer of views and routines: {why}", looked.server.user));
            }
        }
        Ok(())
    }

    /// Creates the targets that do not exist, and gives those.
    async fn make_targets(
        &self,
        cx: &Context,
        looked: &Looked,
        parts: &[Part],
        into_existing: bool,
    ) -> Result<Vec<String>> {
        let sql = &looked.sql;
        let mut made = Vec::new();
        for part in parts {
            let target = &part.target;
            let done = if looked.existing.contains_key(target) {
                // Somebody may have filled it since the first look.
                match held(cx, sql, std::slice::from_ref(target)).await {
                    Ok(held) if !into_existing && held.values().any(|held| !held.is_empty()) => {
                        Err(MysqlError::Exists(target.clone()))
                    }
                    other => other.map(drop),
                }
            } else {
                let statement = format!("CREATE DATABASE {} {}", identifier(target), part.character_set);
                match sql.ask(cx, &statement).await {
                    Ok(_) => {
                        made.push(target.clone());
                        Ok(())
                    }
                    Err(MysqlError::Tool(error)) if error.stderr().contains("1007") => {
                        Err(MysqlError::Exists(target.clone()))
                    }
                    Err(error) => Err(error),
                }
            };
            if let Err(error) = done {
                let mut left = undo(sql, &made, &BTreeSet::new()).await;
                if matches!(error, MysqlError::Unreachable(_)) && !looked.existing.contains_key(target) {
                    left.push(format!("database {target:?} may have been made, and holds nothing then"));
                }
                return Err(with_left(self.fail(error), &left));
            }
        }
        Ok(made)
    }
}

/// The error, with what could not be taken back.
fn with_left(error: Error, left: &[String]) -> Error {
    if left.is_empty() {
        return error;
    }
    let hint = format!("not everything was taken back: {}", left.join("; "));
    Error::new(error.kind(), error.subject().to_owned(), error.what().to_owned())
        .with_hint(hint)
        .at(Stage::Restore)
        .with_source(error)
}

/// Whether all tables stand in their targets and none in the temporary databases.
async fn are_moved(cx: &Context, sql: &Sql, parts: &[Part], ours: &BTreeSet<(String, String)>) -> bool {
    let drafts: Vec<String> = parts.iter().map(|part| part.draft.clone()).collect();
    let targets: Vec<String> = parts.iter().map(|part| part.target.clone()).collect();
    let (Ok(left), Ok(there)) = (tables(cx, sql, &drafts).await, tables(cx, sql, &targets).await) else {
        return false;
    };
    let there: BTreeSet<(String, String)> = there.iter().map(|table| table.key()).collect();
    // Views and routines come later.
    left.is_empty() && !ours.is_empty() && ours.iter().any(|name| there.contains(name))
}

/// Every account and role, as `user@host`.
async fn accounts(cx: &Context, sql: &Sql, flavour: Flavour) -> Result<BTreeSet<String>, MysqlError> {
    let name = match flavour {
        Flavour::MariaDb => "IF(is_role = 'Y', User, CONCAT(User, '@', Host))",
        Flavour::MySql => "CONCAT(User, '@', Host)",
    };
    let rows = sql.ask(cx, &format!("SELECT {name} FROM mysql.user")).await?;
    Ok(rows.into_iter().flatten().collect())
}

/// One statement for all tables: the server does all of it or nothing.
///
/// Notes their new places in `ours` before.
async fn move_tables(
    cx: &Context,
    sql: &Sql,
    parts: &[Part],
    ours: &mut BTreeSet<(String, String)>,
) -> Result<(), MysqlError> {
    let drafts: Vec<String> = parts.iter().map(|part| part.draft.clone()).collect();
    let mut moves = Vec::new();
    for table in tables(cx, sql, &drafts).await? {
        let Some(part) = parts.iter().find(|part| part.draft == table.database) else { continue };
        ours.insert((part.target.clone(), table.name.clone()));
        let name = identifier(&table.name);
        moves.push(format!("{}.{name} TO {}.{name}", identifier(&part.draft), identifier(&part.target)));
    }
    if moves.is_empty() {
        return Ok(());
    }
    let statement = format!("SET SESSION foreign_key_checks = 0;\nRENAME TABLE {}", moves.join(",\n"));
    sql.ask(cx, &statement).await.map(drop)
}

/// Runs the text of definitions.
async fn define(cx: &Context, sql: &Sql, text: &[u8]) -> Result<(), MysqlError> {
    if text.is_empty() {
        return Ok(());
    }
    sql.run(cx, text).await
}

/// Drops the targets that this run created, as far as they hold nothing but what is ours; gives what
/// could not be dropped.
async fn undo(sql: &Sql, made: &[String], ours: &BTreeSet<(String, String)>) -> Vec<String> {
    let cx = Context::new();
    let mut left = Vec::new();
    for target in made {
        let found = match held(&cx, sql, std::slice::from_ref(target)).await {
            Ok(found) => found,
            Err(error) => {
                left.push(format!("database {target:?} could not be looked at: {error}"));
                continue;
            }
        };
        let own = |name: &String| ours.contains(&(target.clone(), name.clone()));
        if found.get(target).is_some_and(|names| !names.iter().all(own)) {
            left.push(format!("database {target:?} holds what somebody else put there, and stays"));
            continue;
        }
        let statement =
            format!("SET SESSION foreign_key_checks = 0;\nDROP DATABASE IF EXISTS {};", identifier(target));
        if let Err(error) = sql.ask(&cx, &statement).await {
            left.push(format!("database {target:?} could not be dropped: {error}"));
        }
    }
    left
}

/// Drops the temporary databases, which must hold nothing by now.
async fn drop_empty(cx: &Context, sql: &Sql, parts: &[Part]) -> Result<(), MysqlError> {
    let drafts: Vec<String> = parts.iter().map(|part| part.draft.clone()).collect();
    let left = tables(cx, sql, &drafts).await?;
    if let Some(table) = left.first() {
        return Err(MysqlError::Answer(format!("{} is still there", table.qualified())));
    }
    let drops: Vec<String> =
        drafts.iter().map(|name| format!("DROP DATABASE {};", identifier(name))).collect();
    sql.ask(cx, &drops.join("\n")).await.map(drop)
}
