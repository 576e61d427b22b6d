//! A restore over the wire, key by key.

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, Error, ErrorKind, Event, RestorePlan, RestoreRequest, Restored, Restorer,
    Result, Stage,
};

use super::REDIS_RDB;
use super::client::{Client, unless_cancelled};
use super::config::{Endpoint, RedisConfig};
use super::error::RedisError;
use super::probe::{Info, Missing};
use super::rdb::{RdbContents, RdbParser, not_whole};
use super::writer::{Writer, now_millis};
use crate::command::unaccepted;

/// Restores into a running server.
#[derive(Debug)]
pub struct RedisRestorer {
    endpoint: Endpoint,
}

/// What a target holds before a restore.
struct Before {
    empty: bool,
    keys: u64,
    evicted: u64,
    /// Milliseconds by which its clock is ahead.
    ahead: i64,
}

impl RedisRestorer {
    /// The server of these settings; it is connected to when it is needed.
    ///
    /// # Errors
    /// `Config` for settings that cannot work.
    pub fn new(config: &RedisConfig) -> Result<Self> {
        Ok(Self { endpoint: config.endpoint()? })
    }

    /// Looks whether a restore can be done at all.
    async fn look(&self) -> Result<(Client, Before), RedisError> {
        let mut client = Client::connect(&self.endpoint).await?;
        let mut missing = Missing::default();
        // Each with an argument that is refused after the rights were looked at, so nothing happens.
        for (name, command) in [
            ("info", &[b"INFO".as_slice(), b"server"][..]),
            ("select", &[b"SELECT", b"0"]),
            ("restore", &[b"RESTORE", b"strongroom", b"-1", b""]),
            ("set", &[b"SET", b"strongroom", b"", b"NX", b"XX"]),
            ("pexpireat", &[b"PEXPIREAT", b"strongroom", b"never"]),
            ("flushall", &[b"FLUSHALL", b"NOTHING"]),
            ("function|restore", &[b"FUNCTION", b"RESTORE", b"", b"NOTHING"]),
            ("function|flush", &[b"FUNCTION", b"FLUSH", b"NOTHING"]),
            ("function|list", &[b"FUNCTION", b"LIST", b"NOTHING"]),
        ] {
            let reply = client.answer(command).await?;
            missing.note(&client, name, &reply)?;
        }
        missing.told()?;
        let info = Info::ask(&mut client).await?;
        if info.get("cluster_enabled") == Some("1") {
            return Err(RedisError::Unfit(
                "is a node of a cluster, which takes only the keys of its own slots",
            ));
        }
        if info.get("role") == Some("slave") {
            return Err(RedisError::Unfit("is a replica, which takes nothing but what its primary sends"));
        }
        let empty = info.is_empty(&mut client).await?;
        let evicted = info.number("evicted_keys").unwrap_or(0);
        let clock = info.number("server_time_usec").and_then(|time| i64::try_from(time / 1000).ok());
        let ahead = clock.map_or(0, |time| time - now_millis());
        Ok((client, Before { empty, keys: info.keys(), evicted, ahead }))
    }

    fn conflict(&self, before: &Before) -> Error {
        let what = match before.keys {
            0 => "already holds functions".to_owned(),
            keys => format!("already holds {keys} keys"),
        };
        Error::new(ErrorKind::Conflict, self.endpoint.to_string(), what).with_hint(
            "restore to an empty server, or allow restoring into what exists (flag --into-existing)",
        )
    }

    async fn apply(&self, cx: &Context, writer: &mut Writer, dump: &mut Dump) -> Result<(RdbContents, u64)> {
        let subject = self.endpoint.to_string();
        let mut parser = RdbParser::keeping(self.endpoint.memory_limit);
        let mut total = 0;
        let mut told = None;
        loop {
            let chunk = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => return Err(Error::cancelled(&*subject)),
                chunk = dump.bytes.next() => chunk,
            };
            let Some(chunk) = chunk else { break };
            let chunk = chunk?;
            total += chunk.len() as u64;
            // In pieces, so that what was parsed and not yet written stays small.
            for piece in pieces(&chunk) {
                parser.push(&piece).map_err(not_whole)?;
                let database = parser.database();
                if database.is_some() && database != told {
                    told = database;
                    cx.report(Event::Table(&format!("db{}", database.unwrap_or_default())));
                }
                let version = parser.version();
                for item in parser.items() {
                    unless_cancelled(cx.cancel(), &subject, writer.item(item, version)).await?;
                }
            }
        }
        let contents = parser.finish().map_err(not_whole)?;
        unless_cancelled(cx.cancel(), &subject, writer.settle()).await?;
        Ok((contents, total))
    }

    /// Counts what is there now against what was written.
    async fn check(
        &self,
        writer: &mut Writer,
        contents: &RdbContents,
        before: &Before,
    ) -> Result<Vec<String>> {
        let fail = |error: RedisError| error.at(&self.endpoint.to_string());
        let info = writer.ask_info().await.map_err(fail)?;
        let evicted = info.number("evicted_keys").unwrap_or(0).saturating_sub(before.evicted);
        if evicted > 0 {
            return Err(fail(RedisError::Lost(format!("it evicted {evicted} keys for want of memory"))));
        }
        let mut warnings = contents.warnings();
        if contents.module_sections > 0 {
            warnings.push(
                "what modules keep beside keys was not restored; a server started from the RDB file has it"
                    .to_owned(),
            );
        }
        if writer.passed() > 0 {
            let passed = writer.passed();
            warnings.push(format!("{passed} keys had expired since the backup and were passed over"));
        }
        if !before.empty {
            return Ok(warnings);
        }
        let found = info.databases();
        let mut expired = 0;
        for (number, counts) in &contents.databases {
            let found = found.get(number).copied().unwrap_or(0);
            if found < counts.keys - counts.expiring {
                let what = format!("database {number} has {found} keys, {} were written", counts.keys);
                return Err(fail(RedisError::Lost(what)));
            }
            if found > counts.keys {
                warnings.push(format!("somebody else wrote to database {number} meanwhile"));
            }
            expired += counts.keys.saturating_sub(found);
        }
        if expired > 0 {
            warnings.push(format!("{expired} keys had expired since the backup and are not there"));
        }
        Ok(warnings)
    }

    /// Takes back what was written, or says what is left.
    async fn undo(&self, error: Error, before: &Before, written: u64) -> Error {
        if written == 0 {
            return error;
        }
        let left = if before.empty && meets_others(&error) {
            format!("up to {written} keys of the backup were written and stay, since others are among them")
        } else if before.empty {
            match self.flush(written).await {
                Ok(true) => return error,
                Ok(false) => {
                    format!(
                        "up to {written} keys of the backup were written and stay: it holds more than these"
                    )
                }
                Err(flush) => format!("what was written could not be removed ({flush}); run FLUSHALL on it"),
            }
        } else {
            format!("up to {written} keys of the backup were written and stay among the others")
        };
        let more = Error::new(error.kind(), error.subject(), format!("{}; {left}", error.what()));
        let more = match error.hint() {
            Some(hint) => more.with_hint(hint),
            None => more,
        };
        more.with_source(error)
    }

    /// Removes everything, unless there are more keys than were written: then some are another's.
    async fn flush(&self, written: u64) -> Result<bool, RedisError> {
        let mut client = Client::connect(&self.endpoint).await?;
        if Info::ask(&mut client).await?.keys() > written {
            return Ok(false);
        }
        client.ask(&[b"FLUSHALL"]).await?;
        // No such command before Redis 7.
        client.answer(&[b"FUNCTION", b"FLUSH"]).await?;
        Ok(true)
    }
}

/// Whether an error tells of something that this restore did not write.
fn meets_others(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<RedisError>());
    matches!(source, Some(RedisError::KeyExists(_) | RedisError::FunctionExists(_)))
}

/// At most 64 KiB each.
fn pieces(chunk: &bytes::Bytes) -> impl Iterator<Item = bytes::Bytes> {
    const PIECE: usize = 64 * 1024;
    let len = chunk.len();
    (0..len).step_by(PIECE).map(move |at| chunk.slice(at..len.min(at + PIECE)))
}

#[async_trait]
impl Restorer for RedisRestorer {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == REDIS_RDB
    }

    async fn plan(&self, cx: &Context, request: RestoreRequest) -> Result<RestorePlan> {
        let name = self.endpoint.to_string();
        if !self.accepts(&request.format) {
            return Err(unaccepted(&name, &request.format));
        }
        let looked = unless_cancelled(cx.cancel(), &name, self.look()).await;
        let (_, before) = looked.map_err(|error| error.at(Stage::Restore))?;
        if !before.empty && !request.into_existing {
            return Err(self.conflict(&before).at(Stage::Restore));
        }
        let mut steps = Vec::new();
        if before.empty {
            steps.push(format!(
                "write every key to the empty {name} with RESTORE; nobody should use it before the end"
            ));
            steps.push(
                "after the verified end of the dump compare the number of keys in each database".to_owned(),
            );
            steps.push("on any failure remove everything again with FLUSHALL, unless somebody else's keys are seen there".to_owned());
        } else {
            let meeting = if self.endpoint.replace { "replace" } else { "stop at" };
            steps.push(format!(
                "write every key to {name} among its {} keys, and {meeting} those of the same name",
                before.keys
            ));
            steps.push("on a failure leave what was written, and say so".to_owned());
        }
        Ok(RestorePlan::looked_at(request, name, steps))
    }

    async fn restore(&self, cx: &Context, plan: RestorePlan, mut dump: Dump) -> Result<Restored> {
        let name = self.endpoint.to_string();
        let at = |error: Error| error.at(Stage::Restore);
        let (client, before) = unless_cancelled(cx.cancel(), &name, self.look()).await.map_err(at)?;
        if !before.empty && !plan.request().into_existing {
            return Err(at(self.conflict(&before)));
        }
        let replace = !before.empty && self.endpoint.replace;
        let mut writer =
            Writer::new(client, self.endpoint.stall, replace, before.empty).ahead_by(before.ahead);
        let outcome = match self.apply(cx, &mut writer, &mut dump).await {
            Ok((contents, bytes)) => {
                self.check(&mut writer, &contents, &before).await.map(|warnings| (bytes, warnings))
            }
            Err(error) => Err(error),
        };
        let written = writer.written();
        // The server forgets a command that is not whole with its connection.
        drop(writer);
        match outcome {
            Ok((bytes, warnings)) => Ok(Restored { target: plan.target().to_owned(), bytes, warnings }),
            Err(error) => Err(at(self.undo(error, &before, written).await)),
        }
    }
}
