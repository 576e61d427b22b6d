//! A restore under way, as other restores see it.

use backup_core::Context;

use super::super::error::PostgresError;
use super::super::parallel::session::Session;
use super::super::query::Psql;
use super::random_u32;

/// How the name of a restore's session begins; its random number follows.
pub(super) const RESTORING: &str = "strongroom restore ";

/// A restore that builds databases under temporary names. As long as this value lives, a session with
/// its number is open, outside of those databases: nobody takes them for left behind.
#[derive(Debug)]
pub(super) struct Run {
    /// Asks the server.
    pub(super) psql: Psql,
    /// Its number, eight hexadecimal digits.
    pub(super) number: String,
    /// Idle to its end.
    _session: Session,
}

impl Run {
    /// Opens the session.
    pub(super) async fn begin(cx: &Context, psql: &Psql) -> Result<Self, PostgresError> {
        let number = format!("{:08x}", random_u32()?);
        let session = psql.named(&format!("{RESTORING}{number}")).session(cx, "").await?;
        Ok(Self { psql: psql.clone(), number, _session: session })
    }
}
