//! What servers of MongoDB's protocol do in their own ways: users, roles, certificates, privileges,
//! times that are none.

use std::path::Path;
use std::process::Command;

use backup_core::{Context, Dumper as _, ErrorKind, Selection};
use dumpers::Secret;
use dumpers::mongodb::{MongoConfig, MongoDumper};
use mongodb::Client;
use mongodb::bson::{Bson, Document, Timestamp, doc};
use mongodb::options::ClientOptions;

use crate::mongodb::{assert_same, config, contents, database, dump, restore, url};
use crate::mongodb_faults::Own;
use crate::server::unique;

/// MongoDB shows the credentials of its users to the role `backup`. This server shows them to nobody:
/// a backup of users without them would look like one.
#[tokio::test]
async fn users_that_are_withheld_are_no_backup() {
    let some = database("with_users").await;
    some.collection("a").insert_one(doc! { "_id": 1 }).await.unwrap();
    let settings = MongoConfig { users: true, ..MongoConfig::from_url(&url()).unwrap() };
    let what = Selection { include: vec![some.name().to_owned()], exclude: vec![] };
    let error = dump(&settings, &what).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.what().contains("users"), "{error}");
    // Without users there is nothing to withhold.
    let own = Own::start().await;
    let client = Client::with_uri_str(&own.url).await.unwrap();
    client.database("d").collection("a").insert_one(doc! { "_id": 1 }).await.unwrap();
    let settings = MongoConfig { users: true, ..MongoConfig::from_url(&own.url).unwrap() };
    let (archive, report) = dump(&settings, &Selection::default()).await.unwrap();
    assert!(report.options.contains(&"users".to_owned()));
    let target = database("without_users").await;
    restore(&config(target.name()), &archive, false).await.unwrap();
    some.drop().await.unwrap();
    target.drop().await.unwrap();
}

#[tokio::test]
async fn a_probe_names_what_may_not_be_read_and_the_statement_that_grants_it() {
    let source = database("privileges").await;
    for i in 0..7 {
        source.collection(&format!("closed{i}")).insert_one(doc! { "_id": 1 }).await.unwrap();
    }
    let (role, user) = (unique("lists"), unique("reader"));
    // This server knows privileges of whole databases only.
    let actions = ["listCollections", "listIndexes", "collStats"].map(Bson::from);
    let list = doc! { "resource": { "db": source.name(), "collection": "" }, "actions": actions.to_vec() };
    let make = doc! { "createRole": &role, "privileges": [list], "roles": [] };
    source.run_command(make).await.unwrap();
    let make = doc! { "createUser": &user, "pwd": "pw", "roles": [{ "role": &role, "db": source.name() }] };
    source.run_command(make).await.unwrap();
    let settings = MongoConfig {
        user: Some(user.clone()),
        password: Some(Secret::new("pw")),
        auth_database: Some(source.name().to_owned()),
        ..config(source.name())
    };
    let dumper = MongoDumper::new(&settings).unwrap();
    let probe = dumper.probe(&Context::new()).await.unwrap();
    let grant = format!(
        "db.getSiblingDB({db:?}).grantRolesToUser({user:?}, [{{ role: \"read\", db: {db:?} }}])",
        db = source.name()
    );
    let obstacle = probe.obstacles.iter().find(|obstacle| obstacle.remedy == grant);
    let obstacle = obstacle.unwrap_or_else(|| panic!("{:?}", probe.obstacles));
    assert!(obstacle.what.contains(&format!("{}.closed0", source.name())), "{obstacle:?}");
    assert!(obstacle.what.contains("2 more"), "{obstacle:?}");
    let error = dump(&settings, &Selection::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.hint().unwrap().contains(&grant), "{:?}", error.hint());
    // The statement is enough to read; the oplog is asked for by the next.
    let roles = doc! { "grantRolesToUser": &user, "roles": [{ "role": "read", "db": source.name() }] };
    source.run_command(roles).await.unwrap();
    let probe = dumper.probe(&Context::new()).await.unwrap();
    assert!(probe.obstacles.iter().all(|obstacle| obstacle.remedy != grant), "{:?}", probe.obstacles);
    source.run_command(doc! { "dropUser": &user }).await.unwrap();
    source.run_command(doc! { "dropRole": &role }).await.unwrap();
    source.drop().await.unwrap();
}

/// `Timestamp(0, 0)` at the top of a document stays what it is, from a collection and from the oplog.
#[tokio::test]
async fn a_time_that_is_none_comes_back_as_none() {
    const EMPTY: Timestamp = Timestamp { time: 0, increment: 0 };
    let source = database("no_time").await;
    let documents = source.collection::<Document>("a");
    let some = doc! { "_id": 1, "first": EMPTY, "in": { "t": EMPTY, "l": [EMPTY] }, "last": "é" };
    documents.insert_many([some, doc! { "_id": EMPTY, "x": 1 }]).await.unwrap();
    // Whatever this server makes of it when it is inserted.
    documents.update_one(doc! { "_id": 1 }, doc! { "$set": { "first": EMPTY } }).await.unwrap();
    let (archive, _) = dump(&config(source.name()), &Selection::default()).await.unwrap();
    let target = database("no_time_back").await;
    restore(&config(target.name()), &archive, false).await.unwrap();
    let one = target.collection::<Document>("a").find_one(doc! { "_id": 1 }).await.unwrap().unwrap();
    assert_eq!(one.get("first"), Some(&Bson::Timestamp(EMPTY)));
    assert_eq!(one.keys().collect::<Vec<_>>(), ["_id", "first", "in", "last"]);
    let (again, _) = dump(&config(target.name()), &Selection::default()).await.unwrap();
    assert_same(&contents(&archive).1, &contents(&again).1);
    source.drop().await.unwrap();
    target.drop().await.unwrap();
}

fn openssl(folder: &Path, arguments: &str) {
    let made = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{arguments}: {}", String::from_utf8_lossy(&made.stderr));
}

/// A private authority, the certificate of a server on this machine, and that of a client.
fn certificates(folder: &Path) {
    openssl(
        folder,
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
    );
    openssl(
        folder,
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other -keyout other.key -out other.pem",
    );
    std::fs::write(folder.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for name in ["server", "client"] {
        openssl(
            folder,
            &format!("req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out {name}.crt"
            ),
        );
        let both =
            ["key", "crt"].map(|end| std::fs::read_to_string(folder.join(format!("{name}.{end}"))).unwrap());
        std::fs::write(folder.join(format!("{name}.pem")), both.concat()).unwrap();
    }
}

#[tokio::test]
async fn certificates_of_a_private_authority_are_checked_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    certificates(folder.path());
    let path = |name: &str| file(name).display().to_string();
    let own = Own::with(&[
        "--tls-cert-file",
        &path("server.crt"),
        "--tls-key-file",
        &path("server.key"),
        "--tls-ca-file",
        &path("ca.pem"),
        "--tls-require-client-cert",
    ]);
    let plain = MongoConfig {
        dbname: Some("d".to_owned()),
        ..MongoConfig::from_url(&own.url.replace("=1500", "=3000")).unwrap()
    };
    let good =
        MongoConfig { sslrootcert: Some(file("ca.pem")), sslcert: Some(file("client.pem")), ..plain.clone() };
    let uri = format!(
        "{}&tls=true&tlsCAFile={}&tlsCertificateKeyFile={}",
        own.url.replace("=1500", "=30000"),
        path("ca.pem").replace('/', "%2F"),
        path("client.pem").replace('/', "%2F")
    );
    let options = ClientOptions::parse(&uri).await.unwrap();
    let source = Client::with_options(options).unwrap().database("d");
    source.collection("a").insert_one(doc! { "_id": 1 }).await.unwrap();
    let (archive, _) = dump(&good, &Selection::default()).await.unwrap();
    restore(&MongoConfig { dbname: Some("back".to_owned()), ..good.clone() }, &archive, false).await.unwrap();

    let other_authority = MongoConfig { sslrootcert: Some(file("other.pem")), ..good.clone() };
    let no_authority = MongoConfig { sslrootcert: None, tls: Some(true), ..good.clone() };
    let no_certificate = MongoConfig { sslcert: None, ..good.clone() };
    let no_file = MongoConfig { sslrootcert: Some(file("nothing.pem")), ..good };
    for (settings, kinds) in [
        (other_authority, &[ErrorKind::Denied][..]),
        (no_authority, &[ErrorKind::Denied]),
        (no_file, &[ErrorKind::Denied]),
        // The server says no in its own way, after a handshake of TLS 1.3.
        (no_certificate, &[ErrorKind::Denied, ErrorKind::Unavailable]),
        (plain, &[ErrorKind::Unavailable, ErrorKind::Denied]),
    ] {
        let error = MongoDumper::new(&settings).unwrap().probe(&Context::new()).await.unwrap_err();
        assert!(kinds.contains(&error.kind()), "{settings:?}: {error}");
    }
}
