//! The beginning of a session: who we are, and the proof of it.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;
use zeroize::Zeroize as _;

use super::super::super::error::PostgresError;
use super::endpoint::{Binding, Endpoint, Place};
use super::frames::wrong;
use super::link::Link;
use crate::secret::Secret;

/// Logs in and waits until the server is ready.
///
/// # Errors
/// What the server says; `Credentials` for a way to log in that is not known here, or that would be
/// weaker than what the settings ask for.
pub(super) async fn log_in(link: &mut Link, endpoint: &Endpoint) -> Result<(), PostgresError> {
    if endpoint.encrypted && !link.encrypted {
        return Err(refuse("the connection is not encrypted"));
    }
    let mut out = BytesMut::new();
    let parameters = endpoint.parameters.iter().map(|(name, value)| (*name, &**value));
    frontend::startup_message(parameters, &mut out).map_err(|error| wrong(error.to_string()))?;
    link.send(&out).await?;
    let mut bound = false;
    loop {
        let (kind, body) = link.message().await?;
        if kind != b'R' {
            return Err(wrong(format!("{:?} before the login", char::from(kind))));
        }
        match (body.get(..4), body.get(4..).unwrap_or_default()) {
            (Some([0, 0, 0, 0]), _) => break,
            // Readable for whoever listens, so only where nobody can.
            (Some([0, 0, 0, 3]), _) if link.encrypted || matches!(endpoint.place, Place::Unix(_)) => {
                unbound(endpoint)?;
                say(link, password(endpoint)?.expose().as_bytes()).await?;
            }
            (Some([0, 0, 0, 5]), &[a, b, c, d]) => {
                unbound(endpoint)?;
                let password = password(endpoint)?.expose().as_bytes();
                say(link, md5_hash(endpoint.user.as_bytes(), password, [a, b, c, d]).as_bytes()).await?;
            }
            (Some([0, 0, 0, 10]), mechanisms) => bound = scram(link, endpoint, mechanisms).await?,
            (Some(&[0, 0, 0, other]), _) => {
                return Err(refuse(&format!("the server asks for login {other}")));
            }
            _ => return Err(wrong("a message about the login".to_owned())),
        }
    }
    if endpoint.binding == Binding::Always && !bound {
        return Err(refuse("the login is not bound to the server's certificate"));
    }
    loop {
        match link.message().await?.0 {
            // BackendKeyData: a session is ended by closing its connection.
            b'K' => {}
            b'Z' => return Ok(()),
            other => return Err(wrong(format!("{:?} after the login", char::from(other)))),
        }
    }
}

fn refuse(what: &str) -> PostgresError {
    PostgresError::Credentials(what.to_owned())
}

fn password(endpoint: &Endpoint) -> Result<&Secret, PostgresError> {
    endpoint.password.as_ref().ok_or_else(|| refuse("the password is known to libpq alone"))
}

/// Nothing but a bound login may see the password, or what follows from it, where binding is asked for.
fn unbound(endpoint: &Endpoint) -> Result<(), PostgresError> {
    match endpoint.binding {
        Binding::Always => Err(refuse("the login cannot be bound to the server's certificate")),
        Binding::Never | Binding::Prefer => Ok(()),
    }
}

async fn say(link: &mut Link, password: &[u8]) -> Result<(), PostgresError> {
    let mut out = BytesMut::new();
    frontend::password_message(password, &mut out).map_err(|error| wrong(error.to_string()))?;
    let sent = link.send(&out).await;
    out.as_mut().zeroize();
    sent
}

/// SCRAM-SHA-256 (RFC 5802, RFC 7677), to the server's own proof; whether it was bound to the server's
/// certificate.
async fn scram(link: &mut Link, endpoint: &Endpoint, mechanisms: &[u8]) -> Result<bool, PostgresError> {
    let offered = |name: &str| mechanisms.split(|&byte| byte == 0).any(|found| found == name.as_bytes());
    let wanted = link.encrypted && endpoint.binding != Binding::Never;
    let (mechanism, binding) = match &link.binding {
        _ if !offered(SCRAM_SHA_256) && !offered(SCRAM_SHA_256_PLUS) => {
            return Err(refuse("the server asks for an unknown kind of login"));
        }
        Some(hash) if wanted && offered(SCRAM_SHA_256_PLUS) => {
            (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash.clone()))
        }
        None if wanted && offered(SCRAM_SHA_256_PLUS) => {
            return Err(refuse("the certificate's signature is of an unknown kind"));
        }
        // So that the server notices if somebody took its offer away.
        _ if wanted => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        _ => (SCRAM_SHA_256, ChannelBinding::unsupported()),
    };
    let bound = mechanism == SCRAM_SHA_256_PLUS;
    if !bound {
        unbound(endpoint)?;
    }
    let failed = |error: std::io::Error| refuse(&error.to_string());
    let mut scram = ScramSha256::new(password(endpoint)?.expose().as_bytes(), binding);
    let mut out = BytesMut::new();
    frontend::sasl_initial_response(mechanism, scram.message(), &mut out)
        .map_err(|error| wrong(error.to_string()))?;
    link.send(&out).await?;
    scram.update(&step(link, 11).await?).map_err(failed)?;
    out.clear();
    frontend::sasl_response(scram.message(), &mut out).map_err(|error| wrong(error.to_string()))?;
    link.send(&out).await?;
    scram.finish(&step(link, 12).await?).map_err(failed)?;
    Ok(bound)
}

async fn step(link: &mut Link, number: u8) -> Result<bytes::Bytes, PostgresError> {
    let (kind, body) = link.message().await?;
    if kind != b'R' || body.get(..4) != Some(&[0, 0, 0, number][..]) {
        return Err(wrong("a message about the login out of turn".to_owned()));
    }
    Ok(body.slice(4..))
}
