//! What a source held when it was last backed up, so that a look at it can tell what has changed.
//!
//! The backup itself names its tables only inside the sealed trailer, which this machine cannot open.

use std::collections::BTreeMap;
use std::path::PathBuf;

use backup_core::{BackupId, Error, ErrorKind, Probe, ProbeItem, RepositoryId, Result, SourceName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::durable;

/// The memory of one source.
#[derive(Debug, Clone)]
pub(crate) struct InventoryFile {
    path: PathBuf,
}

/// What there was at the beginning of the last completed backup of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inventory {
    /// Where the backup lies.
    pub(crate) repository: RepositoryId,
    /// The backup.
    pub(crate) backup: BackupId,
    /// When it began.
    pub(crate) started: Timestamp,
    /// The engine, so that two databases under one name are not compared table by table.
    pub(crate) engine: String,
    /// Tables or collections and about how many rows each had.
    pub(crate) tables: BTreeMap<String, Option<u64>>,
}

/// What became different since then, each list in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Drift {
    /// There now, and not in the last backup.
    pub(crate) added: Vec<String>,
    /// In the last backup, and gone now.
    pub(crate) gone: Vec<String>,
    /// Had rows then and has none now, by the estimates.
    pub(crate) emptied: Vec<String>,
}

impl Drift {
    /// Whether nothing is different.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Inventory {
    /// What a look at the source found before this backup of it was made.
    pub(crate) fn new(repository: RepositoryId, backup: BackupId, started: Timestamp, probe: &Probe) -> Self {
        let tables = probe.items.iter().map(|item| (item.name.clone(), item.estimated_rows)).collect();
        Self { repository, backup, started, engine: probe.engine.clone(), tables }
    }

    /// What is different now.
    pub(crate) fn drift(&self, now: &[ProbeItem]) -> Drift {
        let now: BTreeMap<&str, Option<u64>> =
            now.iter().map(|item| (item.name.as_str(), item.estimated_rows)).collect();
        let is_new = |name: &&&str| !self.tables.contains_key(**name);
        let emptied = self.tables.iter().filter(|(name, then)| {
            then.is_some_and(|rows| rows > 0) && now.get(name.as_str()) == Some(&Some(0))
        });
        Drift {
            added: now.keys().filter(is_new).map(|name| (*name).to_owned()).collect(),
            gone: self.tables.keys().filter(|name| !now.contains_key(name.as_str())).cloned().collect(),
            emptied: emptied.map(|(name, _)| name.clone()).collect(),
        }
    }
}

impl InventoryFile {
    /// The memory at `path`.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// What was noted last, if anything was.
    ///
    /// # Errors
    /// `Integrity` for a file that cannot be understood.
    pub(crate) fn read(&self) -> Result<Option<Inventory>> {
        let Some(text) = durable::read(&self.path)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Error::new(
                ErrorKind::Integrity,
                self.path.display().to_string(),
                format!("not as it was written: {error}"),
            )
            .with_hint("remove it; the next backup writes it anew")
        })
    }

    /// Notes what there was; nobody else can read it.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn write(&self, inventory: &Inventory) -> Result<()> {
        if let Some(folder) = self.path.parent() {
            durable::create_folder(folder)?;
        }
        let text = serde_json::to_vec(inventory)
            .map_err(|e| Error::bug(format!("an inventory could not be written: {e}")))?;
        durable::replace(&self.path, &text, 0o600)
    }
}

/// The file of a source below the state folder.
pub(super) fn path(state: &std::path::Path, source: &SourceName) -> PathBuf {
    state.join("inventory").join(format!("{source}.json"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn item(name: &str, rows: Option<u64>) -> ProbeItem {
        ProbeItem { name: name.to_owned(), estimated_rows: rows, estimated_bytes: None }
    }

    fn inventory(items: Vec<ProbeItem>) -> Inventory {
        let probe = Probe { engine: "e".to_owned(), items, ..Probe::default() };
        Inventory::new(RepositoryId::random(), BackupId::random(), Timestamp::UNIX_EPOCH, &probe)
    }

    #[test]
    fn what_came_what_went_and_what_lost_its_rows_is_told() {
        let then = inventory(vec![
            item("stays", Some(5)),
            item("goes", Some(1)),
            item("emptied", Some(9)),
            item("was empty", Some(0)),
            item("unknown then", None),
            item("unknown now", Some(3)),
        ]);
        let now = [
            item("new", Some(0)),
            item("stays", Some(4)),
            item("emptied", Some(0)),
            item("was empty", Some(0)),
            item("unknown then", Some(0)),
            item("unknown now", None),
        ];
        let drift = then.drift(&now);
        assert_eq!((&drift.added[..], &drift.gone[..]), (&["new".to_owned()][..], &["goes".to_owned()][..]));
        assert_eq!(drift.emptied, ["emptied"]);
        assert!(!drift.is_none() && inventory(now.to_vec()).drift(&now).is_none());
    }

    #[test]
    fn it_is_kept_for_its_owner_alone_and_a_damaged_one_is_no_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = InventoryFile::new(path(folder.path(), &"shop".parse().unwrap()));
        assert_eq!(file.read().unwrap(), None);
        let kept = inventory(vec![item("a \"b\"\u{1b}é", Some(1))]);
        file.write(&kept).unwrap();
        assert_eq!(file.read().unwrap(), Some(kept));
        assert_eq!(std::fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file.path, "{").unwrap();
        assert_eq!(file.read().unwrap_err().kind(), ErrorKind::Integrity);
    }
}
