//! Programs as sources and targets, through the ports.

use backup_core::testing::{broken, collect, dumper_suite, known};
use backup_core::{Context, DumpFormat, ErrorKind, RestoreRequest, Selection};
use bytes::Bytes;
use dumpers::command::CommandConfig;
use dumpers::{Secret, SourceConfig, TargetConfig, open_source, open_target};

fn shell(script: &str) -> CommandConfig {
    CommandConfig::new(["sh", "-c", script])
}

async fn dump(config: CommandConfig) -> backup_core::Result<Bytes> {
    let dumper = open_source(&SourceConfig::Command(config))?;
    collect(dumper.dump(&Context::new(), &Selection::default()).await?.bytes).await
}

#[tokio::test]
async fn a_command_obeys_the_suite() {
    let dumper = open_source(&SourceConfig::Command(shell("head -c 5000000 /dev/zero"))).unwrap();
    dumper_suite(dumper.as_ref()).await;
}

#[tokio::test]
async fn incident_04_failed_command_is_no_backup() {
    let error = dump(shell("head -c 100000 /dev/zero; echo out of luck >&2; exit 3")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tool);
    assert!(error.what().contains("status 3") && error.what().contains("out of luck"), "{error}");
    assert_eq!(dump(shell("true")).await.unwrap_err().kind(), ErrorKind::Tool);
    let empty = CommandConfig { allow_empty: true, ..shell("true") };
    assert!(dump(empty).await.unwrap().is_empty());
}

#[tokio::test]
async fn arguments_are_not_read_by_a_shell() {
    let config = CommandConfig::new(["printf", "%s", "a b; echo $HOME `id` *"]);
    assert_eq!(dump(config).await.unwrap(), "a b; echo $HOME `id` *");
}

#[tokio::test]
async fn what_cannot_run_is_told() {
    assert_eq!(dump(CommandConfig::default()).await.unwrap_err().kind(), ErrorKind::Config);
    let missing = dump(CommandConfig::new(["no-such-program-here"])).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Unsupported);
    assert!(
        missing.what().contains("no-such-program-here") && missing.what().contains("/usr/bin"),
        "{missing}"
    );
    let dumper = open_source(&SourceConfig::Command(shell("true"))).unwrap();
    let what = Selection { include: vec!["t".to_owned()], exclude: vec![] };
    let error = dumper.dump(&Context::new(), &what).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_secret_in_the_environment_stays_out_of_the_report() {
    let mut config = shell("printf %s \"$TOKEN\"");
    config.argv.push("--token=s3cret".to_owned());
    config.env.insert("TOKEN".to_owned(), Secret::new("s3cret"));
    let dumper = open_source(&SourceConfig::Command(config)).unwrap();
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    assert_eq!(collect(dump.bytes).await.unwrap(), "s3cret");
    let shown = format!("{:?} {dumper:?}", dump.report.get().unwrap().options);
    assert!(shown.contains("--token=***"), "{shown}");
}

#[tokio::test]
async fn a_command_takes_a_dump_and_no_part_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let (file, done) = (folder.path().join("file"), folder.path().join("done"));
    let script = format!("cat >'{}' && touch '{}'", file.display(), done.display());
    let restorer = open_target(&TargetConfig::Command(shell(&script))).unwrap();
    let cx = Context::new();
    let format = DumpFormat::new("raw");
    let request = || RestoreRequest { format: format.clone(), source_len: None, into_existing: false };
    let whole = Bytes::from(vec![9; 400_000]);

    let plan = restorer.plan(&cx, request()).await.unwrap();
    assert!(!file.exists(), "a plan starts nothing");
    let bad = broken(&format, &whole, ErrorKind::Integrity);
    assert_eq!(restorer.restore(&cx, plan, bad).await.unwrap_err().kind(), ErrorKind::Integrity);
    assert!(!done.exists());

    let plan = restorer.plan(&cx, request()).await.unwrap();
    let restored = restorer.restore(&cx, plan, known(&format, &whole)).await.unwrap();
    assert_eq!(restored.bytes, 400_000);
    assert_eq!(std::fs::read(&file).unwrap(), whole);
    assert!(done.exists());
}

#[tokio::test]
async fn a_command_can_name_its_format() {
    let config = CommandConfig { format: Some("mine".to_owned()), ..shell("echo x") };
    let dumper = open_source(&SourceConfig::Command(config.clone())).unwrap();
    let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
    assert_eq!(dump.format.as_str(), "mine");
    let restorer = open_target(&TargetConfig::Command(config)).unwrap();
    assert!(restorer.accepts(&DumpFormat::new("mine")) && !restorer.accepts(&DumpFormat::new("raw")));
}
