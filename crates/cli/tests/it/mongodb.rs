//! A MongoDB database into a folder and back, by the whole command.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::lab::Lab;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/test"))
}

/// The test server: where it is without its password, and the password.
fn server() -> (String, String) {
    let url = variable("STRONGROOM_TEST_MONGODB_URL");
    let (user, place) = url.strip_prefix("mongodb://").unwrap().rsplit_once('@').unwrap();
    let (user, password) = user.split_once(':').unwrap();
    (format!("mongodb://{user}@{}", place.split('/').next().unwrap()), password.to_owned())
}

/// Runs lines of Python with `server`, a client of the test server; what they print.
fn python(lines: &str, database: &str) -> String {
    let script = format!(
        "import os, sys, pymongo, bson\nserver = pymongo.MongoClient(os.environ['URL'])\ndb = server[sys.argv[1]]\n{lines}"
    );
    let ran = Command::new(variable("STRONGROOM_TEST_PYTHON"))
        .args(["-c", &script, database])
        .env("URL", variable("STRONGROOM_TEST_MONGODB_URL"))
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

const FILL: &str = r#"
import gridfs
db.orders.insert_many({"_id": i, "item": f"é{i}", "price": bson.Decimal128("1.50")} for i in range(300))
db.orders.create_index([("item", 1)], unique=True)
db["names with space.and.dots"].insert_one({"_id": {"a": 1}})
db.create_collection("recent", capped=True, size=65536)
db.recent.insert_many({"_id": i} for i in range(5))
db.create_collection("strict", validator={"x": {"$gt": 1}})
db.strict.insert_one({"_id": 1, "x": 2})
db.create_collection("seen", viewOn="orders", pipeline=[{"$match": {"_id": {"$lt": 3}}}])
gridfs.GridFS(db).put(b"\x00\x01" * 200_000, filename="file", _id=7)
"#;

const SHOW: &str = r#"
import hashlib, gridfs
for found in sorted(db.list_collections(), key=lambda found: found["name"]):
    if found["name"].startswith("strongroom_restoring_"):
        continue
    name, options = found["name"], found["options"]
    documents = sorted(bson.encode(one) for one in db[name].find())
    indexes = {} if found["type"] == "view" else db[name].index_information()
    digest = hashlib.sha256(b"".join(documents)).hexdigest()
    print(name, found["type"], options, len(documents), digest, sorted(indexes))
print(len(gridfs.GridFS(db).get(7).read()))
"#;

#[test]
fn a_database_is_backed_up_verified_and_restored_into_another() {
    let (server, password) = server();
    let source = format!("cli_source_{}", std::process::id());
    let target = format!("cli_target_{}", std::process::id());
    python(FILL, &source);
    let mut lab = Lab::with_keys();
    let (from, to) =
        (format!("{server}/{source}?authSource=admin"), format!("{server}/{target}?authSource=admin"));
    let backup = ["backup", &from, "-d", "./b", "-r", "key.pub.pem"];
    let latest = format!("{source}@latest");
    let restore = ["restore", &latest, "--to", &to, "-i", "key.pem", "-d", "./b"];

    lab.run(["backup", &from.replace('@', ":hunter2@"), "-d", "./b", "-r", "key.pub.pem"])
        .fails(2, "process list");
    lab.set("MONGODB_PASSWORD", "wrong");
    lab.run(backup).fails(12, "refuses the user or the password");
    lab.set("MONGODB_PASSWORD", &password);
    lab.run(backup).ok();
    let deep = ["--json", "verify", &latest, "--deep", "-i", "key.pem", "-d", "./b"];
    assert_eq!(lab.run(deep).ok().json()["parsed"], true);
    assert!(lab.run(restore.iter().chain(&["--dry-run"])).ok().text().contains("strongroom_restoring_"));
    lab.run(restore).ok();
    assert_eq!(python(SHOW, &target), python(SHOW, &source));

    // Into what exists: refused, and as told; nothing else of it changes.
    python(
        "db.stays.insert_one({'_id': 1})\ndb.orders.delete_many({})\ndb.seen.drop()\ndb.recent.drop()\ndb.strict.drop()",
        &target,
    );
    lab.run(restore).fails(11, "already holds");
    lab.run(restore.iter().chain(&["--into-existing"])).ok();
    let names = python("print(sorted(db.list_collection_names()), db.orders.count_documents({}))", &target);
    assert!(names.contains("'stays'") && names.trim_end().ends_with(" 300"), "{names}");

    // What the tool of MongoDB would write, by a program that stands in for it.
    lab.run(["restore", &latest, "--to", "file:shop.archive", "-i", "key.pem", "-d", "./b"]).ok();
    let program = lab.write(
        "mongodump",
        format!(
            "#!/bin/sh\nif [ \"$1\" = --version ]; then echo 'mongodump version: 100.14.0'; exit; fi\nexec cat '{}'\n",
            lab.path("shop.archive").display()
        ),
    );
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let folder = format!("tool_dirs={}", lab.path("").display());
    let tool = ["--set", "native=false", "--set", &folder];
    lab.run(backup.iter().chain(&tool)).fails(16, "native = false");
    lab.run(backup.iter().chain(&tool).chain(&["--set", "consistency=none"])).ok();
    assert_eq!(lab.run(deep).ok().json()["parsed"], true);
    for name in [&source, &target] {
        python("server.drop_database(sys.argv[1])", name);
    }
}
