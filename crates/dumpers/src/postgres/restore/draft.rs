//! The temporary database that becomes the target.

use std::time::Duration;

use backup_core::{Context, Error, Result, Stage};

use super::super::error::PostgresError;
use super::super::names::{identifier, literal, text_options};
use super::super::query::Psql;
use super::head::Head;
use super::{NAME_MAX, PostgresRestorer};

impl PostgresRestorer {
    /// Creates the temporary database with the encoding and the locale of the dumped one.
    pub(super) async fn create(
        &self,
        cx: &Context,
        psql: &Psql,
        draft: &str,
        head: &Head,
        warnings: &mut Vec<String>,
    ) -> Result<(), PostgresError> {
        let statement = |options: &[(String, String)]| {
            let mut sql = format!("CREATE DATABASE {} TEMPLATE template0", identifier(draft));
            for (key, value) in options {
                let value = if key == "LOCALE_PROVIDER" { value.clone() } else { literal(value) };
                sql.push_str(&format!(" {key} = {value}"));
            }
            sql.push(';');
            sql
        };
        let wanted = head
            .contents
            .as_ref()
            .and_then(|contents| contents.create_database.as_deref())
            .map(text_options)
            .unwrap_or_default();
        let error = match psql.run(cx, &statement(&wanted)).await {
            Ok(_) => return Ok(()),
            Err(error @ PostgresError::Tool(_)) if !wanted.is_empty() => error,
            Err(error) => return Err(error),
        };
        // A locale of another system: keep the encoding, compare by bytes.
        let mut plain: Vec<_> = wanted.into_iter().filter(|(key, _)| key == "ENCODING").collect();
        plain.extend(["LC_COLLATE", "LC_CTYPE"].map(|key| (key.to_owned(), "C".to_owned())));
        psql.run(cx, &statement(&plain)).await.map_err(|_| error)?;
        warnings
            .push("the dump's locale does not exist here: the database was made with locale C".to_owned());
        Ok(())
    }

    /// Gives the finished database the target's name, which must still be free.
    pub(super) async fn hand_over(
        &self,
        cx: &Context,
        psql: &Psql,
        draft: &str,
    ) -> Result<(), PostgresError> {
        let rename = format!("ALTER DATABASE {} RENAME TO {};", identifier(draft), identifier(&self.target));
        // The server may need a moment to end the session of the program that has just ended.
        let mut tries = 20;
        let outcome = loop {
            match psql.run(cx, &rename).await {
                Err(PostgresError::Tool(error))
                    if error.stderr().contains("is being accessed") && tries > 0 =>
                {
                    tries -= 1;
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                outcome => break outcome.map(drop),
            }
        };
        match outcome {
            Err(PostgresError::Tool(error)) if error.stderr().contains("already exists") => {
                Err(PostgresError::Exists)
            }
            // The answer may be lost while the rename happened: look.
            Err(error @ (PostgresError::Unreachable(_) | PostgresError::Tool(_))) => {
                match handed_over(psql, draft, &self.target).await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(error),
                    Err(_) => Err(PostgresError::Unsettled(error.to_string())),
                }
            }
            outcome => outcome,
        }
    }
}

/// Whether the temporary database has become the target.
async fn handed_over(psql: &Psql, draft: &str, target: &str) -> Result<bool, PostgresError> {
    let sql = format!(
        "SELECT to_json(EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = {}) AND NOT EXISTS \
         (SELECT FROM pg_catalog.pg_database WHERE datname = {}));",
        literal(target),
        literal(draft)
    );
    psql.ask(&Context::new(), &sql).await
}

/// Drops the temporary database, whoever is still in it.
pub(super) async fn discard(psql: &Psql, draft: &str) -> Result<(), PostgresError> {
    let cx = Context::new();
    let sql = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = {};\n\
         DROP DATABASE IF EXISTS {};",
        literal(draft),
        identifier(draft)
    );
    for _ in 0..20 {
        match psql.run(&cx, &sql).await {
            Err(PostgresError::Tool(error)) if error.stderr().contains("is being accessed") => {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            other => return other.map(drop),
        }
    }
    psql.run(&cx, &sql).await.map(drop)
}

pub(super) fn with_leftover(error: Error, draft: &str, left: &PostgresError) -> Error {
    let hint = format!("the temporary database {draft:?} could not be dropped ({left}): drop it by hand");
    let kind = error.kind();
    Error::new(kind, error.subject().to_owned(), error.what().to_owned())
        .with_hint(hint)
        .at(error.stage().unwrap_or(Stage::Restore))
        .with_source(error)
}

/// `target_strongroom_1a2b3c4d`, the target's part shortened where a name would be too long.
pub(super) fn temporary(target: &str, random: &str) -> String {
    let suffix = format!("_strongroom_{random}");
    let mut end = target.len().min(NAME_MAX - suffix.len());
    while !target.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &target[..end])
}

pub(super) fn random_u32() -> Result<u32> {
    let mut bytes = [0; 4];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|error| Error::bug(format!("no random numbers: {error}")))?;
    Ok(u32::from_ne_bytes(bytes))
}
