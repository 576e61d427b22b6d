//! The ways to name a server, and what is asked of its certificate.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use backup_core::{Context, Dumper as _, ErrorKind};
use dumpers::postgres::{PostgresConfig, PostgresDumper};

use crate::postgres::dump_of;
use crate::server::{Server, variable};

async fn reaches(config: &PostgresConfig) {
    assert!(!dump_of(config).await.is_empty());
}

#[tokio::test]
async fn a_server_is_named_by_parts_files_or_a_uri() {
    let server = Server::current();
    let source = server.database("reached \"so\"");
    source.sql("CREATE TABLE t AS SELECT 1 x");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let without = PostgresConfig { password: None, ..source.config() };
    // A password file of ours, and one of libpq's.
    let password_file = file("password", &format!("{}\nsecond line\n", server.password));
    reaches(&PostgresConfig { password_file: Some(password_file), ..without.clone() }).await;
    let escaped = source.name.replace('\\', "\\\\").replace(':', "\\:");
    let passfile = file(
        "pgpass",
        &format!("{}:{}:{escaped}:{}:{}\n", server.host, server.port, server.user, server.password),
    );
    reaches(&PostgresConfig { passfile: Some(passfile), ..without.clone() }).await;
    // Parts win over the URI.
    let uri = format!("postgresql://nobody@{}:{}/nowhere?connect_timeout=5", server.host, server.port);
    let config = PostgresConfig {
        user: Some(server.user.clone()),
        password: source.config().password,
        dbname: Some(source.name.clone()),
        ..PostgresConfig::from_url(&uri).unwrap()
    };
    reaches(&config).await;
    // Several hosts, of which the first does not answer.
    let hosts = PostgresConfig {
        host: Some(format!("127.0.0.1,{}", server.host)),
        port: Some(format!("1,{}", server.port)),
        ..source.config()
    };
    reaches(&hosts).await;
    for broken in [file("empty", "\n"), folder.path().join("absent")] {
        let config = PostgresConfig { password_file: Some(broken), ..without.clone() };
        assert_eq!(PostgresDumper::new(&config).unwrap_err().kind(), ErrorKind::Config);
    }
}

#[tokio::test]
async fn every_tls_mode_asks_what_it_says() {
    let server = Server::current();
    let source = server.database("tls_modes");
    let (own, other) = (variable("STRONGROOM_TEST_PG_CA"), variable("STRONGROOM_TEST_PG_OTHER_CA"));
    let (none, name) = (String::new(), "localhost");
    for (mode, authority, host, expected) in [
        ("disable", &none, "127.0.0.1", None),
        ("allow", &none, "127.0.0.1", None),
        ("prefer", &none, "127.0.0.1", None),
        ("require", &none, "127.0.0.1", None),
        ("verify-ca", &own, "127.0.0.1", None),
        ("verify-ca", &other, "127.0.0.1", Some(ErrorKind::Denied)),
        ("verify-full", &own, name, None),
        ("verify-full", &own, "db.example.org", Some(ErrorKind::Denied)),
        ("verify-full", &other, name, Some(ErrorKind::Denied)),
    ] {
        // Whatever the name, it is this machine.
        let address = PostgresConfig::from_url("postgres://h/d?hostaddr=127.0.0.1").unwrap();
        let config = PostgresConfig {
            url: address.url,
            sslmode: Some(mode.to_owned()),
            sslrootcert: (!authority.is_empty()).then(|| authority.into()),
            host: Some(host.to_owned()),
            ..source.config()
        };
        let probed = PostgresDumper::new(&config).unwrap().probe(&Context::new()).await;
        assert_eq!(
            probed.as_ref().err().map(backup_core::Error::kind),
            expected,
            "{mode} {host}: {probed:?}"
        );
    }
    // A server without TLS where TLS is wanted.
    let config = PostgresConfig { sslmode: Some("require".to_owned()), ..Server::newer().config("postgres") };
    let error = PostgresDumper::new(&config).unwrap().probe(&Context::new()).await.unwrap_err();
    assert!(error.what().contains("does not support SSL"), "{error}");
}

#[tokio::test]
async fn text_without_an_encoding_stays_as_it_is() {
    let server = Server::current();
    let source = server.free_name("sql_ascii");
    let name = crate::server::quoted(&source.name);
    server.sql(
        "postgres",
        &format!(
            "CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        ),
    );
    // Bytes that are no UTF-8, beside some that are.
    source.sql("SET client_encoding = 'SQL_ASCII'; CREATE TABLE t (x text); INSERT INTO t VALUES (E'\\xff\\xe9'), (E'\\xc3\\xa9')");
    let whole = dump_of(&source.config()).await;
    let target = server.free_name("sql_ascii_back");
    crate::postgres::restore(&target.config(), &whole, false).await.unwrap();
    let bytes = "SET client_encoding = 'SQL_ASCII'; SELECT string_agg(encode(x::bytea, 'hex'), ' ' ORDER BY x) FROM t; \
                 SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()";
    assert_eq!(target.sql(bytes), source.sql(bytes));
    assert_eq!(target.sql(bytes), "c3a9 ffe9\nSQL_ASCII");
}

#[tokio::test]
async fn an_empty_database_comes_back_empty() {
    let server = Server::current();
    let source = server.database("nothing");
    let whole = dump_of(&source.config()).await;
    let target = server.free_name("nothing_back");
    let warnings = crate::postgres::restore(&target.config(), &whole, false).await.unwrap();
    assert!(warnings.is_empty() && target.exists(), "{warnings:?}");
}
