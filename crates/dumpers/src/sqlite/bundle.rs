//! Several database files in one stream, and back into a folder.
//!
//! Each file is of one moment by itself, and the moments differ: SQLite has no snapshot over several
//! files. A transaction over files that one program has attached to each other is therefore in one
//! of them and perhaps not in another; a probe and every dump say so.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use backup_core::{
    ByteStream, Context, Dump, DumpFormat, DumpReport, Dumper, Error, ErrorKind, Event, Inspection,
    Inspector, Plain, Probe, ProbeItem, RestorePlan, RestoreRequest, Restored, Restorer as _, Result,
    Selection, Settled, Stage,
};
use futures::StreamExt as _;
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{CWD, RenameFlags};

use super::dump::SqliteDumper;
use super::error::{SqliteError, companions};
use super::image::SqliteInspector;
use super::restore::SqliteRestorer;
use super::{SQLITE_BUNDLE, SQLITE_IMAGE, SqliteConfig};
use crate::bundle::{Gathered, MemberHead, Members, gathered, inspected};
use crate::command::refuse_selection;
use crate::folder::{Hidden, left_over, matches};
use crate::publish::{blocking, check_new, file_error, folder_of};

/// What the report says of a file that was in WAL mode.
const WAL: &str = "journal=wal";
const MOMENTS: &str = "each file is of one moment by itself, and the moments differ: a transaction over attached files \
                       may be in one of them and not in another";

/// Dumps several database files.
#[derive(Debug, Clone)]
pub struct SqliteBundleDumper {
    config: SqliteConfig,
}

/// A file and its name in the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    name: String,
    path: PathBuf,
}

impl SqliteBundleDumper {
    /// The files of these settings; patterns are looked up when a dump begins.
    #[must_use]
    pub fn new(config: &SqliteConfig) -> Self {
        Self { config: config.clone() }
    }

    fn subject(&self) -> String {
        self.config.paths.join(", ")
    }

    fn dumper(&self, file: &Named) -> SqliteDumper {
        SqliteDumper::new(&SqliteConfig { path: file.path.clone(), paths: Vec::new(), ..self.config.clone() })
    }

    async fn files(&self) -> Result<Vec<Named>> {
        let paths = self.config.paths.clone();
        blocking(move || named(&paths)).await
    }
}

#[async_trait]
impl Dumper for SqliteBundleDumper {
    async fn probe(&self, cx: &Context) -> Result<Probe> {
        let mut all = Probe {
            engine: "sqlite".to_owned(),
            estimated_bytes: Some(0),
            warnings: vec![MOMENTS.to_owned()],
            ..Probe::default()
        };
        for file in self.files().await.map_err(|error| error.at(Stage::Probe))? {
            let one = self.dumper(&file).probe(cx).await?;
            all.versions.extend(one.versions);
            all.estimated_bytes =
                all.estimated_bytes.zip(one.estimated_bytes).map(|(a, b)| a.saturating_add(b));
            all.items.extend(
                one.items
                    .into_iter()
                    .map(|item| ProbeItem { name: format!("{}/{}", file.name, item.name), ..item }),
            );
            all.obstacles.extend(one.obstacles);
            all.warnings.extend(one.warnings.into_iter().map(|warning| format!("{}: {warning}", file.name)));
        }
        Ok(all)
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        let subject = self.subject();
        cx.check(&subject)?;
        refuse_selection(&subject, what)?;
        let files = self.files().await.map_err(|error| error.at(Stage::Dump))?;
        cx.report(Event::Warning(MOMENTS));
        let (this, own) = (self.clone(), cx.clone());
        let dumps = futures::stream::iter(files).then(move |file| {
            let (this, cx) = (this.clone(), own.clone());
            async move {
                cx.report(Event::Table(&file.name));
                let dump = this.dumper(&file).dump(&cx, &Selection::default()).await?;
                let head = MemberHead::new(&*file.name, SQLITE_IMAGE);
                Ok(Gathered { head, bytes: dump.bytes, report: dump.report })
            }
        });
        let (settler, report) = Settled::pending();
        let bytes = gathered(&subject, dumps, move |members| {
            let mut all = DumpReport { engine: "sqlite".to_owned(), ..DumpReport::default() };
            for (head, one) in members {
                let name = head.name;
                all.versions.extend(one.versions);
                all.options.extend(one.options.iter().map(|option| format!("{name}: {option}")));
                all.tables.extend(one.tables.iter().map(|table| format!("{name}/{table}")));
            }
            settler.settle(all);
        });
        Ok(Dump { format: DumpFormat::new(SQLITE_BUNDLE), bytes, report })
    }
}

/// The files of paths and patterns, named by their paths below the folder that they share.
fn named(patterns: &[String]) -> Result<Vec<Named>> {
    let wrong = |pattern: &str, kind, what: &str| {
        Error::new(kind, pattern, what).with_hint("paths takes files, and patterns with * and ?")
    };
    let mut found = BTreeSet::new();
    for pattern in patterns {
        let before = found.len();
        let absolute = std::path::absolute(pattern)
            .map_err(|error| wrong(pattern, ErrorKind::Config, &error.to_string()))?;
        if !pattern.contains(['*', '?']) {
            found.insert(absolute);
            continue;
        }
        let mut known = false;
        for path in expanded(&absolute)? {
            known = true;
            found.insert(path);
        }
        if !known && found.len() == before {
            return Err(wrong(pattern, ErrorKind::NotFound, "no file fits this pattern"));
        }
    }
    let folders: Vec<&Path> = found.iter().map(|path| folder_of(path)).collect();
    let mut shared = folders.first().copied().unwrap_or(Path::new("/"));
    while !folders.iter().all(|folder| folder.starts_with(shared)) {
        shared = shared.parent().unwrap_or(Path::new("/"));
    }
    let shared = shared.to_owned();
    let name = |path: PathBuf| {
        let name = path.strip_prefix(&shared).ok().and_then(Path::to_str).map(str::to_owned);
        match name.filter(|name| is_member(name)) {
            Some(name) => Ok(Named { name, path }),
            None => {
                Err(wrong(&path.display().to_string(), ErrorKind::Unsupported, "cannot be named in a bundle"))
            }
        }
    };
    found.into_iter().map(name).collect()
}

/// The files that fit, without what SQLite keeps beside a database.
///
/// # Errors
/// A folder or a file that cannot be looked at: nobody knows whether a database is there.
fn expanded(pattern: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.components() {
        let Component::Normal(part) = part else { continue };
        if !part.as_encoded_bytes().iter().any(|byte| matches!(byte, b'*' | b'?')) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let mut below = Vec::new();
        for folder in found {
            below.extend(fitting(&folder, part.as_encoded_bytes())?);
        }
        found = below;
    }
    let beside: BTreeSet<PathBuf> = found.iter().flat_map(|path| companions(path)).collect();
    let mut files = Vec::new();
    for path in found.into_iter().filter(|path| !beside.contains(path)) {
        match path.metadata() {
            Ok(metadata) if metadata.is_file() => files.push(path),
            Err(error) if !is_absent(&error) => {
                return Err(file_error(&path, "fits a pattern and cannot be looked at", error));
            }
            _ => {}
        }
    }
    Ok(files)
}

/// What in a folder fits one part of a pattern.
fn fitting(folder: &Path, part: &[u8]) -> Result<Vec<PathBuf>> {
    let fail = |error| file_error(folder, "fits a pattern and cannot be read", error);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(fail)?.file_name();
        let bytes = name.as_encoded_bytes();
        // As in a shell, a star does not find what is hidden.
        if matches(part, bytes) && (!bytes.starts_with(b".") || part.starts_with(b".")) {
            found.push(folder.join(name));
        }
    }
    Ok(found)
}

/// Nothing is there, or a file where the pattern wants a folder.
fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// A name that stays below its folder.
fn is_member(name: &str) -> bool {
    !name.is_empty()
        && !name.contains('\0')
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && name.len() < 4096
}

/// What is planned for a bundle: a new folder.
pub(super) async fn plan(path: &Path, request: RestoreRequest) -> Result<RestorePlan> {
    let (target, len) = (path.to_owned(), request.source_len);
    let left = blocking(move || {
        check_new(&target, len, false)?;
        Ok(left_over(&target))
    })
    .await?;
    let name = path.display().to_string();
    let mut steps = vec![
        format!("write each database into a hidden folder beside {name} and check it"),
        format!("after the verified end of the dump give the folder the name {name}"),
    ];
    for left in left {
        steps.push(format!(
            "leave {}, which an earlier restore left (killed, or what an exchange kept): look into it and remove it",
            left.display()
        ));
    }
    Ok(RestorePlan::looked_at(request, name, steps))
}

/// Restores a bundle into a new folder, which appears only when it is whole.
pub(super) async fn restore(cx: &Context, path: &Path, dump: Dump) -> Result<Restored> {
    let target = path.to_owned();
    let hidden = blocking(move || {
        check_new(&target, None, false)?;
        Hidden::beside(&target)
    })
    .await?;
    let total = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&total);
    let bytes = dump.bytes.inspect(move |chunk| {
        counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    });
    let mut members = Members::new(SQLITE_BUNDLE, bytes);
    let (mut names, mut warnings) = (Vec::new(), Vec::new());
    loop {
        let member = tokio::select! {
            biased;
            () = cx.cancel().cancelled() => return Err(Error::cancelled(path.display().to_string())),
            member = members.next() => member?,
        };
        let Some(member) = member else { break };
        let name = member.head.name;
        if !is_member(&name) || member.head.format != SQLITE_IMAGE {
            return Err(Error::new(
                ErrorKind::Integrity,
                SQLITE_BUNDLE,
                format!("{name:?} is no database of a bundle"),
            )
            .with_hint("use another backup"));
        }
        let file = hidden.path().join(&name);
        let folder = folder_of(&file).to_owned();
        blocking(move || {
            std::fs::create_dir_all(&folder).map_err(|error| file_error(&folder, "cannot be made", error))
        })
        .await?;
        let restorer = SqliteRestorer::new(&SqliteConfig::new(file));
        let format = DumpFormat::new(SQLITE_IMAGE);
        let request = RestoreRequest { format: format.clone(), source_len: None, into_existing: false };
        let plan = restorer.plan(cx, request).await?;
        let report = Settled::known(DumpReport::default());
        let one = restorer.restore(cx, plan, Dump { format, bytes: member.bytes, report }).await?;
        warnings.extend(one.warnings.into_iter().map(|warning| format!("{name}: {warning}")));
        names.push(name);
    }
    let options = dump.report.get().map(|report| report.options.clone()).unwrap_or_default();
    let target = path.to_owned();
    blocking(move || {
        for name in names.iter().filter(|name| options.contains(&format!("{name}: {WAL}"))) {
            let file = hidden.path().join(name);
            to_wal(&file).map_err(|error| error.at(&file))?;
        }
        rustix::fs::renameat_with(CWD, hidden.path(), CWD, &target, RenameFlags::NOREPLACE)
            .map_err(|errno| file_error(&target, "cannot be given its name", errno.into()))?;
        // Gone under the hidden name: there is nothing to remove.
        let _ = hidden.keep();
        let folder = folder_of(&target);
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| file_error(folder, "cannot be synced", error))
    })
    .await?;
    Ok(Restored { target: path.display().to_string(), bytes: total.load(Ordering::Relaxed), warnings })
}

fn to_wal(file: &Path) -> Result<(), SqliteError> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.close().map_err(|(_, error)| error.into())
}

/// Reads `sqlite-bundle` dumps to their end, each image as such.
#[derive(Debug, Clone, Default)]
pub struct SqliteBundleInspector {
    scratch: Option<PathBuf>,
}

impl SqliteBundleInspector {
    /// As [`SqliteInspector::with_scratch`].
    #[must_use]
    pub fn with_scratch(folder: Option<&Path>) -> Self {
        Self { scratch: folder.map(Path::to_owned) }
    }
}

#[async_trait]
impl Inspector for SqliteBundleInspector {
    fn accepts(&self, format: &DumpFormat) -> bool {
        format.as_str() == SQLITE_BUNDLE
    }

    async fn inspect(
        &self,
        cx: &Context,
        _format: &DumpFormat,
        bytes: ByteStream<Plain>,
    ) -> Result<Inspection> {
        let images = SqliteInspector::with_scratch(self.scratch.as_deref());
        inspected(cx, SQLITE_BUNDLE, bytes, &[Arc::new(images)]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_below_the_folder_they_share() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("a/x")).unwrap();
        std::fs::create_dir(at("b")).unwrap();
        for name in
            ["a/1.db", "a/1.db-wal", "a/1.db-shm", "a/2.db", "a/.3.db", "a/x/1.db", "b/1.db", "b/n.txt"]
        {
            std::fs::write(at(name), name).unwrap();
        }
        let names = |patterns: &[&str]| {
            let own: Vec<String> = patterns.iter().map(|name| at(name).display().to_string()).collect();
            named(&own).map(|found| found.into_iter().map(|file| file.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["a/*.db*"]).unwrap(), ["1.db", "2.db"]);
        assert_eq!(names(&["*/1.db", "a/1.db"]).unwrap(), ["a/1.db", "b/1.db"]);
        assert_eq!(names(&["a/2.db", "a/x/?.db"]).unwrap(), ["2.db", "x/1.db"]);
        assert_eq!(names(&["b/1.db"]).unwrap(), ["1.db"]);
        assert_eq!(names(&["b/1.db", "c/*"]).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("a")).unwrap();
        std::fs::write(at("a/app.db"), "").unwrap();
        std::fs::write(at("readme"), "").unwrap();
        std::fs::create_dir(at("empty")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        let look = |pattern: &str| expanded(&at(pattern));
        assert_eq!(look("*/app.db").unwrap(), [at("a/app.db")]);
        assert_eq!(look("*/*.db").unwrap(), [at("a/app.db")]);
        // Root may read everything, but no loop has an end.
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        for pattern in ["*/app.db", "*/*.db", "l*"] {
            let error = look(pattern).unwrap_err();
            assert!(error.to_string().contains("loop"), "{pattern}: {error}");
        }
        assert!(named(&[at("*/app.db").display().to_string()]).is_err());
    }

    #[test]
    fn a_member_stays_below_its_folder() {
        assert!(is_member("a") && is_member("a/b c.db"));
        for bad in ["", "/a", "a/", "../a", "a/../b", "./a", "a\0"] {
            assert!(!is_member(bad), "{bad}");
        }
    }
}
