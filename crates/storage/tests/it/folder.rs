//! Folders on real file systems.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use backup_core::testing::store_suite::{self, Place};
use backup_core::testing::{noise, put};
use backup_core::{ErrorKind, ObjectKey};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use storage::{Opened, StorageConfig};

const UNFINISHED: &str = ".strongroom-tmp";

fn open(folder: &Path) -> Opened {
    storage::open(&StorageConfig::local(folder)).expect("open")
}

fn key(name: &str) -> ObjectKey {
    name.parse().unwrap()
}

fn leftovers(folder: &Path) -> usize {
    fs::read_dir(folder.join(UNFINISHED)).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_keeps_the_promises_of_every_port() {
    let folder = tempfile::tempdir().unwrap();
    // A folder that is still to be made.
    let root = folder.path().join("new/place");
    let opened = open(&root);
    let place = Place::new(Arc::clone(&opened.sink), Arc::clone(&opened.source), Arc::clone(&opened.remover))
        .with_large((5 << 20) + 3)
        .with_many(1_100);
    store_suite::sink(&place).await;
    store_suite::source(&place).await;
    store_suite::remover(&place).await;
    assert_eq!(leftovers(&root), 0);
}

#[tokio::test]
async fn files_and_folders_are_for_the_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("place");
    let opened = open(&root);
    let mut upload = opened.sink.begin(&key("db/1/data"), None).await.unwrap();
    upload.write(Bytes::from_static(b"x")).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let temporary = fs::read_dir(root.join(UNFINISHED)).unwrap().next().unwrap().unwrap().path();
    assert_eq!(mode(&temporary), 0o600);
    store_suite::commit(upload, b"x").await.unwrap();
    assert_eq!(mode(&root.join("db/1/data")), 0o600);
    for made in ["", "db", "db/1", UNFINISHED] {
        assert_eq!(mode(&root.join(made)), 0o700, "{made:?}");
    }
}

#[tokio::test]
async fn a_file_is_no_destination() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = storage::open(&StorageConfig::local(&path)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(error.hint().is_some());
    }
    // One that becomes a file later.
    let root = folder.path().join("later");
    let opened = open(&root);
    fs::write(&root, "").unwrap();
    assert_eq!(opened.sink.begin(&key("x"), None).await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(opened.source.list("").await.unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test]
async fn what_is_not_ours_is_neither_listed_nor_removed() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    fs::create_dir(folder.path().join("db")).unwrap();
    for foreign in ["with space", "db/with#hash", "db/\u{e4}"] {
        fs::write(folder.path().join(foreign), "x").unwrap();
    }
    fs::create_dir(folder.path().join("db/folder")).unwrap();
    put(opened.sink.as_ref(), &key("db/ours"), &[b"x"]).await.unwrap();
    let listed = opened.source.list("").await.unwrap();
    assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["db/ours"]);
    opened.remover.remove(&key("db/folder")).await.unwrap();
    assert!(folder.path().join("db/folder").is_dir());
    opened.remover.remove(&key("db/ours")).await.unwrap();
    assert!(folder.path().join("db/with#hash").exists());
    let error = opened.sink.begin(&key(".strongroom-tmp/x"), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn a_file_that_changes_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    let object = key("db/data");
    put(opened.sink.as_ref(), &object, &[&noise(8 << 20, 1)]).await.unwrap();
    let tag = opened.source.stat(&object).await.unwrap().unwrap().tag.unwrap();
    // Cut while it is read.
    let mut stream = opened.source.fetch(&object, None, Some(&tag)).await.unwrap();
    stream.next().await.unwrap().unwrap();
    fs::OpenOptions::new().write(true).open(folder.path().join("db/data")).unwrap().set_len(1 << 20).unwrap();
    let error = loop {
        match stream.next().await.expect("no clean end") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Integrity);
    let error = opened.source.fetch(&object, None, Some(&tag)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
}

/// A file system in memory with `size` bytes, unmounted at the end.
pub(crate) struct Mount(pub(crate) tempfile::TempDir);

impl Mount {
    pub(crate) fn new(options: &str) -> Self {
        Self::on(tempfile::tempdir().unwrap(), options)
    }

    /// Mounted on this folder.
    pub(crate) fn on(folder: tempfile::TempDir, options: &str) -> Self {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "strongroom-test"])
            .arg(folder.path())
            .status()
            .unwrap();
        assert!(status.success(), "mounting a tmpfs needs root");
        Self(folder)
    }
}

impl Mount {
    pub(crate) fn read_only(&self) {
        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(self.0.path()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_keeps_what_was_there_and_nothing_else() {
    let mount = Mount::new("size=4m");
    let root = mount.0.path();
    let opened = open(root);
    put(opened.sink.as_ref(), &key("db/before"), &[&noise(1 << 20, 1)]).await.unwrap();
    let bytes = noise(6 << 20, 2);
    let chunks: Vec<&[u8]> = bytes.chunks(1 << 20).collect();
    let error = put(opened.sink.as_ref(), &key("db/large"), &chunks).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.what().contains("no space left") && error.hint().is_some(), "{error}");
    let listed = opened.source.list("").await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(leftovers(root), 0);
    // There is room again at once.
    put(opened.sink.as_ref(), &key("db/after"), &[&noise(2 << 20, 1)]).await.unwrap();
}

#[tokio::test]
async fn a_read_only_disk_is_denied() {
    let mount = Mount::new("size=4m");
    let opened = open(mount.0.path());
    put(opened.sink.as_ref(), &key("db/before"), &[b"x"]).await.unwrap();
    mount.read_only();
    let error = opened.sink.begin(&key("db/x"), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    let error = opened.remover.remove(&key("db/before")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert_eq!(opened.source.list("").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_mount_inside_the_destination_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mount = Mount::new("size=4m");
    fs::create_dir(folder.path().join("db")).unwrap();
    let status =
        Command::new("mount").arg("--bind").arg(mount.0.path()).arg(folder.path().join("db")).status();
    assert!(status.unwrap().success());
    let error = put(open(folder.path()).sink.as_ref(), &key("db/x"), &[b"x"]).await;
    let unmounted = Command::new("umount").arg(folder.path().join("db")).status();
    assert!(unmounted.unwrap().success());
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
}

const CHILD_FOLDER: &str = "STRONGROOM_TEST_CHILD_FOLDER";

/// Run in another process by the test below.
#[tokio::test]
#[ignore = "a_killed_writer_leaves_nothing_visible runs it in a process of its own"]
async fn a_writer_that_never_ends() {
    let opened = open(Path::new(&std::env::var(CHILD_FOLDER).unwrap()));
    let mut upload = opened.sink.begin(&key("db/killed"), None).await.unwrap();
    loop {
        upload.write(noise(64 << 10, 1)).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn incident_67_a_killed_writer_leaves_nothing_visible_and_the_next_run_works() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    put(opened.sink.as_ref(), &key("db/before"), &[b"x"]).await.unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "folder::a_writer_that_never_ends", "--ignored", "--nocapture"])
        .env(CHILD_FOLDER, folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let written = || {
        let entries = fs::read_dir(folder.path().join(UNFINISHED)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).sum::<u64>()
    };
    while written() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "the writer ended");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // Somebody still writes: however old, it is spared.
    let tomorrow = Timestamp::now() + SignedDuration::from_hours(24);
    assert_eq!(opened.remover.sweep_unfinished(tomorrow).await.unwrap().uploads, 0);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(opened.source.list("").await.unwrap().len(), 1);
    assert_eq!(opened.source.stat(&key("db/killed")).await.unwrap(), None);
    put(opened.sink.as_ref(), &key("db/killed"), &[b"next"]).await.unwrap();
    assert_eq!(leftovers(folder.path()), 1);
    let yesterday = Timestamp::now() - SignedDuration::from_hours(24);
    assert_eq!(opened.remover.sweep_unfinished(yesterday).await.unwrap().uploads, 0);
    assert_eq!(opened.remover.sweep_unfinished(tomorrow).await.unwrap().uploads, 1);
    assert_eq!(leftovers(folder.path()), 0);
    assert_eq!(opened.source.list("").await.unwrap().len(), 2);
}
