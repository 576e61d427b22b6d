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
    assert!(shown.text().contains("compression = \"none\"    # etc/strongroom.toml:11"), "{}", shown.text());
    assert!(shown.text().contains("workers = \"2\"    # command line"), "{}", shown.text());
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
