//! Looks after the sessions that wait for a dump.
//!
//! A dump holds a lock on every table until its end. It stops nobody who reads or writes rows, but
//! whoever alters a table waits for it, and everybody who then wants that table waits behind him.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backup_core::{Context, Event};
use serde::Deserialize;
use tokio::time::Instant;

use super::super::error::PostgresError;
use super::super::names::literal;
use super::super::query::Psql;
use super::super::restore::random_u32;
use super::super::settings::OnBlocked;

/// The longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The shortest.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// How the sessions of one dump call themselves, so that they are told from those of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Mark(String);

impl Mark {
    /// One that no other dump has.
    pub(in super::super) fn random() -> Result<Self, PostgresError> {
        random_u32().map(|number| Self(format!("{number:08x}")))
    }

    /// The name of the session that holds the snapshot, and its locks where it has some.
    pub(in super::super) fn snapshot(&self) -> String {
        format!("strongroom snapshot {}", self.0)
    }

    /// The name of the sessions that read.
    pub(in super::super) fn dump(&self) -> String {
        format!("strongroom dump {}", self.0)
    }
}

/// Whom the dump gave way to, once it did.
pub(in super::super) type GaveWay = Arc<Mutex<Option<String>>>;

/// How long others may wait, and what happens then.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Patience {
    pub(in super::super) limit: Duration,
    pub(in super::super) on_blocked: OnBlocked,
}

/// A watch over the sessions of one dump; it ends with the value.
#[derive(Debug)]
pub(in super::super) struct Watch {
    task: tokio::task::JoinHandle<()>,
    gave_way: GaveWay,
}

/// A session that waits for one of ours.
#[derive(Debug, Deserialize)]
struct Waiting {
    pid: i64,
    user: Option<String>,
    application: Option<String>,
    /// The first two words of its statement, where they are such; what follows may be a secret.
    what: Option<String>,
    /// How many wait behind it.
    behind: u64,
}

impl Watch {
    /// Watches the sessions with this mark, asking through `psql`. Giving way ends these sessions at
    /// the server, whether anybody reads the dump at that moment or not.
    pub(in super::super) fn start(cx: &Context, psql: Psql, mark: &Mark, patience: Patience) -> Self {
        let gave_way = GaveWay::default();
        let task = tokio::spawn(watch(cx.clone(), psql, mark.clone(), patience, Arc::clone(&gave_way)));
        Self { task, gave_way }
    }

    /// Whom the dump gave way to.
    pub(in super::super) fn gave_way(&self) -> Option<String> {
        self.gave_way.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(cx: Context, psql: Psql, mark: Mark, patience: Patience, gave_way: GaveWay) {
    let pause = (patience.limit / 4).clamp(PAUSE_MIN, PAUSE_MAX);
    let ours = format!(
        "SELECT pid FROM pg_catalog.pg_stat_activity WHERE application_name IN ({}, {}) AND usename = current_user",
        literal(&mark.dump()),
        literal(&mark.snapshot())
    );
    let question = format!(
        "WITH waiting AS (SELECT DISTINCT pid FROM pg_catalog.pg_locks WHERE NOT granted)
         SELECT coalesce(json_agg(json_build_object('pid', w.pid, 'user', a.usename, 'application', a.application_name,
           'what', substring(a.query FROM '^\\s*([A-Za-z]{{1,20}}(?:\\s+[A-Za-z]{{1,20}})?)'),
           'behind', (SELECT count(*) FROM waiting o WHERE w.pid = ANY (pg_blocking_pids(o.pid))))), '[]'::json)
         FROM waiting w LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
         WHERE pg_blocking_pids(w.pid) && ARRAY({ours});"
    );
    // Since when each waits, and whether that was said.
    let mut since: HashMap<i64, (Instant, bool)> = HashMap::new();
    loop {
        tokio::time::sleep(pause).await;
        // A server that does not answer now is the dump's own trouble.
        let Ok(waiting) = psql.ask::<Vec<Waiting>>(&cx, &question).await else { continue };
        since.retain(|pid, _| waiting.iter().any(|session| session.pid == *pid));
        for session in &waiting {
            let (begun, told) = since.entry(session.pid).or_insert((Instant::now(), false));
            if *told || begun.elapsed() < patience.limit {
                continue;
            }
            *told = true;
            let who = session.shown(begun.elapsed());
            match patience.on_blocked {
                OnBlocked::Warn => cx.report(Event::Warning(&format!("the dump holds up {who}"))),
                OnBlocked::GiveWay => {
                    *gave_way.lock().unwrap_or_else(PoisonError::into_inner) = Some(who);
                    // Until none is left: one whose connection was lost may just come back.
                    let end =
                        format!("SELECT to_json(count(pg_terminate_backend(pid))) FROM ({ours}) AS ours;");
                    while !psql.ask::<u64>(&cx, &end).await.is_ok_and(|ended| ended == 0) {
                        tokio::time::sleep(PAUSE_MIN).await;
                    }
                    return;
                }
            }
        }
    }
}

impl Waiting {
    fn shown(&self, waited: Duration) -> String {
        let of = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let mut shown = format!("session {}", self.pid);
        if let Some(user) = of(&self.user) {
            shown.push_str(&format!(" of {user:?}"));
        }
        if let Some(application) = of(&self.application) {
            shown.push_str(&format!(" ({application})"));
        }
        shown.push_str(&format!(", which has waited {} s for a lock", waited.as_secs()));
        if let Some(what) = of(&self.what) {
            let words: Vec<&str> = what.split_whitespace().collect();
            shown.push_str(&format!(" ({})", words.join(" ")));
        }
        if self.behind > 0 {
            shown.push_str(&format!(", and {} behind it", self.behind));
        }
        shown
    }
}
