//! A cache of what a destination holds, for listings. The destination is the truth.
//!
//! It keeps the last listing, and small signed objects as they were stored, under key, length and the
//! place's own name of their version. What comes out of it is believed no more than what comes from the
//! place: every signature is checked again. Verification, restores and removals never ask it. It can be
//! deleted at any time, and one that cannot be read is made anew.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    ByteStream, EntityTag, Error, ErrorKind, Held, ObjectInfo, ObjectKey, Result, Sealed, Source,
};
use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::durable;

/// Raised with every change of the tables; a cache of another version is thrown away.
const VERSION: i64 = 1;
/// Objects that are longer are not kept.
const LEN_MAX: u64 = 64 << 10;
/// How many objects are written to disk at a time.
const BATCH: usize = 500;

/// The cache of one place.
#[derive(Debug)]
pub(crate) struct Catalogue {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    connection: Connection,
    waiting: Vec<(ObjectInfo, Bytes)>,
}

impl Catalogue {
    /// The cache at `path`, made if it is not there, and made anew if it cannot be read.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        if let Some(folder) = path.parent() {
            durable::create_folder(folder)?;
        }
        let connection = match connect(&path) {
            Ok(connection) => connection,
            Err(_) => {
                remove(&path);
                connect(&path).map_err(|error| broken(&path, error))?
            }
        };
        Ok(Self { path, inner: Mutex::new(Inner { connection, waiting: Vec::new() }) })
    }

    /// When the place was last listed as a whole, if it ever was.
    ///
    /// # Errors
    /// `Integrity` for a damaged cache.
    pub(crate) fn listed(&self) -> Result<Option<Timestamp>> {
        let inner = self.lock();
        let found = inner
            .connection
            .query_row("SELECT value FROM notes WHERE name = 'listed'", [], |row| row.get::<_, String>(0));
        match found {
            Ok(text) => Ok(text.parse().ok()),
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
            Err(error) => Err(broken(&self.path, error)),
        }
    }

    /// Notes a listing of the place: what is not in it any more is forgotten, with its bytes.
    fn note(&self, prefix: &str, listing: &[ObjectInfo], now: Timestamp) -> Result<()> {
        let mut known: HashMap<ObjectKey, (u64, Option<EntityTag>)> =
            self.objects(prefix)?.into_iter().map(|info| (info.key, (info.len, info.tag))).collect();
        let mut inner = self.lock();
        let noted = (|| {
            let work = inner.connection.transaction()?;
            {
                let mut put = work.prepare_cached(
                    "INSERT OR REPLACE INTO objects (key, len, tag, modified) VALUES (?1, ?2, ?3, ?4)",
                )?;
                for info in listing {
                    let same = known
                        .remove(&info.key)
                        .is_some_and(|(len, tag)| len == info.len && tag == info.tag && tag.is_some());
                    if !same {
                        let (tag, modified) = (info.tag.as_ref().map(|tag| &tag.0), info.modified);
                        let modified = modified.map(|modified| modified.to_string());
                        put.execute(params![info.key.as_str(), info.len.cast_signed(), tag, modified])?;
                    }
                }
                let mut forget = work.prepare_cached("DELETE FROM objects WHERE key = ?1")?;
                for gone in known.keys() {
                    forget.execute([gone.as_str()])?;
                }
                if prefix.is_empty() {
                    work.execute(
                        "INSERT OR REPLACE INTO notes (name, value) VALUES ('listed', ?1)",
                        [now.to_string()],
                    )?;
                }
            }
            work.commit()
        })();
        noted.map_err(|error: rusqlite::Error| broken(&self.path, error))
    }

    /// What the last listings showed below `prefix`, in the order of keys.
    fn objects(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let inner = self.lock();
        let read = || -> rusqlite::Result<Vec<ObjectInfo>> {
            // A prefix is empty or ends in a slash, and `0` comes after the slash.
            let end = prefix.strip_suffix('/').map_or("\u{7f}".to_owned(), |start| format!("{start}0"));
            let mut select = inner.connection.prepare_cached(
                "SELECT key, len, tag, modified FROM objects WHERE key >= ?1 AND key < ?2 ORDER BY key",
            )?;
            let rows = select.query_map([prefix, &end], |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, Option<String>>(2)?,
                    row.get::<_, Option<String>>(3)?,
                ))
            })?;
            let mut found = Vec::new();
            for row in rows {
                let (key, len, tag, modified) = row?;
                let Ok(key) = key.parse() else { continue };
                found.push(ObjectInfo {
                    key,
                    len: len.cast_unsigned(),
                    tag: tag.map(EntityTag),
                    modified: modified.and_then(|text| text.parse().ok()),
                });
            }
            Ok(found)
        };
        read().map_err(|error| broken(&self.path, error))
    }

    /// The bytes of an object of exactly this version.
    fn bytes(&self, info: &ObjectInfo) -> Option<Bytes> {
        let EntityTag(tag) = info.tag.as_ref()?;
        let inner = self.lock();
        let mut select = inner
            .connection
            .prepare_cached("SELECT stored FROM objects WHERE key = ?1 AND len = ?2 AND tag = ?3")
            .ok()?;
        let found = select.query_row(params![info.key.as_str(), info.len.cast_signed(), tag], |row| {
            row.get::<_, Option<Vec<u8>>>(0)
        });
        found.ok()?.filter(|bytes| bytes.len() as u64 == info.len).map(Bytes::from)
    }

    /// Keeps the bytes of an object of this version.
    fn keep(&self, info: ObjectInfo, bytes: Bytes) {
        let mut inner = self.lock();
        inner.waiting.push((info, bytes));
        if inner.waiting.len() >= BATCH {
            // A cache that cannot be written is one that helps less.
            let _ = inner.flush();
        }
    }

    fn forget(&self, key: &ObjectKey) {
        let mut inner = self.lock();
        inner.waiting.retain(|(info, _)| info.key != *key);
        let _ = inner.connection.execute("UPDATE objects SET stored = NULL WHERE key = ?1", [key.as_str()]);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Catalogue {
    fn drop(&mut self) {
        let _ = self.lock().flush();
    }
}

impl Inner {
    fn flush(&mut self) -> rusqlite::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return Ok(());
        }
        let work = self.connection.transaction()?;
        {
            let mut put = work.prepare_cached(
                "INSERT OR REPLACE INTO objects (key, len, tag, modified, stored) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for (info, bytes) in &waiting {
                let (tag, modified) = (info.tag.as_ref().map(|tag| &tag.0), info.modified);
                let modified = modified.map(|modified| modified.to_string());
                put.execute(params![
                    info.key.as_str(),
                    info.len.cast_signed(),
                    tag,
                    modified,
                    bytes.as_ref()
                ])?;
            }
        }
        work.commit()
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version != VERSION {
        connection.execute_batch(&format!(
            "BEGIN; DROP TABLE IF EXISTS objects; DROP TABLE IF EXISTS notes;
             CREATE TABLE objects (key TEXT PRIMARY KEY, len INTEGER NOT NULL, tag TEXT, modified TEXT, stored BLOB);
             CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
             PRAGMA user_version = {VERSION}; COMMIT;"
        ))?;
    }
    // Finds a file that is no database, or one of another program, before anything relies on it.
    connection.query_row("SELECT count(*) FROM objects WHERE key = ''", [], |_| Ok(()))?;
    connection.query_row("SELECT count(*) FROM notes WHERE name = ''", [], |_| Ok(()))?;
    Ok(connection)
}

fn remove(path: &Path) {
    for end in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        let _ = std::fs::remove_file(name);
    }
}

fn broken(path: &Path, error: rusqlite::Error) -> Error {
    Error::new(ErrorKind::Unavailable, path.display().to_string(), "the cache of listings cannot be used")
        .with_hint("remove it; the next listing makes it anew")
        .with_source(error)
}

/// A place, read through its cache. Listings come from the place, and so does every object that the
/// cache has not in the very version that the place has now.
pub(crate) struct CachedSource {
    place: Arc<dyn Source>,
    cache: Catalogue,
    /// What was looked at alone, before any listing.
    looked: Mutex<HashMap<ObjectKey, ObjectInfo>>,
    now: Timestamp,
}

impl CachedSource {
    /// Reads `place` through `cache`.
    pub(crate) fn new(place: Arc<dyn Source>, cache: Catalogue, now: Timestamp) -> Self {
        Self { place, cache, looked: Mutex::default(), now }
    }

    /// Reads an object from the place the next time: what was kept of it was not believed, and a cache
    /// never wins over the place.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.cache.forget(key);
    }
}

impl fmt::Debug for CachedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedSource").field("place", &self.place).finish_non_exhaustive()
    }
}

impl fmt::Display for CachedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

#[async_trait]
impl Source for CachedSource {
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        let found = self.place.stat(key).await?;
        if let Some(info) = found.as_ref().filter(|info| is_kept(key) && info.len <= LEN_MAX) {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            looked.insert(key.clone(), info.clone());
        }
        Ok(found)
    }

    async fn fetch(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        pin: Option<&EntityTag>,
    ) -> Result<ByteStream<Sealed>> {
        let info = match (&range, pin) {
            (None, Some(tag)) if is_kept(key) => self.cache.known(key, tag).or_else(|| {
                let looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
                looked.get(key).filter(|info| info.tag.as_ref() == Some(tag)).cloned()
            }),
            _ => None,
        };
        let Some(info) = info else { return self.place.fetch(key, range, pin).await };
        if let Some(bytes) = self.cache.bytes(&info) {
            return Ok(one(bytes));
        }
        let mut stream = self.place.fetch(key, None, pin).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        let bytes = Bytes::from(bytes);
        if bytes.len() as u64 == info.len {
            self.cache.keep(info, bytes.clone());
        }
        Ok(one(bytes))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let listing = self.place.list(prefix).await?;
        // Without the note every object is read from the place, which is slow and right.
        let _ = self.cache.note(prefix, &listing, self.now);
        Ok(listing)
    }

    async fn held(&self, key: &ObjectKey) -> Result<Option<Held>> {
        self.place.held(key).await
    }
}

impl Catalogue {
    /// What the last listing said of an object, if it was of this version and is short.
    fn known(&self, key: &ObjectKey, tag: &EntityTag) -> Option<ObjectInfo> {
        let inner = self.lock();
        let mut select = inner
            .connection
            .prepare_cached("SELECT len, modified FROM objects WHERE key = ?1 AND tag = ?2")
            .ok()?;
        let found = select.query_row([key.as_str(), &tag.0], |row| {
            Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, Option<String>>(1)?))
        });
        let (len, modified) = found.ok()?;
        let modified = modified.and_then(|text| text.parse().ok());
        (len <= LEN_MAX).then(|| ObjectInfo { key: key.clone(), len, tag: Some(tag.clone()), modified })
    }
}

/// Small, signed and never replaced.
fn is_kept(key: &ObjectKey) -> bool {
    key.as_str().ends_with(".json")
}

fn one(bytes: Bytes) -> ByteStream<Sealed> {
    ByteStream::declare_sealed(futures::stream::iter([Ok(bytes)]))
}

/// A place as it was when it was last listed, without asking it.
#[derive(Debug)]
pub(crate) struct RememberedSource {
    name: String,
    cache: Catalogue,
    objects: BTreeMap<ObjectKey, ObjectInfo>,
}

impl RememberedSource {
    /// What the cache of the place called `name` remembers.
    ///
    /// # Errors
    /// `NotFound` when it was never listed; those of the cache.
    pub(crate) fn new(name: String, cache: Catalogue) -> Result<Self> {
        if cache.listed()?.is_none() {
            return Err(Error::new(ErrorKind::NotFound, name, "was never listed from this machine")
                .with_hint("list it once without --cached"));
        }
        let objects = cache.objects("")?.into_iter().map(|info| (info.key.clone(), info)).collect();
        Ok(Self { name, cache, objects })
    }

    /// When it was so.
    ///
    /// # Errors
    /// Those of the cache.
    pub(crate) fn listed(&self) -> Result<Option<Timestamp>> {
        self.cache.listed()
    }
}

impl fmt::Display for RememberedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[async_trait]
impl Source for RememberedSource {
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
        Ok(self.objects.get(key).cloned())
    }

    async fn fetch(
        &self,
        key: &ObjectKey,
        range: Option<Range<u64>>,
        _: Option<&EntityTag>,
    ) -> Result<ByteStream<Sealed>> {
        let kept = self.objects.get(key).filter(|_| range.is_none()).and_then(|info| self.cache.bytes(info));
        kept.map(one).ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, key.as_str(), "is not in the cache of listings")
                .with_hint("list once without --cached")
        })
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let below = self.objects.values().filter(|info| info.key.as_str().starts_with(prefix));
        Ok(below.cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use backup_core::testing::MemoryStore;

    use super::*;

    /// Counts what a place is asked.
    #[derive(Debug, Default)]
    struct Counted {
        store: MemoryStore,
        lists: AtomicUsize,
        others: AtomicUsize,
    }

    impl fmt::Display for Counted {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("counted")
        }
    }

    impl Counted {
        /// Passes over the listing, and other requests, since the last look.
        fn asked(&self) -> (usize, usize) {
            (self.lists.swap(0, Ordering::Relaxed), self.others.swap(0, Ordering::Relaxed))
        }
    }

    #[async_trait]
    impl Source for Counted {
        async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>> {
            self.others.fetch_add(1, Ordering::Relaxed);
            self.store.stat(key).await
        }

        async fn fetch(
            &self,
            key: &ObjectKey,
            range: Option<Range<u64>>,
            pin: Option<&EntityTag>,
        ) -> Result<ByteStream<Sealed>> {
            self.others.fetch_add(1, Ordering::Relaxed);
            self.store.fetch(key, range, pin).await
        }

        async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
            self.lists.fetch_add(1, Ordering::Relaxed);
            self.store.list(prefix).await
        }
    }

    async fn bytes(source: &dyn Source, info: &ObjectInfo) -> Result<Vec<u8>> {
        let mut stream = source.fetch(&info.key, None, info.tag.as_ref()).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        Ok(bytes)
    }

    #[tokio::test]
    async fn ten_thousand_backups_are_one_pass_and_what_did_not_change_is_not_asked_for_again() {
        const COUNT: usize = 10_000;
        let folder = tempfile::tempdir().unwrap();
        let place = Arc::new(Counted::default());
        for number in 0..COUNT {
            for name in ["data.strongroom", "data.tree", "manifest.json"] {
                let key: ObjectKey = format!("orders/{number:05}/{name}").parse().unwrap();
                place.store.overwrite(&key, format!("{number} {name}"));
            }
        }
        let open = || {
            let cache = Catalogue::open(folder.path().join("c/x.sqlite")).unwrap();
            CachedSource::new(place.clone(), cache, Timestamp::UNIX_EPOCH)
        };
        let read_all = async |source: &dyn Source| {
            let listed = source.list("").await.unwrap();
            assert_eq!(listed.len(), 3 * COUNT);
            for info in listed.iter().filter(|info| is_kept(&info.key)) {
                let number: usize = info.key.as_str()[7..12].parse().unwrap();
                assert_eq!(bytes(source, info).await.unwrap(), format!("{number} manifest.json").as_bytes());
            }
        };
        read_all(&open()).await;
        assert_eq!(place.asked(), (1, COUNT));
        read_all(&open()).await;
        assert_eq!(place.asked(), (1, 0));
        let cache = Catalogue::open(folder.path().join("c/x.sqlite")).unwrap();
        read_all(&RememberedSource::new("counted".to_owned(), cache).unwrap()).await;
        assert_eq!(place.asked(), (0, 0));
        // One goes, one is replaced: neither comes out of the cache again.
        let (gone, other): (ObjectKey, ObjectKey) =
            ("orders/00000/manifest.json".parse().unwrap(), "orders/00001/manifest.json".parse().unwrap());
        backup_core::Remover::remove(&place.store, &gone).await.unwrap();
        place.store.overwrite(&other, "2 manifest.json");
        let source = open();
        let listed = source.list("orders/").await.unwrap();
        assert!(!listed.iter().any(|info| info.key == gone));
        let info = listed.iter().find(|info| info.key == other).unwrap();
        assert_eq!(bytes(&source, info).await.unwrap(), b"2 manifest.json");
        assert_eq!(place.asked(), (1, 1));
        source.forget(&other);
        bytes(&source, info).await.unwrap();
        assert_eq!(place.asked(), (0, 1));
        drop(source);
        let cache = Catalogue::open(folder.path().join("c/x.sqlite")).unwrap();
        let cached = RememberedSource::new("counted".to_owned(), cache).unwrap();
        assert_eq!(cached.list("").await.unwrap().len(), 3 * COUNT - 1);
    }

    #[tokio::test]
    async fn incident_66_what_is_long_or_no_statement_is_not_kept_and_a_range_never_comes_from_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let place = Arc::new(Counted::default());
        let long: ObjectKey = "orders/1/statements/long.json".parse().unwrap();
        let data: ObjectKey = "orders/1/data.strongroom".parse().unwrap();
        let small: ObjectKey = "orders/1/manifest.json".parse().unwrap();
        place.store.overwrite(&long, vec![b'x'; 70_000]);
        place.store.overwrite(&data, "sealed");
        place.store.overwrite(&small, "signed");
        let cache = Catalogue::open(folder.path().join("x.sqlite")).unwrap();
        let source = CachedSource::new(place.clone(), cache, Timestamp::UNIX_EPOCH);
        let listed = source.list("").await.unwrap();
        for _ in 0..2 {
            for info in &listed {
                bytes(&source, info).await.unwrap();
            }
        }
        source.fetch(&small, Some(0..3), None).await.unwrap();
        source.cache.lock().flush().unwrap();
        for info in &listed {
            bytes(&source, info).await.unwrap();
        }
        assert_eq!(place.asked(), (1, 2 * 3 + 1 + 2));
        let mut left = source.cache.lock();
        left.flush().unwrap();
        let kept: i64 = left
            .connection
            .query_row("SELECT count(*) FROM objects WHERE stored IS NOT NULL", [], |row| row.get(0))
            .unwrap();
        assert_eq!(kept, 1);
    }
}
