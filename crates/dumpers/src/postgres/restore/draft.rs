//! The temporary database that becomes the target.

use std::time::Duration;

use backup_core::{Context, Error};

use super::super::archive::ArchiveContents;
use super::super::error::PostgresError;
use super::super::names::{identifier, literal, text_options};
use super::super::query::{Psql, verbatim};
use super::super::statements::{Statement, statements};
use super::NAME_MAX;
use super::build::Fit;
use super::head::Head;
use super::look::Looked;
use super::run::Run;

/// How the comment of an unfinished database begins; the second of its beginning by the server's clock
/// and the number of its restore follow.
pub(super) const MARK: &str = "strongroom: unfinished restore begun at ";

/// A database that is being restored.
#[derive(Debug)]
pub(super) struct Draft {
    /// Its temporary name.
    pub(super) name: String,
    /// The name it gets.
    pub(super) target: String,
    /// The statement that gives it its comment, where it has one.
    comment: Option<String>,
}

impl Draft {
    /// Creates it with the encoding and the locale of the dumped database, marked as unfinished.
    pub(super) async fn create(
        cx: &Context,
        run: &Run,
        target: &str,
        head: &Head,
        warnings: &mut Vec<String>,
    ) -> Result<Self, PostgresError> {
        let psql = &run.psql;
        let random = format!("{:08x}", random_u32()?);
        let name = temporary(target, &random);
        let mark = format!(
            "SELECT pg_catalog.format('COMMENT ON DATABASE %I IS %L', {}, pg_catalog.concat({}, \
             extract(epoch FROM pg_catalog.now())::pg_catalog.int8, {})) \\gexec",
            literal(&name),
            literal(MARK),
            literal(&format!(" by {}", run.number))
        );
        let statement = |options: &[(String, String)]| {
            let mut sql = format!("CREATE DATABASE {} TEMPLATE template0", identifier(&name));
            for (key, value) in options {
                let value = if key == "LOCALE_PROVIDER" { value.clone() } else { literal(value) };
                sql.push_str(&format!(" {key} = {value}"));
            }
            format!("{sql};\n{mark}")
        };
        let wanted = head.contents.create_database.as_deref().map(text_options).unwrap_or_default();
        let draft = Self { name: name.clone(), target: target.to_owned(), comment: None };
        let error = match psql.run(cx, &statement(&wanted)).await {
            Ok(_) => return Ok(draft),
            Err(PostgresError::Tool(error)) if locale_is_unknown(error.stderr()) => error,
            Err(error) => {
                // It may exist although its answer was lost.
                let _ = draft.discard(psql).await;
                return Err(error);
            }
        };
        // A locale of another system: keep the encoding, compare by bytes.
        let mut plain: Vec<_> = wanted.iter().filter(|(key, _)| key == "ENCODING").cloned().collect();
        plain.extend(["LC_COLLATE", "LC_CTYPE"].map(|key| (key.to_owned(), "C".to_owned())));
        if psql.run(cx, &statement(&plain)).await.is_err() {
            let _ = draft.discard(psql).await;
            return Err(error.into());
        }
        let locale: Vec<String> = wanted
            .iter()
            .filter(|(key, _)| key != "ENCODING")
            .map(|(key, value)| format!("{key} {value}"))
            .collect();
        warnings.push(format!(
            "the dump's locale ({}) does not exist here: {target:?} was made with locale C, which compares text by bytes",
            locale.join(", ")
        ));
        Ok(draft)
    }

    /// Gives it what the dump says of the database as a whole: settings, privileges, owner. What the
    /// server refuses becomes a warning. Its comment comes with its name.
    pub(super) async fn take_settings(
        &mut self,
        cx: &Context,
        psql: &Psql,
        looked: &Looked,
        contents: &ArchiveContents,
        fit: Fit,
        warnings: &mut Vec<String>,
    ) {
        let Some(from) = &contents.database else { return };
        let mut wanted: Vec<(String, String)> = Vec::new();
        for script in &contents.database_level {
            let Ok(found) = statements(script) else {
                warnings.push("a setting of the database could not be understood".to_owned());
                continue;
            };
            for statement in found {
                if statement.begins(&["COMMENT", "ON", "DATABASE"]) {
                    self.comment = statement.about_database(from, &self.target);
                    continue;
                }
                let role =
                    statement.begins(&["ALTER", "ROLE"]).then(|| statement.name_after("ROLE")).flatten();
                if let Some(role) = role.filter(|role| !looked.roles.contains(*role)) {
                    warnings.push(format!("role {role:?} does not exist here: its settings were left out"));
                    continue;
                }
                let privileges = statement.begins(&["GRANT"]) || statement.begins(&["REVOKE"]);
                if privileges && fit.no_privileges {
                    continue;
                }
                if let Some(renamed) = statement.about_database(from, &self.name) {
                    wanted.push((shown(&statement), renamed));
                }
            }
        }
        if let Some(owner) = contents.database_owner.as_ref().filter(|_| !fit.no_owner) {
            let own = format!("ALTER DATABASE {} OWNER TO {}", identifier(&self.name), identifier(owner));
            wanted.push((format!("owner {owner:?}"), own));
        }
        for (what, statement) in wanted {
            if let Err(error) = psql.run(cx, &verbatim(&statement)).await {
                warnings.push(format!("the database did not get its {what}: {error}"));
            }
        }
    }

    /// Drops it, with our own sessions that are still in it. Those of others, which only their user may
    /// end, are waited for; the server itself ends what it does there on its own account.
    pub(super) async fn discard(&self, psql: &Psql) -> Result<(), PostgresError> {
        let cx = Context::new();
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity\n\
             WHERE datname = {} AND usename = current_user;\n\
             ALTER DATABASE {name} IS_TEMPLATE false;\nDROP DATABASE {name};",
            literal(&self.name),
            name = identifier(&self.name)
        );
        let mut tries = 20;
        loop {
            match psql.run(&cx, &sql).await {
                Err(PostgresError::Tool(error))
                    if error.stderr().contains("is being accessed") && tries > 0 =>
                {
                    tries -= 1;
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                // A server that runs out of space may restart itself.
                Err(PostgresError::Unreachable(_)) if tries > 0 => {
                    tries -= 1;
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                Err(PostgresError::Tool(error)) if error.stderr().contains("does not exist") => return Ok(()),
                other => return other.map(drop),
            }
        }
    }
}

/// What a message calls a statement: not its value, which may be a secret.
fn shown(statement: &Statement) -> String {
    match statement.name_after("SET") {
        Some(setting) => format!("setting {setting}"),
        None => statement.bare_from(0).take(2).collect::<Vec<_>>().join(" "),
    }
}

/// Gives the finished databases their names, which must still be free, in one transaction.
pub(super) async fn hand_over(cx: &Context, psql: &Psql, drafts: &[Draft]) -> Result<(), PostgresError> {
    let mut script = "BEGIN;\n".to_owned();
    for draft in drafts {
        let target = identifier(&draft.target);
        script.push_str(&format!("ALTER DATABASE {} RENAME TO {target};\n", identifier(&draft.name)));
        match &draft.comment {
            Some(comment) => script.push_str(&verbatim(comment)),
            None => script.push_str(&format!("COMMENT ON DATABASE {target} IS NULL;\n")),
        }
    }
    script.push_str("COMMIT;");
    // The server may need a moment to end the session of the program that has just ended.
    let mut tries = 20;
    let outcome = loop {
        match psql.run(cx, &script).await {
            Err(PostgresError::Tool(error)) if error.stderr().contains("is being accessed") && tries > 0 => {
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
        // The answer may be lost while the names were given: look.
        Err(error @ (PostgresError::Unreachable(_) | PostgresError::Tool(_))) => {
            match handed_over(psql, drafts).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(error),
                Err(_) => Err(PostgresError::Unsettled(error.to_string())),
            }
        }
        outcome => outcome,
    }
}

/// Whether the temporary databases have become the targets.
async fn handed_over(psql: &Psql, drafts: &[Draft]) -> Result<bool, PostgresError> {
    let there =
        |name: &str| format!("EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = {})", literal(name));
    let all: Vec<String> = drafts
        .iter()
        .map(|draft| format!("{} AND NOT {}", there(&draft.target), there(&draft.name)))
        .collect();
    psql.ask(&Context::new(), &format!("SELECT to_json({});", all.join(" AND "))).await
}

/// Drops the temporary databases after an error and gives the error, which names those that are left.
pub(super) async fn discarded(psql: &Psql, drafts: &[Draft], error: Error) -> Error {
    // The run's own token may be what ended it; the cleaning has its own short limits.
    let mut left = Vec::new();
    for draft in drafts {
        if let Err(reason) = draft.discard(psql).await {
            left.push(format!("the temporary database {:?} could not be dropped ({reason})", draft.name));
        }
    }
    if left.is_empty() {
        return error;
    }
    hinted(error, &format!("{}: drop it by hand, it holds restored data", left.join(", ")))
}

/// The error with one more hint, before those that it has.
pub(super) fn hinted(error: Error, first: &str) -> Error {
    let hint = match error.hint() {
        Some(hint) => format!("{first}; {hint}"),
        None => first.to_owned(),
    };
    error.with_hint(hint)
}

/// Whether a server says that it does not know a locale, or the kind of locale.
fn locale_is_unknown(said: &str) -> bool {
    let line = |needles: &[&str]| {
        said.lines().any(|line| line.contains("ERROR:") && needles.iter().all(|needle| line.contains(needle)))
    };
    line(&["invalid", "locale name"])
        || line(&["does not match locale"])
        || line(&["could not create locale"])
        || line(&["could not open collator for locale"])
        || line(&["could not convert locale name"])
        || line(&["could not get language from", "locale"])
        || line(&["ICU locale", "unknown language"])
        || line(&["ICU is not supported"])
        || line(&["is not supported with ICU provider"])
        || line(&["unrecognized locale provider"])
        || ["locale_provider", "locale", "icu_locale", "builtin_locale"]
            .iter()
            .any(|option| line(&[&format!("option \"{option}\" not recognized")]))
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

/// Four random bytes as a number.
pub(in super::super) fn random_u32() -> Result<u32, PostgresError> {
    let mut bytes = [0; 4];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|error| PostgresError::Answer(format!("no random numbers: {error}")))?;
    Ok(u32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use backup_core::ErrorKind;

    use super::*;

    #[test]
    fn a_hint_comes_before_those_that_are_there() {
        let error = || Error::new(ErrorKind::Denied, "x", "y");
        assert_eq!(hinted(error(), "first").hint(), Some("first"));
        let both = hinted(hinted(error().with_hint("a"), "b"), "c");
        assert_eq!((both.hint(), both.kind()), (Some("c; b; a"), ErrorKind::Denied));
    }

    #[test]
    fn only_an_unknown_locale_is_one() {
        for said in [
            "psql:<stdin>:2: ERROR:  invalid locale name: \"de_XX.UTF-8\"",
            "psql:<stdin>:2: ERROR:  invalid LC_COLLATE locale name: \"de_XX\"",
            "psql:<stdin>:2: ERROR:  encoding \"LATIN1\" does not match locale \"de_DE.UTF-8\"",
            "psql:<stdin>:2: ERROR:  could not open collator for locale \"xx\": U_ILLEGAL_ARGUMENT_ERROR",
            "psql:<stdin>:2: ERROR:  ICU locale \"xx\" has unknown language \"xx\"",
            "psql:<stdin>:2: ERROR:  ICU is not supported in this build",
            "psql:<stdin>:2: ERROR:  option \"locale_provider\" not recognized at character 60",
            "psql:<stdin>:2: ERROR:  unrecognized locale provider: builtin",
            "psql:<stdin>:2: ERROR:  invalid locale name \"x\" for builtin provider",
        ] {
            assert!(locale_is_unknown(said), "{said}");
        }
        for said in [
            "psql:<stdin>:2: ERROR:  permission denied to create database",
            "psql:<stdin>:2: ERROR:  cannot execute CREATE DATABASE in a read-only transaction",
            "psql:<stdin>:2: ERROR:  source database \"template0\" is being accessed by other users",
            "psql:<stdin>:2: ERROR:  database \"invalid locale\" already exists",
            "",
        ] {
            assert!(!locale_is_unknown(said), "{said}");
        }
    }
}
