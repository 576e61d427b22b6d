//! A server that answers, and how each question to it may end.

use std::future::Future;
use std::time::Duration;

use backup_core::{Context, Error, Result};
use mongodb::bson::{Document, doc};
use mongodb::options::{
    AuthMechanism, ClientOptions, Credential, ReadPreference, ServerAddress, Tls, TlsOptions,
};
use mongodb::{Client, Database};

use super::config::{MongoConfig, wrong};
use super::error::MongoError;
use crate::secret::Secret;

/// How long the search for a server may last.
const SELECTION: Duration = Duration::from_secs(15);

/// A server that answered.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) client: Client,
    /// The database of the settings.
    pub(super) database: Option<String>,
    /// The user, and the database that knows it.
    pub(super) user: Option<(String, String)>,
    pub(super) version: String,
    pub(super) role: Role,
    secrets: Vec<Secret>,
    stall: Duration,
    stall_seconds: u64,
}

/// What a server is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Standalone,
    ReplicaSet,
    Router,
}

/// The settings as the driver takes them, and how messages speak of the server.
#[derive(Debug, Clone)]
pub(super) struct Address {
    config: MongoConfig,
    database: Option<String>,
    secret: Option<Secret>,
    subject: String,
}

impl Address {
    /// Joins the connection string and the parts; nothing is connected or looked up yet.
    pub(super) fn new(config: &MongoConfig) -> Result<Self> {
        let database = config.database()?;
        let mut hosts = config.hosts()?;
        if hosts.is_empty() {
            hosts = config.connection_string()?.map_or_else(Vec::new, |url| shown_hosts(&url));
        }
        let place = if hosts.is_empty() { "localhost".to_owned() } else { hosts.join(",") };
        let subject = match &database {
            Some(name) => format!("database {name:?} at {place}"),
            None => format!("MongoDB at {place}"),
        };
        Ok(Self { secret: config.secret()?, config: config.clone(), database, subject })
    }

    /// `database "x" at host`, without any secret.
    pub(super) fn describe(&self) -> &str {
        &self.subject
    }

    pub(super) fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    async fn options(&self) -> Result<ClientOptions, MongoError> {
        let config = &self.config;
        let secrets: Vec<Secret> = self.secret.iter().cloned().collect();
        let failed = |error: &mongodb::error::Error| MongoError::of("connecting", error, &secrets);
        let mut options = match config.connection_string() {
            Ok(Some(url)) => ClientOptions::parse(url).await.map_err(|error| failed(&error))?,
            _ => ClientOptions::default(),
        };
        let hosts = config.hosts().unwrap_or_default();
        if !hosts.is_empty() {
            let parse = |host: &String| ServerAddress::parse(host).map_err(|error| failed(&error));
            options.hosts = hosts.iter().map(parse).collect::<Result<_, _>>()?;
        }
        if let Some(name) = &config.replica_set {
            options.repl_set_name = Some(name.clone());
        }
        self.credential(&mut options)?;
        self.tls(&mut options);
        // What the connection string prefers would give documents of a secondary that lags behind, and
        // the oplog of the primary: together they are no moment.
        options.selection_criteria = Some(ReadPreference::Primary.into());
        options.app_name = Some("strongroom".to_owned());
        options.server_selection_timeout.get_or_insert(SELECTION);
        options.connect_timeout.get_or_insert(Duration::from_secs(10));
        Ok(options)
    }

    /// The settings win over the connection string, part by part.
    fn credential(&self, options: &mut ClientOptions) -> Result<(), MongoError> {
        let config = &self.config;
        let mechanism = match &config.auth_mechanism {
            Some(name) => {
                let known: AuthMechanism = name.parse().map_err(|_| {
                    MongoError::Credentials(format!("the mechanism {name:?} is not supported"))
                })?;
                Some(known)
            }
            None => None,
        };
        let named = config.user.is_some() || options.credential.is_some();
        if !named && mechanism != Some(AuthMechanism::MongoDbX509) {
            return Ok(());
        }
        let mut credential = options.credential.take().unwrap_or_else(|| Credential::builder().build());
        if let Some(user) = &config.user {
            credential.username = Some(user.clone());
        }
        if mechanism.is_some() {
            credential.mechanism = mechanism;
        }
        if credential.mechanism != Some(AuthMechanism::MongoDbX509) {
            credential.password = self.secret.as_ref().map(|secret| secret.expose().to_owned());
        }
        if let Some(source) = &config.auth_database {
            credential.source = Some(source.clone());
        }
        options.credential = Some(credential);
        Ok(())
    }

    fn tls(&self, options: &mut ClientOptions) {
        let config = &self.config;
        let files = config.sslrootcert.is_some() || config.sslcert.is_some();
        match config.tls {
            Some(false) => options.tls = Some(Tls::Disabled),
            None if !files => {}
            _ => {
                let mut tls = match options.tls.take() {
                    Some(Tls::Enabled(tls)) => tls,
                    _ => TlsOptions::default(),
                };
                if config.sslrootcert.is_some() {
                    tls.ca_file_path.clone_from(&config.sslrootcert);
                }
                if config.sslcert.is_some() {
                    tls.cert_key_file_path.clone_from(&config.sslcert);
                }
                options.tls = Some(Tls::Enabled(tls));
            }
        }
    }

    /// Connects and asks who answers.
    pub(super) async fn connect(&self, cx: &Context) -> Result<Server, MongoError> {
        let stall_seconds = self.config.stall_seconds.unwrap_or(900);
        let stall = if stall_seconds == 0 { Duration::MAX } else { Duration::from_secs(stall_seconds) };
        let secrets: Vec<Secret> = self.secret.iter().cloned().collect();
        let options = tokio::select! {
            biased;
            () = cx.cancel().cancelled() => return Err(MongoError::Cancelled),
            options = self.options() => options?,
        };
        let user = options.credential.as_ref().and_then(|credential| {
            let source = credential.source.clone().unwrap_or_else(|| "admin".to_owned());
            Some((credential.username.clone()?, source))
        });
        let client =
            Client::with_options(options).map_err(|error| MongoError::of("connecting", &error, &secrets))?;
        let mut server = Server {
            client,
            database: self.database.clone(),
            user,
            version: String::new(),
            role: Role::Standalone,
            secrets,
            stall,
            stall_seconds,
        };
        let hello = server.command(cx, "admin", "hello", doc! { "hello": 1 }).await?;
        server.role = if hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
            Role::Router
        } else if hello.contains_key("setName") {
            Role::ReplicaSet
        } else {
            Role::Standalone
        };
        let info = server.command(cx, "admin", "buildInfo", doc! { "buildInfo": 1 }).await?;
        server.version =
            info.get_str("version").map_err(|_| MongoError::Answer("buildInfo".into()))?.to_owned();
        Ok(server)
    }
}

impl MongoConfig {
    /// `host:port` of the settings.
    pub(super) fn hosts(&self) -> Result<Vec<String>> {
        let Some(hosts) = &self.host else {
            return match &self.port {
                Some(port) => Ok(vec![format!("localhost:{port}")]),
                None => Ok(Vec::new()),
            };
        };
        let port = self.port.as_deref().unwrap_or("27017");
        if port.parse::<u16>().is_err() {
            return Err(wrong("port", format!("{port:?} is not a number up to 65535")));
        }
        let full = |host: &str| {
            let has_port = host.rsplit_once(':').is_some_and(|(name, port)| {
                port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']'))
            });
            if has_port { host.to_owned() } else { format!("{host}:{port}") }
        };
        let hosts: Vec<String> = hosts.split(',').map(|host| full(host.trim())).collect();
        for host in &hosts {
            ServerAddress::parse(host).map_err(|_| wrong("host", format!("{host:?} is not a host")))?;
        }
        Ok(hosts)
    }
}

fn shown_hosts(url: &mongodb::options::ConnectionString) -> Vec<String> {
    use mongodb::options::HostInfo;
    match &url.host_info {
        HostInfo::HostIdentifiers(hosts) => hosts.iter().map(ToString::to_string).collect(),
        HostInfo::DnsRecord(name) => vec![name.clone()],
        _ => Vec::new(),
    }
}

impl Server {
    pub(super) fn database(&self, name: &str) -> Database {
        self.client.database(name)
    }

    /// Waits for the driver: not longer than the limit, and not after somebody asked to stop.
    pub(super) async fn wait<T>(
        &self,
        cx: &Context,
        what: &str,
        answer: impl Future<Output = mongodb::error::Result<T>>,
    ) -> Result<T, MongoError> {
        tokio::select! {
            biased;
            () = cx.cancel().cancelled() => Err(MongoError::Cancelled),
            answer = answer => answer.map_err(|error| MongoError::of(what, &error, &self.secrets)),
            () = tokio::time::sleep(self.stall) => Err(MongoError::Stalled(self.stall_seconds)),
        }
    }

    /// Runs a command and gives its answer.
    pub(super) async fn command(
        &self,
        cx: &Context,
        db: &str,
        what: &str,
        command: Document,
    ) -> Result<Document, MongoError> {
        let database = self.database(db);
        self.wait(cx, what, async { database.run_command(command).await }).await
    }

    /// Runs a command that gives a cursor and collects everything.
    pub(super) async fn list(
        &self,
        cx: &Context,
        db: &str,
        what: &str,
        command: Document,
    ) -> Result<Vec<Document>, MongoError> {
        use futures::TryStreamExt as _;
        let database = self.database(db);
        self.wait(cx, what, async { database.run_cursor_command(command).await?.try_collect().await }).await
    }

    /// The statement that gives the user a role.
    pub(super) fn grant(&self, role: &str, db: &str) -> String {
        match &self.user {
            Some((user, source)) => format!(
                "db.getSiblingDB({source:?}).grantRolesToUser({user:?}, [{{ role: {role:?}, db: {db:?} }}])"
            ),
            None => format!("connect as a user with the role {role:?} on {db:?}"),
        }
    }

    /// The port's error, with the statement that grants what is missing.
    pub(super) fn about(&self, error: MongoError, subject: &str, role: &str, db: &str) -> Error {
        let denied = matches!(error, MongoError::Permission { .. });
        let error = error.about(subject);
        if denied {
            error.with_hint(format!("run as an administrator: {}", self.grant(role, db)))
        } else {
            error
        }
    }
}
