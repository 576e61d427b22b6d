//! The same journey through SFTP and WebDAV servers.

use crate::lab::{Lab, server};

/// A lab with a destination `far` in its configuration.
fn place(url: &str, rest: &str) -> Lab {
    let lab = Lab::with_keys();
    lab.write("s.toml", format!("destination = \"far\"\n[destinations.far]\nurl = \"{url}\"\n{rest}\n"));
    lab.database("app.db", 3000);
    lab
}

/// A name that no other test has.
fn name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned()
}

fn there_and_back(lab: &Lab) {
    let run = |words: &[&str]| lab.run(["--config", "s.toml"].iter().chain(words));
    run(&["backup", "sqlite:app.db", "-r", "key.pub.pem"]).ok();
    run(&["backup", "sqlite:app.db", "-r", "key.pub.pem"]).ok();
    let list = run(&["--json", "list"]).ok().json();
    assert_eq!(list["backups"].as_array().unwrap().len(), 2);
    run(&["verify", "app@latest"]).ok();
    run(&["verify", "app@latest", "--deep", "-i", "key.pem"]).ok();
    run(&["restore", "app@latest", "--to", "sqlite:new.db", "--verify-first", "-i", "key.pem"]).ok();
    assert_eq!(lab.rows("new.db"), lab.rows("app.db"));
}

#[test]
fn there_and_back_over_sftp() {
    let variable = |name: &str| server(&format!("STRONGROOM_TEST_SFTP_{name}"));
    let url = |key: &str| {
        format!(
            "sftp://{}@{}{}/cli-{}?key={}&known_hosts={}",
            variable("USER"),
            variable("ADDRESS"),
            variable("ROOT"),
            name(),
            variable(key),
            variable("KNOWN_HOSTS")
        )
    };
    there_and_back(&place(&url("KEY"), ""));
    // A key with a passphrase, which a file holds.
    let lab = place(&url("LOCKED_KEY"), "key_passphrase_file = \"passphrase\"");
    lab.write("passphrase", format!("{}\n", variable("PASSPHRASE")));
    lab.run(["--config", "s.toml", "backup", "sqlite:app.db", "-r", "key.pub.pem"]).ok();
    lab.run(["--config", "s.toml", "verify", "app@latest"]).ok();
    lab.write("passphrase", "hunter2\n");
    let ran = lab.run(["--config", "s.toml", "list"]).fails(12, "the credentials were refused");
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
}

#[test]
fn an_unknown_host_is_refused_with_what_to_do() {
    let variable = |name: &str| server(&format!("STRONGROOM_TEST_SFTP_{name}"));
    let lab = place(
        &format!(
            "sftp://{}@{}/x?key={}&known_hosts=/dev/null",
            variable("USER"),
            variable("ADDRESS"),
            variable("KEY")
        ),
        "",
    );
    let ran = lab.run(["--config", "s.toml", "backup", "sqlite:app.db", "-r", "key.pub.pem"]);
    let ran = ran.fails(2, "the server's host key is not known");
    assert!(ran.stderr.contains("[127.0.0.1]:") && ran.stderr.contains(" ssh-ed25519 "), "{}", ran.stderr);
}

#[test]
fn there_and_back_over_webdav() {
    let variable = |name: &str| server(&format!("STRONGROOM_TEST_WEBDAV_{name}"));
    for which in ["NGINX", "RCLONE"] {
        let origin = variable(&format!("{which}_URL"));
        let url = origin.replacen("http://", &format!("webdav://{}@", variable("USER")), 1);
        let lab = place(&format!("{url}/cli-{}", name()), "password_file = \"password\"");
        lab.write("password", format!("{}\n", variable("PASSWORD")));
        there_and_back(&lab);
    }
    // From a variable.
    let url = variable("NGINX_URL").replacen("http://", &format!("webdav://{}@", variable("USER")), 1);
    let mut lab = place(&format!("{url}/cli-{}", name()), "password_variable = \"FAR_PASSWORD\"");
    lab.set("FAR_PASSWORD", variable("PASSWORD"));
    lab.run(["--config", "s.toml", "list"]).fails(10, "holds no repository");
    lab.set("FAR_PASSWORD", "hunter2");
    let ran = lab.run(["--config", "s.toml", "list"]).fails(12, "the credentials were refused");
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
}

#[test]
fn a_limit_belongs_to_a_destination() {
    let lab = place("vault", "upload_limit = \"1 GiB/s\"");
    lab.run(["--config", "s.toml", "backup", "sqlite:app.db", "-r", "key.pub.pem"]).ok();
    let lab = place("vault", "upload_limit = \"fast\"");
    let ran = lab.run(["--config", "s.toml", "backup", "sqlite:app.db", "-r", "key.pub.pem"]);
    ran.fails(2, "destinations.far.upload_limit");
}
