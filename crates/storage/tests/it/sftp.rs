//! What SFTP servers really do: OpenSSH's own, and rclone's.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backup_core::testing::store_suite::{self, Place};
use backup_core::testing::{noise, put};
use backup_core::{BackupId, Error, ErrorKind, ObjectKey, Upload};
use jiff::{SignedDuration, Timestamp};
use storage::{Login, Opened, StorageConfig};

use crate::cutter::{Cutter, Way};
use crate::folder::Mount;
use crate::memory::{CHUNK, SLACK, peak};
use crate::servers::{impatient, variable};

const UNFINISHED: &str = ".strongroom-tmp";
/// More than may be under way.
const LARGE: usize = (6 << 20) + 17;

fn key(name: &str) -> ObjectKey {
    name.parse().unwrap()
}

/// A folder of its own on OpenSSH's server, which is also on this machine.
struct Server {
    address: String,
    folder: PathBuf,
    login: Login,
}

impl Server {
    fn new() -> Self {
        let folder = Path::new(&variable("SFTP_ROOT")).join(format!("it-{}", BackupId::random()));
        Self { address: variable("SFTP_ADDRESS"), folder, login: Login::default() }
    }

    fn url(&self) -> String {
        format!("sftp://{}@{}{}", variable("SFTP_USER"), self.address, self.folder.display())
    }

    fn open_with(&self, parameters: &str) -> Opened {
        let config =
            StorageConfig::from_url(&format!("{}?{parameters}", self.url())).expect("a valid destination");
        storage::open(&config.with_login(self.login.clone()).with_retrying(impatient())).expect("open")
    }

    fn open(&self) -> Opened {
        self.open_with(&format!("key={}&known_hosts={}", variable("SFTP_KEY"), variable("SFTP_KNOWN_HOSTS")))
    }

    fn leftovers(&self) -> usize {
        fs::read_dir(self.folder.join(UNFINISHED)).map_or(0, Iterator::count)
    }
}

/// rclone's server, which asks for a password and serves one folder as `/`.
fn rclone(password: &str) -> (Opened, PathBuf) {
    let folder = format!("it-{}", BackupId::random());
    let url = format!(
        "sftp://strongroom@{}/{folder}?known_hosts={}",
        variable("SFTP_RCLONE_ADDRESS"),
        variable("SFTP_KNOWN_HOSTS")
    );
    let config = StorageConfig::from_url(&url).unwrap().with_retrying(impatient());
    let opened = storage::open(&config.with_login(Login::default().with_password(password.to_owned())));
    (opened.unwrap(), Path::new(&variable("SFTP_RCLONE_ROOT")).join(folder))
}

fn place(opened: &Opened) -> Place {
    Place::new(Arc::clone(&opened.sink), Arc::clone(&opened.source), Arc::clone(&opened.remover))
        .with_large(LARGE)
        .with_clock_step(Duration::from_millis(1_100))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_keeps_the_promises_of_every_port() {
    let server = Server::new();
    let opened = server.open();
    let place = place(&opened).with_many(300);
    store_suite::sink(&place).await;
    assert!(opened.sink.limits().put_if_absent);
    store_suite::source(&place).await;
    store_suite::remover(&place).await;
    // Those that were dropped are removed without anybody waiting for it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(server.leftovers(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rclone_keeps_the_promises_of_every_port() {
    let (opened, _) = rclone(&variable("SFTP_RCLONE_PASSWORD"));
    let place = place(&opened);
    store_suite::sink(&place).await;
    store_suite::source(&place).await;
    store_suite::remover(&place).await;
}

#[tokio::test]
async fn files_and_folders_are_for_the_owner_alone() {
    let server = Server::new();
    let opened = server.open();
    let mut upload = opened.sink.begin(&key("db/1/data"), None).await.unwrap();
    upload.write(noise(1, 1)).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let temporary = fs::read_dir(server.folder.join(UNFINISHED)).unwrap().next().unwrap().unwrap().path();
    assert_eq!(mode(&temporary), 0o600);
    store_suite::commit(upload, &noise(1, 1)).await.unwrap();
    assert_eq!(mode(&server.folder.join("db/1/data")), 0o600);
    for made in ["", "db", "db/1", UNFINISHED] {
        assert_eq!(mode(&server.folder.join(made)), 0o700, "{made:?}");
    }
    // With the last object its folders go, and nothing above them.
    opened.remover.remove(&key("db/1/data")).await.unwrap();
    assert!(!server.folder.join("db").exists() && server.folder.exists());
}

#[tokio::test]
async fn a_host_that_is_not_known_is_refused_with_the_line_that_makes_it_known() {
    let server = Server::new();
    let folder = tempfile::tempdir().unwrap();
    let known = folder.path().join("known hosts");
    fs::write(&known, "").unwrap();
    let parameters = format!("key={}&known_hosts={}", variable("SFTP_KEY"), known.display());
    let opened = server.open_with(&parameters);
    let errors = [
        opened.source.list("").await.unwrap_err(),
        opened.source.stat(&key("x")).await.unwrap_err(),
        opened.remover.remove(&key("x")).await.unwrap_err(),
        put(opened.sink.as_ref(), &key("x"), &[b"x"]).await.unwrap_err(),
    ];
    for error in &errors {
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(error.what().contains("host key is not known"), "{error:?}");
    }
    assert_eq!(fs::read_to_string(&known).unwrap(), "", "nothing is trusted without being asked");
    let hint = errors[0].hint().unwrap();
    let line = &hint[hint.find("[127.0.0.1]").expect(hint)..];
    fs::write(&known, format!("{line}\n")).unwrap();
    server.open_with(&parameters).source.list("").await.unwrap();

    // Somebody else with this address.
    let other = fs::read_to_string(Path::new(&variable("SFTP_KEY")).with_file_name("other.pub")).unwrap();
    fs::write(&known, format!("[127.0.0.1]:* {other}")).unwrap();
    let error = server.open_with(&parameters).source.list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.what().contains("not the one that is known"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_let_in_is_told_and_no_secret_is_shown() {
    let (opened, _) = rclone("hunter2");
    let error = opened.source.list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.hint().unwrap().contains("password_file") && !format!("{error:?}").contains("hunter2"));

    let known = variable("SFTP_KNOWN_HOSTS");
    let mut server = Server::new();
    let other = Path::new(&variable("SFTP_KEY")).with_file_name("other");
    for key_file in [other.display().to_string(), "/no/such/key".to_owned()] {
        let opened = server.open_with(&format!("key={key_file}&known_hosts={known}"));
        let error = opened.source.list("").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    }
    // A key with a passphrase: none, a wrong one, the right one.
    let parameters = format!("key={}&known_hosts={known}", variable("SFTP_LOCKED_KEY"));
    for (passphrase, good) in
        [(None, false), (Some("hunter2".to_owned()), false), (Some(variable("SFTP_PASSPHRASE")), true)]
    {
        server.login = match passphrase {
            Some(passphrase) => Login::default().with_key_passphrase(passphrase),
            None => Login::default(),
        };
        match server.open_with(&parameters).source.list("").await {
            Ok(_) => assert!(good),
            Err(error) => assert!(!good && error.kind() == ErrorKind::Denied, "{error:?}"),
        }
    }
    // The SSH client does not say which of two secrets it asks for.
    server.login = Login::default().with_password("a".to_owned()).with_key_passphrase("b".to_owned());
    let config = StorageConfig::from_url(&server.url()).unwrap().with_login(server.login.clone());
    assert_eq!(storage::open(&config).unwrap_err().kind(), ErrorKind::Config);
}

/// Everything that a process list shows, while a session with a password is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_argument_of_a_program_is_a_secret() {
    let password = variable("SFTP_RCLONE_PASSWORD");
    let (opened, _) = rclone(&password);
    opened.source.list("").await.unwrap();
    let mut clients = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.starts_with("ssh ") {
            clients += 1;
            assert!(!line.contains(&password), "{line}");
        }
    }
    assert!(clients > 0, "no client was seen");
}

#[tokio::test]
async fn what_is_not_ours_is_neither_listed_nor_removed() {
    let server = Server::new();
    let opened = server.open();
    put(opened.sink.as_ref(), &key("db/ours"), &[b"x"]).await.unwrap();
    for foreign in ["with space", "db/with#hash", "db/\u{e4}", "db/new\nline"] {
        fs::write(server.folder.join(foreign), "x").unwrap();
    }
    let raw: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"db/\xff\xfe");
    fs::write(server.folder.join(raw), "x").unwrap();
    fs::create_dir(server.folder.join("db/folder")).unwrap();
    std::os::unix::fs::symlink("/etc", server.folder.join("db/link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", server.folder.join("passwd")).unwrap();
    for prefix in ["", "db/"] {
        let listed = opened.source.list(prefix).await.unwrap();
        assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["db/ours"]);
    }
    assert_eq!(opened.source.list("../").await.unwrap(), []);
    opened.remover.remove(&key("db/folder")).await.unwrap();
    opened.remover.remove(&key("db/ours")).await.unwrap();
    assert!(server.folder.join("db/folder").is_dir() && server.folder.join("db/with#hash").exists());
    let error = opened.sink.begin(&key(".strongroom-tmp/x"), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    // A file is no destination.
    fs::write(server.folder.join("file"), "x").unwrap();
    let below = Server { folder: server.folder.join("file"), ..Server::new() };
    assert_eq!(below.open().source.list("").await.unwrap_err().kind(), ErrorKind::Config);
    let error = below.open().sink.begin(&key("x"), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_or_read_only_disk_keeps_what_was_there_and_nothing_else() {
    let mount = Mount::on(tempfile::tempdir_in(variable("SFTP_ROOT")).unwrap(), "size=4m,mode=777");
    // Whoever serves may look through the folder of the tests.
    let server = Server { folder: mount.0.path().to_owned(), ..Server::new() };
    let opened = server.open();
    put(opened.sink.as_ref(), &key("db/before"), &[&noise(1 << 20, 1)]).await.unwrap();
    let bytes = noise(12 << 20, 2);
    let chunks: Vec<&[u8]> = bytes.chunks(1 << 20).collect();
    let error = put(opened.sink.as_ref(), &key("db/large"), &chunks).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.what().contains("no space left") && error.hint().is_some(), "{error:?}");
    assert_eq!(opened.source.list("").await.unwrap().len(), 1);
    assert_eq!(server.leftovers(), 0);
    // There is room again at once.
    put(opened.sink.as_ref(), &key("db/after"), &[&noise(2 << 20, 1)]).await.unwrap();
    mount.read_only();
    let error = opened.sink.begin(&key("db/x"), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    let error = opened.remover.remove(&key("db/before")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert_eq!(opened.source.list("").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_folder_without_permission_is_denied() {
    let server = Server::new();
    // Of root, and the server is somebody else.
    fs::create_dir(&server.folder).unwrap();
    fs::set_permissions(&server.folder, fs::Permissions::from_mode(0o755)).unwrap();
    let opened = server.open();
    assert_eq!(opened.source.list("").await.unwrap(), []);
    let error = opened.sink.begin(&key("db/x"), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    fs::set_permissions(&server.folder, fs::Permissions::from_mode(0o700)).unwrap();
    let error = opened.source.list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
}

/// Writes until the other side is no longer there; not for ever, so that a defect does not fill the disk.
async fn until_it_fails(upload: &mut dyn Upload) -> Error {
    let bytes = noise(1 << 20, 1);
    for _ in 0..64 {
        if let Err(error) = upload.write(bytes.clone()).await {
            return error;
        }
    }
    panic!("nobody noticed");
}

/// An upload does not go on over another connection: a server that fell over may have lost what it had confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incident_67_an_upload_that_is_cut_leaves_nothing_visible_and_the_next_one_works() {
    let server = Server::new();
    let cutter = Cutter::start(&server.address, Way::Up, 3 << 20, 0).await;
    let opened =
        Server { address: cutter.address.clone(), folder: server.folder.clone(), ..Server::new() }.open();
    let bytes = noise(LARGE, 3);
    let chunks: Vec<&[u8]> = bytes.chunks(1 << 18).collect();
    let error = put(opened.sink.as_ref(), &key("db/data"), &chunks).await.unwrap_err();
    assert_eq!((error.kind(), cutter.cuts()), (ErrorKind::Unavailable, 1), "{error:?}");
    // Removed by the abort, over a connection of its own.
    assert_eq!(server.leftovers(), 0);
    assert_eq!(opened.source.stat(&key("db/data")).await.unwrap(), None);
    put(opened.sink.as_ref(), &key("db/data"), &chunks).await.unwrap();
    assert!(store_suite::read(opened.source.as_ref(), &key("db/data"), None, None).await.unwrap() == bytes);

    // One that was not even aborted is left, and swept by its age.
    cutter.cut_after(2 << 20);
    let mut upload = opened.sink.begin(&key("db/other"), None).await.unwrap();
    until_it_fails(upload.as_mut()).await;
    drop(upload);
    assert_eq!(server.leftovers(), 1);
    let hours = SignedDuration::from_hours(24);
    assert_eq!(opened.remover.sweep_unfinished(Timestamp::now() - hours).await.unwrap().uploads, 0);
    assert_eq!(opened.remover.sweep_unfinished(Timestamp::now() + hours).await.unwrap().uploads, 1);
    assert_eq!((server.leftovers(), opened.source.list("").await.unwrap().len()), (0, 1));
}

/// Every place where an answer can be lost: the object is there, whole, or it is not and the error says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_settled_by_looking() {
    let server = Server::new();
    let direct = server.open();
    let bytes = noise(10_000, 4);
    let (mut stored, mut failed) = (0, 0);
    // The greeting and the keys take the first 3 KiB or so; what an upload hears is some 1.5 KiB.
    for (n, at) in (2_600..5_400).step_by(100).enumerate() {
        let cutter = Cutter::start(&server.address, Way::Down, at, 0).await;
        let opened =
            Server { address: cutter.address.clone(), folder: server.folder.clone(), ..Server::new() }.open();
        let name = key(&format!("db/{n}"));
        match put(opened.sink.as_ref(), &name, &[&bytes]).await {
            Ok(receipt) => {
                stored += 1;
                let got = store_suite::read(direct.source.as_ref(), &name, None, receipt.tag.as_ref()).await;
                assert!(got.unwrap() == bytes, "cut at {at}");
            }
            Err(error) => {
                failed += 1;
                assert_eq!(error.kind(), ErrorKind::Unavailable, "cut at {at}: {error:?}");
                assert_eq!(direct.source.stat(&name).await.unwrap(), None, "cut at {at}");
            }
        }
    }
    assert!(stored > 0 && failed > 0, "{stored} were stored, {failed} failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_goes_on_after_a_broken_connection_and_never_ends_early() {
    let server = Server::new();
    let bytes = noise(LARGE, 7);
    put(server.open().sink.as_ref(), &key("db/data"), &[&bytes]).await.unwrap();
    // Each connection gives some more, and the last one nothing.
    let cutter = Cutter::start(&server.address, Way::Down, 2 << 20, 2 << 20).await;
    let opened =
        Server { address: cutter.address.clone(), folder: server.folder.clone(), ..Server::new() }.open();
    for range in [None, Some(1_000..LARGE as u64 - 5)] {
        let wanted = range.clone().map_or(0..LARGE, |range| range.start as usize..range.end as usize);
        let got = store_suite::read(opened.source.as_ref(), &key("db/data"), range, None).await.unwrap();
        assert!(got == bytes[wanted]);
    }
    assert!(cutter.cuts() >= 4, "{}", cutter.cuts());

    // Another version is not read on.
    let mut stream = opened.source.fetch(&key("db/data"), None, None).await.unwrap();
    stream.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let direct = server.open();
    direct.remover.remove(&key("db/data")).await.unwrap();
    put(direct.sink.as_ref(), &key("db/data"), &[&noise(LARGE, 8)]).await.unwrap();
    let error = loop {
        match stream.next().await.expect("no clean end") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error:?}");
}

#[tokio::test]
async fn a_file_that_becomes_shorter_is_noticed() {
    let server = Server::new();
    let opened = server.open();
    put(opened.sink.as_ref(), &key("db/data"), &[&noise(12 << 20, 1)]).await.unwrap();
    let mut stream = opened.source.fetch(&key("db/data"), None, None).await.unwrap();
    stream.next().await.unwrap().unwrap();
    fs::OpenOptions::new().write(true).open(server.folder.join("db/data")).unwrap().set_len(1 << 20).unwrap();
    let error = loop {
        match stream.next().await.expect("no clean end") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error:?}");
}

/// A server of one's own, to be killed.
struct Own {
    child: std::process::Child,
    address: String,
}

impl Own {
    async fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let conf = Path::new(&variable("SFTP_KEY")).with_file_name("sshd_config");
        let root = fs::metadata(&conf).is_ok_and(|found| std::os::unix::fs::MetadataExt::uid(&found) == 0);
        let words = if root {
            vec!["setpriv", "--reuid", "svc", "--regid", "svc", "--clear-groups"]
        } else {
            Vec::new()
        };
        let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        words.extend(["/usr/sbin/sshd", "-D", "-e", "-p"].map(str::to_owned));
        words.extend([port.to_string(), "-f".to_owned(), conf.display().to_string()]);
        let child = Command::new(&words[0])
            .args(&words[1..])
            .stderr(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let address = format!("127.0.0.1:{port}");
        while tokio::net::TcpStream::connect(&address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { child, address }
    }

    /// The listener and its sessions, without a word.
    fn kill(&mut self) {
        // A session is a process below the listener, and its own below that.
        let mut all = vec![self.child.id().to_string()];
        for n in 0.. {
            let Some(parent) = all.get(n) else { break };
            let below = Command::new("pgrep").args(["-P", parent]).output().unwrap().stdout;
            all.extend(String::from_utf8(below).unwrap().lines().map(str::to_owned));
        }
        let _ = Command::new("kill").arg("-KILL").args(all).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_is_unavailable_and_then_forgotten() {
    let mut own = Own::start().await;
    let server = Server { address: own.address.clone(), ..Server::new() };
    let opened = server.open();
    put(opened.sink.as_ref(), &key("db/before"), &[b"x"]).await.unwrap();
    let mut upload = opened.sink.begin(&key("db/data"), None).await.unwrap();
    upload.write(noise(1 << 20, 1)).await.unwrap();
    own.kill();
    let error = until_it_fails(upload.as_mut()).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    upload.abort().await.unwrap();
    let error = opened.source.list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.what().contains("refused"), "{error:?}");
    // The same folder at another server.
    let elsewhere = Server { folder: server.folder.clone(), ..Server::new() }.open();
    assert_eq!(elsewhere.source.list("").await.unwrap().len(), 1);
}

/// A listener that never says a word, and one that says something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_ssh_server_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server { address: silent.local_addr().unwrap().to_string(), ..Server::new() };
    let url =
        format!("{}?key={}&known_hosts={}", server.url(), variable("SFTP_KEY"), variable("SFTP_KNOWN_HOSTS"));
    let retry = storage::Retrying { times: 0, patience: Duration::from_secs(1), ..impatient() };
    let opened = storage::open(&StorageConfig::from_url(&url).unwrap().with_retrying(retry)).unwrap();
    let error = opened.source.list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    let talker = tokio::spawn(async move {
        while let Ok((mut client, _)) = silent.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut client, b"220 mail ready\r\n").await;
        }
    });
    let error = opened.source.list("").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut), "{error:?}");
    talker.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incident_64_an_upload_of_any_length_keeps_a_handful_of_chunks() {
    let peak = peak(Server::new().open().sink.as_ref(), 100).await;
    assert!(peak <= 7 * CHUNK + SLACK, "{peak} bytes at once");
}
