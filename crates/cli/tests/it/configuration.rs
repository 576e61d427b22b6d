//! The configuration file, as the whole command reads it.

use crate::lab::Lab;

#[test]
fn every_problem_is_told_at_once() {
    let lab = Lab::with_keys();
    lab.write("s.toml", "compresion = \"none\"\nworkers = \"two\"\n[keys]\nrecipents = []\n");
    let args = ["--config", "s.toml", "backup", "sqlite:app.db", "--compression", "zstd:99"];
    let ran = lab.run(args).fails(2, "compresion in s.toml:1");
    for said in [
        "did you mean `compression`",
        "workers in s.toml:2",
        "keys.recipents in s.toml:4",
        "compression (flag --compression, variable STRONGROOM_COMPRESSION, key compression)",
        "destination (flag --destination, variable STRONGROOM_DESTINATION, key destination)",
        "keys.recipients (flag --recipient, variable STRONGROOM_RECIPIENTS, key keys.recipients)",
    ] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    let json = lab.run(["--json"].iter().chain(&args)).fails(2, "problems");
    let error: serde_json::Value = serde_json::from_str(&json.stderr).unwrap();
    assert_eq!(error["error"]["problems"].as_array().unwrap().len(), 6, "{error}");
}

/// What the command line says and what the file says, in one answer, and nothing was done.
#[test]
fn wrong_sources_destinations_and_keys_are_told_together() {
    let lab = Lab::with_keys();
    let told = |args: &[&str], expected: &[&str]| {
        let ran = lab.run(args.iter().copied()).fails(2, "");
        for said in expected {
            assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
        }
        assert_eq!(ran.stderr.matches("error: ").count(), expected.len(), "{}", ran.stderr);
    };
    let recipients =
        "setting: keys.recipients (flag --recipient, variable STRONGROOM_RECIPIENTS, key keys.recipients): ";
    let identities =
        "setting: keys.identities (flag --identity, variable STRONGROOM_IDENTITY, key keys.identities): ";
    let destination =
        "setting: destination (flag --destination, variable STRONGROOM_DESTINATION, key destination): ";
    told(
        &[
            "backup",
            "nosql://h/d",
            "-d",
            "s3://b?colour=red",
            "-r",
            "no.pub.pem",
            "-r",
            "gone.pem",
            "--name",
            "/",
        ],
        &[
            "setting: argument SOURCE: ",
            "setting: flag --name: ",
            &format!("{destination}s3 destination: "),
            &format!("{recipients}no.pub.pem: cannot read"),
            &format!("{recipients}gone.pem: cannot read"),
        ],
    );
    told(
        &[
            "restore",
            "what?",
            "--to",
            "nosql://h",
            "-d",
            "s3://b?colour=red",
            "-i",
            "no.pem",
            "-i",
            "gone.pem",
        ],
        &[
            "setting: argument SOURCE@latest|ID: ",
            "setting: flag --to: ",
            &format!("{destination}s3 destination: "),
            &format!("{identities}no.pem: cannot read"),
            &format!("{identities}gone.pem: cannot read"),
        ],
    );
    told(
        &["seal", "-r", "no.pub.pem", "--workers", "0", "missing"],
        &[
            "setting: workers (flag --workers",
            &format!("{recipients}no.pub.pem"),
            "setting: missing: cannot read",
        ],
    );
    lab.write(
        "s.toml",
        "destination = [\"a\", \"b\"]\n[keys]\nrecipients = [\"no.pub.pem\"]\n[destinations.a]\nurl = \"s3://x/?a=1\"\n\
         [destinations.b]\nurl = \"./b\"\nupload_limit = \"much\"\n[sources.shop]\nurl = \"sqlite:a\"\nhost = \"h\"\n",
    );
    told(
        &["--config", "s.toml", "backup", "shop"],
        &[
            "setting: sources.shop in s.toml: ",
            "setting: destinations.a.url in s.toml:5: s3 destination: ",
            "setting: destinations.b.upload_limit: ",
            "key keys.recipients in s.toml:3): no.pub.pem: cannot read",
        ],
    );
    assert_eq!(lab.tree(""), ["key.pem", "key.pub.pem", "s.toml"]);
}

/// Everything that the file names, where each value came from, and no secret.
#[test]
fn the_whole_configuration_is_checked_and_shown() {
    let mut lab = Lab::with_keys();
    let file = "destination = \"vault\"\n[keys]\nrecipients = [\"alice\"]\n[recipients]\nalice = \"key.pub.pem\"\n\
        [destinations.vault]\nurl = \"./vault\"\n\
        [sources.shop]\nurl = \"postgres://u:hunter2@h/d?sslmode=require\"\nlabel = \"Shop\"\n\
        [targets.copy]\nurl = \"mysql://h/d?user=u&password=hunter2\"\n";
    let path = lab.write("s.toml", file);
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    lab.set("STRONGROOM_WORKERS", "2");
    let show = ["--config", "s.toml", "config", "show", "--upload-limit", "1MiB"];
    let plain = lab.run(show).ok();
    for line in [
        "# mirror = all\n",
        "workers = 2\n",
        "[recipients]\nalice = \"key.pub.pem\"\n",
        "[sources.shop]\nlabel = \"Shop\"\nurl = \"postgres://u:****@h/d?sslmode=require\"\n",
        "[targets.copy]\nurl = \"mysql://h/d?user=u&password=****\"\n",
        "[destinations.vault]\nurl = \"./vault\"\n",
    ] {
        assert!(plain.text().contains(line), "{line}: {}", plain.text());
    }
    assert_eq!(plain.stderr, "");
    let origins = lab.run(show.iter().chain(&["--origin"])).ok();
    for line in [
        "destination = \"vault\"    # s.toml:1\n",
        "# mirror = all    # default\n",
        "upload_limit = \"1MiB\"    # command line\n",
        "workers = 2    # environment\n",
        "alice = \"key.pub.pem\"    # s.toml:5\n",
        "label = \"Shop\"    # s.toml:10\n",
    ] {
        assert!(origins.text().contains(line), "{line}: {}", origins.text());
    }
    let json = lab.run(show.iter().chain(&["--json"])).ok();
    for ran in [&plain, &origins, &json] {
        assert!(!ran.text().contains("hunter2"), "{}", ran.text());
    }
    let json = json.json();
    assert_eq!(json["workers"]["value"], 2);
    assert_eq!(json["workers"]["origin"], "environment");
    assert_eq!(json["sources"]["shop"]["label"]["value"], "Shop");
    assert_eq!(json["destinations"]["vault"]["url"]["origin"], "s.toml:7");

    // What is wrong anywhere is told beside it, all at once.
    let wrong = file.replace("key.pub.pem", "gone.pem").replace("./vault", "s3://b?colour=red");
    lab.write(
        "s.toml",
        wrong.replace("label", "memory_limit").replace("\"Shop\"", "1") + "[sources.b]\nurl = \"nosql:x\"\n",
    );
    let ran = lab.run(show).fails(2, "");
    assert!(ran.text().contains("[sources.b]"), "{}", ran.text());
    for said in [
        "destinations.vault.url in s.toml:7: s3 destination: ",
        "sources.shop in s.toml: unknown field",
        "sources.b.url in s.toml: nosql: is not usable here",
        "key keys.recipients in s.toml:3): gone.pem: cannot read",
        "recipients.alice in s.toml:5: gone.pem: cannot read",
    ] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    lab.run(["--config", "s.toml", "config", "show", "shp"]).fails(2, "did you mean \"shop\"?");
}

/// A message says what to write, and where, in the words of the command line and the file.
#[test]
fn messages_name_the_flag_or_key_to_change() {
    let lab = Lab::with_keys();
    lab.database("app.db", 5);
    lab.run(["backup", "sqlite:app.db", "-d", "./b", "-r", "key.pub.pem"]).ok();
    let from = ["restore", "app@latest", "-i", "key.pem", "-d", "./b"];
    let no_url = lab.run(from.iter().chain(&["--to", "r2.db"])).fails(2, "flag --to");
    assert!(no_url.stderr.contains("sqlite:path"), "{}", no_url.stderr);
    lab.run(from.iter().chain(&["--to", "sqlite:app.db"])).fails(11, "--into-existing");
    let postgres = ["--to", "postgres://u@127.0.0.1:1/x", "--restore-arg=--jobs=4"];
    lab.run(from.iter().chain(&postgres)).fails(2, "flag --restore-arg");
    let to = ["-d", "./b", "-r", "key.pub.pem"];
    let dump = ["backup", "postgres://u@127.0.0.1:1/x", "--dump-arg=--jobs=4"];
    lab.run(dump.iter().chain(&to)).fails(2, "flag --dump-arg");
    for empty in [["backup", "-", "--name", "n"].as_slice(), &["backup", "--command", "--name", "n"]] {
        let program: &[&str] = if empty.contains(&"-") { &[] } else { &["--", "true"] };
        let ran = lab.run(empty.iter().chain(&to).chain(program));
        ran.fails(14, "set allow_empty = true in the source");
    }
}

#[test]
fn sources_destinations_and_keys_come_from_the_file() {
    let lab = Lab::with_keys();
    lab.database("app.db", 5);
    std::fs::create_dir(lab.path("etc")).unwrap();
    lab.write(
        "etc/strongroom.toml",
        "destination = \"disk\"\n[keys]\nrecipients = [\"recovery\"]\nidentities = [\"../key.pem\"]\n\
         [recipients]\nrecovery = \"../key.pub.pem\"\n[destinations.disk]\nurl = \"./backups\"\n\
         [sources.shop]\nurl = \"sqlite:../app.db\"\ncompression = \"none\"\n",
    );
    let config = ["--config", "etc/strongroom.toml"];
    lab.run(config.iter().chain(&["backup", "shop"])).ok();
    lab.run(config.iter().chain(&["backup", "shp"])).fails(2, "did you mean \"shop\"?");
    lab.run(config.iter().chain(&["restore", "shop@latest", "--to", "sqlite:new.db"])).ok();
    assert_eq!(lab.rows("new.db"), lab.rows("app.db"));
    lab.run(["--config", "nowhere.toml", "list"]).fails(2, "nowhere.toml");
    let shown = lab.run(config.iter().chain(&["config", "show", "shop", "--workers", "2"])).ok();
    assert!(shown.text().contains("compression = \"none\"\nworkers = 2\n"), "{}", shown.text());
    let shown = lab.run(config.iter().chain(&["config", "show", "shop", "--workers", "2", "--origin"])).ok();
    assert!(shown.text().contains("compression = \"none\"    # etc/strongroom.toml:11"), "{}", shown.text());
    assert!(shown.text().contains("workers = 2    # command line"), "{}", shown.text());
}

#[test]
fn a_misspelt_variable_is_noticed() {
    let mut lab = Lab::with_keys();
    lab.set("STRONGROOM_DESTINATON", "x");
    let ran = lab.run(["config", "show"]).ok();
    assert!(ran.stderr.contains("did you mean STRONGROOM_DESTINATION?"), "{}", ran.stderr);
}

#[test]
fn help_and_version_are_answers() {
    let lab = Lab::new();
    assert!(lab.run(["--help"]).ok().text().contains("Exit codes"));
    assert!(lab.run(["--version"]).ok().text().starts_with("strongroom "));
    assert_eq!(lab.run(["no-such-command"]).code, Some(2));
    assert_eq!(lab.run(["seal", "--no-such-flag"]).code, Some(2));
}
