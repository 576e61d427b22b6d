//! Every setting, declared once: its key, flag, variable, default and meaning.

/// The shape of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// A path; relative to the working directory on the command line and in the environment,
    /// relative to the file that names it in a file.
    Path,
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Number,
    /// Several texts; `:` separates them in a variable.
    List,
    /// One text or several; one in a variable.
    Texts,
}

impl Kind {
    /// The name used in the reference and in messages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Path => "path",
            Self::Switch => "true or false",
            Self::Number => "number",
            Self::List => "list of texts",
            Self::Texts => "text or list of texts",
        }
    }
}

/// One setting that a flag, a variable and a key of the file can set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// Where it stands in the file.
    pub(crate) key: &'static str,
    /// How the command line sets it.
    pub(crate) flag: &'static str,
    /// How the environment sets it.
    pub(crate) variable: &'static str,
    /// What it takes.
    pub(crate) kind: Kind,
    /// What holds when nobody sets it, for a person.
    pub(crate) default: &'static str,
    /// What it means.
    pub(crate) doc: &'static str,
}

const fn setting(
    key: &'static str,
    flag: &'static str,
    variable: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    Setting { key, flag, variable, kind, default, doc }
}

/// All of them, in the order of the reference.
pub(crate) const SETTINGS: &[Setting] = &[
    setting(
        "destination",
        "--destination",
        "STRONGROOM_DESTINATION",
        Kind::Texts,
        "none",
        "Where backups are kept: the name of a [destinations] table or a URL. `backup` takes several, as a list or by \
         repeating the flag, and writes a copy to each; other commands take the first.",
    ),
    setting(
        "mirror",
        "--mirror",
        "STRONGROOM_MIRROR",
        Kind::Text,
        "all",
        "Of several destinations, how many copies a backup needs: `all`, or `at_least:N`. A destination that fails or \
         stalls is given up while enough are left.",
    ),
    setting(
        "compression",
        "--compression",
        "STRONGROOM_COMPRESSION",
        Kind::Text,
        "zstd:3",
        "`none`, `zstd` or `zstd:LEVEL` with a level from 1 to 22.",
    ),
    setting(
        "workers",
        "--workers",
        "STRONGROOM_WORKERS",
        Kind::Number,
        "one for each core",
        "How many threads compress and encrypt, 1 to 64.",
    ),
    setting(
        "upload_limit",
        "--upload-limit",
        "STRONGROOM_UPLOAD_LIMIT",
        Kind::Text,
        "no limit",
        "The most bytes a second that are written to the destination, such as `10MiB`.",
    ),
    setting(
        "verify",
        "--verify",
        "STRONGROOM_VERIFY",
        Kind::Switch,
        "true",
        "Read a new backup back before it is called completed. `--no-verify` is the same as `--verify=false`.",
    ),
    setting(
        "spool",
        "--spool",
        "STRONGROOM_SPOOL",
        Kind::Path,
        "none",
        "A folder on this machine's disk. `backup` seals into it first, which frees the database early and needs as \
         much room as the sealed backup, and uploads from there; an upload that is cut off is continued by the next \
         run of the source, without a new dump.",
    ),
    setting(
        "state_dir",
        "--state-dir",
        "STRONGROOM_STATE_DIR",
        Kind::Path,
        "$XDG_STATE_HOME/strongroom or ~/.local/state/strongroom; /var/lib/strongroom for root",
        "This machine's memory: its key, pinned repositories, the log of runs.",
    ),
    setting(
        "keys.recipients",
        "--recipient",
        "STRONGROOM_RECIPIENTS",
        Kind::List,
        "none",
        "Who can open new backups: public key files, names of [recipients], `passphrase` or `secret-key`.",
    ),
    setting(
        "keys.identities",
        "--identity",
        "STRONGROOM_IDENTITY",
        Kind::List,
        "none",
        "What opens backups: private key files, `passphrase`, `secret-key`, or `none` for what is not encrypted.",
    ),
    setting(
        "keys.passphrase_file",
        "--passphrase-file",
        "STRONGROOM_PASSPHRASE_FILE",
        Kind::Path,
        "none; STRONGROOM_PASSPHRASE, then a prompt on the terminal",
        "The file that holds the passphrase; one final newline is not part of it.",
    ),
    setting(
        "keys.passphrase_kdf",
        "--passphrase-kdf",
        "STRONGROOM_PASSPHRASE_KDF",
        Kind::Text,
        "argon2id",
        "How a `passphrase` recipient's key is derived: `argon2id` (64 MiB) or `pbkdf2` (1,000,000 rounds of HMAC-SHA256).",
    ),
    setting(
        "keys.secret_key_file",
        "--secret-key-file",
        "STRONGROOM_ENCRYPTION_KEY_FILE",
        Kind::Path,
        "none; STRONGROOM_ENCRYPTION_KEY, then ENCRYPTION_KEY",
        "The file that holds a 256-bit key in base64, as from `openssl rand -base64 32`.",
    ),
    setting(
        "keys.allow_symmetric",
        "--allow-symmetric",
        "STRONGROOM_ALLOW_SYMMETRIC",
        Kind::Switch,
        "false",
        "Allow passphrase and secret-key recipients: the machine that backs up can then read its backups.",
    ),
    setting(
        "keys.no_encryption",
        "--no-encryption",
        "STRONGROOM_NO_ENCRYPTION",
        Kind::Switch,
        "false",
        "Store backups that anyone who can read the destination can read. Of this and `keys.recipients` the one \
         that is set higher up wins (command line, environment, source's table, general settings); both in one \
         place are refused.",
    ),
    setting(
        "trust.owner",
        "--owner",
        "STRONGROOM_OWNER",
        Kind::Text,
        "pinned at the first use on this machine",
        "The public key of the repository's owner, as the recovery sheet shows it: `ed25519:...`.",
    ),
    setting(
        "trust.repository",
        "--repository",
        "STRONGROOM_REPOSITORY",
        Kind::Text,
        "pinned at the first use on this machine",
        "The repository's id.",
    ),
    setting(
        "notify.log",
        "--notify-log",
        "STRONGROOM_NOTIFY_LOG",
        Kind::Path,
        "none",
        "A file that gets one line of JSON for every run that ends.",
    ),
    setting(
        "output.json",
        "--json",
        "STRONGROOM_JSON",
        Kind::Switch,
        "false",
        "Print results and errors as JSON.",
    ),
    setting(
        "output.quiet",
        "--quiet",
        "STRONGROOM_QUIET",
        Kind::Switch,
        "false",
        "Say nothing but results, warnings and errors.",
    ),
    setting("output.verbose", "--verbose", "STRONGROOM_VERBOSE", Kind::Switch, "false", "Say more."),
];

/// A key of a table that has a name of one's own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    /// The key.
    pub(crate) key: &'static str,
    /// What it takes.
    pub(crate) kind: Kind,
    /// What it means.
    pub(crate) doc: &'static str,
}

const fn field(key: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field { key, kind, doc }
}

/// What a source has beside the keys of its database.
pub(crate) const SOURCE_FIELDS: &[Field] = &[
    field(
        "label",
        Kind::Text,
        "What people call it, shown beside the name on this machine; no backup holds it.",
    ),
    field(
        "tags",
        Kind::List,
        "What every backup of it is marked with, signed in its manifest: `[\"env=prod\", \"team=billing\"]`. `list --tag` \
         finds them again.",
    ),
    field("include", Kind::List, "Only these tables."),
    field("exclude", Kind::List, "All tables but these."),
    field(
        "dump_args",
        Kind::List,
        "More arguments for the dump program, one text for each; recorded in the backup.",
    ),
    field("destination", Kind::Texts, "Instead of the general `destination`."),
    field("destinations", Kind::List, "The same, for those who name several."),
    field("mirror", Kind::Text, "Instead of the general `mirror`."),
    field("recipients", Kind::List, "Instead of the general `keys.recipients`."),
    field("compression", Kind::Text, "Instead of the general `compression`."),
    field("verify", Kind::Switch, "Instead of the general `verify`."),
    field("spool", Kind::Path, "Instead of the general `spool`."),
    field(
        "keep_last",
        Kind::Number,
        "`prune` keeps the newest backups, as many; those of one `keep_slot` count as one.",
    ),
    field(
        "keep_slot",
        Kind::Text,
        "`hour`, `day`, `week`, `month` or `year`, for `keep_last`. Default `hour`.",
    ),
    field("keep_within", Kind::Text, "`prune` keeps everything this young, such as `36h`, `30d` or `8w`."),
    field(
        "keep_max_size",
        Kind::Text,
        "Of what only `keep_within` keeps, the newest up to this total, such as `100GiB`.",
    ),
    field("keep_hourly", Kind::Number, "`prune` keeps one for each of so many hours."),
    field("keep_daily", Kind::Number, "`prune` keeps one for each of so many days."),
    field("keep_weekly", Kind::Number, "`prune` keeps one for each of so many ISO weeks."),
    field("keep_monthly", Kind::Number, "`prune` keeps one for each of so many months."),
    field("keep_yearly", Kind::Number, "`prune` keeps one for each of so many years."),
    field(
        "keep_at_least",
        Kind::Number,
        "`prune` never leaves fewer verified backups than these. Default 1.",
    ),
    field(
        "delete_delay",
        Kind::Text,
        "How long a backup that the rules let go stays marked before `prune` removes it, such as `7d`. Default: none.",
    ),
    field("time_zone", Kind::Text, "Where days begin for `prune`, such as `Europe/Berlin`. Default `UTC`."),
];

/// What a target has beside the keys of its database.
pub(crate) const TARGET_FIELDS: &[Field] =
    &[field("restore_args", Kind::List, "More arguments for the restore program, one text for each.")];

/// The keys of a database, a program or files, be it a source or a target.
pub(crate) const DATABASE_FIELDS: &[Field] = &[
    field(
        "url",
        Kind::Text,
        "The database: `postgres://user@host/db`, `mysql://user@host/db`, `sqlite:FILE`, `mongodb://user@host/db`, `redis://user@host`, `firestore://project/database` or \
         `files:FOLDER`.",
    ),
    field(
        "type",
        Kind::Text,
        "Instead of a URL: `postgresql`, `mysql`, `sqlite`, `mongodb`, `redis`, `firestore`, `files`, `command` or `stdin`, and the keys of that kind.",
    ),
    field(
        "stall_seconds",
        Kind::Number,
        "Seconds without a byte after which the program is stopped; 0 for no limit. Default 900.",
    ),
    field(
        "host",
        Kind::Text,
        "PostgreSQL: the server, or the folder of its socket. MySQL: the server. Redis: the server, or its socket. MongoDB: the server, or several separated by commas.",
    ),
    field("port", Kind::Text, "PostgreSQL, MySQL, MongoDB, Redis: the port."),
    field("user", Kind::Text, "PostgreSQL, MySQL, MongoDB, Redis: the user."),
    field(
        "dbname",
        Kind::Text,
        "PostgreSQL, MySQL, MongoDB: the database. Without it MongoDB gives all of them.",
    ),
    field(
        "password_file",
        Kind::Path,
        "PostgreSQL, MySQL, MongoDB, Redis: the file whose first line is the password.",
    ),
    field("passfile", Kind::Path, "PostgreSQL: a password file in libpq's form."),
    field("service", Kind::Text, "PostgreSQL: a name in libpq's service file."),
    field(
        "sslmode",
        Kind::Text,
        "PostgreSQL, MySQL: `disable`, `allow` (PostgreSQL), `prefer`, `require`, `verify-ca` or `verify-full`.",
    ),
    field(
        "sslrootcert",
        Kind::Path,
        "PostgreSQL, MySQL, MongoDB, Redis: certificates to trust, PEM. For MongoDB and Redis it turns TLS on.",
    ),
    field(
        "sslcert",
        Kind::Path,
        "PostgreSQL, MySQL, Redis: the client's certificate, PEM. MongoDB: with its private key in the same file.",
    ),
    field("sslkey", Kind::Path, "PostgreSQL, MySQL, Redis: the client's private key."),
    field(
        "tool_dirs",
        Kind::List,
        "PostgreSQL, MySQL, MongoDB with `native = false`: folders to look for the client programs in, before all others.",
    ),
    field(
        "owners",
        Kind::Text,
        "PostgreSQL, restore: `auto` (default: keep owners and privileges if all their roles exist), `keep` or `drop`.",
    ),
    field(
        "databases",
        Kind::List,
        "PostgreSQL, MySQL: databases by name or pattern (`*`, `?`), as one backup of the server; PostgreSQL: of such \
         a backup, which to restore.",
    ),
    field(
        "exclude_databases",
        Kind::List,
        "PostgreSQL, MySQL: not the databases with these names or patterns.",
    ),
    field(
        "globals",
        Kind::Switch,
        "PostgreSQL: dump roles, tablespaces and memberships too (default: no); apply them when restoring (default: yes).",
    ),
    field(
        "role_passwords",
        Kind::Switch,
        "PostgreSQL, dump: the hashes of roles' passwords too. Default yes; they can only be read by few.",
    ),
    field(
        "schemas",
        Kind::List,
        "PostgreSQL: only these schemas; patterns when dumping, names when restoring.",
    ),
    field("exclude_schemas", Kind::List, "PostgreSQL, dump: no schemas with these names or patterns."),
    field(
        "lock_timeout_seconds",
        Kind::Number,
        "PostgreSQL, dump: seconds to wait for a lock on a table; 0 for no limit. Default 300.",
    ),
    field(
        "lock_wait_limit_seconds",
        Kind::Number,
        "PostgreSQL, dump: seconds that another session may wait for the dump's locks; 0 to look after nobody. \
         Default 60.",
    ),
    field(
        "on_blocked",
        Kind::Text,
        "PostgreSQL, dump: when a session waited longer, `warn` (default) or `give-way` (stop, to be tried again).",
    ),
    field("tables", Kind::List, "PostgreSQL, restore: only these tables, without indexes and constraints."),
    field(
        "clean",
        Kind::Switch,
        "PostgreSQL, restore into an existing database: drop there first what the dump holds.",
    ),
    field(
        "single_transaction",
        Kind::Switch,
        "PostgreSQL, restore: one transaction within the new database too.",
    ),
    field("no_privileges", Kind::Switch, "PostgreSQL, restore: no grants."),
    field("role", Kind::Text, "PostgreSQL, restore: become this role first."),
    field(
        "jobs",
        Kind::Number,
        "PostgreSQL: connections that a dump reads rows over at the same time, 1 to 16. Default 1: one `pg_dump`.",
    ),
    field(
        "rename_databases",
        Kind::List,
        "PostgreSQL, restore of a server: other names for databases, each as `old=new`.",
    ),
    field(
        "database_prefix",
        Kind::Text,
        "PostgreSQL, restore of a server: what every name of a database shall begin with.",
    ),
    field(
        "drop_leftovers",
        Kind::Switch,
        "PostgreSQL, restore: first drop databases that restores left unfinished a day ago or more.",
    ),
    field("tls", Kind::Switch, "MongoDB: encrypt the connection. Default: as the URL says."),
    field(
        "auth_database",
        Kind::Text,
        "MongoDB: the database that knows the user (`authSource`). Default: that of the URL, or `admin`.",
    ),
    field(
        "auth_mechanism",
        Kind::Text,
        "MongoDB: `SCRAM-SHA-256`, `SCRAM-SHA-1`, `MONGODB-X509` or `PLAIN`. Default: negotiated.",
    ),
    field(
        "native",
        Kind::Switch,
        "MongoDB: `false` dumps by `mongodump` and restores by `mongorestore`, which must be installed. Default: by \
         neither. PostgreSQL, dump with `jobs`: `false` reads all rows through `psql`. Default: where libpq is needed.",
    ),
    field("replica_set", Kind::Text, "MongoDB: the name of the replica set."),
    field(
        "consistency",
        Kind::Text,
        "MongoDB, dump: `snapshot`, `oplog`, `none`, or `auto` (default): the first of these that the server has, and \
         never `none`.",
    ),
    field("users", Kind::Switch, "MongoDB: users and roles of the server too. Default no."),
    field(
        "rename",
        Kind::List,
        "MongoDB, restore: other names, each as `db=new` or `db.collection=new.name`, where `*` stands for any text.",
    ),
    field(
        "replace",
        Kind::Switch,
        "Redis as a target that holds keys: replace those of the same name. Default: stop at the first.",
    ),
    field("project", Kind::Text, "Firestore: the project's id."),
    field("database", Kind::Text, "Firestore: the database's id. Default `(default)`."),
    field("root", Kind::Text, "Firestore, restore: below this document, such as `restored/monday`."),
    field("credentials_file", Kind::Path, "Firestore: a service account's key file."),
    field("token_file", Kind::Path, "Firestore: a file that holds an access token."),
    field("emulator", Kind::Text, "Firestore: `host:port` of an emulator to use instead of the service."),
    field("auth_emulator", Kind::Text, "Firestore: `host:port` of an emulator of Firebase Auth."),
    field(
        "read_time",
        Kind::Text,
        "Firestore, dump: this moment of the past, such as `2026-01-31T12:00:00Z`.",
    ),
    field("include_auth", Kind::Switch, "Firestore: the users of Firebase Auth too. Default no."),
    field(
        "parallel",
        Kind::Number,
        "Firestore, MongoDB: collections that are read, or batches that are written, at the same time, 1 to 16. Default 4.",
    ),
    field(
        "retry_seconds",
        Kind::Number,
        "Firestore: for how long a failing request is repeated. Default 300.",
    ),
    field(
        "conflicts",
        Kind::Text,
        "Firestore, restore: a document that exists is `fail` (default), `skip`, `overwrite` or `merge`.",
    ),
    field(
        "references",
        Kind::Text,
        "Firestore, restore: `rewrite` (default) lets references into the backed-up database point to the target; \
         `keep` leaves them.",
    ),
    field(
        "ramp",
        Kind::Switch,
        "Firestore, restore: 500 documents a second at first, half as many again every 5 minutes. Default no.",
    ),
    field(
        "keep_partial",
        Kind::Switch,
        "Firestore, restore: leave what was written if it fails. Default no.",
    ),
    field("path", Kind::Path, "SQLite: the database file. Files: the folder."),
    field(
        "paths",
        Kind::List,
        "SQLite: instead of `path`, several database files by path or pattern (`*`, `?`), as one backup; a restore makes \
         a folder of them.",
    ),
    field(
        "changes",
        Kind::Text,
        "Files: a file that changes while it is read ends the backup: `fail` (default), or is kept with a warning: \
         `warn`.",
    ),
    field("socket", Kind::Path, "MySQL: the server's socket file, instead of host and port."),
    field(
        "option_file",
        Kind::Path,
        "MySQL: an option file in MySQL's own form, read before all other settings.",
    ),
    field("all_databases", Kind::Switch, "MySQL, dump: every database but the server's own, as one moment."),
    field(
        "accounts",
        Kind::Switch,
        "MySQL: accounts, roles and grants too; in a dump, and applied by a restore. Default no.",
    ),
    field(
        "definers",
        Kind::Text,
        "MySQL, restore: `auto` (default: keep who views and routines run as if all of them exist), `keep`, or \
         `current` (the restoring user).",
    ),
    field(
        "lock_all_tables",
        Kind::Switch,
        "MySQL, dump: nobody writes to the server meanwhile; for engines without transactions.",
    ),
    field("binlog_position", Kind::Switch, "MySQL, dump: note the position in the binary log, as a comment."),
    field("hex_blob", Kind::Switch, "MySQL, dump: binary columns as hexadecimal digits."),
    field(
        "memory_limit",
        Kind::Number,
        "SQLite: databases with a rollback journal up to this many bytes are copied into memory first. Default 16 MiB. \
         Redis, restore: the most bytes of a value that cannot be divided (a stream, a module's). Default 64 MiB.",
    ),
    field("lock_seconds", Kind::Number, "SQLite: seconds to wait for a writer's lock. Default 30."),
    field(
        "command",
        Kind::List,
        "A program and its arguments, whose output is the dump. No secret belongs here.",
    ),
    field("pass_env", Kind::List, "Command: variables to pass on to the program."),
    field("format", Kind::Text, "Command, stdin: what the bytes are. Default `raw`."),
    field("allow_empty", Kind::Switch, "Command, stdin: accept an empty output as a whole dump."),
];

/// The keys of a destination.
pub(crate) const DESTINATION_FIELDS: &[Field] = &[
    field(
        "url",
        Kind::Text,
        "The place: a path, `file:///path`, `s3://bucket/prefix?endpoint=...&region=...`, `gs://bucket/prefix`, \
         `azblob://container/prefix?account=...`, `sftp://user@host/path?key=...&known_hosts=...` or `webdavs://user@host/path`. \
         [storage.md](storage.md) lists the parameters; for S3 among them `endpoint`, `region` (also `auto`), `path_style` and `ca_file`.",
    ),
    field(
        "upload_limit",
        Kind::Text,
        "The most bytes a second that are written there, such as `10MiB`; of this and the general `upload_limit` the lower.",
    ),
    field("password_file", Kind::Path, "SFTP, WebDAV: the file that holds the user's password."),
    field("password_variable", Kind::Text, "Instead of a file: the variable that holds the password."),
    field("key_passphrase_file", Kind::Path, "SFTP: the file that holds the passphrase of the private key."),
    field(
        "access_key_file",
        Kind::Path,
        "The file that holds the id of an S3 access key, or the name of an Azure storage account.",
    ),
    field("secret_key_file", Kind::Path, "The file that holds its secret."),
    field("session_token_file", Kind::Path, "The file that holds the token of a temporary session."),
    field("access_key_variable", Kind::Text, "Instead of a file: the variable that holds the id."),
    field("secret_key_variable", Kind::Text, "Instead of a file: the variable that holds the secret."),
    field(
        "lock_days",
        Kind::Number,
        "S3: every object of a backup is written with an object lock of so many days, 1 to 3660, from the store's own \
         time, and the lock is read back.",
    ),
    field(
        "lock_mode",
        Kind::Text,
        "S3: `governance` (the default: those with a special right can end the lock) or `compliance` (nobody can).",
    ),
    field(
        "legal_hold",
        Kind::Switch,
        "S3: `pin` puts a legal hold on the backup too, and `pin --off` ends it. Default no.",
    ),
    field(
        "kind",
        Kind::Text,
        "For `copies`: what it is, such as `disk`, `tape` or `object-storage`. Default: `disk` for folders, else \
         `object-storage`.",
    ),
    field(
        "site",
        Kind::Text,
        "For `copies`: where it stands; what burns together has one name. Default: `here` for folders, else the \
         server or the region.",
    ),
    field("offsite", Kind::Switch, "For `copies`: it stands away from the database. Default no."),
    field(
        "stall_seconds",
        Kind::Number,
        "With several destinations: seconds that one may hold up the others before it is given up; 0 for no limit. \
         Default 300; the end of an object may take four times that.",
    ),
];

/// The tables whose keys are names of one's own, with the keys inside.
pub(crate) const NAMED_TABLES: &[(&str, &[&[Field]])] = &[
    ("sources", &[SOURCE_FIELDS, DATABASE_FIELDS]),
    ("targets", &[TARGET_FIELDS, DATABASE_FIELDS]),
    ("destinations", &[DESTINATION_FIELDS]),
];

/// The setting of this key.
pub(crate) fn setting_of(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_its_own_key_flag_and_variable() {
        for (i, a) in SETTINGS.iter().enumerate() {
            assert!(a.variable.starts_with("STRONGROOM_") && a.flag.starts_with("--"), "{a:?}");
            for b in &SETTINGS[i + 1..] {
                assert!(a.key != b.key && a.flag != b.flag && a.variable != b.variable, "{a:?} {b:?}");
            }
        }
    }
}
