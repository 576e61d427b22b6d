//! A Firestore database into a folder and back, by the whole command.

use std::process::Command;

use crate::lab::Lab;

/// A project of the emulator that nobody else uses.
struct Project {
    id: String,
    emulator: String,
}

impl Project {
    fn new(name: &str) -> Self {
        let emulator = std::env::var("STRONGROOM_TEST_FIRESTORE")
            .expect("STRONGROOM_TEST_FIRESTORE is not set: run scripts/test");
        Self { id: format!("{name}-{}", std::process::id()), emulator }
    }

    fn url(&self) -> String {
        format!("firestore://{}/(default)?emulator={}", self.id, self.emulator)
    }

    fn post(&self, method: &str, body: &str) -> String {
        let url = format!(
            "http://{}/v1/projects/{}/databases/(default)/documents:{method}",
            self.emulator, self.id
        );
        let output = Command::new("curl")
            .args([
                "-sf",
                "-H",
                "Authorization: Bearer owner",
                "-H",
                "content-type: application/json",
                "-d",
                body,
                &url,
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{method}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn put(&self, path: &str, fields: &str) {
        let name = format!("projects/{}/databases/(default)/documents/{path}", self.id);
        self.post("commit", &format!(r#"{{"writes":[{{"update":{{"name":"{name}","fields":{fields}}}}}]}}"#));
    }

    /// Everything there is, in one text.
    fn everything(&self) -> String {
        self.post("runQuery", r#"{"structuredQuery":{"from":[{"allDescendants":true}]}}"#)
    }
}

#[test]
fn a_database_is_backed_up_verified_and_restored() {
    let lab = Lab::with_keys();
    let (source, target) = (Project::new("cli"), Project::new("cli-back"));
    source.put("users/alice", r#"{"name":{"stringValue":"Alice"}}"#);
    source.put("users/missing/orders/1", r#"{"total":{"doubleValue":1.5}}"#);
    source.put("logs/1", "{}");
    let from = source.url();
    let backup = ["backup", &from, "--name", "app", "--exclude", "logs", "-d", "./b", "-r", "key.pub.pem"];
    lab.run(backup).ok();
    let deep = ["--json", "verify", "app@latest", "--deep", "-i", "key.pem", "-d", "./b"];
    assert_eq!(lab.run(deep).ok().json()["parsed"], true);

    let to = format!("firestore://{}/(default)/restored/monday?emulator={}", target.id, target.emulator);
    let restore = ["restore", "app@latest", "--to", &to, "-i", "key.pem", "-d", "./b"];
    let plan = lab.run(restore.iter().chain(&["--dry-run"])).ok();
    let plan = plan.text();
    assert!(plan.contains("restored/monday") && plan.contains("remove what was written"), "{plan}");
    lab.run(restore).ok();
    let there = target.everything();
    assert!(there.contains("/documents/restored/monday/users/missing/orders/1\"") && there.contains("Alice"));
    assert!(!there.contains("logs"));
    lab.run(restore).fails(11, "already holds documents");
    let skip = ["--into-existing", "--set", "conflicts=skip"];
    let told = lab.run(restore.iter().chain(&skip)).ok();
    assert!(told.stderr.contains("2 documents existed"), "{}", told.stderr);
    lab.run(restore.iter().chain(&["--set", "conflicts=maybe"])).fails(2, "maybe");
}

#[test]
fn a_table_of_the_configuration_names_a_database() {
    let lab = Lab::with_keys();
    let source = Project::new("cli-table");
    source.put("users/alice", "{}");
    lab.write(
        "strongroom.toml",
        format!(
            "[sources.app]\ntype = \"firestore\"\nproject = \"{}\"\nemulator = \"{}\"\nparallel = 2\n\
             retry_seconds = 5\ninclude = [\"users\"]\n",
            source.id, source.emulator
        ),
    );
    lab.run(["--config", "strongroom.toml", "backup", "app", "-d", "./b", "-r", "key.pub.pem"]).ok();
    lab.run(["verify", "app@latest", "--deep", "-i", "key.pem", "-d", "./b"]).ok();
    let none = [
        "--config",
        "strongroom.toml",
        "backup",
        "app",
        "--include",
        "nobody",
        "-d",
        "./b",
        "-r",
        "key.pub.pem",
    ];
    lab.run(none).fails(10, "nobody");
}
