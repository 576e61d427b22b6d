use super::*;

/// Public keys of owners; any three will do.
macro_rules! OWNERS {
    (0) => {
        "ed25519:nU87VMaFb0tWkhfQ4IW0miLFPBIqEB6u2euPAXvjx3Y"
    };
    (1) => {
        "ed25519:X2ZfXMrxV-nj4qey0IDVL2Hfe57Uuawg8oxoiZjfytI"
    };
    (2) => {
        "ed25519:tcJK6n02T8XoeGftBAV9pv15od4oKd3S1M2HPN7Jpac"
    };
}
/// Ids of repositories.
macro_rules! ID {
    ($digit:literal) => {
        concat!($digit, "f0a1c52-6f0b-4a53-9b5e-0d6f6c1d2e3f")
    };
}

fn file(text: &str) -> File {
    let mut problems = Vec::new();
    let file = File::parse(Path::new("/etc/s.toml"), text, &mut problems);
    assert_eq!(problems, []);
    file
}

fn args(values: &[(&'static str, Value)]) -> RawArgs {
    RawArgs { values: values.iter().cloned().collect(), ..RawArgs::default() }
}

fn resolve(
    args: &RawArgs,
    env: &Environment,
    text: &str,
    needs: Needs<'_>,
) -> Result<Settings, Vec<Problem>> {
    let (settings, problems) = Settings::understood(args, env, &file(text), needs, Vec::new());
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

/// One row for each setting: a value for the file, the environment and the command line.
#[test]
fn the_command_line_wins_over_the_environment_over_the_file_for_every_setting() {
    for setting in SETTINGS {
        let (text, in_file, in_variable, in_flag) = match setting.kind {
            Kind::Text | Kind::Texts | Kind::Path => match setting.key {
                "mirror" => ("\"at_least:1\"", "at_least:1", "all", "at_least:1"),
                "compression" => ("\"zstd:1\"", "zstd:1", "zstd:2", "zstd:4"),
                "keys.passphrase_kdf" => ("\"argon2id\"", "argon2id", "pbkdf2", "argon2id"),
                "upload_limit" => ("\"1MiB\"", "1MiB", "2MiB", "3MiB"),
                "trust.owner" => (concat!("\"", OWNERS!(0), "\""), OWNERS!(0), OWNERS!(1), OWNERS!(2)),
                "trust.repository" => (concat!("\"", ID!(1), "\""), ID!(1), ID!(2), ID!(3)),
                _ => ("\"/f/1\"", "/f/1", "/v/2", "/c/3"),
            },
            Kind::Number => ("1", "1", "2", "3"),
            // false on the command line beats true below, and true beats false.
            Kind::Switch => ("true", "true", "true", "false"),
            Kind::List => ("[\"/f/1\"]", "/f/1", "/v/2", "/c/3"),
        };
        let (section, key) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
        let toml = if section.is_empty() {
            format!("{key} = {text}\n")
        } else {
            format!("[{section}]\n{key} = {text}\n")
        };
        let flag = match setting.kind {
            Kind::Switch => Value::Switch(false),
            Kind::Number => Value::Text(in_flag.to_owned()),
            Kind::List => Value::List(vec![in_flag.to_owned()]),
            _ => Value::Text(in_flag.to_owned()),
        };
        assert!(setting.kind.takes(&flag));
        let none = args(&[]);
        let by_flag = args(&[(setting.key, flag)]);
        let bare = Environment::from([("HOME", "/home/x")]);
        let env = Environment::from([(setting.variable, in_variable), ("HOME", "/home/x")]);
        let value = |args: &RawArgs, env: &Environment| {
            let settings = resolve(args, env, &toml, Needs::default()).unwrap_or_else(|p| panic!("{p:?}"));
            let row = settings.shown.into_iter().find(|row| row.0.key == setting.key).unwrap();
            (row.1.unwrap().to_string(), row.2)
        };
        let (shown, origin) = value(&none, &bare);
        assert!(shown.contains(in_file) && matches!(origin, Origin::File { .. }), "{setting:?}: {shown}");
        let (shown, origin) = value(&none, &env);
        assert!(shown.contains(in_variable) && origin == Origin::Variable, "{setting:?}: {shown}");
        let (shown, origin) = value(&by_flag, &env);
        assert!(shown.contains(in_flag) && origin == Origin::Flag, "{setting:?}: {shown}");
    }
}

#[test]
fn switches_can_be_turned_off_again() {
    let toml = "verify = true\n[keys]\nallow_symmetric = true\n[output]\njson = true\n";
    let env = Environment::from([("STRONGROOM_ALLOW_SYMMETRIC", "no")]);
    let off = args(&[("verify", Value::Switch(false)), ("output.json", Value::Switch(false))]);
    let settings = resolve(&off, &env, toml, Needs::default()).unwrap();
    assert!(!settings.verify && !settings.allow_symmetric && !settings.json);
}

#[test]
fn every_problem_is_reported_at_once_with_its_flag_variable_and_key() {
    let env = Environment::from([("STRONGROOM_WORKERS", "many"), ("STRONGROOM_VERIFY", "perhaps")]);
    let bad = args(&[("compression", Value::Text("zstd:99".into()))]);
    let needs = Needs { destination: true, recipients: true, identity: true, source: None };
    let problems = resolve(&bad, &env, "", needs).unwrap_err();
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "setting: destination (flag --destination, variable STRONGROOM_DESTINATION, key destination): not set",
            "setting: compression (flag --compression, variable STRONGROOM_COMPRESSION, key compression): \"99\" is no level from 1 to 22",
            "setting: workers (flag --workers, variable STRONGROOM_WORKERS, key workers): \"many\" is no number from 1 to 64",
            "setting: verify (flag --verify, variable STRONGROOM_VERIFY, key verify): \"perhaps\" is neither true nor false",
            "setting: keys.recipients (flag --recipient, variable STRONGROOM_RECIPIENTS, key keys.recipients): nobody is named who could open the backup",
            "setting: keys.identities (flag --identity, variable STRONGROOM_IDENTITY, key keys.identities): no key to open the backup with",
        ]
    );
}

#[test]
fn a_problem_in_the_file_names_its_line() {
    let problems =
        resolve(&args(&[]), &Environment::default(), "\ncompression = \"gzip\"\n", Needs::default());
    assert!(problems.unwrap_err()[0].to_string().contains("key compression in /etc/s.toml:2"));
}

#[test]
fn a_source_overrides_the_general_settings_of_the_file_and_nothing_above() {
    let toml = "destination = \"/general\"\ncompression = \"none\"\n[sources.a]\nurl = \"sqlite:a\"\n\
                destination = \"/own\"\ncompression = \"zstd:9\"\nrecipients = [\"own.pem\"]\n";
    let needs = Needs { source: Some("a"), ..Needs::default() };
    let env = Environment::from([("STRONGROOM_COMPRESSION", "zstd:5")]);
    let settings = resolve(&args(&[]), &env, toml, needs).unwrap();
    assert_eq!(settings.destination.unwrap().url, "/own");
    assert_eq!(settings.compression, Compression::Zstd(5));
    assert_eq!(settings.recipients, [KeyName::File("/etc/own.pem".into())]);
    let general = resolve(&args(&[]), &Environment::default(), toml, Needs::default()).unwrap();
    assert_eq!(general.compression, Compression::None);
}

/// Encryption is never left out silently: no recipient is an error, not a plain backup.
#[test]
fn incident_29_encryption_is_never_silently_left_out() {
    let needs = Needs { recipients: true, ..Needs::default() };
    assert!(resolve(&args(&[]), &Environment::default(), "", needs).is_err());
    let off = args(&[("keys.no_encryption", Value::Switch(true))]);
    let settings = resolve(&off, &Environment::default(), "[keys]\nrecipients = [\"k\"]\n", needs).unwrap();
    assert!(settings.no_encryption && settings.recipients.is_empty());
    let both = args(&[
        ("keys.no_encryption", Value::Switch(true)),
        ("keys.recipients", Value::List(vec!["k".into()])),
    ]);
    assert!(resolve(&both, &Environment::default(), "", needs).is_err());
}

/// Whoever speaks last about encryption is heard, and nobody may say both in one breath.
#[test]
fn incident_29_recipients_and_no_encryption_are_decided_by_the_higher_layer() {
    const LAYERS: [&str; 4] = ["general", "source", "variable", "flag"];
    for (none_at, none) in LAYERS.iter().enumerate() {
        for (named_at, named) in LAYERS.iter().enumerate() {
            let (mut flags, mut off_by, mut keys_by) = (Vec::new(), ("HOME", "/home/x"), ("USER", "x"));
            let (mut general, mut source) = (String::new(), String::from("url = \"sqlite:a\"\n"));
            match *none {
                "general" => general += "no_encryption = true\n",
                // No source can switch encryption off for itself.
                "source" => continue,
                "variable" => off_by = ("STRONGROOM_NO_ENCRYPTION", "true"),
                _ => flags.push(("keys.no_encryption", Value::Switch(true))),
            }
            match *named {
                "general" => general += "recipients = [\"/k\"]\n",
                "source" => source += "recipients = [\"/k\"]\n",
                "variable" => keys_by = ("STRONGROOM_RECIPIENTS", "/k"),
                _ => flags.push(("keys.recipients", Value::List(vec!["/k".into()]))),
            }
            let toml = format!("[keys]\n{general}[sources.a]\n{source}");
            let needs = Needs { source: Some("a"), recipients: true, ..Needs::default() };
            let env = Environment::from([off_by, keys_by]);
            let decided = resolve(&args(&flags), &env, &toml, needs);
            let case = format!("no_encryption by {none}, recipients by {named}");
            match none_at.cmp(&named_at) {
                std::cmp::Ordering::Equal => {
                    let said = decided.unwrap_err()[0].to_string();
                    let both = said.contains("--no-encryption") && said.contains("--recipient");
                    assert!(both, "{case}: {said}");
                }
                order => {
                    let settings = decided.unwrap_or_else(|p| panic!("{case}: {p:?}"));
                    let off = order.is_gt();
                    assert_eq!(
                        (settings.no_encryption, settings.recipients.is_empty()),
                        (off, off),
                        "{case}"
                    );
                }
            }
        }
    }
}

#[test]
fn several_destinations_come_from_one_list_and_a_higher_layer_replaces_it() {
    let toml = "destination = [\"a\", \"./c\"]\nmirror = \"at_least:1\"\n[sources.s]\nurl = \"sqlite:a\"\n\
                destinations = [\"b\", \"a\"]\nmirror = \"at_least:2\"\n[sources.both]\nurl = \"sqlite:a\"\n\
                destination = \"a\"\ndestinations = [\"b\"]\n\
                [destinations.a]\nurl = \"s3://b/a\"\nstall_seconds = 0\noffsite = true\n[destinations.b]\nurl = \"/b\"\n";
    let needs = |source| Needs { source, destination: true, ..Needs::default() };
    let urls = |settings: &Settings| settings.destinations.iter().map(|d| d.url.clone()).collect::<Vec<_>>();
    let none = Environment::default();
    let general = resolve(&args(&[]), &none, toml, needs(None)).unwrap();
    assert_eq!(urls(&general), ["s3://b/a", "/etc/./c"]);
    assert_eq!(general.destination.as_ref().unwrap().url, "s3://b/a");
    assert_eq!(general.destinations[0].patience(), None);
    assert_eq!(general.destinations[1].patience().unwrap().as_secs(), 300);
    let source = resolve(&args(&[]), &none, toml, needs(Some("s"))).unwrap();
    assert_eq!(urls(&source), ["/b", "s3://b/a"]);
    assert_eq!(source.mirror.0.of(2), 2);
    let flag = args(&[("destination", Value::List(vec!["/x".into(), "b".into(), "/y".into()]))]);
    assert_eq!(urls(&resolve(&flag, &none, toml, needs(Some("s"))).unwrap()), ["/x", "/b", "/y"]);
    let variable = Environment::from([("STRONGROOM_DESTINATION", "s3://u:p@b/x?endpoint=http://h:1")]);
    let one = resolve(&args(&[("mirror", Value::Text("all".into()))]), &variable, toml, needs(Some("s")));
    assert_eq!(one.unwrap().destinations.len(), 1, "a URL is not cut at its colons");
    for (args, source, said) in [
        (args(&[]), Some("both"), "stands beside `destinations`"),
        (args(&[("destination", Value::List(vec!["b".into(), "/b".into()]))]), None, "named twice"),
        (args(&[("destination", Value::Text("b".into()))]), Some("s"), "asks for 2 copies"),
    ] {
        let problems = resolve(&args, &none, toml, needs(source)).unwrap_err();
        assert!(problems[0].to_string().contains(said), "{problems:?}");
    }
}

#[test]
fn symmetric_recipients_must_be_allowed_by_name() {
    let needs = Needs { recipients: true, ..Needs::default() };
    let toml = "[keys]\nrecipients = [\"passphrase\"]\n";
    let problems = resolve(&args(&[]), &Environment::default(), toml, needs).unwrap_err();
    assert!(problems[0].setting.contains("--allow-symmetric"), "{problems:?}");
    let allowed = args(&[("keys.allow_symmetric", Value::Switch(true))]);
    let settings = resolve(&allowed, &Environment::default(), toml, needs).unwrap();
    assert_eq!(settings.recipients, [KeyName::Passphrase]);
}

#[test]
fn names_of_recipients_and_destinations_come_from_the_file() {
    let toml = "destination = \"vault\"\n[keys]\nrecipients = [\"alice\", \"/k/bob.pem\"]\n\
                [recipients]\nalice = \"alice.pem\"\n[destinations.vault]\nurl = \"s3://b/p\"\n";
    let settings = resolve(&args(&[]), &Environment::default(), toml, Needs::default()).unwrap();
    assert_eq!(settings.destination.unwrap().name.as_deref(), Some("vault"));
    assert_eq!(
        settings.recipients,
        [KeyName::File("/etc/alice.pem".into()), KeyName::File("/k/bob.pem".into())]
    );
    let misspelt = args(&[("destination", Value::Text("vualt".into()))]);
    let problems = resolve(&misspelt, &Environment::default(), toml, Needs::default()).unwrap_err();
    assert_eq!(problems[0].hint.as_deref(), Some("did you mean \"vault\"?"));
}

#[test]
fn no_secret_is_shown() {
    let env = Environment::from([
        ("STRONGROOM_PASSPHRASE", "hunter2"),
        ("STRONGROOM_ENCRYPTION_KEY", "c2VjcmV0"),
        ("HOME", "/home/x"),
    ]);
    let settings = resolve(&args(&[]), &env, "", Needs::default()).unwrap();
    let shown = format!("{settings:?} {env:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("c2VjcmV0"), "{shown}");
    assert_eq!(settings.identities, [KeyName::Passphrase, KeyName::SecretKey]);
}
