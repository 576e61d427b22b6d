//! Throwaway projects of the emulator.

use std::collections::BTreeMap;

use backup_core::testing::{collect, known};
use backup_core::{
    Context, DumpFormat, Dumper as _, RestoreRequest, Restored, Restorer as _, Result, Selection,
};
use bytes::Bytes;
use dumpers::firestore::{FIRESTORE_NDJSON, FirestoreConfig, FirestoreDumper, FirestoreRestorer};
use serde_json::{Value, json};

use crate::server::{unique, variable};

/// `host:port` of the emulator that all tests share.
pub(crate) fn emulator() -> String {
    variable("STRONGROOM_TEST_FIRESTORE")
}

/// A project that nobody else uses.
#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) id: String,
    pub(crate) emulator: String,
    http: reqwest::Client,
}

impl Project {
    pub(crate) fn new(name: &str) -> Self {
        Self::on(name, emulator())
    }

    pub(crate) fn on(name: &str, emulator: String) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { id: unique(name).replace('_', "-"), emulator, http }
    }

    pub(crate) fn config(&self) -> FirestoreConfig {
        FirestoreConfig {
            project: Some(self.id.clone()),
            emulator: Some(self.emulator.clone()),
            retry_seconds: Some(20),
            ..FirestoreConfig::default()
        }
    }

    /// The name of a document.
    pub(crate) fn document(&self, path: &str) -> String {
        format!("projects/{}/databases/(default)/documents/{path}", self.id)
    }

    /// Sends a request to the database and gives the answer.
    pub(crate) async fn post(&self, method: &str, body: Value) -> Value {
        let answer = self.try_post(method, body).await;
        answer.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    pub(crate) async fn try_post(&self, method: &str, body: Value) -> Result<Value, String> {
        let url = format!(
            "http://{}/v1/projects/{}/databases/(default)/documents:{method}",
            self.emulator, self.id
        );
        let request = self.http.post(url).bearer_auth("owner").header("content-type", "application/json");
        let response = request.body(body.to_string()).send().await.map_err(|error| error.to_string())?;
        let status = response.status();
        let text = response.text().await.map_err(|error| error.to_string())?;
        if status.is_success() { Ok(serde_json::from_str(&text).unwrap()) } else { Err(text) }
    }

    /// Makes or replaces documents.
    pub(crate) async fn put(&self, documents: &[(&str, Value)]) {
        for documents in documents.chunks(500) {
            let writes: Vec<Value> = documents
                .iter()
                .map(|(path, fields)| json!({ "update": { "name": self.document(path), "fields": fields } }))
                .collect();
            self.post("commit", json!({ "writes": writes })).await;
        }
    }

    /// A collection with so many small documents.
    pub(crate) async fn fill(&self, collection: &str, count: usize) {
        let paths: Vec<String> = (0..count).map(|i| format!("{collection}/{i:06}")).collect();
        let fields = |i: usize| json!({ "i": { "integerValue": i.to_string() }, "t": { "stringValue": "x".repeat(100) } });
        let documents: Vec<_> =
            paths.iter().enumerate().map(|(i, path)| (path.as_str(), fields(i))).collect();
        self.put(&documents).await;
    }

    /// Every document there is, by its path.
    pub(crate) async fn documents(&self) -> BTreeMap<String, Value> {
        let prefix = self.document("");
        let mut documents = BTreeMap::new();
        let query = json!({ "structuredQuery": { "from": [{ "allDescendants": true }] } });
        for item in self.post("runQuery", query).await.as_array().unwrap() {
            if let Some(document) = item.get("document") {
                let path = document["name"].as_str().unwrap().strip_prefix(&prefix).unwrap();
                let fields = document.get("fields").cloned().unwrap_or_else(|| json!({}));
                documents.insert(path.to_owned(), fields);
            }
        }
        documents
    }

    /// Sets the rules that users of the application obey.
    pub(crate) async fn rules(&self, rules: &str) {
        let url = format!("http://{}/emulator/v1/projects/{}:securityRules", self.emulator, self.id);
        let body = json!({ "rules": { "files": [{ "name": "rules", "content": rules }] } });
        let request = self.http.put(url).header("content-type", "application/json").body(body.to_string());
        assert!(request.send().await.unwrap().status().is_success());
    }

    /// The emulator's time.
    pub(crate) async fn now(&self) -> String {
        let query = json!({ "structuredQuery": { "from": [{ "allDescendants": true }], "limit": 1 } });
        self.post("runQuery", query).await[0]["readTime"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn request(into_existing: bool) -> RestoreRequest {
    RestoreRequest { format: DumpFormat::new(FIRESTORE_NDJSON), source_len: None, into_existing }
}

/// All bytes of one dump.
pub(crate) async fn dump_of(config: &FirestoreConfig) -> Bytes {
    selected(config, &[], &[]).await
}

/// All bytes of a dump of some collections.
pub(crate) async fn selected(config: &FirestoreConfig, include: &[&str], exclude: &[&str]) -> Bytes {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    let selection = Selection { include: owned(include), exclude: owned(exclude) };
    let dump = FirestoreDumper::new(config).unwrap().dump(&Context::new(), &selection).await.unwrap();
    collect(dump.bytes).await.unwrap()
}

/// Restores a whole dump.
pub(crate) async fn restore(
    config: &FirestoreConfig,
    whole: &Bytes,
    into_existing: bool,
) -> Result<Restored> {
    let (restorer, cx) = (FirestoreRestorer::new(config)?, Context::new());
    let plan = restorer.plan(&cx, request(into_existing)).await?;
    restorer.restore(&cx, plan, known(&DumpFormat::new(FIRESTORE_NDJSON), whole)).await
}
