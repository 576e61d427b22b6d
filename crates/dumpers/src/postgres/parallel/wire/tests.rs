use std::time::Duration;

use backup_core::Context;
use tokio::io::AsyncWriteExt as _;

use super::super::super::config::PostgresConfig;
use super::*;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap();
    [&[kind], &len.to_be_bytes()[..], body].concat()
}

/// A session whose server says this and, where `size` is given, hangs up; in pieces of that size.
fn scripted(said: Vec<u8>, size: Option<usize>) -> Wire {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        for piece in said.chunks(size.unwrap_or(usize::MAX)) {
            if far.write_all(piece).await.is_err() {
                return;
            }
        }
        if size.is_some() {
            far.shutdown().await.unwrap();
        }
        // It still listens.
        std::future::pending::<()>().await;
    });
    Wire::of(&Context::new(), Link::of(Box::new(near), false, None), Duration::from_millis(200))
}

async fn copied(wire: &mut Wire) -> Result<Vec<u8>, PostgresError> {
    wire.tell("COPY t TO STDOUT;").await?;
    let mut rows = Vec::new();
    while let Some(chunk) = wire.next().await? {
        rows.extend_from_slice(&chunk);
    }
    Ok(rows)
}

#[tokio::test]
async fn rows_end_only_where_the_server_says_so_in_full() {
    let long = [&[b'x'; 700_000][..], b"\n"].concat();
    let begin = message(b'H', &[0, 0, 0]);
    let rows = [message(b'd', b"1\n"), message(b'd', &long)].concat();
    let (done, tag, ready) = (message(b'c', b""), message(b'C', b"COPY 2\0"), message(b'Z', b"T"));
    let notice = [message(b'N', b"SWARNING\0\0"), message(b'S', b"a\0b\0"), message(b'A', b"")].concat();
    let error = message(b'E', b"SERROR\0C57014\0Mcanceling statement due to user request\0\0");
    let whole: [&[u8]; 8] = [&notice, &begin, &rows, &notice, &rows, &done, &tag, &ready];
    for size in [100_000, 7, usize::MAX] {
        let mut wire = scripted(whole.concat(), Some(size));
        let found = copied(&mut wire).await.unwrap();
        assert!(found == [b"1\n", &long[..], b"1\n", &long[..]].concat());
        assert_eq!(wire.rows(), 2);
    }
    let cut: [(&[&[u8]], &str); 11] = [
        (&[], "closed"),
        (&[&begin], "closed"),
        (&[&begin, &rows], "closed"),
        (&[&begin, &rows[..rows.len() - 3]], "closed"),
        (&[&begin, &rows, &done], "closed"),
        (&[&begin, &rows, &done, &tag], "closed"),
        (&[&begin, &rows, &done, &tag, &ready[..5]], "closed"),
        (&[&begin, &rows, &error], "canceling statement"),
        (&[&begin, &rows, &done, &error], "canceling statement"),
        (&[&error], "canceling statement"),
        (&[&begin, &rows, &done, &tag, &message(b'Z', b"I")], "the transaction is over"),
    ];
    let others: [(&[&[u8]], &str); 5] = [
        (&[&begin, &rows, &tag, &ready], "'C' out of turn"),
        (&[&begin, &rows, &done, &ready], "'Z' out of turn"),
        (&[&begin, &rows, &ready], "'Z' out of turn"),
        (&[&message(b'H', &[1, 0, 0]), &rows], "'H' out of turn"),
        (&[&begin, &rows, &done, &message(b'C', b"SELECT 2\0"), &ready], "SELECT 2"),
    ];
    for (said, why) in cut.into_iter().chain(others) {
        for size in [1000, usize::MAX] {
            let error = copied(&mut scripted(said.concat(), Some(size))).await.unwrap_err();
            assert!(error.to_string().contains(why), "{why}: {error}");
        }
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    let begin = [message(b'H', &[0, 0, 0]), message(b'd', b"1\n")].concat();
    let error = copied(&mut scripted(begin.clone(), None)).await.unwrap_err();
    assert!(matches!(error, PostgresError::Tool(ToolError::Stalled { .. })), "{error}");
    let mut wire = scripted(begin, None);
    wire.cx.cancel().cancel();
    let error = copied(&mut wire).await.unwrap_err();
    assert!(matches!(error, PostgresError::Tool(ToolError::Cancelled { .. })), "{error}");
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/test"))
}

/// A session on the test server under this host's name, with more of a URI's parameters.
async fn opened(host: &str, password: Option<&str>, query: &str, ssl: bool) -> Result<Wire, PostgresError> {
    let url = variable("STRONGROOM_TEST_PG_URL");
    let port = url.rsplit_once(':').unwrap().1.split_once('/').unwrap().0;
    let mut config = PostgresConfig::from_url(&format!("{url}?hostaddr=127.0.0.1&{query}")).unwrap();
    config.password = password.map(crate::secret::Secret::new);
    let reached = format!(
        r#"{{"host":"{host}","port":"{port}","user":"strongroom","dbname":"postgres","ssl":{ssl},"gss":false}}"#
    );
    let endpoint =
        Endpoint::of(&config.connection().unwrap(), &serde_json::from_str(&reached).unwrap()).unwrap();
    Wire::open(&Context::new(), &endpoint, Waiting::default()).await
}

#[tokio::test]
async fn tls_and_logins_are_as_strong_as_the_settings_say() {
    let own = format!("sslrootcert={}", variable("STRONGROOM_TEST_PG_CA"));
    let other = format!("sslrootcert={}", variable("STRONGROOM_TEST_PG_OTHER_CA"));
    let (local, foreign) = ("localhost", "db.example.org");
    for (host, mode, authority, expected) in [
        (local, "disable", "", Ok(false)),
        (local, "prefer", "", Ok(true)),
        (foreign, "require", "", Ok(true)),
        (foreign, "require", &*own, Ok(true)),
        (foreign, "verify-ca", &own, Ok(true)),
        (local, "verify-full", &own, Ok(true)),
        ("127.0.0.1", "verify-full", &own, Ok(true)),
        (local, "require&channel_binding=require", "", Ok(true)),
        (local, "require&channel_binding=disable", "", Ok(true)),
        // libpq uses a file that is given in every mode.
        (local, "prefer", &other, Err("certificate")),
        (local, "require", &other, Err("certificate")),
        (local, "verify-ca", &other, Err("certificate")),
        (local, "verify-full", &other, Err("certificate")),
        (foreign, "verify-full", &own, Err("certificate")),
        ("10.0.0.1", "verify-full", &own, Err("certificate")),
        (local, "disable&channel_binding=require", "", Err("bound")),
    ] {
        let opened = opened(host, None, &format!("sslmode={mode}&{authority}"), false).await;
        match (opened, expected) {
            (Ok(mut wire), Ok(tls)) => {
                let found: bool = wire
                    .ask("SELECT to_json(ssl) FROM pg_stat_ssl WHERE pid = pg_backend_pid();")
                    .await
                    .unwrap();
                assert_eq!(found, tls, "{host} {mode}");
            }
            (Err(error), Err(why)) => assert!(error.to_string().contains(why), "{host} {mode}: {error}"),
            (opened, _) => panic!("{host} {mode}: {opened:?}"),
        }
    }
    let error = opened(local, Some("hunter2"), "sslmode=prefer", false).await.unwrap_err();
    assert!(matches!(error, PostgresError::Credentials(_)), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    // psql has TLS: then so have we.
    let error = opened(local, None, "sslmode=disable", true).await.unwrap_err();
    assert!(error.to_string().contains("not encrypted"), "{error}");
}

#[tokio::test]
async fn a_session_obeys_its_settings_and_goes_on_after_a_copy() {
    let mut wire = opened("localhost", None, "options=-c%20geqo=off", false).await.unwrap();
    let found: Vec<String> = wire
        .ask("SELECT json_build_array(current_setting('geqo'), current_setting('statement_timeout'), current_setting('search_path'))")
        .await
        .unwrap();
    assert_eq!(found, ["off", "0", ""]);
    wire.run(&["BEGIN;", "SET LOCAL lock_timeout = '1s';"]).await.unwrap();
    for count in [3, 0, 200_000] {
        wire.tell(&format!("COPY (SELECT pg_catalog.generate_series(1, {count})) TO STDOUT;")).await.unwrap();
        let mut lines = 0;
        while let Some(chunk) = wire.next().await.unwrap() {
            lines += chunk.iter().filter(|&&byte| byte == b'\n').count();
        }
        assert_eq!((lines, wire.rows()), (count, count as u64));
    }
    let error = wire.tell("COPY nowhere TO STDOUT;").await.unwrap_err();
    assert!(matches!(&error, PostgresError::Server { code, .. } if code == "42P01"), "{error}");
}
