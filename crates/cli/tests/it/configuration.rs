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
