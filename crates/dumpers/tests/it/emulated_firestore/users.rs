//! The users of Firebase Auth. The Firestore emulator has none: these tests talk to a small server of
//! their own that answers as the documentation of the service says, and in runs with `--all` to
//! Google's emulator of Firebase Auth too.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use backup_core::{Context, Dumper as _, ErrorKind, Selection};
use dumpers::firestore::{Conflicts, FirestoreConfig, FirestoreDumper};
use serde_json::{Value, json};

use super::lab::{Project, dump_of, restore};

/// The users of all projects, behind the service's REST interface.
#[derive(Debug, Clone, Default)]
struct Service {
    users: Arc<Mutex<BTreeMap<String, BTreeMap<String, Value>>>>,
    imports: Arc<Mutex<Vec<Value>>>,
    page: usize,
    withholds: bool,
}

impl Service {
    fn start(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let this = self.clone();
                thread::spawn(move || this.connection(stream.unwrap()));
            }
        });
        address
    }

    fn add(&self, project: &str, user: Value) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let id = user["localId"].as_str().unwrap().to_owned();
        users.entry(project.to_owned()).or_default().insert(id, user);
    }

    fn of(&self, project: &str) -> BTreeMap<String, Value> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.get(project).cloned().unwrap_or_default()
    }

    /// Answers one request and closes.
    fn connection(&self, mut stream: TcpStream) -> Option<()> {
        let mut text = Vec::new();
        let mut buffer = [0; 64 * 1024];
        let (head, body) = loop {
            let len = stream.read(&mut buffer).ok().filter(|len| *len > 0)?;
            text.extend_from_slice(&buffer[..len]);
            let so_far = String::from_utf8_lossy(&text).into_owned();
            let Some((head, body)) = so_far.split_once("\r\n\r\n") else { continue };
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                break (head.to_owned(), body.to_owned());
            }
        };
        assert!(head.to_ascii_lowercase().contains("authorization: bearer "), "{head}");
        let target = head.split(' ').nth(1)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (_, path) = path.split_once("/projects/")?;
        let answer = match path.split_once('/')? {
            (_, "config") => Some(json!({ "signIn": { "hashConfig": {
                "algorithm": "SCRYPT", "signerKey": "a+/=", "saltSeparator": "Bw==", "rounds": 8, "memoryCost": 14,
            } } })),
            (project, "accounts:batchGet") => Some(self.get(project, query)),
            (project, method) => {
                let body: Value = serde_json::from_str(&body).ok()?;
                match method {
                    "accounts:batchCreate" => Some(self.create(project, &body)),
                    "accounts:batchDelete" => Some(self.delete(project, &body)),
                    _ => None,
                }
            }
        };
        let (status, text) =
            answer.map_or(("404 Not Found", "{}".to_owned()), |answer| ("200 OK", answer.to_string()));
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", text.len());
        stream.write_all((head + &text).as_bytes()).ok()
    }

    fn get(&self, project: &str, query: &str) -> Value {
        let part = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        let size = part("maxResults").parse::<usize>().unwrap().min(self.page);
        let users = self.of(project).into_values().map(|mut user| {
            if self.withholds {
                user["passwordHash"] = json!("UkVEQUNURUQ=");
            }
            user
        });
        let start = part("nextPageToken").parse().unwrap_or(0);
        let users: Vec<Value> = users.skip(start).take(size).collect();
        let mut answer = json!({ "kind": "identitytoolkit#DownloadAccountResponse" });
        if !users.is_empty() {
            // As the service does: also behind the last page there is a token.
            answer["nextPageToken"] = json!((start + users.len()).to_string());
            answer["users"] = users.into();
        }
        answer
    }

    fn create(&self, project: &str, body: &Value) -> Value {
        self.imports.lock().unwrap_or_else(PoisonError::into_inner).push(body.clone());
        let mut errors = Vec::new();
        for (index, user) in body["users"].as_array().unwrap().iter().enumerate() {
            let exists = self.of(project).contains_key(user["localId"].as_str().unwrap());
            if exists && body["allowOverwrite"] != true {
                let mut error =
                    json!({ "message": "localId belongs to an existing account - can not overwrite." });
                if index > 0 {
                    error["index"] = index.into();
                }
                errors.push(error);
            } else {
                self.add(project, user.clone());
            }
        }
        if errors.is_empty() { json!({}) } else { json!({ "error": errors }) }
    }

    fn delete(&self, project: &str, body: &Value) -> Value {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        for id in body["localIds"].as_array().unwrap() {
            users.entry(project.to_owned()).or_default().remove(id.as_str().unwrap());
        }
        json!({})
    }
}

fn user(id: &str) -> Value {
    json!({
        "localId": id, "email": format!("{id}@example.com"), "emailVerified": true, "displayName": "É \"x\"",
        "passwordHash": "aGFzaA-_", "salt": "c2FsdA==", "createdAt": "1700000000000",
        "customAttributes": "{\"admin\":true}", "disabled": false,
    })
}

fn with_users(project: &Project, address: &str) -> FirestoreConfig {
    FirestoreConfig { include_auth: true, auth_emulator: Some(address.to_owned()), ..project.config() }
}

#[tokio::test]
async fn users_come_back_with_their_passwords() {
    let service = Service { page: 7, ..Service::default() };
    let address = service.clone().start();
    let (source, target) = (Project::new("users"), Project::new("users-back"));
    source.put(&[("users/u01", json!({}))]).await;
    for i in 0..30 {
        service.add(&source.id, user(&format!("u{i:02}")));
    }
    let whole = dump_of(&with_users(&source, &address)).await;
    let text = String::from_utf8(whole.to_vec()).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("{\"user\":")).count(), 30);
    assert!(text.contains("\"algorithm\":\"SCRYPT\"") && text.contains("\"users\":30"));

    let restored = restore(&with_users(&target, &address), &whole, false).await.unwrap();
    assert_eq!(restored.warnings, Vec::<String>::new());
    assert_eq!(service.of(&target.id), service.of(&source.id));
    let import = service.imports.lock().unwrap()[0].clone();
    assert_eq!((&import["hashAlgorithm"], &import["signerKey"]), (&json!("SCRYPT"), &json!("a-_=")));
    assert_eq!((&import["rounds"], &import["memoryCost"]), (&json!(8), &json!(14)));

    // A project with users is not empty; those that exist are treated as documents are.
    let error = restore(&with_users(&target, &address), &whole, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let config = |conflicts| FirestoreConfig { conflicts, ..with_users(&target, &address) };
    let restored = restore(&config(Conflicts::Skip), &whole, true).await.unwrap();
    assert!(restored.warnings.iter().any(|warning| warning.starts_with("30 users existed")));
    restore(&config(Conflicts::Overwrite), &whole, true).await.unwrap();

    // Who does not ask for them gets none, and is told.
    let other = Project::new("users-out");
    let restored = restore(&other.config(), &whole, false).await.unwrap();
    assert!(
        restored.warnings.iter().any(|warning| warning.starts_with("30 users of Firebase Auth were left"))
    );
}

#[tokio::test]
async fn users_that_were_imported_are_taken_back_with_the_documents() {
    let service = Service { page: 1_000, ..Service::default() };
    let address = service.clone().start();
    let (source, target) = (Project::new("users-undo"), Project::new("users-undo-back"));
    source.put(&[("a/1", json!({}))]).await;
    for i in 0..1_500 {
        service.add(&source.id, user(&format!("u{i:04}")));
    }
    let whole = dump_of(&with_users(&source, &address)).await;
    // One user begins to exist while the restore runs: the import of the second page meets it.
    let late = Arc::new(Mutex::new(Some((service.clone(), target.id.clone()))));
    let config = with_users(&target, &address);
    let restorer = dumpers::firestore::FirestoreRestorer::new(&config).unwrap();
    let cx = Context::new();
    use backup_core::Restorer as _;
    let plan = restorer.plan(&cx, super::lab::request(false)).await.unwrap();
    let format = backup_core::DumpFormat::new(dumpers::firestore::FIRESTORE_NDJSON);
    let mut dump = backup_core::testing::known(&format, &whole);
    dump.bytes = dump.bytes.inspect(move |_| {
        if let Some((service, project)) = late.lock().unwrap().take() {
            service.add(&project, user("u1400"));
        }
    });
    let error = restorer.restore(&cx, plan, dump).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.subject().contains("u1400") && error.what().contains("removed again"), "{error}");
    assert_eq!(service.of(&target.id).into_keys().collect::<Vec<_>>(), ["u1400"]);
    assert!(target.documents().await.is_empty());
}

#[tokio::test]
async fn hashes_that_are_withheld_are_no_backup() {
    let service = Service { page: 10, withholds: true, ..Service::default() };
    let address = service.clone().start();
    let source = Project::new("withheld");
    source.put(&[("a/1", json!({}))]).await;
    service.add(&source.id, user("u"));
    let dumper = FirestoreDumper::new(&with_users(&source, &address)).unwrap();
    let probe = dumper.probe(&Context::new()).await.unwrap();
    assert!(probe.obstacles[0].remedy.contains("roles/firebaseauth.admin"), "{:?}", probe.obstacles);
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let error = backup_core::testing::collect(dump.bytes).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test]
async fn incident_79_a_service_account_gets_a_token_and_shows_no_key() {
    let project = Project::new("account");
    project.put(&[("a/1", json!({}))]).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let requests = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
            let (mut text, mut buffer) = (Vec::new(), [0; 16 * 1024]);
            while let Ok(len) = stream.read(&mut buffer) {
                text.extend_from_slice(&buffer[..len]);
            }
            requests.lock().unwrap().push(String::from_utf8(text).unwrap());
            let body = r#"{"access_token":"owner","expires_in":3599,"token_type":"Bearer"}"#;
            stream.write_all(super::proxy::answer("200 OK", "", body).as_bytes()).unwrap();
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let (pem, file) = (folder.path().join("key.pem"), folder.path().join("account.json"));
    let made = std::process::Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"])
        .arg(&pem)
        .output()
        .unwrap();
    assert!(made.status.success());
    let key = std::fs::read_to_string(&pem).unwrap();
    let account = json!({
        "type": "service_account", "client_email": "a@b.iam.gserviceaccount.com", "private_key": key,
        "token_uri": format!("http://{place}/token"),
    });
    std::fs::write(&file, account.to_string()).unwrap();
    let config = FirestoreConfig { credentials_file: Some(file), ..project.config() };
    let dumper = FirestoreDumper::new(&config).unwrap();
    let probe = dumper.probe(&Context::new()).await.unwrap();
    // The file was made for everybody to read.
    assert!(probe.warnings.iter().any(|warning| warning.contains("chmod 600")), "{:?}", probe.warnings);
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    let shown = format!("{dumper:?} {config:?} {dump:?}");
    let line = key.lines().nth(1).unwrap();
    assert!(!shown.contains(line) && !crate::processes::all_arguments().contains(line));
    backup_core::testing::collect(dump.bytes).await.unwrap();
    let asked = asked.lock().unwrap();
    // One for the probe and one for the dump: each keeps its own for an hour.
    assert_eq!(asked.len(), 2, "{asked:?}");
    let text = &asked[0];
    assert!(text.contains("grant-type%3Ajwt-bearer&assertion=ey") && !text.contains(line), "{text}");
}
