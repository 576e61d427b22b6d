//! A place on an SFTP server, as a person writes it down.

use std::fmt;
use std::path::PathBuf;

use url::Url;

use crate::config::Problem;
use crate::percent::decoded;

/// A folder on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SftpPlace {
    /// A name, an address or an alias of the SSH client's own configuration; no brackets.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    pub(crate) user: Option<String>,
    /// Absolute, or relative to the folder in which a session begins; no slash at its end.
    pub(crate) folder: String,
    pub(crate) key: Option<PathBuf>,
    pub(crate) known_hosts: Option<PathBuf>,
}

impl SftpPlace {
    /// Reads `sftp://user@host:port/path?key=...&known_hosts=...`; a path that begins with `/~/` is
    /// relative to the folder in which a session begins.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let Ok(url) = Url::parse(text) else { return Err(vec![Problem::NotAUrl]) };
        if url.password().is_some() {
            return Err(vec![Problem::CredentialsInside]);
        }
        let mut problems = Vec::new();
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        if host.is_empty() || host.starts_with('-') || !host.chars().all(plain) || url.fragment().is_some() {
            problems.push(Problem::NotAUrl);
        }
        let user = match url.username() {
            "" => None,
            user => match decoded(user).and_then(|user| String::from_utf8(user).ok()) {
                Some(user) if user.chars().all(|c| c.is_ascii_graphic()) && !user.starts_with('-') => {
                    Some(user)
                }
                _ => {
                    problems.push(Problem::NotAUrl);
                    None
                }
            },
        };
        let folder = folder(url.path()).unwrap_or_else(|problem| {
            problems.push(problem);
            String::new()
        });
        let mut place = Self { host, port: url.port(), user, folder, key: None, known_hosts: None };
        let mut seen = Vec::new();
        for (name, value) in url.query_pairs() {
            if seen.contains(&name) {
                problems.push(Problem::Twice(name.into_owned()));
                continue;
            }
            let set = match &*name {
                "key" => file("key", &value).map(|path| place.key = Some(path)),
                "known_hosts" => file("known_hosts", &value).map(|path| place.known_hosts = Some(path)),
                _ if crate::config::looks_secret(&name) => Err(Problem::CredentialsInside),
                _ => Err(Problem::UnknownParameter(name.clone().into_owned())),
            };
            problems.extend(set.err());
            seen.push(name);
        }
        if problems.is_empty() { Ok(place) } else { Err(problems) }
    }

    /// The full path of a name below the folder.
    pub(super) fn path(&self, name: &str) -> String {
        match self.folder.as_str() {
            "/" => format!("/{name}"),
            folder => format!("{folder}/{name}"),
        }
    }
}

impl fmt::Display for SftpPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sftp://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match self.folder.as_str() {
            "." => f.write_str("/~"),
            folder if folder.starts_with('/') => f.write_str(folder),
            folder => write!(f, "/~/{folder}"),
        }
    }
}

fn folder(path: &str) -> Result<String, Problem> {
    let bad = || Problem::Folder(path.to_owned());
    let path = decoded(path).and_then(|path| String::from_utf8(path).ok()).ok_or_else(bad)?;
    let (absolute, rest) = match path.strip_prefix("/~") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => (false, rest),
        _ => (true, path.as_str()),
    };
    let rest = rest.trim_matches('/');
    let good = |segment: &str| {
        !segment.is_empty() && segment != "." && segment != ".." && !segment.chars().any(char::is_control)
    };
    if !rest.is_empty() && !rest.split('/').all(good) {
        return Err(bad());
    }
    Ok(match (absolute, rest) {
        (true, rest) => format!("/{rest}"),
        (false, "") => ".".to_owned(),
        (false, rest) => rest.to_owned(),
    })
}

/// A path that the SSH client takes as it is: it would replace `${...}` by variables, and a quote
/// would end it.
fn file(name: &'static str, value: &str) -> Result<PathBuf, Problem> {
    let unusable = |c: char| c.is_control() || c == '"' || c == '$';
    if value.is_empty() || value == "none" || value.contains(unusable) {
        return Err(Problem::Parameter(name, "the path of a file, without quotes and dollar signs"));
    }
    Ok(PathBuf::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_user_a_host_and_a_folder() {
        let place =
            SftpPlace::parse("sftp://me@host.example:2222/srv/my%20backups/?key=/k&known_hosts=/h").unwrap();
        assert_eq!(
            (place.user.as_deref(), place.host.as_str(), place.port),
            (Some("me"), "host.example", Some(2222))
        );
        assert_eq!(
            (place.folder.as_str(), place.path("a/b")),
            ("/srv/my backups", "/srv/my backups/a/b".to_owned())
        );
        assert_eq!((place.key, place.known_hosts), (Some("/k".into()), Some("/h".into())));
        for (text, folder, shown) in [
            ("sftp://h", "/", "sftp://h/"),
            ("sftp://h/", "/", "sftp://h/"),
            ("sftp://h/~", ".", "sftp://h/~"),
            ("sftp://h/~/a/b", "a/b", "sftp://h/~/a/b"),
            ("sftp://[::1]:7/a", "/a", "sftp://[::1]:7/a"),
            ("sftp://h/~a", "/~a", "sftp://h/~a"),
        ] {
            let place = SftpPlace::parse(text).unwrap();
            assert_eq!((place.folder.as_str(), place.to_string().as_str()), (folder, shown), "{text}");
        }
        assert_eq!(SftpPlace::parse("sftp://h/").unwrap().path("x"), "/x");
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "sftp:///path",
            "sftp://-oProxyCommand=x/path",
            "sftp://-x@h/path",
            "sftp://h ost/path",
            "sftp://h/a//b",
            "sftp://h/a%00b",
            "sftp://h/a%2Fb/..%2Fc",
            "sftp://h/a?key=",
            "sftp://h/a?key=/k%22x",
            "sftp://h/a?known_hosts=none",
            "sftp://h/a?key=/k&key=/l",
            "sftp://h/a?colour=red",
            "sftp://h/a#f",
            "sftp://h/%zz",
        ] {
            assert!(SftpPlace::parse(text).is_err(), "{text}");
        }
        for text in ["sftp://me:hunter2@h/a", "sftp://h/a?password=hunter2", "sftp://h/a?passphrase=hunter2"]
        {
            let problems = SftpPlace::parse(text).unwrap_err();
            assert!(!format!("{problems:?}").contains("hunter2"), "{problems:?}");
        }
    }
}
