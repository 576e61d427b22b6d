//! From the temporary databases to the targets.

use std::collections::BTreeSet;

use backup_core::{Context, Error, Result, Stage};

use super::route::{Part, Waiting};
use super::{Looked, MysqlRestorer};
use crate::mysql::config::Definers;
use crate::mysql::error::MysqlError;
use crate::mysql::look::tables;
use crate::mysql::names::{identifier, literal};
use crate::mysql::query::Sql;
use crate::mysql::tools::Flavour;

impl MysqlRestorer {
    /// Moves all tables to their targets, makes what waits there, and drops what is empty then.
    pub(super) async fn hand_over(
        &self,
        cx: &Context,
        looked: &Looked,
        mut waiting: Waiting,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let sql = &looked.sql.patient();
        if waiting.parts.is_empty() {
            return Err(Error::bug("a dump without a database was applied"));
        }
        self.settle_accounts(cx, looked, &mut waiting, warnings).await?;
        self.settle_definers(cx, looked, &mut waiting, warnings).await?;
        let parts: Vec<Part> = waiting.parts.iter().map(|(_, part)| part.clone()).collect();
        let fresh = self.make_targets(cx, looked, &parts).await?;
        // From here on what was begun is finished: a stop in between would leave less than nothing.
        let cx = &Context::new();
        if let Err(error) = move_tables(cx, sql, &parts).await {
            undo(sql, &fresh).await;
            return Err(match error {
                MysqlError::Unreachable(said) => self.fail(MysqlError::Unsettled(said)),
                error => self.fail(error),
            });
        }
        if let Err(error) = define(cx, sql, &waiting.definitions).await {
            let error = self.fail(error);
            return Err(if fresh.len() == parts.len() {
                undo(sql, &fresh).await;
                error
            } else {
                let what = format!(
                    "the tables of the dump are in place, but a view, trigger, routine or event could not be made: {}",
                    error.what()
                );
                Error::new(error.kind(), error.subject().to_owned(), what)
                    .with_hint("make what is missing by hand, or remove the tables and restore to a new name")
                    .at(Stage::Restore)
                    .with_source(error)
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
            define(cx, &looked.sql, &waiting.accounts).await.map_err(|error| self.fail(error))
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

    /// Creates the targets that do not exist; gives those that hold nothing but what comes now.
    async fn make_targets(&self, cx: &Context, looked: &Looked, parts: &[Part]) -> Result<Vec<Fresh>> {
        let mut fresh = Vec::new();
        for part in parts {
            let existed = looked.existing.contains_key(&part.target);
            if existed && looked.existing.get(&part.target).is_some_and(|held| !held.is_empty()) {
                continue;
            }
            if !existed {
                let statement =
                    format!("CREATE DATABASE {} {}", identifier(&part.target), part.character_set);
                if let Err(error) = looked.sql.ask(cx, &statement).await {
                    undo(&looked.sql, &fresh).await;
                    let error = match error {
                        MysqlError::Tool(error) if error.stderr().contains("1007") => {
                            MysqlError::Exists(part.target.clone())
                        }
                        error => error,
                    };
                    return Err(self.fail(error));
                }
            }
            fresh.push(Fresh { name: part.target.clone(), existed });
        }
        Ok(fresh)
    }
}

/// A target that was empty before.
#[derive(Debug)]
struct Fresh {
    name: String,
    existed: bool,
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
async fn move_tables(cx: &Context, sql: &Sql, parts: &[Part]) -> Result<(), MysqlError> {
    let drafts: Vec<String> = parts.iter().map(|part| part.draft.clone()).collect();
    let mut moves = Vec::new();
    for table in tables(cx, sql, &drafts).await? {
        let Some(part) = parts.iter().find(|part| part.draft == table.database) else { continue };
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

/// Takes back what a failed hand-over put into targets that were empty before.
async fn undo(sql: &Sql, fresh: &[Fresh]) {
    let cx = Context::new();
    for target in fresh {
        let name = identifier(&target.name);
        let made = format!(
            "SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA \
             WHERE SCHEMA_NAME = {}",
            literal(&target.name)
        );
        let mut statement = format!("SET SESSION foreign_key_checks = 0;\nDROP DATABASE IF EXISTS {name};\n");
        if target.existed
            && let Ok(rows) = sql.ask(&cx, &made).await
            && let Some([set, collation]) = rows.first().map(Vec::as_slice)
        {
            statement.push_str(&format!("CREATE DATABASE {name} CHARACTER SET {set} COLLATE {collation};\n"));
        }
        // What is left is told by the error that led here; there is nobody else to tell.
        let _ = sql.ask(&cx, &statement).await;
    }
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
