//! Who we are to Azure: an account's key, a signature for others (SAS), or an identity of Entra.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ::http::header::{CONTENT_LENGTH, HeaderName};
use ::http::{HeaderMap, HeaderValue, Method};
use async_trait::async_trait;
use aws_lc_rs::hmac;
use backup_core::{Error, ErrorKind, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use reqwest::{Request, Url};
use zeroize::Zeroizing;

use crate::azure::place::{check_service, is_account};
use crate::azure::{AzurePlace, VERSION};
use crate::config::{Retrying, check_endpoint};
use crate::gcs::form;
use crate::rest::http::{Ask, Client, Fault, Sign};
use crate::rest::token::{Grant, Granted, Tokens};
use crate::trouble::Trouble;

/// The account of emulators, with a key that is known to everybody.
const EMULATED: (&str, &str) = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
);
const RESOURCE: &str = "https://storage.azure.com/";
const HINT: &str = "add key_file=, sas_file= or connection_string_file= to the destination, set \
                    AZURE_STORAGE_CONNECTION_STRING, or give the machine an identity";

/// The service and who we are to it.
pub(super) struct Found {
    pub(super) endpoint: Url,
    /// `None` for requests without credentials.
    pub(super) sign: Option<Arc<dyn Sign>>,
}

/// What was given, from whichever source.
#[derive(Default)]
struct Given {
    account: Option<String>,
    endpoint: Option<String>,
    key: Option<Zeroizing<String>>,
    sas: Option<Zeroizing<String>>,
}

/// Finds credentials.
pub(super) fn find(
    place: &AzurePlace,
    account: Option<(&str, &str)>,
    http: &reqwest::Client,
    retry: Retrying,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Found> {
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    let mut given = match (&place.connection_string_file, variable("AZURE_STORAGE_CONNECTION_STRING")) {
        (Some(file), _) => connection_string(&secret(file)?)?,
        (None, Some(text)) if named(place, account) => {
            drop(text);
            Given::default()
        }
        (None, Some(text)) => connection_string(&text)?,
        (None, None) => Given::default(),
    };
    if let Some(name) = &place.account {
        given.account = Some(name.clone());
    }
    if let Some(endpoint) = &place.endpoint {
        given.endpoint = Some(endpoint.clone());
    }
    if let Some((name, key)) = account {
        given.account = Some(name.to_owned());
        given.key = Some(Zeroizing::new(key.to_owned()));
    }
    if let Some(file) = &place.key_file {
        given.key = Some(secret(file)?);
    }
    if let Some(file) = &place.sas_file {
        given.sas = Some(secret(file)?);
    }
    if given.account.is_none() {
        given.account = variable("AZURE_STORAGE_ACCOUNT");
    }
    if given.key.is_none() && given.sas.is_none() && !place.anonymous {
        given.key = variable("AZURE_STORAGE_KEY").map(Zeroizing::new);
        if given.key.is_none() {
            given.sas = variable("AZURE_STORAGE_SAS_TOKEN").map(Zeroizing::new);
        }
    }
    let endpoint = endpoint(place, &given)?;
    if place.anonymous {
        return Ok(Found { endpoint, sign: Some(Arc::new(Plain)) });
    }
    let sign: Arc<dyn Sign> = if let Some(sas) = given.sas {
        Arc::new(Sas(Zeroizing::new(sas.trim().trim_start_matches('?').to_owned())))
    } else if let Some(key) = given.key {
        let name = given.account.filter(|name| is_account(name)).ok_or_else(|| {
            Error::new(ErrorKind::Config, place.to_string(), "a key was given, and no account that it is for")
                .with_hint("add account=NAME to the destination")
        })?;
        Arc::new(SharedKey::new(&name, &key).ok_or_else(|| {
            Error::new(ErrorKind::Config, place.to_string(), "the account's key is not one: it is not base64")
                .with_hint("copy it again from the account's access keys")
        })?)
    } else {
        let client = Client::new(http.clone(), None, retry, crate::gcs::explain_token);
        Arc::new(Bearer(Tokens::new(Identity::find(client, variable)?)))
    };
    Ok(Found { endpoint, sign: Some(sign) })
}

/// Whether the destination itself says who we are, so that the environment is not asked.
fn named(place: &AzurePlace, account: Option<(&str, &str)>) -> bool {
    account.is_some() || place.key_file.is_some() || place.sas_file.is_some() || place.anonymous
}

fn endpoint(place: &AzurePlace, given: &Given) -> Result<Url> {
    let config = |what: &str, hint: &str| {
        Error::new(ErrorKind::Config, place.to_string(), what).with_hint(hint.to_owned())
    };
    let text = match (&given.endpoint, &given.account) {
        (Some(endpoint), _) => endpoint.clone(),
        (None, Some(account)) => format!("https://{account}.blob.core.windows.net"),
        (None, None) => {
            return Err(config(
                "the storage account is not set",
                "add account=NAME to the destination or set AZURE_STORAGE_ACCOUNT",
            ));
        }
    };
    check_service(&text, place.allow_http).map_err(|problem| {
        config(&problem.to_string(), "give an endpoint such as https://account.blob.core.windows.net")
    })?;
    text.parse().map_err(|_| config("the endpoint is not a URL", "write https://host"))
}

/// A secret from a file, without the end of its line.
fn secret(path: &Path) -> Result<Zeroizing<String>> {
    let failed = |what: String| {
        Error::new(ErrorKind::Config, path.display().to_string(), what)
            .with_hint("give a file with one line, readable for the user that runs this")
    };
    let text =
        std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| failed(error.to_string()))?;
    let line = text.trim();
    if line.is_empty() { Err(failed("is empty".to_owned())) } else { Ok(Zeroizing::new(line.to_owned())) }
}

fn connection_string(text: &str) -> Result<Given> {
    let bad = || {
        Error::new(ErrorKind::Config, "Azure's connection string", "is not one").with_hint(
            "copy it again from the account's access keys; it begins with DefaultEndpointsProtocol=",
        )
    };
    let mut fields = BTreeMap::new();
    for field in text.trim().split(';').filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once('=').ok_or_else(bad)?;
        fields.insert(name.trim().to_ascii_lowercase(), value.trim());
    }
    let field = |name: &str| fields.get(name).map(|value| (*value).to_owned());
    if field("usedevelopmentstorage").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(Given {
            account: Some(EMULATED.0.to_owned()),
            endpoint: Some(format!("http://127.0.0.1:10000/{}", EMULATED.0)),
            key: Some(Zeroizing::new(EMULATED.1.to_owned())),
            sas: None,
        });
    }
    let account = field("accountname");
    let endpoint =
        field("blobendpoint").map(|endpoint| endpoint.trim_end_matches('/').to_owned()).or_else(|| {
            let protocol = field("defaultendpointsprotocol").unwrap_or_else(|| "https".to_owned());
            let suffix = field("endpointsuffix").unwrap_or_else(|| "core.windows.net".to_owned());
            account.as_ref().map(|account| format!("{protocol}://{account}.blob.{suffix}"))
        });
    let given = Given {
        account,
        endpoint,
        key: field("accountkey").map(Zeroizing::new),
        sas: field("sharedaccesssignature").map(Zeroizing::new),
    };
    if given.endpoint.is_none() { Err(bad()) } else { Ok(given) }
}

fn version(request: &mut Request) {
    request.headers_mut().insert("x-ms-version", HeaderValue::from_static(VERSION));
}

/// No credentials at all.
struct Plain;

#[async_trait]
impl Sign for Plain {
    async fn sign(&self, request: &mut Request) -> Result<(), Fault> {
        version(request);
        Ok(())
    }
}

/// A signature that somebody else made for us, as a query.
struct Sas(Zeroizing<String>);

#[async_trait]
impl Sign for Sas {
    async fn sign(&self, request: &mut Request) -> Result<(), Fault> {
        version(request);
        let url = request.url_mut();
        let query = match url.query() {
            Some(query) if !query.is_empty() => format!("{query}&{}", self.0.as_str()),
            _ => self.0.to_string(),
        };
        url.set_query(Some(&query));
        Ok(())
    }
}

/// An identity's token.
struct Bearer(Tokens);

#[async_trait]
impl Sign for Bearer {
    async fn sign(&self, request: &mut Request) -> Result<(), Fault> {
        version(request);
        let token = self.0.bearer().await?;
        let mut value = HeaderValue::from_str(&token)
            .map_err(|_| Fault::new(Trouble::NoCredentials, "a token was given that cannot be sent"))?;
        value.set_sensitive(true);
        request.headers_mut().insert(::http::header::AUTHORIZATION, value);
        Ok(())
    }
}

/// The account's own key ("Authorize with Shared Key" of the REST reference).
struct SharedKey {
    account: String,
    key: hmac::Key,
}

impl SharedKey {
    fn new(account: &str, key: &str) -> Option<Self> {
        let key = BASE64_STANDARD.decode(key.trim()).map(Zeroizing::new).ok()?;
        Some(Self { account: account.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, &key) })
    }
}

#[async_trait]
impl Sign for SharedKey {
    async fn sign(&self, request: &mut Request) -> Result<(), Fault> {
        version(request);
        let now = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let unusable = |_| Fault::new(Trouble::Other, "a request cannot be signed");
        request.headers_mut().insert("x-ms-date", HeaderValue::from_str(&now).map_err(unusable)?);
        let text = to_sign(&self.account, request.method(), request.url(), request.headers());
        let signature = BASE64_STANDARD.encode(hmac::sign(&self.key, text.as_bytes()));
        let mut value =
            HeaderValue::from_str(&format!("SharedKey {}:{signature}", self.account)).map_err(unusable)?;
        value.set_sensitive(true);
        request.headers_mut().insert(::http::header::AUTHORIZATION, value);
        Ok(())
    }
}

fn to_sign(account: &str, method: &Method, url: &Url, headers: &HeaderMap) -> String {
    let header =
        |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut text = format!("{method}\n");
    for name in [
        "content-encoding",
        "content-language",
        "content-length",
        "content-md5",
        "content-type",
        "date",
        "if-modified-since",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "range",
    ] {
        let name = HeaderName::from_static(name);
        // No length is signed as nothing.
        let value = if name == CONTENT_LENGTH && header(&name) == "0" { "" } else { header(&name) };
        text.push_str(value);
        text.push('\n');
    }
    let own: BTreeMap<&str, &str> = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-ms-"))
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default().trim()))
        .collect();
    for (name, value) in own {
        text.push_str(&format!("{name}:{value}\n"));
    }
    text.push_str(&format!("/{account}{}", url.path()));
    let mut query: Vec<(String, String)> =
        url.query_pairs().map(|(name, value)| (name.to_ascii_lowercase(), value.into_owned())).collect();
    query.sort();
    for (name, value) in query {
        text.push_str(&format!("\n{name}:{value}"));
    }
    text
}

/// Who gives tokens for an identity of Entra.
struct Identity {
    client: Client,
    how: How,
}

enum How {
    /// A workload of Kubernetes, whose statement is in a file that changes, or an application's secret.
    Entra { url: Url, client_id: String, proof: Proof },
    /// An app service.
    AppService { url: Url, secret: Zeroizing<String> },
    /// A virtual machine.
    Machine { url: Url },
}

enum Proof {
    File(std::path::PathBuf),
    Secret(Zeroizing<String>),
}

impl Identity {
    fn find(client: Client, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let bad = |name: &str| {
            Error::new(
                ErrorKind::Config,
                format!("environment variable {name}"),
                "is not a URL that can be used",
            )
            .with_hint("set it to https://host")
        };
        let client_id = variable("AZURE_CLIENT_ID");
        let proof = variable("AZURE_FEDERATED_TOKEN_FILE")
            .map(|file| Proof::File(file.into()))
            .or_else(|| variable("AZURE_CLIENT_SECRET").map(|secret| Proof::Secret(Zeroizing::new(secret))));
        if let (Some(client_id), Some(tenant), Some(proof)) = (&client_id, variable("AZURE_TENANT_ID"), proof)
        {
            let authority = variable("AZURE_AUTHORITY_HOST")
                .unwrap_or_else(|| "https://login.microsoftonline.com".to_owned());
            let authority = authority.trim_end_matches('/');
            check_endpoint(authority, false).map_err(|_| bad("AZURE_AUTHORITY_HOST"))?;
            let url = format!("{authority}/{tenant}/oauth2/v2.0/token");
            let url = url.parse().map_err(|_| bad("AZURE_TENANT_ID"))?;
            return Ok(Self { client, how: How::Entra { url, client_id: client_id.clone(), proof } });
        }
        let query = |url: &str, api: &str, name: &str| -> Result<Url> {
            let mut url: Url = url.parse().map_err(|_| bad(name))?;
            url.query_pairs_mut().append_pair("api-version", api).append_pair("resource", RESOURCE);
            if let Some(id) = &client_id {
                url.query_pairs_mut().append_pair("client_id", id);
            }
            Ok(url)
        };
        if let (Some(endpoint), Some(secret)) = (variable("IDENTITY_ENDPOINT"), variable("IDENTITY_HEADER")) {
            let url = query(&endpoint, "2019-08-01", "IDENTITY_ENDPOINT")?;
            return Ok(Self { client, how: How::AppService { url, secret: Zeroizing::new(secret) } });
        }
        let name = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
        let host = variable(name).unwrap_or_else(|| "http://169.254.169.254".to_owned());
        let url = query(
            &format!("{}/metadata/identity/oauth2/token", host.trim_end_matches('/')),
            "2018-02-01",
            name,
        )?;
        Ok(Self { client, how: How::Machine { url } })
    }
}

#[async_trait]
impl Grant for Identity {
    async fn grant(&self) -> Result<Granted, Fault> {
        let nobody = |fault: Fault| Fault::new(Trouble::NoCredentials, fault.said()).hint(HINT);
        let answer = match &self.how {
            How::Entra { url, client_id, proof } => {
                let scope = format!("{RESOURCE}.default");
                let mut pairs = vec![
                    ("grant_type", "client_credentials"),
                    ("client_id", client_id.as_str()),
                    ("scope", &scope),
                ];
                let statement;
                match proof {
                    Proof::Secret(secret) => pairs.push(("client_secret", secret.as_str())),
                    Proof::File(path) => {
                        statement = secret(path).map_err(|e| Fault::new(Trouble::NoCredentials, e.what()))?;
                        pairs.push(("client_assertion", statement.as_str()));
                        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                        pairs.push(("client_assertion_type", kind));
                    }
                }
                let ask = Ask::new(Method::POST, url.clone())
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(form(&pairs));
                self.client.send(&ask).await?
            }
            How::AppService { url, secret } => {
                let ask = Ask::new(Method::GET, url.clone()).header("x-identity-header", secret.as_str());
                self.client.send(&ask).await?
            }
            How::Machine { url } => {
                // Tried once: elsewhere than at Azure nobody answers.
                let ask = Ask::new(Method::GET, url.clone()).header("metadata", "true");
                self.client.send_once(&ask).await.map_err(nobody)?
            }
        };
        Granted::read(&answer.whole().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_is_read_and_a_bad_one_not_repeated() {
        let given = connection_string("DefaultEndpointsProtocol=https;AccountName=me123;AccountKey=a2V5;EndpointSuffix=core.windows.net").unwrap();
        assert_eq!(given.endpoint.as_deref(), Some("https://me123.blob.core.windows.net"));
        assert_eq!(given.key.as_ref().map(|key| key.as_str()), Some("a2V5"));
        let sas = connection_string(
            "BlobEndpoint=https://me123.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=x%3D",
        )
        .unwrap();
        assert_eq!(sas.endpoint.as_deref(), Some("https://me123.blob.core.windows.net"));
        assert_eq!(sas.sas.as_ref().map(|sas| sas.as_str()), Some("sv=1&sig=x%3D"));
        let emulated = connection_string("UseDevelopmentStorage=true").unwrap();
        assert_eq!(emulated.account.as_deref(), Some("devstoreaccount1"));
        for bad in ["hunter2", "AccountKey=hunter2"] {
            let error = connection_string(bad).err().unwrap();
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }

    /// The layout of the reference's example.
    #[test]
    fn what_is_signed_has_the_layout_of_the_reference() {
        let url: Url = "https://me.blob.core.windows.net/c/a%20b?restype=container&comp=list&prefix=x%2Fy"
            .parse()
            .unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-version", HeaderValue::from_static("v"));
        headers.insert("x-ms-date", HeaderValue::from_static("d"));
        headers.insert("content-length", HeaderValue::from_static("0"));
        headers.insert("if-none-match", HeaderValue::from_static("*"));
        assert_eq!(
            to_sign("me", &Method::PUT, &url, &headers),
            "PUT\n\n\n\n\n\n\n\n\n*\n\n\nx-ms-date:d\nx-ms-version:v\n/me/c/a%20b\ncomp:list\nprefix:x/y\nrestype:container"
        );
    }

    #[test]
    fn who_we_are_is_looked_up_in_order_and_shown_to_nobody() {
        let http = crate::client::client(std::time::Duration::from_secs(1), None).unwrap();
        let find = |text: &str, account: Option<(&str, &str)>, variables: &[(&str, &str)]| {
            let place = AzurePlace::parse(text, text.strip_prefix("azblob://").unwrap()).unwrap();
            super::find(&place, account, &http, Retrying::default(), |name| {
                variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
            })
            .map(|found| found.endpoint.to_string())
        };
        let string = ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=other;AccountKey=a2V5");
        assert_eq!(find("azblob://c", None, &[string]).unwrap(), "https://other.blob.core.windows.net/");
        // Who is named by the destination is not mixed with whom the environment names.
        let own = find("azblob://c", Some(("mine", "a2V5")), &[string]).unwrap();
        assert_eq!(own, "https://mine.blob.core.windows.net/");
        let error = find("azblob://c", None, &[]).unwrap_err();
        assert!(error.hint().unwrap().contains("account="), "{error:?}");
        let error = find("azblob://c?account=mine", Some(("mine", "not base64: hunter2")), &[]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        let plain = find(
            "azblob://c",
            None,
            &[(
                "AZURE_STORAGE_CONNECTION_STRING",
                "BlobEndpoint=http://10.0.0.1;AccountName=abc;AccountKey=a2V5",
            )],
        );
        assert_eq!(plain.unwrap_err().kind(), ErrorKind::Config);
    }
}
