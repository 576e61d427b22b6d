//! The command line as it is written, before it is understood.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::commands;
use crate::settings::{RawArgs, Value};

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 defect of the program, 2 settings, 10 not found, 11 conflict, 12 denied,
13 integrity, 14 a dump or restore program failed, 15 unavailable or timed out, 16 unsupported,
17 uncertain, 18 fewer copies than asked for, 130 cancelled. docs/exit-codes.md says more.

First steps: strongroom quickstart";

/// Encrypted database backups that are whole or not there.
#[derive(Debug, Parser)]
#[command(name = "strongroom", version, after_help = AFTER_HELP, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The configuration file [variable STRONGROOM_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// This machine's memory: its key, pinned repositories, the log of runs
    #[arg(long, global = true, value_name = "FOLDER")]
    state_dir: Option<String>,
    /// Print results and errors as JSON
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", overrides_with = "json")]
    json: Option<String>,
    /// Say nothing but results, warnings and errors
    #[arg(short, long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", overrides_with = "quiet")]
    quiet: Option<String>,
    /// Say more
    #[arg(short, long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", overrides_with = "verbose")]
    verbose: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a key pair: the public key seals backups, the private key opens them
    Keygen(commands::keygen::Keygen),
    /// Encrypt a file or stdin, with no configuration and no repository
    Seal(commands::seal::Seal),
    /// Decrypt a file or stdin that `seal` or `backup` made; needs no network and no repository
    Open(commands::open::Open),
    /// Back up a database: dump, compress, encrypt, store, read back, sign
    Backup(Box<commands::backup::Backup>),
    /// Copy backups to another destination, or repair copies there; needs no private key
    Copy(commands::copy::Copy),
    /// Copy everything to another destination, verify it, then remove it where it was
    Migrate(commands::migrate::Migrate),
    /// Count the copies of each backup, and say whether they meet the 3-2-1 rule
    Copies(commands::copies::Copies),
    /// List backups and runs
    List(commands::list::List),
    /// Show what is known of one backup
    Show(commands::show::Show),
    /// Look at a source: test it, list its tables, tell what changed since the last backup
    Source(commands::source::SourceCommand),
    /// Check that a backup is whole, and with --deep that it opens and parses
    Verify(commands::verify::Verify),
    /// Restore a backup into a new database
    Restore(Box<commands::restore::Restore>),
    /// Write a backup's decrypted dump to stdout; only exit code 0 says that it was whole
    Cat(commands::cat::Cat),
    /// Remove the backups of a source that the rules of retention let go
    Prune(Box<commands::prune::Prune>),
    /// Exempt a backup from retention, or end that
    Pin(commands::pin::Pin),
    /// Look at a destination: what it and its credentials can really do, and what is there
    Storage(commands::storage::StorageCommand),
    /// Remove what killed runs left behind in the destination; never a backup
    Sweep(commands::sweep::Sweep),
    /// Destroy one backup with all its versions, and sign a certificate
    Shred(commands::shred::Shred),
    /// Try everything on a sample database: keys, backup, verification, restore, comparison
    Quickstart(commands::quickstart::Quickstart),
    /// Show and change which hosts may back up into a repository
    Trust(commands::trust::Trust),
    /// Check and show all settings and where each came from, or print their reference
    Config(commands::config::Config),
}

/// Where backups are.
#[derive(Debug, Default, Args)]
pub(crate) struct DestinationArgs {
    /// Where backups are kept: a name of the configuration or a URL
    #[arg(short, long, value_name = "NAME|URL")]
    destination: Option<String>,
    /// The public key of the repository's owner, as the recovery sheet shows it
    #[arg(long, value_name = "ed25519:...")]
    owner: Option<String>,
    /// The id of the repository that must be there
    #[arg(long, value_name = "ID")]
    repository: Option<String>,
}

/// Where a new backup goes, or a new trust file.
#[derive(Debug, Default, Args)]
pub(crate) struct DestinationsArgs {
    /// Where backups are kept: a name of the configuration or a URL; repeatable, each gets a copy
    #[arg(short, long = "destination", value_name = "NAME|URL")]
    destinations: Vec<String>,
    /// The public key of the repository's owner, as the recovery sheet shows it
    #[arg(long, value_name = "ed25519:...")]
    owner: Option<String>,
    /// The id of the repository that must be there
    #[arg(long, value_name = "ID")]
    repository: Option<String>,
}

/// From where to where backups are copied.
#[derive(Debug, Default, Args)]
pub(crate) struct CopyArgs {
    /// Where they are: a name of the configuration or a URL; by default `destination` of the settings
    #[arg(long, value_name = "NAME|URL")]
    pub(crate) from: Option<String>,
    /// Where they go: a name of the configuration or a URL
    #[arg(long, value_name = "NAME|URL")]
    pub(crate) to: String,
    /// The public key of the repository's owner, as the recovery sheet shows it
    #[arg(long, value_name = "ed25519:...")]
    owner: Option<String>,
    /// The id of the repository that must be there
    #[arg(long, value_name = "ID")]
    repository: Option<String>,
    /// Read what is there already to its end; remove what differs and copy it anew, after the good copy was read;
    /// fill a place that was emptied
    #[arg(long)]
    pub(crate) repair: bool,
}

/// Who can open what is sealed, and how it is sealed.
#[derive(Debug, Default, Args)]
pub(crate) struct SealArgs {
    /// A public key file, a name of the configuration, `passphrase` or `secret-key`; repeatable
    #[arg(short, long = "recipient", value_name = "FILE|NAME")]
    recipients: Vec<String>,
    /// Allow recipients that this machine itself could open
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_symmetric: Option<String>,
    /// Do not encrypt: everyone who can read the result can read the data
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_encryption: Option<String>,
    /// How a passphrase becomes a key: argon2id or pbkdf2
    #[arg(long, value_name = "KDF")]
    passphrase_kdf: Option<String>,
    /// `none`, `zstd` or `zstd:LEVEL` (1 to 22)
    #[arg(long, value_name = "HOW")]
    compression: Option<String>,
    /// How many threads compress and encrypt
    #[arg(long, value_name = "N")]
    workers: Option<String>,
}

/// What opens a backup.
#[derive(Debug, Default, Args)]
pub(crate) struct IdentityArgs {
    /// A private key file, `passphrase` or `secret-key`; repeatable
    #[arg(short, long = "identity", value_name = "FILE")]
    identities: Vec<String>,
}

/// Where secrets are read.
#[derive(Debug, Default, Args)]
pub(crate) struct SecretArgs {
    /// The file that holds the passphrase
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_fd")]
    passphrase_file: Option<String>,
    /// The open file descriptor to read the passphrase from
    #[arg(long, value_name = "N")]
    passphrase_fd: Option<i32>,
    /// The file that holds a 256-bit key in base64
    #[arg(long, value_name = "FILE")]
    secret_key_file: Option<String>,
}

/// Whether a new backup is read back.
#[derive(Debug, Default, Args)]
pub(crate) struct ReadBackArgs {
    /// Read the new backup back before it is called completed (the default)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", overrides_with = "no_verify")]
    verify: Option<String>,
    /// Do not read the new backup back
    #[arg(long, action = ArgAction::SetTrue)]
    no_verify: bool,
    /// Of several destinations, how many copies are enough: `all` or `at_least:N`
    #[arg(long, value_name = "HOW")]
    mirror: Option<String>,
    /// The most bytes a second that are written to the destination, such as 10MiB
    #[arg(long, value_name = "RATE")]
    upload_limit: Option<String>,
    /// Seal into this folder first and upload from there, so that an upload that is cut off can be continued
    #[arg(long, value_name = "FOLDER")]
    spool: Option<String>,
    /// A file that gets one line of JSON for every run that ends
    #[arg(long, value_name = "FILE")]
    notify_log: Option<String>,
}

/// Flags that set settings.
pub(crate) trait Sets {
    /// Notes what was set.
    fn set(&self, raw: &mut RawArgs);
}

fn text(raw: &mut RawArgs, key: &'static str, value: Option<&String>) {
    if let Some(value) = value {
        raw.values.insert(key, Value::Text(value.clone()));
    }
}

fn list(raw: &mut RawArgs, key: &'static str, values: &[String]) {
    if !values.is_empty() {
        raw.values.insert(key, Value::List(values.to_vec()));
    }
}

impl Sets for Global {
    fn set(&self, raw: &mut RawArgs) {
        raw.config.clone_from(&self.config);
        text(raw, "state_dir", self.state_dir.as_ref());
        text(raw, "output.json", self.json.as_ref());
        text(raw, "output.quiet", self.quiet.as_ref());
        text(raw, "output.verbose", self.verbose.as_ref());
    }
}

impl Sets for DestinationArgs {
    fn set(&self, raw: &mut RawArgs) {
        text(raw, "destination", self.destination.as_ref());
        text(raw, "trust.owner", self.owner.as_ref());
        text(raw, "trust.repository", self.repository.as_ref());
    }
}

impl DestinationArgs {
    /// A destination that stands on the command line by itself.
    pub(crate) fn at(destination: String) -> Self {
        Self { destination: Some(destination), ..Self::default() }
    }
}

impl Sets for DestinationsArgs {
    fn set(&self, raw: &mut RawArgs) {
        match &self.destinations[..] {
            [one] => text(raw, "destination", Some(one)),
            several => list(raw, "destination", several),
        }
        text(raw, "trust.owner", self.owner.as_ref());
        text(raw, "trust.repository", self.repository.as_ref());
    }
}

impl Sets for CopyArgs {
    fn set(&self, raw: &mut RawArgs) {
        text(raw, "destination", self.from.as_ref());
        text(raw, "trust.owner", self.owner.as_ref());
        text(raw, "trust.repository", self.repository.as_ref());
    }
}

impl Sets for SealArgs {
    fn set(&self, raw: &mut RawArgs) {
        list(raw, "keys.recipients", &self.recipients);
        text(raw, "keys.allow_symmetric", self.allow_symmetric.as_ref());
        text(raw, "keys.no_encryption", self.no_encryption.as_ref());
        text(raw, "keys.passphrase_kdf", self.passphrase_kdf.as_ref());
        text(raw, "compression", self.compression.as_ref());
        text(raw, "workers", self.workers.as_ref());
    }
}

impl Sets for IdentityArgs {
    fn set(&self, raw: &mut RawArgs) {
        list(raw, "keys.identities", &self.identities);
    }
}

impl Sets for SecretArgs {
    fn set(&self, raw: &mut RawArgs) {
        text(raw, "keys.passphrase_file", self.passphrase_file.as_ref());
        text(raw, "keys.secret_key_file", self.secret_key_file.as_ref());
        raw.passphrase_fd = self.passphrase_fd;
    }
}

impl Sets for ReadBackArgs {
    fn set(&self, raw: &mut RawArgs) {
        text(raw, "verify", self.verify.as_ref());
        if self.no_verify {
            raw.values.insert("verify", Value::Switch(false));
        }
        text(raw, "mirror", self.mirror.as_ref());
        text(raw, "upload_limit", self.upload_limit.as_ref());
        text(raw, "spool", self.spool.as_ref());
        text(raw, "notify.log", self.notify_log.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SETTINGS;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_has_the_flag_that_it_names() {
        let command = Cli::command();
        let mut flags: Vec<String> =
            command.get_arguments().filter_map(|a| a.get_long()).map(str::to_owned).collect();
        for sub in command.get_subcommands() {
            flags.extend(sub.get_arguments().filter_map(|a| a.get_long()).map(str::to_owned));
        }
        for setting in SETTINGS {
            assert!(flags.iter().any(|f| *f == setting.flag[2..]), "{}", setting.flag);
        }
    }
}
