//! The reference of all settings, written from their declarations.

use std::fmt::Write as _;

use super::table::{DATABASE_FIELDS, DESTINATION_FIELDS, Field, SETTINGS, SOURCE_FIELDS, TARGET_FIELDS};

const OPENING: &str = "\
# Configuration

This page is written by `strongroom config reference`; a test compares the two.

Every setting has a flag, a variable and a key. The command line wins over the environment, the
environment over the file; within the file a `[sources.NAME]` table wins over the general settings.
A switch that is `true` below can be made `false` above, as in `--verify=false` or
`STRONGROOM_VERIFY=false`. Every problem is reported at once, with the name of the setting, before
anything is done. `strongroom config show` checks and prints every value, source, target,
destination and key, without connecting to anybody and without secrets; `--origin` adds where each
came from. It prints also what is wrong, and then exits with code 2.

The file is the one named by `--config` or `STRONGROOM_CONFIG`, or else the first of
`./strongroom.toml`, `~/.config/strongroom/strongroom.toml` (`$XDG_CONFIG_HOME` is obeyed) and
`/etc/strongroom/strongroom.toml`. Paths in a file are relative to the folder of the file.
Unknown keys are refused.

";

const SECRETS: &str = "
## Secrets

No secret is ever read from the command line. A passphrase is taken from the first of
`--passphrase-fd N`, `--passphrase-file`, `STRONGROOM_PASSPHRASE_FILE`, `STRONGROOM_PASSPHRASE`,
`keys.passphrase_file`, and the terminal. A secret key (256 bits in base64, as from
`openssl rand -base64 32`) is taken from `--secret-key-file`, `STRONGROOM_ENCRYPTION_KEY_FILE`,
`STRONGROOM_ENCRYPTION_KEY`, `ENCRYPTION_KEY`, `keys.secret_key_file`.

A file with a secret that group or others can read or change is used with a warning: make it
readable for its owner alone (`chmod 600 FILE`). The same holds for a configuration file when a URL
in it holds a password.
";

/// The whole page, in Markdown.
pub(crate) fn page() -> String {
    let mut page = OPENING.to_owned();
    page.push_str(
        "## Settings\n\n| key | flag | variable | takes | default | meaning |\n|---|---|---|---|---|---|\n",
    );
    for s in SETTINGS {
        let _ = writeln!(
            page,
            "| `{}` | `{}` | `{}` | {} | {} | {} |",
            s.key,
            s.flag,
            s.variable,
            s.kind.name(),
            s.default,
            s.doc
        );
    }
    page.push_str(SECRETS);
    page.push_str("\n## `[recipients]`\n\nNames for public key files: `alice = \"alice.pub.pem\"`.\n");
    table(
        &mut page,
        "`[sources.NAME]`",
        "What is backed up: these keys and those of its database.",
        SOURCE_FIELDS,
    );
    table(
        &mut page,
        "`[targets.NAME]`",
        "Where `restore --to NAME` restores to: these keys and those of its database.",
        TARGET_FIELDS,
    );
    table(
        &mut page,
        "Keys of a database",
        "For `[sources.NAME]` and `[targets.NAME]`, and on the command line as `--set KEY=VALUE`, repeated for the texts of a list.",
        DATABASE_FIELDS,
    );
    table(&mut page, "`[destinations.NAME]`", "Where backups are kept.", DESTINATION_FIELDS);
    page
}

fn table(page: &mut String, title: &str, about: &str, fields: &[Field]) {
    let _ = write!(page, "\n## {title}\n\n{about}\n\n| key | takes | meaning |\n|---|---|---|\n");
    for field in fields {
        let _ = writeln!(page, "| `{}` | {} | {} |", field.key, field.kind.name(), field.doc);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::file::File;

    fn folder(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
    }

    #[test]
    fn the_page_in_docs_is_this_one() {
        let path = folder("docs/configuration.md");
        let stored = std::fs::read_to_string(&path).unwrap();
        assert!(stored == super::page(), "run: cargo run -p cli -- config reference > docs/configuration.md");
    }

    #[test]
    fn every_shipped_example_is_understood() {
        let mut seen = 0;
        for entry in std::fs::read_dir(folder("examples")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "toml") && !path.ends_with("Cargo.toml") {
                let mut problems = Vec::new();
                File::parse(&path, &std::fs::read_to_string(&path).unwrap(), &mut problems);
                assert_eq!(problems, [], "{}", path.display());
                seen += 1;
            }
        }
        assert!(seen > 0, "no example was found");
    }
}
