//! Questions to a server, asked through its command-line client: statements in, rows out.

use std::time::Duration;

use backup_core::Context;

use super::config::Connection;
use super::error::MysqlError;
use super::option_file::OptionFile;
use super::tools::{CLIENT, Client, SHORT, installed};
use crate::tool::{Places, ToolCommand, Waiting, capture};

/// The longest answer: the list of tables of a very large server.
const ANSWER_MAX: usize = 256 * 1024 * 1024;

/// Asks one server.
#[derive(Debug, Clone)]
pub(super) struct Sql {
    pub(super) client: Client,
    connection: Connection,
    waiting: Waiting,
}

/// One row of an answer: columns as text. A NULL is told by a statement itself, where one matters.
pub(super) type Row = Vec<String>;

impl Sql {
    /// The newest client that can sign in.
    pub(super) async fn find(
        cx: &Context,
        places: &Places,
        connection: &Connection,
    ) -> Result<Self, MysqlError> {
        let mut refused = None;
        for client in installed(cx, places, CLIENT).await? {
            let sql = Self { client, connection: connection.clone(), waiting: SHORT };
            match sql.ask(cx, "SELECT 1").await {
                Ok(_) => return Ok(sql),
                // Another family of programs may have what this one lacks.
                Err(error @ MysqlError::Plugin(_)) => refused = refused.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(|| MysqlError::Answer("no client".to_owned())))
    }

    /// The same, without a limit on the time of a statement: moving ten thousand tables takes its
    /// time, and gives no sign of life.
    pub(super) fn patient(&self) -> Self {
        Self { waiting: Waiting { stall: Duration::ZERO, ..SHORT }, ..self.clone() }
    }

    /// Another program, the same server.
    pub(super) fn with(&self, client: Client) -> Self {
        Self { client, ..self.clone() }
    }

    /// The command that reads statements from its standard input, and the file that must outlive
    /// its start.
    ///
    /// Nothing that the statements hold can make the client run a program or open a file.
    pub(super) fn command(&self) -> Result<(ToolCommand, OptionFile), MysqlError> {
        let file = OptionFile::new(&self.connection.options(self.client.flavour))?;
        let mut command = self.client.command(&file, &self.connection.secrets()).args([
            "--batch",
            "--skip-column-names",
            "--default-character-set=utf8mb4",
            "--max-allowed-packet=1073741824",
        ]);
        for option in ["binary-mode", "sandbox"] {
            if self.client.knows(option) {
                command = command.arg(format!("--{option}"));
            }
        }
        Ok((command, file))
    }

    /// Runs statements, of which the first that fails is the last; gives every row of every answer.
    pub(super) async fn ask(&self, cx: &Context, statements: &str) -> Result<Vec<Row>, MysqlError> {
        let (command, file) = self.command()?;
        // The rules by which `literal` and `identifier` quote.
        let script = format!("SET SESSION sql_mode = '';\n{statements}\n;\n");
        let answer = capture(cx, &command, self.waiting, Some(script.into_bytes()), ANSWER_MAX)
            .await
            .map_err(MysqlError::of_tool)?;
        drop(file);
        Ok(rows(&answer))
    }

    /// Runs a whole script, in which the first statement that fails is the last.
    pub(super) async fn run(&self, cx: &Context, script: &[u8]) -> Result<(), MysqlError> {
        let (command, file) = self.command()?;
        let answer = capture(cx, &command, self.waiting, Some(script.to_vec()), ANSWER_MAX).await;
        drop(file);
        answer.map(drop).map_err(MysqlError::of_tool)
    }
}

/// Lines of columns parted by tabs; `\n`, `\t`, `\0` and `\\` stand for what would be taken for a
/// separator.
fn rows(answer: &[u8]) -> Vec<Row> {
    let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| line.split(|byte| *byte == b'\t').map(column).collect()).collect()
}

fn column(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match (byte, if byte == b'\\' { rest.next() } else { None }) {
            (b'\\', Some(b'n')) => b'\n',
            (b'\\', Some(b't')) => b'\t',
            (b'\\', Some(b'0')) => 0,
            (b'\\', Some(&other)) => other,
            (byte, _) => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were() {
        assert_eq!(rows(b"a\\tb\tc\\\\n\n1\t\n"), [vec!["a\tb", "c\\n"], vec!["1", ""]]);
    }
}
