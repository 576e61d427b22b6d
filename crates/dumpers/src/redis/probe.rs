//! A look at a server that changes nothing.

use std::collections::BTreeMap;

use backup_core::{Obstacle, Probe, ProbeItem};
use bytes::BytesMut;

use super::client::{Client, Reply, encode};
use super::config::Endpoint;
use super::error::{RedisError, grant};

/// What `INFO` says, by field.
#[derive(Debug, Default)]
pub(super) struct Info(BTreeMap<String, String>);

impl Info {
    /// Asks for everything; `info` is the one right that is needed.
    pub(super) async fn ask(client: &mut Client) -> Result<Self, RedisError> {
        let text = client.ask(&[b"INFO"]).await?.text().ok_or(RedisError::Protocol("INFO without a text"))?;
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Ok(Self(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// Keys in all databases.
    pub(super) fn keys(&self) -> u64 {
        self.databases().values().sum()
    }

    /// Whether there is neither a key nor a function.
    pub(super) async fn is_empty(&self, client: &mut Client) -> Result<bool, RedisError> {
        // No such command before Redis 7: then there is none.
        let functions = match client.answer(&[b"FUNCTION", b"LIST"]).await? {
            Reply::List(libraries) => libraries.len(),
            _ => 0,
        };
        Ok(self.keys() == 0 && functions == 0)
    }

    /// `redis 7.0.15` or `valkey 8.0.1`.
    pub(super) fn server(&self) -> String {
        match self.get("valkey_version") {
            Some(version) => format!("valkey {version}"),
            None => format!("redis {}", self.get("redis_version").unwrap_or("unknown")),
        }
    }

    /// Keys by database: `db0:keys=1,expires=0,avg_ttl=0`.
    pub(super) fn databases(&self) -> BTreeMap<u64, u64> {
        let found = self.0.iter().filter_map(|(name, value)| {
            let number = name.strip_prefix("db")?.parse().ok()?;
            let keys = value.split(',').find_map(|part| part.strip_prefix("keys="))?;
            Some((number, keys.parse().ok()?))
        });
        found.collect()
    }
}

/// Connects, tries the rights of a dump, and asks what is there.
pub(super) async fn look(endpoint: &Endpoint) -> Result<Probe, RedisError> {
    let mut client = Client::connect(endpoint).await?;
    let mut probe = Probe { engine: "redis".to_owned(), ..Probe::default() };
    match may_copy(&mut client, endpoint).await {
        Ok(()) => {}
        Err(RedisError::NotPermitted { user, commands }) => {
            let what = format!(
                "user {user:?} may not run {}, which a dump is asked for with",
                commands.join(" and ")
            );
            probe.obstacles.push(Obstacle::new(what, grant(&user, &commands)));
        }
        Err(error) => return Err(error),
    }
    let info = match Info::ask(&mut client).await {
        Ok(info) => info,
        Err(RedisError::NotPermitted { user, commands }) => {
            let what =
                format!("user {user:?} may not ask for size and contents, which a dump can do without");
            probe.warnings.push(format!("{what}; {}", grant(&user, &commands)));
            return Ok(probe);
        }
        Err(error) => return Err(error),
    };
    probe.versions.insert("server".to_owned(), info.server());
    probe.estimated_bytes = info.number("used_memory_dataset").or_else(|| info.number("used_memory"));
    probe.items = info
        .databases()
        .into_iter()
        .map(|(number, keys)| ProbeItem {
            name: format!("db{number}"),
            estimated_rows: Some(keys),
            estimated_bytes: None,
        })
        .collect();
    if info.get("cluster_enabled") == Some("1") {
        probe.warnings.push(
            "this is one node of a cluster: its own slots are backed up, and no other node's; back up each primary"
                .to_owned(),
        );
    }
    if info.get("master_link_status") == Some("down") {
        probe.warnings.push("this replica has lost its primary: its data is as old as that".to_owned());
    }
    Ok(probe)
}

/// Rights that were found missing.
#[derive(Debug, Default)]
pub(super) struct Missing(Option<RedisError>);

impl Missing {
    /// Remembers a refusal for want of rights; any other refusal passes.
    pub(super) fn note(&mut self, client: &Client, command: &str, reply: &Reply) -> Result<(), RedisError> {
        let Reply::Refused(answer) = reply else { return Ok(()) };
        match client.refused(command, answer) {
            RedisError::NotPermitted { user, commands: more } => {
                let none = || RedisError::NotPermitted { user, commands: Vec::new() };
                if let RedisError::NotPermitted { commands, .. } = self.0.get_or_insert_with(none) {
                    commands.extend(more);
                    commands.dedup();
                }
                Ok(())
            }
            error @ (RedisError::Login(_) | RedisError::Loading) => Err(error),
            _ => Ok(()),
        }
    }

    /// All of them at once.
    pub(super) fn told(self) -> Result<(), RedisError> {
        self.0.map_or(Ok(()), Err)
    }
}

/// Tries `REPLCONF` and `PSYNC` without starting a copy: behind a command whose answer was not sent
/// yet, a server refuses `PSYNC`, and says earlier where the user may not run it at all.
async fn may_copy(client: &mut Client, endpoint: &Endpoint) -> Result<(), RedisError> {
    let mut both = BytesMut::new();
    encode(&mut both, &[b"REPLCONF", b"capa", b"eof"]);
    encode(&mut both, &[b"PSYNC", b"?", b"-1"]);
    client.send(&both).await?;
    let (configured, copied) = (client.reply().await?, client.reply().await?);
    let mut missing = Missing::default();
    missing.note(client, "replconf", &configured)?;
    match &copied {
        Reply::Refused(answer) if answer.contains("pending output") => missing.told(),
        Reply::Refused(answer) if !answer.starts_with("NOPERM") => Err(client.refused("psync", answer)),
        Reply::Refused(_) => {
            missing.note(client, "psync", &copied)?;
            missing.told()
        }
        // It took the two apart and starts a copy; this connection is of no more use.
        _ => {
            *client = Client::connect(endpoint).await?;
            Ok(())
        }
    }
}
