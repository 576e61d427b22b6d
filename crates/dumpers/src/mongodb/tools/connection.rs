//! The settings as a connection string for the programs, which know no other way to take all of them.

use backup_core::Result;

use crate::mongodb::config::MongoConfig;
use crate::secret::Secret;
use crate::tool::{PrivateFile, ToolError};

/// What of a connection string is decided by us: documents of a secondary that lags behind and the
/// oplog of the primary are no moment.
const OURS: [&str; 3] = ["readpreference", "readpreferencetags", "maxstalenessseconds"];

/// Where the programs connect to, and with which password.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    uri: String,
    password: Option<Secret>,
}

impl Connection {
    /// Joins the connection string and the parts, which win over it. `database` is that of a dump.
    ///
    /// # Errors
    /// `Config`, without showing the string.
    pub(super) fn new(config: &MongoConfig, database: Option<&str>) -> Result<Self> {
        let url = config.url.as_ref().map_or("mongodb://localhost", Secret::expose);
        let (scheme, rest) = url.split_once("://").unwrap_or(("mongodb", url));
        let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user.split(':').next().unwrap_or_default().to_owned()), hosts),
            None => (None, authority),
        };
        let user = config.user.as_deref().map(encoded).or(user);
        let given = config.hosts()?;
        let (scheme, hosts) =
            if given.is_empty() { (scheme, hosts.to_owned()) } else { ("mongodb", given.join(",")) };

        let mut options: Vec<(String, String)> = query
            .split('&')
            .filter_map(|option| option.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .filter(|(key, _)| !OURS.contains(&&*key.to_ascii_lowercase()))
            .collect();
        let has = |options: &[(String, String)], name: &str| {
            options.iter().any(|(key, _)| key.eq_ignore_ascii_case(name))
        };
        let mut set = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                options.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
                options.push((name.to_owned(), value));
            }
        };
        set("authMechanism", config.auth_mechanism.as_deref().map(encoded));
        set("authSource", config.auth_database.as_deref().map(encoded));
        set("replicaSet", config.replica_set.as_deref().map(encoded));
        let file =
            |file: &Option<std::path::PathBuf>| file.as_ref().map(|file| encoded(&file.to_string_lossy()));
        set("tlsCAFile", file(&config.sslrootcert));
        set("tlsCertificateKeyFile", file(&config.sslcert));
        let files = config.sslrootcert.is_some() || config.sslcert.is_some();
        let tls = config.tls.or(files.then_some(true));
        if tls.is_some() {
            options.retain(|(key, _)| !key.eq_ignore_ascii_case("ssl") && !key.eq_ignore_ascii_case("tls"));
        }
        if tls == Some(false) {
            options.retain(|(key, _)| !key.to_ascii_lowercase().starts_with("tls"));
        }
        options.extend(tls.map(|tls| ("tls".to_owned(), tls.to_string())));
        // Without it the programs ask the database of the path, which is the one to be dumped.
        let by_password = !options.iter().any(|(key, value)| {
            key.eq_ignore_ascii_case("authMechanism")
                && matches!(&**value, "MONGODB-X509" | "PLAIN" | "GSSAPI")
        });
        if user.is_some() && by_password && !has(&options, "authSource") {
            let own = path.trim_start_matches('/');
            let source = if own.is_empty() { "admin" } else { own };
            options.push(("authSource".to_owned(), source.to_owned()));
        }
        let user = user.map_or_else(String::new, |user| format!("{user}@"));
        let database = database.map(encoded).unwrap_or_default();
        let options: Vec<String> = options.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut uri = format!("{scheme}://{user}{hosts}/{database}");
        if !options.is_empty() {
            uri.push('?');
            uri.push_str(&options.join("&"));
        }
        Ok(Self { uri, password: config.secret()? })
    }

    /// The programs' configuration file.
    ///
    /// # Errors
    /// `NotStarted` when the system has no memory for it.
    pub(super) fn file(&self) -> Result<PrivateFile, ToolError> {
        PrivateFile::new("the programs' configuration file", &self.yaml())
    }

    fn yaml(&self) -> String {
        // Every string of JSON is one of YAML (YAML 1.2.2, section 1.3).
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut text = format!("uri: {}\n", quoted(&self.uri));
        if let Some(password) = &self.password {
            text.push_str(&format!("password: {}\n", quoted(password.expose())));
        }
        text
    }

    /// What no message may repeat, also as it stands in a connection string.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let password = self.password.iter();
        password.flat_map(|password| [password.clone(), Secret::new(encoded(password.expose()))]).collect()
    }
}

/// Percent-encoding of everything that has a meaning in a connection string.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(config: &MongoConfig, database: Option<&str>) -> String {
        Connection::new(config, database).unwrap().uri
    }

    #[test]
    fn url_and_parts_become_one_connection_string() {
        let of = |url: &str| MongoConfig::from_url(url).unwrap();
        let table = [
            (of("mongodb://h"), None, "mongodb://h/"),
            (of("mongodb://u:p%40@h:1,i:2/shop"), Some("shop"), "mongodb://u@h:1,i:2/shop?authSource=shop"),
            (
                of("mongodb://u:p@h/?authSource=users&readPreference=secondary&w=1"),
                Some("shop"),
                "mongodb://u@h/shop?authSource=users&w=1",
            ),
            (of("mongodb+srv://u@c.example.org"), None, "mongodb+srv://u@c.example.org/?authSource=admin"),
            (
                MongoConfig {
                    host: Some("a,b:5".to_owned()),
                    user: Some("ü@x".to_owned()),
                    auth_database: Some("who".to_owned()),
                    replica_set: Some("rs".to_owned()),
                    sslrootcert: Some("/etc/a b.pem".into()),
                    ..of("mongodb://u:p@h/?ssl=false&authSource=y")
                },
                None,
                "mongodb://%C3%BC%40x@a:27017,b:5/?authSource=who&replicaSet=rs&tlsCAFile=%2Fetc%2Fa%20b.pem&tls=true",
            ),
            (
                MongoConfig { tls: Some(false), ..of("mongodb://h/?tls=true&tlsCAFile=x") },
                None,
                "mongodb://h/?tls=false",
            ),
            (
                of("mongodb://CN=me@h/?authMechanism=MONGODB-X509&tls=true"),
                Some("d"),
                "mongodb://CN=me@h/d?authMechanism=MONGODB-X509&tls=true",
            ),
        ];
        for (config, database, expected) in table {
            assert_eq!(uri(&config, database), expected);
        }
    }

    #[test]
    fn the_password_is_in_the_file_alone() {
        let config = MongoConfig::from_url("mongodb://u:hunt%22%5Cer2@h/shop").unwrap();
        let connection = Connection::new(&config, Some("shop")).unwrap();
        assert!(!connection.uri.contains("hunt"));
        assert!(!format!("{connection:?}").contains("hunt"));
        let expected = "uri: \"mongodb://u@h/shop?authSource=shop\"\npassword: \"hunt\\\"\\\\er2\"\n";
        assert_eq!(connection.yaml(), expected);
        let secrets = connection.secrets();
        assert!(secrets.iter().any(|secret| secret.expose() == "hunt%22%5Cer2"));
    }
}
