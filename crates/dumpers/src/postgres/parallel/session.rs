//! One `psql` that stays open and is asked one thing after another.
//!
//! After every answer it is made to write a mark on a line of its own: a backslash, a dot and a random
//! word. No row in COPY's text format can begin like that, because a backslash in a row is doubled
//! (PostgreSQL manual, COPY, text format), so the mark is found at the end of what came without looking
//! at every byte. `psql` never connects again by itself when it reads a script, so a session that
//! answers is the session that was opened.

use std::time::Duration;

use backup_core::Context;
use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt as _;
use tokio::process::ChildStdin;

use super::super::config::Connection;
use super::super::error::PostgresError;
use super::super::tools::Client;
use crate::tool::{Output, ToolCommand, ToolError, Waiting, converse, deadline};

/// The longest answer that is no data: the list of tables of a very large database.
const ANSWER_MAX: usize = 64 * 1024 * 1024;
/// No mark is longer: two characters, a word of 32, a space, a number and the end of the line.
const MARK_MAX: usize = 64;

/// What every session begins with: nothing ends it but its own work, and text means the same
/// everywhere. As `pg_dump` sets it.
///
/// `end` ends the statements that give something, which nobody wants.
pub(super) fn settings(end: &str) -> String {
    format!(
        "SET standard_conforming_strings = on;
SELECT count(pg_catalog.set_config(name, '0', false)) AS ignored FROM pg_catalog.pg_settings
  WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
                 'transaction_timeout', 'idle_session_timeout') {end}
SELECT pg_catalog.set_config('search_path', '', false) AS ignored {end}
SET DateStyle = ISO;
SET IntervalStyle = postgres;
SET extra_float_digits = 3;
SET row_security = off;
SET xmloption = content;
SET client_min_messages = warning;
"
    )
}

/// An open session. Dropped, its program is stopped, and the server rolls back what it had begun.
#[derive(Debug)]
pub(in crate::postgres) struct Session {
    cx: Context,
    stall: Duration,
    output: Output,
    input: ChildStdin,
    mark: String,
    /// What may be the beginning of a mark; it begins a line.
    held: BytesMut,
    /// Whether what comes next begins a line.
    line_start: bool,
    /// The mark came together with the last piece.
    marked: bool,
    rows: u64,
}

impl Session {
    /// Connects and sets what every session needs; `begin` is run at once.
    pub(in crate::postgres) async fn open(
        cx: &Context,
        client: &Client,
        connection: &Connection,
        waiting: Waiting,
        begin: &str,
    ) -> Result<Self, PostgresError> {
        let command = ToolCommand::new(&client.path).args([
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--no-password",
            "--set=ON_ERROR_STOP=1",
            "--file=-",
        ]);
        // Names are always UTF-8; rows have an encoding of their own, which COPY is told.
        let command = connection.give(command).env("PGCLIENTENCODING", "UTF8");
        let (output, input) = converse(cx, &command, waiting)?;
        let mark = format!("\\.{}", word()?);
        let mut session = Self {
            cx: cx.clone(),
            stall: waiting.stall,
            output,
            input,
            mark,
            held: BytesMut::new(),
            line_start: true,
            marked: false,
            rows: 0,
        };
        session.run(&format!("{}{begin}", settings("\\gset"))).await?;
        Ok(session)
    }

    /// Runs statements whose answer is passed over.
    pub(in crate::postgres) async fn run(&mut self, sql: &str) -> Result<(), PostgresError> {
        self.answer(sql).await.map(drop)
    }

    /// Runs statements that give one JSON value.
    pub(in crate::postgres) async fn ask<T: DeserializeOwned>(
        &mut self,
        sql: &str,
    ) -> Result<T, PostgresError> {
        let answer = self.answer(sql).await?;
        serde_json::from_slice(&answer).map_err(|error| PostgresError::Answer(error.to_string()))
    }

    /// Everything that statements print.
    async fn answer(&mut self, sql: &str) -> Result<BytesMut, PostgresError> {
        self.tell(sql).await?;
        let mut answer = BytesMut::new();
        while let Some(chunk) = self.next().await? {
            if answer.len() + chunk.len() > ANSWER_MAX {
                return Err(ToolError::TooMuch { tool: "psql".to_owned(), limit: ANSWER_MAX }.into());
            }
            answer.extend_from_slice(&chunk);
        }
        Ok(answer)
    }

    /// Sends statements, and asks for a mark behind their answer. [`Session::next`] gives the answer.
    pub(super) async fn tell(&mut self, sql: &str) -> Result<(), PostgresError> {
        self.line_start = true;
        let mark = self.mark.replace('\\', "\\\\");
        let script = format!("{sql}\n\\echo '{mark}' :ROW_COUNT\n");
        self.write(script.as_bytes()).await
    }

    /// Sends bytes as they are, such as the rows of a COPY.
    ///
    /// # Errors
    /// What ended the session, where it takes no more.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), PostgresError> {
        let written = tokio::select! {
            biased;
            () = self.cx.cancel().cancelled() => {
                return Err(ToolError::Cancelled { tool: "psql".to_owned() }.into());
            }
            written = self.input.write_all(bytes) => written,
            () = tokio::time::sleep_until(deadline(self.stall)) => {
                let tool = "psql".to_owned();
                let (doing, limit, stderr) = ("took no input", self.stall, String::new());
                return Err(ToolError::Stalled { tool, doing, limit, stderr }.into());
            }
        };
        match written {
            Ok(()) => Ok(()),
            // It has ended: it says why.
            Err(_) => Err(self.ended().await),
        }
    }

    /// How many rows the last COPY to the server brought there.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// The next piece of the answer; `None` is its end.
    ///
    /// Not cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, PostgresError> {
        if std::mem::take(&mut self.marked) {
            return Ok(None);
        }
        loop {
            let Some(chunk) = self.output.next().await else { return Err(left()) };
            let mut chunk = chunk.map_err(PostgresError::of_tool)?;
            if !self.held.is_empty() {
                self.held.extend_from_slice(&chunk);
                chunk = self.held.split().freeze();
            }
            let Some(at) = mark_begins(&chunk, self.line_start) else {
                self.line_start = chunk.ends_with(b"\n");
                return Ok(Some(chunk));
            };
            let end = chunk.split_off(at);
            match self.rows_of(&end) {
                Some(rows) => {
                    self.rows = rows;
                    self.line_start = true;
                    if chunk.is_empty() {
                        return Ok(None);
                    }
                    self.marked = true;
                    return Ok(Some(chunk));
                }
                None => {
                    self.held.extend_from_slice(&end);
                    self.line_start = true;
                    if !chunk.is_empty() {
                        return Ok(Some(chunk));
                    }
                }
            }
        }
    }

    /// The number in a whole mark.
    fn rows_of(&self, end: &[u8]) -> Option<u64> {
        let rest = end.strip_prefix(self.mark.as_bytes())?.strip_prefix(b" ")?.strip_suffix(b"\n")?;
        std::str::from_utf8(rest).ok()?.parse().ok()
    }

    /// Why the session is over.
    async fn ended(&mut self) -> PostgresError {
        loop {
            match self.output.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return PostgresError::of_tool(error),
                None => return left(),
            }
        }
    }
}

fn left() -> PostgresError {
    PostgresError::Unreachable("psql ended before its answer did".to_owned())
}

/// Where the last line begins, if it may be a mark or become one: nothing may follow a mark, so
/// only the end of what came is looked at.
fn mark_begins(chunk: &[u8], line_start: bool) -> Option<usize> {
    let from = chunk.len().saturating_sub(MARK_MAX);
    let last = chunk.len().checked_sub(1)?;
    let at = match chunk[from..last].iter().rposition(|&byte| byte == b'\n') {
        Some(at) => from + at + 1,
        None if from == 0 && line_start => 0,
        None => return None,
    };
    // A line that has only its first letter yet, too.
    (chunk[at..] == *b"\\" || chunk[at..].starts_with(b"\\.")).then_some(at)
}

/// A word that nobody can guess.
fn word() -> Result<String, PostgresError> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|error| PostgresError::Answer(format!("no random numbers: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_only_where_it_begins_a_line_at_the_end() {
        let table: [(&str, bool, Option<usize>); 12] = [
            ("\\.ab 1\n", true, Some(0)),
            ("\\.ab 1\n", false, None),
            ("1\t2\n\\.ab 1\n", false, Some(4)),
            ("1\t2\n\\.a", true, Some(4)),
            ("1\t2\n\\", true, Some(4)),
            ("1\t2\n\\N\n", true, None),
            ("1\t2\n", true, None),
            ("1\t2", true, None),
            ("\\", false, None),
            ("", true, None),
            ("\n", true, None),
            ("\n\n", true, None),
        ];
        for (text, line_start, expected) in table {
            assert_eq!(mark_begins(text.as_bytes(), line_start), expected, "{text:?}");
        }
        let long = format!("{}\n\\.{} 123\n", "x".repeat(1000), "a".repeat(32));
        assert_eq!(mark_begins(long.as_bytes(), false), Some(1001));
    }
}
