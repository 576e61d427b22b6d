//! `native = false`. The programs of MongoDB cannot be installed where the tests run: scripts stand in
//! for them, which write what `mongodump` wrote, misbehave, or restore as `mongorestore` does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use backup_core::testing::{broken, collect, dumper_suite, inspector_suite, known, restorer_suite};
use backup_core::{Context, DumpReport, Dumper as _, ErrorKind, Restorer as _, Result, Selection};
use bytes::Bytes;
use dumpers::mongodb::{Consistency, MongoConfig, MongoInspector, MongodumpDumper, MongorestoreRestorer};
use mongodb::Database;
use mongodb::bson::{Document, doc};

use crate::mongodb::{assert_same, config, contents, database, dump, format, names, request, restore};
use crate::mongodb_faults::{Own, parts};
use crate::processes::all_arguments;
use crate::server::variable;

/// A folder of programs, and of what they note.
struct Tools(tempfile::TempDir);

impl Tools {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// A program that says that it is of this version, and otherwise does this in its folder. Its
    /// configuration and its arguments are noted.
    fn put(&self, name: &str, version: &str, script: &str) {
        let text = format!(
            "#!/bin/sh\nif [ \"$1\" = --version ]; then echo '{name} version: {version}'; exit; fi\ncd '{}' || exit 9\n\
             printf '%s\\n' \"$@\" >arguments\ncat \"${{1#--config=}}\" >configuration\n\
             stat -Lc %a \"${{1#--config=}}\" >mode\n{script}\n",
            self.0.path().display()
        );
        self.program(name, &text);
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The stand-in that restores, with something to do first and something to do instead of its end.
    fn put_restore(&self, last: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mongorestore.py");
        let text = format!(
            "#!/bin/sh\n'{}' '{}' \"$@\" || exit 1\nif [ \"$1\" = --version ]; then exit; fi\n\
             printf '%s\\n' \"$@\" >'{}'\n{last}\n",
            variable("STRONGROOM_TEST_PYTHON"),
            script.display(),
            self.path("arguments").display(),
        );
        self.program("mongorestore", &text);
    }

    /// Settings of a database by these programs.
    fn config(&self, database: &str) -> MongoConfig {
        MongoConfig { consistency: Consistency::None, ..self.of(config(database)) }
    }

    fn of(&self, config: MongoConfig) -> MongoConfig {
        MongoConfig { native: Some(false), tool_dirs: vec![self.0.path().to_owned()], ..config }
    }
}

async fn by_tool(config: &MongoConfig, what: &Selection) -> Result<(Bytes, DumpReport)> {
    let dump = MongodumpDumper::new(config)?.dump(&Context::new(), what).await?;
    let bytes = collect(dump.bytes).await?;
    Ok((bytes, dump.report.get().unwrap().clone()))
}

async fn restore_by_tool(config: &MongoConfig, archive: &Bytes, into_existing: bool) -> Result<u64> {
    let restorer = MongorestoreRestorer::new(config)?;
    let cx = Context::new();
    let plan = restorer.plan(&cx, request(into_existing)).await?;
    restorer.restore(&cx, plan, known(&format(), archive)).await.map(|restored| restored.bytes)
}

/// A database with three collections, and what `mongodump` would write of it.
async fn source(name: &str) -> (Database, Bytes) {
    let source = database(name).await;
    for collection in ["a", "b.c", "log"] {
        let documents = (0..50).map(|i| doc! { "_id": i, "x": format!("é{i}") });
        source.collection(collection).insert_many(documents).await.unwrap();
    }
    let alone = MongoConfig { consistency: Consistency::None, ..config(source.name()) };
    let (archive, _) = dump(&alone, &Selection::default()).await.unwrap();
    (source, archive)
}

#[tokio::test]
async fn incident_79_mongodump_gets_its_secret_by_a_file() {
    let (source, archive) = source("tool_secret").await;
    let tools = Tools::new();
    fs::write(tools.path("archive"), &archive).unwrap();
    tools.put("mongodump", "100.14.0", "cat archive; touch written; while [ ! -e go ]; do sleep 0.05; done");
    let (user, password, place) = parts();
    let settings = tools.config(source.name());
    let dumper = MongodumpDumper::new(&settings).unwrap();
    assert!(!format!("{dumper:?} {settings:?}").contains(&password));
    let probe = dumper.probe(&Context::new()).await.unwrap();
    assert!(probe.obstacles.is_empty(), "{:?}", probe.obstacles);
    assert_eq!(probe.versions["mongodump"], "100.14.0");

    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    while !tools.path("written").exists() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let running = all_arguments();
    assert!(running.contains(&tools.path("mongodump").display().to_string()), "{running}");
    assert!(!running.contains(&password), "the password is in the process list");
    fs::write(tools.path("go"), "").unwrap();
    assert_eq!(collect(dump.bytes).await.unwrap(), archive);
    let report = dump.report.get().unwrap();
    for option in ["by mongodump", "consistency=none"] {
        assert!(report.options.iter().any(|given| given == option), "{report:?}");
    }
    assert_eq!(report.tables.len(), 3);

    let given = tools.read("arguments");
    let given: Vec<&str> = given.lines().collect();
    assert!(given[0].starts_with("--config=/proc/"), "{given:?}");
    assert_eq!(given[1..], ["--archive", "--numParallelCollections=4"]);
    let expected = format!(
        "uri: \"mongodb://{user}@{place}/{}?authSource=admin\"\npassword: \"{password}\"\n",
        source.name()
    );
    assert_eq!(tools.read("configuration"), expected);
    assert_eq!(tools.read("mode"), "600\n");
    inspector_suite(&MongoInspector, &format(), &archive).await;
    fs::write(tools.path("go"), "").unwrap();
    dumper_suite(&dumper).await;

    // What it wrote is restored by ourselves.
    let target = database("tool_secret_back").await;
    restore(&config(target.name()), &archive, false).await.unwrap();
    let (again, _) = crate::mongodb::dump(&config(target.name()), &Selection::default()).await.unwrap();
    assert_same(&contents(&archive).1, &contents(&again).1);
    source.drop().await.unwrap();
    target.drop().await.unwrap();
}

#[tokio::test]
async fn a_selection_becomes_arguments() {
    let (source, archive) = source("tool_selection").await;
    let tools = Tools::new();
    fs::write(tools.path("archive"), &archive).unwrap();
    tools.put("mongodump", "100.3.0", "cat archive");
    let select = |include: &[&str], exclude: &[&str]| {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Selection { include: owned(include), exclude: owned(exclude) }
    };
    let settings = tools.config(source.name());
    for (what, expected) in [
        (select(&["b.c"], &[]), vec!["--collection=b.c"]),
        (select(&[], &["log"]), vec!["--excludeCollection=log"]),
    ] {
        by_tool(&settings, &what).await.unwrap();
        let given = tools.read("arguments");
        assert_eq!(given.lines().skip(3).collect::<Vec<_>>(), expected);
    }
    let error = by_tool(&settings, &select(&["lgo"], &[])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");

    // No moment of one database, and no selection of several: said before anything starts.
    fs::remove_file(tools.path("arguments")).unwrap();
    let whole = MongoConfig { dbname: None, ..settings.clone() };
    for (settings, what) in [
        (MongoConfig { consistency: Consistency::Auto, ..settings.clone() }, Selection::default()),
        (MongoConfig { consistency: Consistency::Snapshot, ..whole.clone() }, Selection::default()),
        (whole, select(&[], &["*.log"])),
    ] {
        let error = by_tool(&settings, &what).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.hint().unwrap().contains("native = false"), "{error}: {:?}", error.hint());
    }
    assert!(!tools.path("arguments").exists());
    source.drop().await.unwrap();
}

#[tokio::test]
async fn a_whole_server_comes_with_its_oplog() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mongodump/oplog.archive");
    let archive = Bytes::from(fs::read(&golden).unwrap());
    let own = Own::start().await;
    let plain = MongoConfig::from_url(&own.url).unwrap();
    // What the archive holds is there under the same names.
    restore(&plain, &archive, false).await.unwrap();
    let tools = Tools::new();
    tools.put("mongodump", "100.14.0", &format!("cat '{}'", golden.display()));
    let (dumped, report) = by_tool(&tools.of(plain.clone()), &Selection::default()).await.unwrap();
    assert_eq!(dumped, archive);
    assert!(tools.read("arguments").lines().any(|argument| argument == "--oplog"));
    for option in ["consistency=oplog", "users"] {
        assert!(report.options.iter().any(|given| given == option), "{report:?}");
    }
    // An oplog goes under no other names, by mongorestore.
    tools.put("mongorestore", "100.14.0", "touch started; cat >/dev/null");
    let rename = vec!["golden=g2".to_owned(), "second=s2".to_owned()];
    let error =
        restore_by_tool(&MongoConfig { rename, ..tools.of(plain) }, &archive, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(!tools.path("started").exists());
}

#[tokio::test]
async fn incident_04_mongodump_that_misbehaves_is_no_backup() {
    let (source, archive) = source("tool_faults").await;
    let other = self::source("tool_other").await;
    let tools = Tools::new();
    fs::write(tools.path("archive"), &archive).unwrap();
    fs::write(tools.path("half"), &archive[..archive.len() / 2]).unwrap();
    fs::write(tools.path("short"), &archive[..archive.len() - 1]).unwrap();
    fs::write(tools.path("other"), &other.1).unwrap();
    let settings = MongoConfig { stall_seconds: Some(20), ..tools.config(source.name()) };
    for (script, kind, said) in [
        ("cat archive; echo 'Failed: out of luck' >&2; exit 3", ErrorKind::Tool, "out of luck"),
        ("exit 0", ErrorKind::Tool, "no output"),
        ("cat half", ErrorKind::Integrity, "truncated"),
        ("cat short", ErrorKind::Integrity, "truncated"),
        ("cat archive; printf x", ErrorKind::Integrity, "follow"),
        ("echo hello", ErrorKind::Integrity, "does not begin"),
        ("cat other", ErrorKind::Unavailable, "dropped"),
        ("cat half; kill -9 $$", ErrorKind::Tool, "signal 9"),
        ("echo 'Failed: error: (AuthenticationFailed) no' >&2; exit 1", ErrorKind::Denied, "password"),
        ("echo 'Failed: (Unauthorized) not authorized on x' >&2; exit 1", ErrorKind::Denied, "may not"),
        ("echo 'Failed: socket was unexpectedly closed: EOF' >&2; exit 1", ErrorKind::Unavailable, "lost"),
        ("cat archive; (trap '' TERM; sleep 300) & exit 0", ErrorKind::Tool, "left a process"),
    ] {
        tools.put("mongodump", "100.14.0", script);
        let error = by_tool(&settings, &Selection::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{script}: {error}");
        assert!(error.to_string().contains(said) || error.what().contains(said), "{script}: {error}");
    }
    tools.put("mongodump", "100.14.0", "cat half; sleep 300");
    let hasty = MongoConfig { stall_seconds: Some(1), ..settings.clone() };
    let error = by_tool(&hasty, &Selection::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");

    // The password is masked where the program repeats it.
    let (_, password, _) = parts();
    tools.put("mongodump", "100.14.0", "cat configuration >&2; exit 1");
    let error = by_tool(&settings, &Selection::default()).await.unwrap_err();
    assert!(error.what().contains("***") && !format!("{error:?}").contains(&password), "{error}");

    // Too old to be told a secret by a file: named with the package, before anything starts.
    tools.put("mongodump", "r4.0.28", "touch started; cat archive");
    let dumper = MongodumpDumper::new(&settings).unwrap();
    let error = dumper.dump(&Context::new(), &Selection::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.what().contains("4.0.28") && error.hint().unwrap().contains("mongodb-database-tools"));
    let obstacles = dumper.probe(&Context::new()).await.unwrap().obstacles;
    assert!(obstacles[0].remedy.contains("mongodb-database-tools"), "{obstacles:?}");
    assert!(!tools.path("started").exists());
    source.drop().await.unwrap();
    other.0.drop().await.unwrap();
}

#[tokio::test]
async fn mongorestore_gets_an_archive_and_no_part_of_one() {
    let (source, archive) = source("tool_restore").await;
    let tools = Tools::new();
    tools.put_restore("");
    let target = database("tool_restored").await;
    let restorer = MongorestoreRestorer::new(&tools.config(target.name())).unwrap();
    restorer_suite(&restorer, &format(), &archive, async || {
        !target.list_collection_names().await.unwrap().is_empty()
    })
    .await;
    target.drop().await.unwrap();
    assert_eq!(
        restore_by_tool(&tools.config(target.name()), &archive, false).await.unwrap(),
        archive.len() as u64
    );
    let pattern = format!("--nsFrom={}.*", source.name());
    assert!(tools.read("arguments").lines().any(|argument| argument == pattern));
    let (again, _) = dump(&config(target.name()), &Selection::default()).await.unwrap();
    assert_same(&contents(&archive).1, &contents(&again).1);

    // Into what exists: refused, or as told.
    target.collection("stays").insert_one(doc! { "_id": 1 }).await.unwrap();
    target.collection::<Document>("a").delete_many(doc! {}).await.unwrap();
    let error = restore_by_tool(&tools.config(target.name()), &archive, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    restore_by_tool(&tools.config(target.name()), &archive, true).await.unwrap();
    assert_eq!(names(&target).await, ["a", "b.c", "log", "stays"]);
    assert_eq!(target.collection::<Document>("a").count_documents(doc! {}).await.unwrap(), 50);
    source.drop().await.unwrap();
    target.drop().await.unwrap();
}

#[tokio::test]
async fn a_restore_by_mongorestore_that_fails_takes_back_what_it_made() {
    let (source, archive) = source("tool_fail").await;
    let tools = Tools::new();
    let target = database("tool_failed").await;
    let settings = tools.config(target.name());
    // After it made everything.
    for (last, said) in [
        ("echo 'Failed: out of luck' >&2; exit 4", "out of luck"),
        ("echo '3 document(s) failed to restore.' >&2", "3 of them"),
    ] {
        tools.put_restore(last);
        let error = restore_by_tool(&settings, &archive, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tool, "{error}");
        assert!(error.what().contains(said), "{error}");
        assert_eq!(names(&target).await, Vec::<String>::new());
    }
    // It ends well, and did nothing; or stops in the middle.
    tools.put("mongorestore", "100.14.0", "cat >/dev/null");
    let error = restore_by_tool(&settings, &archive, false).await.unwrap_err();
    assert!(error.what().contains("did not make it"), "{error}");
    tools.put(
        "mongorestore",
        "100.14.0",
        "head -c 10 >/dev/null; echo 'Failed: (OutOfDiskSpace) full' >&2; exit 1",
    );
    let error = restore_by_tool(&settings, &archive, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");

    // What was there before stays, and what may be gone is named.
    target.collection("stays").insert_one(doc! { "_id": 1 }).await.unwrap();
    target.collection("a").insert_one(doc! { "_id": "old" }).await.unwrap();
    tools.put_restore("exit 4");
    let error = restore_by_tool(&settings, &archive, true).await.unwrap_err();
    assert!(error.hint().unwrap().contains(&format!("{}.a", target.name())), "{:?}", error.hint());
    assert_eq!(names(&target).await, ["a", "stays"]);

    // A broken backup never looks ended to the program.
    target.drop().await.unwrap();
    tools.put("mongorestore", "100.14.0", "cat >/dev/null; touch ended");
    let restorer = MongorestoreRestorer::new(&settings).unwrap();
    let cx = Context::new();
    for dump in [
        broken(&format(), &archive, ErrorKind::Integrity),
        known(&format(), &archive.slice(..archive.len() - 1)),
    ] {
        let plan = restorer.plan(&cx, request(false)).await.unwrap();
        let error = restorer.restore(&cx, plan, dump).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
        assert!(!tools.path("ended").exists());
    }
    source.drop().await.unwrap();
}
