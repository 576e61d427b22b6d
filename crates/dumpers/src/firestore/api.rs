//! The requests to one Firestore database.
//!
//! <https://firebase.google.com/docs/firestore/reference/rest>, version 1.

use std::time::Duration;

use backup_core::{Context, Error, ErrorKind, Result};
use bytes::Bytes;
use jiff::Timestamp;
use reqwest::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::config::FirestoreConfig;
use super::credentials::{Credentials, Tokens};
use super::elements::Elements;
use super::error::FirestoreError;
use super::http::{Client, ErrorBody, Pauses, broken, plain_client, whole};
use super::json::{Cursor, JsonError};
use super::names::Range;

/// A database that can be asked.
#[derive(Debug)]
pub(super) struct Database {
    client: Client,
    /// `https://host/v1`.
    base: String,
    /// The project's id.
    pub(super) project: String,
    /// The database's id.
    pub(super) id: String,
    /// The emulator, where it is one.
    pub(super) emulator: Option<String>,
    /// What to tell of the way it is reached.
    pub(super) warnings: Vec<String>,
    /// `https://host/v1` of the service that keeps the users.
    pub(super) users_base: String,
}

/// What the service says of the database itself.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct About {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) location_id: String,
    point_in_time_recovery_enablement: String,
    earliest_version_time: Option<String>,
}

impl About {
    /// Whether past moments are kept for 7 days.
    pub(super) fn keeps_the_past(&self) -> bool {
        self.point_in_time_recovery_enablement == "POINT_IN_TIME_RECOVERY_ENABLED"
    }

    pub(super) fn earliest(&self) -> Option<Timestamp> {
        self.earliest_version_time.as_ref()?.parse().ok()
    }
}

/// One document of an answer.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Its path below the root of the database.
    pub(super) path: String,
    /// RFC 3339.
    pub(super) created: String,
    /// RFC 3339.
    pub(super) updated: String,
    /// An object of typed values, as the server wrote it.
    pub(super) fields: Option<String>,
}

/// What to ask for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Query<'a> {
    /// Only below this document; the root of the database without it.
    pub(super) below: Option<&'a str>,
    /// Only these names.
    pub(super) range: Option<&'a Range>,
    /// Only names behind this one.
    pub(super) after: Option<&'a str>,
    /// At most so many.
    pub(super) limit: u32,
    /// As of this moment.
    pub(super) read_time: Option<&'a str>,
    /// Without the fields.
    pub(super) names_only: bool,
}

/// What became of one write of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    /// `google.rpc.Code`; 0 is success.
    pub(super) code: i64,
    pub(super) message: String,
    /// When it was written, if it was.
    pub(super) time: Option<Timestamp>,
}

/// `ALREADY_EXISTS`.
pub(super) const ALREADY_EXISTS: i64 = 6;

impl Database {
    /// Prepares the client; nothing is connected yet.
    ///
    /// # Errors
    /// `Config` for credentials that cannot be used.
    pub(super) fn open(config: &FirestoreConfig) -> Result<Self> {
        let config = config.clone().resolved()?;
        let own = config.credentials_file.is_some() || config.token_file.is_some();
        let variable = |name| std::env::var(name).ok().filter(|value| !own && !value.is_empty());
        let emulator = config.emulator.clone().or_else(|| variable("FIRESTORE_EMULATOR_HOST"));
        if config.auth_emulator.is_some() && emulator.is_none() {
            let what = "is set without emulator: it would be sent the token of the real service";
            return Err(Error::new(ErrorKind::Config, "auth_emulator", what)
                .with_hint("set emulator too, or leave auth_emulator out"));
        }
        // Only beside Firestore's own: a real token must not go to whoever this names.
        let variable_users = variable("FIREBASE_AUTH_EMULATOR_HOST").filter(|_| emulator.is_some());
        let users = config.auth_emulator.clone().or(variable_users);
        let project = config.project.clone().unwrap_or_default();
        let id = config.database.clone().unwrap_or_default();
        let (credentials, warning) = Credentials::find(&config, emulator.is_some())?;
        let mut warnings: Vec<String> = warning.into_iter().collect();
        if let Some(place) = emulator.as_ref().filter(|_| config.emulator.is_none()) {
            warnings
                .push(format!("FIRESTORE_EMULATOR_HOST is set: {place} is used, and not Google's service"));
        }
        if let Some(place) = users.as_ref().filter(|_| config.auth_emulator.is_none()) {
            warnings.push(format!(
                "FIREBASE_AUTH_EMULATOR_HOST is set: users are those of {place}, and not of Google's service"
            ));
        }
        let about = |error: FirestoreError| error.about(&subject_of(&project, &id));
        let http = plain_client(emulator.is_some()).map_err(about)?;
        let tokens = Tokens::new(credentials, http.clone());
        let patience = Duration::from_secs(config.retry_seconds.unwrap_or(300));
        let base = match &emulator {
            Some(place) => format!("http://{place}/v1"),
            None => "https://firestore.googleapis.com/v1".to_owned(),
        };
        let users_base = match &users {
            Some(place) => format!("http://{place}/identitytoolkit.googleapis.com"),
            None => "https://identitytoolkit.googleapis.com".to_owned(),
        };
        let client = Client::new(http, tokens, patience);
        Ok(Self { client, base, project, id, emulator, warnings, users_base })
    }

    /// A database behind this address, as if it were the service itself.
    #[cfg(test)]
    pub(super) fn at(base: &str, credentials: Credentials, patience: Duration) -> Self {
        let http = plain_client(true).unwrap();
        Self {
            client: Client::new(http.clone(), Tokens::new(credentials, http), patience),
            base: base.to_owned(),
            project: "p".to_owned(),
            id: "(default)".to_owned(),
            emulator: None,
            warnings: Vec::new(),
            users_base: base.to_owned(),
        }
    }

    /// A name for messages.
    pub(super) fn subject(&self) -> String {
        subject_of(&self.project, &self.id)
    }

    /// The prefix of all names of documents, without a slash at its end.
    pub(super) fn documents(&self) -> String {
        format!("projects/{}/databases/{}/documents", self.project, self.id)
    }

    /// The port's error about this database.
    pub(super) fn failed(&self, error: FirestoreError) -> Error {
        error.about(&self.subject())
    }

    fn url(&self, below: Option<&str>, method: &str) -> String {
        let below = below.map(|path| {
            let segments = path.split('/').map(escaped);
            segments.fold(String::new(), |all, segment| all + "/" + &segment)
        });
        format!("{}/{}{}:{method}", self.base, self.documents(), below.unwrap_or_default())
    }

    /// Asks another service of the project.
    pub(super) async fn ask(
        &self,
        cx: &Context,
        url: &str,
        body: Option<Value>,
    ) -> Result<Value, FirestoreError> {
        let body = body.map(|body| Bytes::from(body.to_string()));
        read(&self.client.ask(cx, url, body.as_ref()).await?)
    }

    async fn post(&self, cx: &Context, method: &str, body: String) -> Result<Bytes, FirestoreError> {
        self.client.ask(cx, &self.url(None, method), Some(&body.into())).await
    }

    /// What the service says of the database; `None` where it does not say, as the emulator.
    pub(super) async fn about(&self, cx: &Context) -> Option<About> {
        if self.emulator.is_some() {
            return None;
        }
        let url = format!("{}/projects/{}/databases/{}", self.base, self.project, self.id);
        read(&self.client.ask(cx, &url, None).await.ok()?).ok()
    }

    /// The ids of the collections at the root.
    pub(super) async fn collections(
        &self,
        cx: &Context,
        read_time: Option<&str>,
    ) -> Result<Vec<String>, FirestoreError> {
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase", default)]
        struct Answer {
            collection_ids: Vec<String>,
            next_page_token: String,
        }
        let mut ids = Vec::new();
        let mut token = String::new();
        loop {
            let mut body = json!({ "pageSize": 300 });
            if !token.is_empty() {
                body["pageToken"] = token.as_str().into();
            }
            if let Some(time) = read_time {
                body["readTime"] = time.into();
            }
            let answer: Answer = read(&self.post(cx, "listCollectionIds", body.to_string()).await?)?;
            ids.extend(answer.collection_ids);
            if answer.next_page_token.is_empty() {
                return Ok(ids);
            }
            if answer.next_page_token == token {
                return Err(FirestoreError::Answer("the same page of collections again".to_owned()));
            }
            token = answer.next_page_token;
        }
    }

    /// About how many documents there are in this collection and below it.
    pub(super) async fn count(&self, cx: &Context, collection: &str) -> Result<u64, FirestoreError> {
        let range = Range::of_collection(collection);
        let query = self.structured(&Query { range: Some(&range), ..Query::default() });
        let body = json!({
            "structuredAggregationQuery": { "structuredQuery": query, "aggregations": [{ "alias": "n", "count": {} }] },
        });
        let answer: Value = read(&self.post(cx, "runAggregationQuery", body.to_string()).await?)?;
        let count = answer.pointer("/0/result/aggregateFields/n/integerValue");
        count
            .and_then(|count| count.as_str()?.parse().ok())
            .ok_or_else(|| FirestoreError::Answer("it holds no count".to_owned()))
    }

    fn structured(&self, query: &Query<'_>) -> Value {
        let reference = |path: &str| json!({ "referenceValue": format!("{}/{path}", self.documents()) });
        let by_name = json!({ "fieldPath": "__name__" });
        // All descendants of whatever collection, in the order of their names.
        let mut structured = json!({
            "from": [{ "allDescendants": true }],
            "orderBy": [{ "field": by_name, "direction": "ASCENDING" }],
        });
        if let Some(range) = query.range {
            let filter = |op: &str, path: &str| json!({ "fieldFilter": { "field": by_name, "op": op, "value": reference(path) } });
            let filters = [filter("GREATER_THAN_OR_EQUAL", &range.from), filter("LESS_THAN", &range.before)];
            structured["where"] = json!({ "compositeFilter": { "op": "AND", "filters": filters } });
        }
        if let Some(path) = query.after {
            structured["startAt"] = json!({ "values": [reference(path)], "before": false });
        }
        if query.limit > 0 {
            structured["limit"] = query.limit.into();
        }
        if query.names_only {
            structured["select"] = json!({ "fields": [by_name] });
        }
        structured
    }

    /// Asks for a page, once; the rest is up to the caller, who knows how far it came.
    pub(super) async fn page(&self, query: &Query<'_>) -> Result<Page, FirestoreError> {
        let mut body = json!({ "structuredQuery": self.structured(query) });
        let mut expected = None;
        if let Some(time) = query.read_time {
            body["readTime"] = time.into();
            expected = time.parse().ok();
        }
        let url = self.url(query.below, "runQuery");
        let response = self.client.once(&url, Some(&body.to_string().into())).await?;
        let prefix = format!("{}/", self.documents());
        Ok(Page { response, elements: Elements::default(), prefix, expected, read_time: None })
    }

    /// A page as a whole; for few documents.
    pub(super) async fn few(
        &self,
        cx: &Context,
        query: &Query<'_>,
    ) -> Result<(Vec<Found>, Option<Timestamp>), FirestoreError> {
        let mut pauses = self.pauses();
        loop {
            let asked = async {
                let mut page = self.page(query).await?;
                let mut found = Vec::new();
                while let Some(document) = page.next().await? {
                    found.push(document);
                }
                Ok((found, page.read_time))
            };
            let answer = tokio::select! {
                biased;
                () = cx.cancel().cancelled() => return Err(FirestoreError::Cancelled),
                answer = asked => answer,
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => pauses.wait(cx, error).await?,
            }
        }
    }

    /// The time of the server, which later reads can name.
    pub(super) async fn now(&self, cx: &Context) -> Result<Timestamp, FirestoreError> {
        let query = Query { limit: 1, names_only: true, ..Query::default() };
        let (_, time) = self.few(cx, &query).await?;
        time.ok_or_else(|| FirestoreError::Answer("it does not say when it was read".to_owned()))
    }

    /// Writes a batch, once: each write for itself, in no order. `writes` are JSON objects separated
    /// by commas.
    pub(super) async fn write(&self, writes: &str, count: usize) -> Result<Vec<Written>, FirestoreError> {
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase", default)]
        struct Answer {
            write_results: Vec<WriteResult>,
            status: Vec<Status>,
        }
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase", default)]
        struct WriteResult {
            update_time: Option<String>,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Status {
            code: i64,
            message: String,
        }
        let body = Bytes::from(format!("{{\"writes\":[{writes}]}}"));
        let response = self.client.once(&self.url(None, "batchWrite"), Some(&body)).await?;
        let answer: Answer = read(&whole(response).await?)?;
        if answer.status.len() != count || answer.write_results.len() != count {
            return Err(FirestoreError::Answer(format!("{} results of {count} writes", answer.status.len())));
        }
        let results = answer.status.into_iter().zip(answer.write_results);
        let written = results.map(|(status, result)| Written {
            code: status.code,
            message: status.message,
            time: result.update_time.and_then(|time| time.parse().ok()),
        });
        Ok(written.collect())
    }

    /// When these documents were created; `None` for those that do not exist.
    pub(super) async fn created(
        &self,
        cx: &Context,
        paths: &[&str],
    ) -> Result<Vec<Option<Timestamp>>, FirestoreError> {
        let prefix = format!("{}/", self.documents());
        let names: Vec<String> = paths.iter().map(|path| format!("{prefix}{path}")).collect();
        let body = json!({ "documents": names, "mask": { "fieldPaths": ["__name__"] } });
        let answer: Vec<Value> = read(&self.post(cx, "batchGet", body.to_string()).await?)?;
        let created = |name: &String| {
            let found = answer
                .iter()
                .find(|item| item.pointer("/found/name").and_then(Value::as_str) == Some(name.as_str()))?;
            found.pointer("/found/createTime")?.as_str()?.parse().ok()
        };
        Ok(names.iter().map(created).collect())
    }

    /// The pauses between the tries of one request.
    pub(super) fn pauses(&self) -> Pauses<'_> {
        self.client.pauses()
    }
}

fn subject_of(project: &str, database: &str) -> String {
    format!("firestore://{project}/{database}")
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, FirestoreError> {
    serde_json::from_slice(bytes).map_err(|error| FirestoreError::Answer(error.to_string()))
}

/// A segment of a path, percent-encoded (RFC 3986).
pub(super) fn escaped(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The documents of one answer, as they arrive.
#[derive(Debug)]
pub(super) struct Page {
    response: Response,
    elements: Elements,
    prefix: String,
    expected: Option<Timestamp>,
    /// The moment of the answer, once the server told it.
    pub(super) read_time: Option<Timestamp>,
}

impl Page {
    /// The next document; `None` only at the whole answer's end.
    ///
    /// # Errors
    /// Those of the server, also in the middle of its answer, and of a connection that breaks.
    pub(super) async fn next(&mut self) -> Result<Option<Found>, FirestoreError> {
        loop {
            let answer = |error: &dyn std::fmt::Display| FirestoreError::Answer(error.to_string());
            let element = self.elements.next().map_err(|error| answer(&error))?;
            if let Some(element) = element {
                if element.starts_with("{\"error\"") || element.contains("\"error\"") {
                    check_error(element)?;
                }
                let (found, time) = parsed(element, &self.prefix).map_err(|error| answer(&error))?;
                if let Some(time) = time {
                    if self.expected.is_some_and(|expected| expected != time) {
                        return Err(FirestoreError::Answer(format!("it is of another moment: {time}")));
                    }
                    self.read_time = Some(time);
                }
                if found.is_some() {
                    return Ok(found);
                }
                continue;
            }
            match self.response.chunk().await.map_err(broken)? {
                Some(chunk) => self.elements.push(&chunk),
                None if self.elements.ended() => return Ok(None),
                None => return Err(FirestoreError::Unreachable("the answer was cut".to_owned())),
            }
        }
    }
}

/// An element that is an error and not a document.
fn check_error(element: &str) -> Result<(), FirestoreError> {
    match serde_json::from_str::<ErrorBody>(element) {
        Ok(body) => Err(body.error.into_error(None)),
        Err(_) => Ok(()),
    }
}

fn parsed(element: &str, prefix: &str) -> Result<(Option<Found>, Option<Timestamp>), JsonError> {
    let mut found = None;
    let mut time = None;
    let mut cursor = Cursor::new(element);
    cursor.object(|name, cursor| {
        match name {
            "document" => {
                let mut document = Found::default();
                cursor.object(|name, cursor| {
                    match name {
                        "name" => {
                            let name = cursor.string()?;
                            let path = name.strip_prefix(prefix);
                            path.ok_or_else(|| cursor.expected("a document of this database"))?
                                .clone_into(&mut document.path);
                        }
                        "createTime" => document.created = cursor.string()?.into_owned(),
                        "updateTime" => document.updated = cursor.string()?.into_owned(),
                        "fields" => document.fields = Some(cursor.any()?.to_owned()),
                        _ => drop(cursor.any()?),
                    }
                    Ok(())
                })?;
                found = Some(document);
            }
            "readTime" => {
                let text = cursor.string()?;
                time = Some(text.parse().map_err(|_| cursor.expected("a time"))?);
            }
            _ => drop(cursor.any()?),
        }
        Ok(())
    })?;
    cursor.finish()?;
    Ok((found, time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_a_document_a_moment_or_an_error() {
        let text = r#"{"document":{"name":"p/a/b","fields":{"error":{"doubleValue":-0.0}},"createTime":"2020-01-01T00:00:00Z",
            "updateTime":"2020-01-01T00:00:00Z"},"readTime":"2020-01-01T00:00:00.500Z","done":true}"#;
        check_error(text).unwrap();
        let (found, time) = parsed(text, "p/").unwrap();
        let found = found.unwrap();
        assert_eq!(
            (&*found.path, found.fields.as_deref()),
            ("a/b", Some(r#"{"error":{"doubleValue":-0.0}}"#))
        );
        assert_eq!(time, Some("2020-01-01T00:00:00.5Z".parse().unwrap()));
        assert!(parsed(text, "q/").is_err());
        assert!(parsed(r#"{"readTime":"2020-01-01T00:00:00Z"}"#, "p/").unwrap().0.is_none());
        let error = check_error(r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}"#).unwrap_err();
        assert!(error.passes());
    }

    #[test]
    fn real_users_are_not_asked_of_an_emulator() {
        let config = FirestoreConfig {
            project: Some("p".to_owned()),
            auth_emulator: Some("127.0.0.1:1".to_owned()),
            // With credentials of its own no variable is looked at.
            token_file: Some("/nowhere".into()),
            ..FirestoreConfig::default()
        };
        let error = Database::open(&config).unwrap_err();
        assert_eq!((error.kind(), error.subject()), (ErrorKind::Config, "auth_emulator"));
    }

    #[test]
    fn segments_are_escaped() {
        assert_eq!(escaped("a b/é\"(x)"), "a%20b%2F%C3%A9%22(x)");
    }
}
