//! Questions to a server, asked through `psql`: one statement in, JSON out.

use backup_core::Context;
use serde::de::DeserializeOwned;

use super::config::Connection;
use super::error::PostgresError;
use super::names::literal;
use super::parallel::session::Session;
use super::tools::{Client, SHORT, installed};
use crate::tool::{Places, ToolCommand, capture};

/// The longest answer: the list of tables of a very large database.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// A statement that somebody else wrote, as a line for [`Psql::run`]: `psql` sends it to the server as
/// it stands and reads no command of its own in it.
pub(super) fn verbatim(statement: &str) -> String {
    format!("SELECT {} \\gexec\n", literal(statement))
}

/// Asks one server.
#[derive(Debug, Clone)]
pub(super) struct Psql {
    client: Client,
    connection: Connection,
}

impl Psql {
    /// The newest `psql` that is installed.
    pub(super) async fn find(
        cx: &Context,
        places: &Places,
        connection: &Connection,
    ) -> Result<Self, PostgresError> {
        let client = installed(cx, places, "psql").await?.swap_remove(0);
        Ok(Self { client, connection: connection.clone() })
    }

    /// The same program, another database of the server.
    pub(super) fn on(&self, database: &str) -> Self {
        self.at(&self.connection.with_database(database))
    }

    /// The program.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The same program, a database that every server has.
    pub(super) async fn maintenance(&self, cx: &Context) -> Result<Self, PostgresError> {
        let psql = self.on("postgres");
        match psql.run(cx, "SELECT 1").await {
            Err(PostgresError::NoDatabase(_)) => Ok(psql.on("template1")),
            Err(error) => Err(error),
            Ok(_) => Ok(psql),
        }
    }

    /// The same program, another connection.
    pub(super) fn at(&self, connection: &Connection) -> Self {
        Self { client: self.client.clone(), connection: connection.clone() }
    }

    /// An open session, which begins with this.
    pub(super) async fn session(&self, cx: &Context, begin: &str) -> Result<Session, PostgresError> {
        Session::open(cx, &self.client, &self.connection, SHORT, begin).await
    }

    /// The same program and database, under another name among the server's sessions.
    pub(super) fn named(&self, application: &str) -> Self {
        self.at(&self.connection.named(application))
    }

    /// Runs statements; the answer is whatever they print.
    ///
    /// # Errors
    /// What `psql` says; `Answer` for a script with a NUL character, at which it would lose the rest of a
    /// line and with it the end of a quote.
    pub(super) async fn run(&self, cx: &Context, sql: &str) -> Result<Vec<u8>, PostgresError> {
        if sql.contains('\0') {
            return Err(PostgresError::Answer("a name or a statement with a NUL character".to_owned()));
        }
        let command = ToolCommand::new(&self.client.path).args([
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--no-password",
            "--set=ON_ERROR_STOP=1",
            // Without the line of the statement, which may hold a secret.
            "--set=VERBOSITY=terse",
            "--file=-",
        ]);
        let command = self.connection.give(command).env("PGCLIENTENCODING", "UTF8");
        let script = format!("SET standard_conforming_strings = on;\n{sql}\n");
        capture(cx, &command, SHORT, Some(script.into_bytes()), ANSWER_MAX)
            .await
            .map_err(PostgresError::of_tool)
    }

    /// Runs one query that gives one JSON value.
    pub(super) async fn ask<T: DeserializeOwned>(&self, cx: &Context, sql: &str) -> Result<T, PostgresError> {
        let answer = self.run(cx, sql).await?;
        serde_json::from_slice(&answer).map_err(|error| PostgresError::Answer(error.to_string()))
    }
}
