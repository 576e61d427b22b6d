//! Who we are to Google: a service account's key, what `gcloud` left, or the machine's own account.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::http::header::AUTHORIZATION;
use ::http::{HeaderMap, HeaderValue, Method, StatusCode};
use async_trait::async_trait;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use backup_core::{Error, ErrorKind, Result};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use reqwest::{Request, Url};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use crate::config::{Retrying, check_endpoint};
use crate::gcs::GcsPlace;
use crate::rest::http::{Ask, Client, Fault, Sign};
use crate::rest::token::{Grant, Granted, Tokens};
use crate::trouble::Trouble;

const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const METADATA_HOST: &str = "metadata.google.internal";
/// Of the environment, another host than [`METADATA_HOST`].
const METADATA_VARIABLE: &str = "GCE_METADATA_HOST";
/// Of the environment, a file with credentials.
const FILE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
/// How long an assertion is good for, in seconds; the most that Google takes.
const ASSERTION: i64 = 3600;
const HINT: &str = "add credentials_file= with the key of a service account, set GOOGLE_APPLICATION_CREDENTIALS, or run \
                    `gcloud auth application-default login`";

/// A file with credentials.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Credentials {
    ServiceAccount {
        client_email: String,
        private_key: Secret,
        private_key_id: Option<String>,
        token_uri: Option<String>,
    },
    AuthorizedUser {
        client_id: String,
        client_secret: Secret,
        refresh_token: Secret,
        token_uri: Option<String>,
    },
    #[serde(other)]
    Other,
}

/// A secret text.
#[derive(Deserialize)]
#[serde(from = "String")]
struct Secret(Zeroizing<String>);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

/// Finds credentials; `None` for requests without any.
pub(super) fn find(
    place: &GcsPlace,
    google: bool,
    http: &reqwest::Client,
    retry: Retrying,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<Arc<dyn Sign>>> {
    if place.anonymous {
        return Ok(None);
    }
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    let client = Client::new(http.clone(), None, retry, explain);
    let named = place.credentials_file.clone().or_else(|| variable(FILE).map(PathBuf::from));
    let left = || {
        let home = variable("CLOUDSDK_CONFIG")
            .map(PathBuf::from)
            .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config/gcloud")))?;
        Some(home.join("application_default_credentials.json")).filter(|file| file.is_file())
    };
    let file = match named {
        Some(file) => Some(file),
        // An emulator is told nothing that was not meant for it.
        None if !google && variable(METADATA_VARIABLE).is_none() => return Ok(None),
        None => left(),
    };
    let tokens = match file {
        Some(file) => Tokens::new(from_file(&file, client)?),
        None => {
            let host = variable(METADATA_VARIABLE).unwrap_or_else(|| METADATA_HOST.to_owned());
            Tokens::new(Machine { client, host })
        }
    };
    Ok(Some(Arc::new(Bearer(tokens))))
}

fn from_file(path: &Path, client: Client) -> Result<FromFile> {
    let bad = |what: &str| {
        Error::new(ErrorKind::Config, path.display().to_string(), what.to_owned()).with_hint(
            "give the JSON key of a service account, or what `gcloud auth application-default login` writes",
        )
    };
    let text = std::fs::read(path).map(Zeroizing::new).map_err(|error| bad(&error.to_string()))?;
    // What is wrong is not repeated: it may be the key.
    let found: Credentials =
        serde_json::from_slice(&text).map_err(|_| bad("is no file with Google's credentials"))?;
    let token_uri = |given: Option<String>| -> Result<Url> {
        let given = given.unwrap_or_else(|| TOKEN_URI.to_owned());
        let url: Url = given.parse().map_err(|_| bad("its token_uri is no URL"))?;
        check_endpoint(&url.origin().ascii_serialization(), false)
            .map_err(|_| bad("its token_uri is not encrypted"))?;
        Ok(url)
    };
    let kind = match found {
        Credentials::ServiceAccount { client_email, private_key, private_key_id, token_uri: uri } => {
            let key =
                key_pair(&private_key.0).ok_or_else(|| bad("its private_key is not one of RSA in PKCS#8"))?;
            Kind::ServiceAccount {
                email: client_email,
                key: Box::new(key),
                id: private_key_id,
                uri: token_uri(uri)?,
            }
        }
        Credentials::AuthorizedUser { client_id, client_secret, refresh_token, token_uri: uri } => {
            Kind::User {
                id: client_id,
                secret: client_secret.0,
                refresh: refresh_token.0,
                uri: token_uri(uri)?,
            }
        }
        Credentials::Other => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                path.display().to_string(),
                "its kind of credentials is not supported",
            )
            .with_hint("use the key of a service account, or run on a machine of Google's with an account"));
        }
    };
    Ok(FromFile { client, kind })
}

fn key_pair(pem: &str) -> Option<RsaKeyPair> {
    let body = pem.split_once("-----BEGIN PRIVATE KEY-----")?.1.split_once("-----END PRIVATE KEY-----")?.0;
    let body: Zeroizing<String> = Zeroizing::new(body.chars().filter(|c| !c.is_whitespace()).collect());
    let der = BASE64_STANDARD.decode(body.as_bytes()).map(Zeroizing::new).ok()?;
    RsaKeyPair::from_pkcs8(&der).ok()
}

struct FromFile {
    client: Client,
    kind: Kind,
}

enum Kind {
    ServiceAccount { email: String, key: Box<RsaKeyPair>, id: Option<String>, uri: Url },
    User { id: String, secret: Zeroizing<String>, refresh: Zeroizing<String>, uri: Url },
}

#[async_trait]
impl Grant for FromFile {
    async fn grant(&self) -> Result<Granted, Fault> {
        let (uri, form) = match &self.kind {
            Kind::ServiceAccount { email, key, id, uri } => {
                let assertion = assertion(email, key, id.as_deref(), uri, Timestamp::now())?;
                let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
                (uri, form(&[("grant_type", grant), ("assertion", &assertion)]))
            }
            Kind::User { id, secret, refresh, uri } => {
                let pairs = [
                    ("grant_type", "refresh_token"),
                    ("client_id", id),
                    ("client_secret", secret),
                    ("refresh_token", refresh),
                ];
                (uri, form(&pairs))
            }
        };
        let ask = Ask::new(Method::POST, uri.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)
            .missing(Trouble::NoCredentials);
        Granted::read(&self.client.send(&ask).await?.whole().await?)
    }
}

/// A form (WHATWG URL section 5).
pub(crate) fn form(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// A signed statement of who we are (RFC 7523, RS256 of RFC 7518 section 3.3).
fn assertion(
    email: &str,
    key: &RsaKeyPair,
    id: Option<&str>,
    uri: &Url,
    now: Timestamp,
) -> Result<String, Fault> {
    let part = |value: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(json!({ "alg": "RS256", "typ": "JWT", "kid": id }));
    let claims = part(json!({
        "iss": email, "scope": SCOPE, "aud": uri.as_str(), "iat": now.as_second(), "exp": now.as_second() + ASSERTION,
    }));
    let text = format!("{header}.{claims}");
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
        .map_err(|_| Fault::new(Trouble::BadCredentials, "the service account's key does not sign"))?;
    Ok(format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
}

/// The account of a machine of Google's.
struct Machine {
    client: Client,
    host: String,
}

#[async_trait]
impl Grant for Machine {
    async fn grant(&self) -> Result<Granted, Fault> {
        let nobody = |said: String| Fault::new(Trouble::NoCredentials, said).hint(HINT);
        let path = "computeMetadata/v1/instance/service-accounts/default/token";
        let url = format!("http://{}/{path}", self.host).parse();
        let url: Url = url.map_err(|_| nobody("GCE_METADATA_HOST is no host".to_owned()))?;
        // Tried once: elsewhere than at Google's nobody answers.
        let ask = Ask::new(Method::GET, url).header("metadata-flavor", "Google");
        let answer = self.client.send_once(&ask).await.map_err(|fault| nobody(fault.said().to_owned()))?;
        Granted::read(&answer.whole().await?)
    }
}

/// Puts a token on every request.
pub(crate) struct Bearer(pub(crate) Tokens);

#[async_trait]
impl Sign for Bearer {
    async fn sign(&self, request: &mut Request) -> Result<(), Fault> {
        let token = self.0.bearer().await?;
        let mut value = HeaderValue::from_str(&token)
            .map_err(|_| Fault::new(Trouble::NoCredentials, "a token was given that cannot be sent"))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
        Ok(())
    }
}

/// What whoever gives tokens says (RFC 6749 section 5.2).
pub(crate) fn explain(status: StatusCode, _headers: &HeaderMap, body: &[u8]) -> (Option<Trouble>, String) {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Refusal {
        error: String,
        error_description: String,
    }
    let trouble = matches!(status.as_u16(), 400 | 401 | 403).then_some(Trouble::BadCredentials);
    match serde_json::from_slice::<Refusal>(body) {
        Ok(Refusal { error, error_description }) => (trouble, format!("{error} {error_description}")),
        Err(_) => (trouble, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn an_assertion_verifies_under_the_public_key() {
        let folder = tempfile::tempdir().unwrap();
        let run = |line: &str| {
            let done =
                Command::new("openssl").args(line.split(' ')).current_dir(folder.path()).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        };
        run("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem");
        run("pkey -in key.pem -pubout -out public.pem");
        let key = key_pair(&std::fs::read_to_string(folder.path().join("key.pem")).unwrap()).unwrap();
        let uri: Url = TOKEN_URI.parse().unwrap();
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let text = assertion("me@project.iam", &key, Some("k1"), &uri, now).unwrap();
        let (signed, signature) = text.rsplit_once('.').unwrap();
        std::fs::write(folder.path().join("signed"), signed).unwrap();
        std::fs::write(folder.path().join("signature"), BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap())
            .unwrap();
        run("dgst -sha256 -verify public.pem -signature signature signed");
        let claims = BASE64_URL_SAFE_NO_PAD.decode(signed.split('.').nth(1).unwrap()).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["iss"], "me@project.iam");
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600);
    }

    #[test]
    fn a_bad_file_is_named_and_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let client = || {
            let http = crate::client::client(std::time::Duration::from_secs(1), None).unwrap();
            Client::new(http, None, Retrying::default(), explain)
        };
        for (text, kind) in [
            ("hunter2", ErrorKind::Config),
            (
                "{\"type\":\"service_account\",\"client_email\":\"x\",\"private_key\":\"hunter2\"}",
                ErrorKind::Config,
            ),
            (
                "{\"type\":\"authorized_user\",\"client_id\":\"x\",\"client_secret\":\"hunter2\",\"refresh_token\":\"hunter2\",\
                 \"token_uri\":\"http://10.0.0.1/t\"}",
                ErrorKind::Config,
            ),
            ("{\"type\":\"external_account\",\"audience\":\"hunter2\"}", ErrorKind::Unsupported),
        ] {
            let path = folder.path().join("c.json");
            std::fs::write(&path, text).unwrap();
            let error = from_file(&path, client()).err().unwrap();
            assert_eq!(error.kind(), kind, "{error:?}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }
}
