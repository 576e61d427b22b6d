//! Folders: everything in them comes back, and what changes meanwhile is noticed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use backup_core::testing::{collect, dumper_suite, inspector_suite, known, restorer_suite};
use backup_core::{
    Context, DumpFormat, Dumper as _, Error, ErrorKind, Event, Progress, RestoreRequest, Restored,
    Restorer as _, Selection,
};
use bytes::Bytes;
use dumpers::folder::{Changes, FILES_TAR, FolderConfig, FolderDumper, FolderRestorer, TarInspector};

fn format() -> DumpFormat {
    DumpFormat::new(FILES_TAR)
}

fn dumper(path: &Path) -> FolderDumper {
    FolderDumper::new(&FolderConfig::new(path))
}

async fn dump(path: &Path) -> Bytes {
    select(path, &[], &[]).await
}

async fn select(path: &Path, include: &[&str], exclude: &[&str]) -> Bytes {
    let own = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
    let what = Selection { include: own(include), exclude: own(exclude) };
    collect(dumper(path).dump(&Context::new(), &what).await.unwrap().bytes).await.unwrap()
}

async fn restore(path: &Path, whole: &Bytes, into_existing: bool) -> Result<Restored, Error> {
    let restorer = FolderRestorer::new(&FolderConfig::new(path));
    let cx = Context::new();
    let plan =
        restorer.plan(&cx, RestoreRequest { format: format(), source_len: None, into_existing }).await?;
    restorer.restore(&cx, plan, known(&format(), whole)).await
}

/// Everything below a folder: name, and all that is to come back.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    fn add(
        root: &Path,
        path: &Path,
        inodes: &mut BTreeMap<u64, PathBuf>,
        found: &mut BTreeMap<PathBuf, String>,
    ) {
        let metadata = path.symlink_metadata().unwrap();
        let kind = metadata.file_type();
        if kind.is_fifo() || kind.is_socket() {
            return;
        }
        let name = path.strip_prefix(root).unwrap().to_owned();
        let content = match () {
            () if kind.is_symlink() => format!("{:?}", fs::read_link(path).unwrap()),
            () if kind.is_file() => format!("{:x}", md5(&fs::read(path).unwrap())),
            () => String::new(),
        };
        let first = inodes.entry(metadata.ino()).or_insert_with(|| name.clone()).clone();
        let facts = format!(
            "{:o} {}:{} {}.{} {first:?} {content}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        );
        found.insert(name, facts);
        if kind.is_dir() {
            let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names.iter().for_each(|path| add(root, path, inodes, found));
        }
    }
    let (mut inodes, mut found) = (BTreeMap::new(), BTreeMap::new());
    add(root, root, &mut inodes, &mut found);
    found
}

/// Not for security: a short name for content.
fn md5(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).unwrap();
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A folder with something of everything.
fn fill(root: &Path) {
    fs::create_dir_all(root.join("sub/empty")).unwrap();
    write(&root.join("plain"), "content");
    write(&root.join("nothing"), "");
    write(
        &root.join("big"),
        (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>(),
    );
    write(&root.join("block"), [7; 512]);
    write(&root.join("quotes \" ' `$x` \\ and spaces.txt "), "q");
    write(&root.join("line\nbreak"), "n");
    write(&root.join("\u{e4}\u{1f980}"), "u");
    write(&root.join(OsStr::from_bytes(b"latin1-\xe4\xff")), "l");
    let long = "n".repeat(200);
    fs::create_dir(root.join(&long)).unwrap();
    write(&root.join(&long).join(OsStr::from_bytes(&[&[b'x'; 100][..], b"\xff"].concat())), "long");
    let deep = (0..150).fold(root.join("deep"), |path, i| path.join(format!("d{i}")));
    fs::create_dir_all(&deep).unwrap();
    write(&deep.join("bottom"), "b");
    symlink("plain", root.join("link")).unwrap();
    symlink("/nowhere/at/all", root.join("sub/dangling")).unwrap();
    symlink("../..", root.join("sub/up")).unwrap();
    symlink("t".repeat(300), root.join("sub/long-target")).unwrap();
    fs::hard_link(root.join("plain"), root.join("sub/hard")).unwrap();
    fs::hard_link(root.join("plain"), root.join("also")).unwrap();
    write(&root.join("private"), "p");
    mode(&root.join("private"), 0o600);
    write(&root.join("program"), "#!/bin/sh");
    mode(&root.join("program"), 0o4755);
    mode(&root.join("sub"), 0o1777);
    mode(&root.join("sub/empty"), 0o500);
    for (name, time) in [
        ("nothing", SystemTime::UNIX_EPOCH - Duration::from_millis(1500)),
        ("block", SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789)),
    ] {
        File::options()
            .write(true)
            .open(root.join(name))
            .unwrap()
            .set_times(FileTimes::new().set_modified(time))
            .unwrap();
    }
    if fs::metadata(root).unwrap().uid() == 0 {
        std::os::unix::fs::chown(root.join("private"), Some(1234), Some(3_000_000)).unwrap();
        std::os::unix::fs::lchown(root.join("link"), Some(77), Some(78)).unwrap();
    }
}

#[tokio::test]
async fn everything_in_a_folder_comes_back() {
    let around = tempfile::tempdir().unwrap();
    let (source, target) = (around.path().join("so\"urce"), around.path().join("ta rget"));
    fs::create_dir(&source).unwrap();
    fill(&source);
    let whole = dump(&source).await;
    let restored = restore(&target, &whole, false).await.unwrap();
    assert_eq!((restored.bytes, restored.warnings), (whole.len() as u64, Vec::new()));
    assert_eq!(tree(&target), tree(&source));
    assert!(tree(&source).len() > 170);
    assert_eq!(fs::read_dir(around.path()).unwrap().count(), 2, "nothing hidden is left");
}

#[tokio::test]
async fn tar_restores_it_by_hand() {
    let around = tempfile::tempdir().unwrap();
    let (source, target) = (around.path().join("source"), around.path().join("target"));
    fs::create_dir(&source).unwrap();
    fill(&source);
    write(&around.path().join("a.tar"), dump(&source).await);
    fs::create_dir(&target).unwrap();
    let tar = Command::new("tar").current_dir(&target).args(["-xpf", "../a.tar"]).output().unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    assert_eq!(tree(&target), tree(&source));
}

#[tokio::test]
async fn folders_obey_the_suites() {
    let around = tempfile::tempdir().unwrap();
    let (source, target) = (around.path().join("source"), around.path().join("target"));
    fs::create_dir_all(source.join("sub")).unwrap();
    write(&source.join("sub/file"), [1; 2000]);
    dumper_suite(&dumper(&source)).await;
    let whole = dump(&source).await;
    inspector_suite(&TarInspector, &format(), &whole).await;
    let restorer = FolderRestorer::new(&FolderConfig::new(&target));
    restorer_suite(&restorer, &format(), &whole, async || target.exists()).await;
    assert_eq!(tree(&target), tree(&source));
    assert_eq!(fs::read_dir(around.path()).unwrap().count(), 2, "nothing hidden is left");
}

#[tokio::test]
async fn an_empty_folder_is_a_dump_too() {
    let around = tempfile::tempdir().unwrap();
    let (source, target) = (around.path().join("source"), around.path().join("target"));
    fs::create_dir(&source).unwrap();
    restore(&target, &dump(&source).await, false).await.unwrap();
    assert_eq!(tree(&target), tree(&source));
}

/// Keeps warnings.
#[derive(Debug, Default)]
struct Heard(Mutex<Vec<String>>);

impl Progress for Heard {
    fn on(&self, event: Event<'_>) {
        if let Event::Warning(warning) = event {
            self.0.lock().unwrap().push(warning.to_owned());
        }
    }
}

#[tokio::test]
async fn sockets_and_pipes_are_left_out_and_told() {
    let source = tempfile::tempdir().unwrap();
    let _socket = UnixListener::bind(source.path().join("socket")).unwrap();
    assert!(Command::new("mkfifo").arg(source.path().join("pipe")).status().unwrap().success());
    write(&source.path().join("file"), "f");
    let heard = Arc::new(Heard::default());
    let cx = Context::new().with_progress(heard.clone());
    let dump = dumper(source.path()).dump(&cx, &Selection::default()).await.unwrap();
    let report = dump.report.clone();
    collect(dump.bytes).await.unwrap();
    let heard = heard.0.lock().unwrap().join("\n");
    assert!(heard.contains("socket: left out") && heard.contains("pipe: left out"), "{heard}");
    assert!(report.get().unwrap().options.contains(&"2 left out".to_owned()), "{report:?}");
}

/// Changes `big` once the dump has begun to read it, which is held up by its full buffers.
async fn meanwhile(changes: Changes, change: impl FnOnce(&Path)) -> Result<(Bytes, Vec<String>), Error> {
    let source = tempfile::tempdir().unwrap();
    let big = source.path().join("big");
    write(&big, vec![1; 20 << 20]);
    write(&source.path().join("later"), "l");
    let heard = Arc::new(Heard::default());
    let cx = Context::new().with_progress(heard.clone());
    let config = FolderConfig { changes, ..FolderConfig::new(source.path()) };
    let mut dump = FolderDumper::new(&config).dump(&cx, &Selection::default()).await.unwrap();
    let first = dump.bytes.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    change(source.path());
    let report = dump.report.clone();
    let rest = collect(dump.bytes).await;
    assert_eq!(rest.is_ok(), report.get().is_some());
    let heard = heard.0.lock().unwrap().clone();
    rest.map(|rest| ([&first[..], &rest].concat().into(), heard))
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_noticed() {
    let append = |root: &Path| {
        File::options().append(true).open(root.join("big")).unwrap().write_all(b"more").unwrap();
    };
    let shrink =
        |root: &Path| File::options().write(true).open(root.join("big")).unwrap().set_len(10 << 20).unwrap();
    let remove = |root: &Path| fs::remove_file(root.join("later")).unwrap();
    // As a file does that is moved from a folder whose turn comes into one that was listed.
    let add = |root: &Path| write(&root.join("moved"), "m");
    for (what, error) in [
        ("changed", meanwhile(Changes::Fail, append).await.unwrap_err()),
        ("shrank", meanwhile(Changes::Fail, shrink).await.unwrap_err()),
        ("shrank", meanwhile(Changes::Warn, shrink).await.unwrap_err()),
        ("went away", meanwhile(Changes::Fail, remove).await.unwrap_err()),
        ("the folder changed", meanwhile(Changes::Fail, add).await.unwrap_err()),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.what().contains(what), "{error}");
    }
    let target = tempfile::tempdir().unwrap();
    let (whole, heard) = meanwhile(Changes::Warn, append).await.unwrap();
    assert!(heard[0].contains("changed while it was read"), "{heard:?}");
    restore(&target.path().join("a"), &whole, false).await.unwrap();
    assert_eq!(fs::metadata(target.path().join("a/big")).unwrap().len(), 20 << 20);
    let (whole, heard) = meanwhile(Changes::Warn, remove).await.unwrap();
    assert!(heard[0].contains("went away"), "{heard:?}");
    restore(&target.path().join("b"), &whole, false).await.unwrap();
    assert!(!target.path().join("b/later").exists());
    let (_, heard) = meanwhile(Changes::Warn, add).await.unwrap();
    assert!(heard[0].contains("the folder changed"), "{heard:?}");
}

#[tokio::test]
async fn patterns_choose_what_is_dumped() {
    let around = tempfile::tempdir().unwrap();
    let source = around.path().join("source");
    fs::create_dir_all(source.join("a/cache/x")).unwrap();
    fs::create_dir_all(source.join("b/c")).unwrap();
    for name in ["a/1.txt", "a/2.log", "a/cache/x/3.txt", "b/c/4.txt", "5.txt"] {
        write(&source.join(name), name);
    }
    let names = async |include: &[&str], exclude: &[&str]| -> Vec<String> {
        let target = around.path().join("target");
        restore(&target, &select(&source, include, exclude).await, false).await.unwrap();
        let found = tree(&target)
            .into_keys()
            .map(|path| String::from_utf8(path.into_os_string().into_vec()).unwrap());
        let found = found.collect();
        fs::remove_dir_all(&target).unwrap();
        found
    };
    assert_eq!(names(&[], &["cache", "*.log"]).await, ["", "5.txt", "a", "a/1.txt", "b", "b/c", "b/c/4.txt"]);
    assert_eq!(names(&["a"], &["cache"]).await, ["", "a", "a/1.txt", "a/2.log"]);
    assert_eq!(names(&["b/**/*.txt", "/5.txt"], &[]).await, ["", "5.txt", "b", "b/c", "b/c/4.txt"]);
    for include in [&["none"][..], &["a", "none"], &["a/**", "none"]] {
        let include = include.iter().map(|&pattern| pattern.to_owned()).collect();
        let selection = Selection { include, ..Selection::default() };
        let dump = dumper(&source).dump(&Context::new(), &selection).await.unwrap();
        let error = collect(dump.bytes).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.what().ends_with(" none"), "{error}");
    }
    // One that fits only inside of what another brings fits.
    assert_eq!(names(&["b", "4.txt"], &[]).await, ["", "b", "b/c", "b/c/4.txt"]);
}

#[tokio::test]
async fn a_probe_counts_files_and_their_bytes() {
    let source = tempfile::tempdir().unwrap();
    fs::create_dir(source.path().join("sub")).unwrap();
    write(&source.path().join("sub/a"), [0; 1000]);
    write(&source.path().join("sub/b"), [0; 3000]);
    let probe = dumper(source.path()).probe(&Context::new()).await.unwrap();
    let [item] = &probe.items[..] else { panic!("{probe:?}") };
    assert_eq!((&*item.name, item.estimated_rows, item.estimated_bytes), ("sub", Some(2), Some(4000)));
    let whole = dump(source.path()).await.len() as u64;
    let estimate = probe.estimated_bytes.unwrap();
    assert!(estimate >= whole - 2048 && estimate <= whole + 8192, "{estimate} for {whole}");
    assert!(probe.obstacles.is_empty());
    for (path, kind) in [("/no/such/folder", ErrorKind::NotFound), ("/dev/null", ErrorKind::Config)] {
        assert_eq!(dumper(Path::new(path)).probe(&Context::new()).await.unwrap_err().kind(), kind);
    }
}

#[tokio::test]
async fn a_folder_that_is_there_is_exchanged_only_when_told() {
    let around = tempfile::tempdir().unwrap();
    let (source, target) = (around.path().join("source"), around.path().join("target"));
    fs::create_dir(&source).unwrap();
    write(&source.join("new"), "n");
    fs::create_dir(&target).unwrap();
    write(&target.join("old"), "o");
    let whole = dump(&source).await;
    assert_eq!(restore(&target, &whole, false).await.unwrap_err().kind(), ErrorKind::Conflict);
    let restored = restore(&target, &whole, true).await.unwrap();
    assert_eq!(tree(&target), tree(&source));
    let kept = restored.warnings[0].rsplit_once(" in ").unwrap().1;
    assert_eq!(fs::read(Path::new(kept).join("old")).unwrap(), b"o");
    let file = around.path().join("file");
    write(&file, "f");
    assert_eq!(restore(&file, &whole, true).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(fs::read(&file).unwrap(), b"f");
}
