//! Roles and tablespaces made, and unmade where the restore fails.

use std::time::Duration;

use backup_core::Context;
use serde::Deserialize;

use super::super::error::PostgresError;
use super::super::names::identifier;
use super::super::parallel::session::Session;
use super::super::query::{Psql, verbatim};
use super::globals::Globals;
use crate::tool::ToolError;

/// How often, and at what distance, the server is asked what became of a transaction.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);
/// The most characters of a statement in a message.
const SHOWN_MAX: usize = 200;

/// What became of a transaction.
#[derive(Debug, Deserialize)]
struct Outcome {
    status: Option<String>,
}

impl Globals {
    /// Makes what is missing. After an error, [`Globals::undo`] takes back what was made.
    pub(in super::super) async fn apply(&mut self, cx: &Context, psql: &Psql) -> Result<(), PostgresError> {
        if !self.roles.is_empty() {
            self.make_roles(cx, psql).await?;
        }
        for other in std::mem::take(&mut self.others) {
            let mut outcome = psql.run(cx, &verbatim(&other.statement)).await;
            if let (Err(_), Some(otherwise)) = (&outcome, &other.otherwise) {
                outcome = psql.run(cx, &verbatim(otherwise)).await;
            }
            match outcome {
                Ok(_) => self.undo.extend(other.undo),
                // Without its answer it may have been done all the same.
                Err(error) if is_lost(&error) => {
                    self.undo.extend(other.undo);
                    self.warnings.push(format!("{}: {error}", shown(&other.statement)));
                }
                Err(error) => self.warnings.push(format!("{}: {error}", shown(&other.statement))),
            }
        }
        Ok(())
    }

    /// All roles in one transaction. Where the answer to its end is lost, the server is asked.
    async fn make_roles(&mut self, cx: &Context, psql: &Psql) -> Result<(), PostgresError> {
        // Without the line of a statement, which may hold the hash of a password.
        let mut session: Session = psql.session(cx, "\\set VERBOSITY terse").await?;
        let begin = "BEGIN;\nSELECT pg_catalog.to_json(pg_catalog.txid_current()::pg_catalog.text);";
        let transaction: String = session.ask(begin).await?;
        let transaction: u64 =
            transaction.parse().map_err(|_| PostgresError::Answer(format!("transaction {transaction}")))?;
        let lines: String = self.roles.iter().map(|statement| verbatim(statement)).collect();
        session.run(&lines).await?;
        let Err(error) = session.run("COMMIT;").await else {
            self.made = true;
            return Ok(());
        };
        match became(psql, transaction).await.as_deref() {
            Some("committed") => {
                self.made = true;
                match error {
                    PostgresError::Tool(ToolError::Cancelled { .. }) => Err(error),
                    _ => Ok(()),
                }
            }
            Some("aborted") => Err(error),
            _ => {
                let names: Vec<String> = self.created.iter().map(|role| format!("{role:?}")).collect();
                Err(PostgresError::RolesUnsettled(format!("{}: {error}", names.join(", "))))
            }
        }
    }

    /// Drops what was made; names what could not be.
    pub(in super::super) async fn undo(&self, psql: &Psql) -> Vec<String> {
        let mut left = Vec::new();
        if !self.made {
            return left;
        }
        let cx = Context::new();
        for statement in self.undo.iter().rev() {
            // A privilege that stays keeps its role, which is told below.
            if psql.run(&cx, &verbatim(statement)).await.is_err()
                && let Some(name) = statement.strip_prefix("DROP TABLESPACE ")
            {
                left.push(format!("tablespace {name}"));
            }
        }
        for role in self.created.iter().rev() {
            if psql.run(&cx, &format!("DROP ROLE IF EXISTS {};", identifier(role))).await.is_err() {
                left.push(format!("role {role:?}"));
            }
        }
        left
    }
}

/// What became of a transaction whose end was sent; `None` where that cannot be known.
async fn became(psql: &Psql, transaction: u64) -> Option<String> {
    // The run's own token may be what ended it.
    let cx = Context::new();
    let question = format!(
        "SELECT pg_catalog.json_build_object('status', pg_catalog.txid_status({transaction}::pg_catalog.int8));"
    );
    for _ in 0..LOOKS {
        match psql.ask::<Outcome>(&cx, &question).await {
            Ok(Outcome { status: Some(status) }) if status != "in progress" => return Some(status),
            Ok(Outcome { status: None }) => return None,
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
    None
}

/// Whether an answer may have been lost on its way.
fn is_lost(error: &PostgresError) -> bool {
    match error {
        PostgresError::Unreachable(_) => true,
        PostgresError::Tool(error) => {
            !matches!(error, ToolError::Exited { .. } | ToolError::NotStarted { .. })
        }
        _ => false,
    }
}

/// A statement for a message, on one line.
fn shown(statement: &str) -> String {
    statement.chars().take(SHOWN_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
