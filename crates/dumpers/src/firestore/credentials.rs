//! Who we are: access tokens of OAuth 2.0 (RFC 6749), got with a signed assertion (RFC 7523), from the
//! metadata server, or from a file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backup_core::{Error, ErrorKind, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::{Pkcs1v15Sign, RsaPrivateKey};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::config::FirestoreConfig;
use super::error::FirestoreError;
use crate::secret::{Secret, mode_warning};

/// What the token allows: Firestore, and with `include_auth` the users of Firebase Auth.
const SCOPES: &str =
    "https://www.googleapis.com/auth/datastore https://www.googleapis.com/auth/cloud-platform";
/// No file of credentials is longer.
const FILE_MAX: u64 = 64 * 1024;
/// A token is renewed so long before it ends.
const SPARE: Duration = Duration::from_secs(300);

/// Where tokens come from.
#[derive(Debug)]
pub(super) enum Credentials {
    /// The emulator lets everybody in who says so.
    Emulator,
    /// A file that somebody else keeps fresh.
    TokenFile(PathBuf),
    /// A key of a service account.
    ServiceAccount(Box<ServiceAccount>),
    /// What `gcloud auth application-default login` leaves behind.
    User(Box<AuthorizedUser>),
    /// The machine's own service account, from the metadata server of this host.
    Metadata(String),
}

/// The metadata server of Google's machines.
const METADATA: &str = "metadata.google.internal";

/// A service account's key file.
#[derive(Deserialize)]
pub(super) struct ServiceAccount {
    client_email: String,
    private_key: Secret,
    private_key_id: Option<String>,
    token_uri: String,
}

/// A person's own credentials.
#[derive(Deserialize)]
pub(super) struct AuthorizedUser {
    client_id: String,
    client_secret: Secret,
    refresh_token: Secret,
}

impl std::fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ServiceAccount").field(&self.client_email).finish()
    }
}

impl std::fmt::Debug for AuthorizedUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AuthorizedUser").field(&self.client_id).finish()
    }
}

impl Credentials {
    /// Finds out where tokens come from; the second value is a warning. Blocks for a small file.
    ///
    /// # Errors
    /// `Config` for a file that holds no usable credentials, those of reading it.
    pub(super) fn find(config: &FirestoreConfig, emulator: bool) -> Result<(Self, Option<String>)> {
        if let Some(file) = &config.token_file {
            return Ok((Self::TokenFile(file.clone()), mode_warning(file)));
        }
        let given = config.credentials_file.clone();
        if emulator && given.is_none() {
            return Ok((Self::Emulator, None));
        }
        let variable = || std::env::var_os("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from);
        match given.or_else(variable) {
            Some(file) => Ok((Self::from_file(&file, emulator)?, mode_warning(&file))),
            None => {
                // Google's own libraries look there first, too.
                let host = std::env::var("GCE_METADATA_HOST").ok().filter(|host| !host.is_empty());
                Ok((Self::Metadata(host.unwrap_or_else(|| METADATA.to_owned())), None))
            }
        }
    }

    fn from_file(file: &Path, emulator: bool) -> Result<Self> {
        #[derive(Deserialize)]
        struct Any {
            r#type: String,
        }
        let wrong = |what: &str| {
            Error::new(ErrorKind::Config, file.display().to_string(), what).with_hint(
                "download a JSON key of a service account, or run gcloud auth application-default login",
            )
        };
        let text = read(file)?;
        // The parser's messages could repeat a part of the key.
        let any: Any = serde_json::from_str(&text).map_err(|_| wrong("holds no Google credentials"))?;
        match any.r#type.as_str() {
            "service_account" => {
                let account: ServiceAccount =
                    serde_json::from_str(&text).map_err(|_| wrong("is no whole key of a service account"))?;
                // A key is for signing to the one who asks: over a line that others can read, or to
                // another host, the assertion would be a gift.
                let local = emulator
                    && ["http://127.0.0.1:", "http://[::1]:", "http://localhost:"]
                        .iter()
                        .any(|start| account.token_uri.starts_with(start));
                if !account.token_uri.starts_with("https://") && !local {
                    return Err(wrong("has a token_uri that is not https"));
                }
                account.key().ok_or_else(|| wrong("holds a private_key that is no RSA key in PKCS#8"))?;
                Ok(Self::ServiceAccount(Box::new(account)))
            }
            "authorized_user" => serde_json::from_str(&text)
                .map(|user| Self::User(Box::new(user)))
                .map_err(|_| wrong("is no whole file of a user's credentials")),
            _ => Err(wrong("holds credentials of a kind that is not understood")),
        }
    }
}

impl ServiceAccount {
    fn key(&self) -> Option<RsaPrivateKey> {
        RsaPrivateKey::from_pkcs8_pem(self.private_key.expose()).ok()
    }

    /// A JSON Web Token (RFC 7519) that asks for an access token; `now` in seconds since 1970.
    fn assertion(&self, now: i64) -> Option<String> {
        let mut header = serde_json::json!({ "alg": "RS256", "typ": "JWT" });
        if let Some(id) = &self.private_key_id {
            header["kid"] = id.as_str().into();
        }
        let claims = serde_json::json!({
            "iss": self.client_email,
            "scope": SCOPES,
            "aud": self.token_uri,
            "iat": now,
            "exp": now + 3600,
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key()?.sign(sha256_scheme(), &Sha256::digest(&signed)).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017, section 9.2, note 1).
fn sha256_scheme() -> Pkcs1v15Sign {
    const PREFIX: [u8; 19] = [
        0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
        0x04, 0x20,
    ];
    Pkcs1v15Sign { hash_len: Some(32), prefix: PREFIX.into() }
}

fn read(file: &Path) -> Result<Zeroizing<String>> {
    use std::io::Read as _;
    let failed = |error| crate::publish::file_error(file, "cannot be read", error);
    let opened = std::fs::File::open(file).map_err(failed)?;
    let mut text = Zeroizing::new(String::with_capacity(8 * 1024));
    opened.take(FILE_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Tokens, renewed in time.
#[derive(Debug)]
pub(super) struct Tokens {
    credentials: Credentials,
    http: reqwest::Client,
    held: tokio::sync::Mutex<Option<(Secret, Instant)>>,
}

#[derive(Deserialize)]
struct Answer {
    access_token: Secret,
    expires_in: u64,
}

impl Tokens {
    pub(super) fn new(credentials: Credentials, http: reqwest::Client) -> Self {
        Self { credentials, http, held: tokio::sync::Mutex::default() }
    }

    /// A token that is good for some minutes. One that was refused is passed as `refused` and not
    /// given again.
    ///
    /// # Errors
    /// Those of the token's source; a refusal of it is one of ours.
    pub(super) async fn get(&self, refused: Option<&Secret>) -> Result<Secret, FirestoreError> {
        if matches!(self.credentials, Credentials::Emulator) {
            return Ok(Secret::new("owner"));
        }
        if let Credentials::TokenFile(file) = &self.credentials {
            let text =
                read(file).map_err(|error| denied(&format!("{}: {}", error.subject(), error.what())))?;
            return Ok(Secret::new(text.trim()));
        }
        let mut held = self.held.lock().await;
        if let Some((token, ends)) = held.as_ref()
            && refused != Some(token)
            && Instant::now() + SPARE < *ends
        {
            return Ok(token.clone());
        }
        // A source that gave one before is there.
        let answer = self.ask(held.is_some()).await?;
        let ends = Instant::now() + Duration::from_secs(answer.expires_in.min(24 * 3600));
        *held = Some((answer.access_token.clone(), ends));
        Ok(answer.access_token)
    }

    /// `known` tells that it was asked before, and answered.
    async fn ask(&self, known: bool) -> Result<Answer, FirestoreError> {
        let post = |url: &str, form: String| {
            let form = Zeroizing::new(form);
            self.http
                .post(url)
                .header("content-type", "application/x-www-form-urlencoded")
                .body(form.as_bytes().to_vec())
        };
        let request = match &self.credentials {
            Credentials::ServiceAccount(account) => {
                let now = jiff::Timestamp::now().as_second();
                let assertion =
                    account.assertion(now).ok_or_else(|| denied("the private key cannot sign"))?;
                let form = format!(
                    "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}"
                );
                post(&account.token_uri, form)
            }
            Credentials::User(user) => post(
                "https://oauth2.googleapis.com/token",
                format!(
                    "grant_type=refresh_token&client_id={}&client_secret={}&refresh_token={}",
                    encoded(&user.client_id),
                    encoded(user.client_secret.expose()),
                    encoded(user.refresh_token.expose())
                ),
            ),
            Credentials::Metadata(host) => {
                let path = "computeMetadata/v1/instance/service-accounts/default/token";
                self.http
                    .get(format!("http://{host}/{path}"))
                    .header("metadata-flavor", "Google")
                    .timeout(Duration::from_secs(5))
            }
            Credentials::Emulator | Credentials::TokenFile(_) => {
                return Err(denied("these credentials are asked for no token"));
            }
        };
        let metadata = matches!(self.credentials, Credentials::Metadata(_));
        let response = request.send().await.map_err(|error| {
            if metadata && !known {
                denied(
                    "no credentials: set credentials_file or GOOGLE_APPLICATION_CREDENTIALS (this machine has no \
                     metadata server)",
                )
            } else {
                super::http::broken(error)
            }
        })?;
        let http = response.status().as_u16();
        let body = super::http::whole(response).await?;
        if http != 200 {
            // The answer to a refused assertion names the reason and no secret: {"error": "invalid_grant", ...}.
            #[derive(Deserialize, Default)]
            struct Refusal {
                #[serde(default)]
                error: String,
                #[serde(default)]
                error_description: String,
            }
            let refusal: Refusal = serde_json::from_slice(&body).unwrap_or_default();
            if http >= 500 || http == 429 {
                return Err(FirestoreError::Refused {
                    http,
                    word: "UNAVAILABLE".to_owned(),
                    message: "no token was given".to_owned(),
                    retry_after: None,
                });
            }
            return Err(denied(&format!(
                "no token was given: {} {}",
                refusal.error, refusal.error_description
            )));
        }
        serde_json::from_slice(&body)
            .map_err(|_| FirestoreError::Answer("the token's server sent no token".to_owned()))
    }
}

fn denied(message: &str) -> FirestoreError {
    FirestoreError::Refused {
        http: 401,
        word: "UNAUTHENTICATED".to_owned(),
        message: message.trim().to_owned(),
        retry_after: None,
    }
}

/// Percent-encoding of everything that has a meaning in a form.
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
    use rsa::RsaPublicKey;
    use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};

    use super::*;

    fn key() -> RsaPrivateKey {
        RsaPrivateKey::new(&mut rsa::rand_core::UnwrapErr(getrandom::SysRng), 2048).unwrap()
    }

    fn file(key: &RsaPrivateKey, token_uri: &str) -> String {
        let pem = key.to_pkcs8_pem(LineEnding::LF).unwrap();
        serde_json::json!({
            "type": "service_account", "client_email": "a@p.iam.gserviceaccount.com", "private_key": *pem,
            "private_key_id": "k1", "token_uri": token_uri, "project_id": "p",
        })
        .to_string()
    }

    #[test]
    fn an_assertion_is_signed_and_says_what_it_must() {
        let key = key();
        let account: ServiceAccount = serde_json::from_str(&file(&key, "https://t.example/token")).unwrap();
        let assertion = account.assertion(1_000).unwrap();
        let (signed, signature) = assertion.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        RsaPublicKey::from(&key).verify(sha256_scheme(), &Sha256::digest(signed), &signature).unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let part = |text: &str| -> serde_json::Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
        };
        assert_eq!(part(header), serde_json::json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
        let claims = part(claims);
        assert_eq!(claims["aud"], "https://t.example/token");
        assert_eq!((claims["iat"].as_i64(), claims["exp"].as_i64()), (Some(1_000), Some(4_600)));
        assert!(claims["scope"].as_str().unwrap().contains("auth/datastore"));
        assert!(!format!("{account:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_key_goes_to_nobody_over_an_open_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k.json");
        let key = key();
        for (uri, emulator, usable) in [
            ("https://oauth2.googleapis.com/token", false, true),
            ("http://oauth2.googleapis.com/token", false, false),
            ("http://127.0.0.1:1/token", false, false),
            ("http://127.0.0.1:1/token", true, true),
            ("http://127.0.0.1.example:1/token", true, false),
            ("file:///etc/passwd", true, false),
        ] {
            std::fs::write(&path, file(&key, uri)).unwrap();
            assert_eq!(Credentials::from_file(&path, emulator).is_ok(), usable, "{uri} {emulator}");
        }
        for text in [
            "",
            "{}",
            r#"{"type":"external_account"}"#,
            r#"{"type":"service_account","private_key":"hunter2"}"#,
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Credentials::from_file(&path, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_told() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k.json");
        std::fs::write(&path, "x").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(mode_warning(&path).unwrap().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(mode_warning(&path), None);
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(encoded("a/b+c é~"), "a%2Fb%2Bc%20%C3%A9~");
    }
}
