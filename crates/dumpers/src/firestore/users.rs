//! The users of Firebase Auth, kept beside the documents.
//!
//! <https://cloud.google.com/identity-platform/docs/reference/rest/v1/projects.accounts/batchGet>. They
//! have no moment of the past: they are of the time they were read.

use backup_core::{Context, Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

use super::api::{Database, escaped};
use super::archive::Lines;
use super::config::Conflicts;
use super::error::FirestoreError;

/// The most users of one request.
const PAGE: usize = 1_000;
/// `REDACTED` in base64: what the service says instead of a password's hash to those who may not see it.
const WITHHELD: &str = "UkVEQUNURUQ=";
/// What a user can be created with; the service makes the rest.
const KEPT: [&str; 16] = [
    "localId",
    "email",
    "emailVerified",
    "displayName",
    "photoUrl",
    "passwordHash",
    "salt",
    "createdAt",
    "lastLoginAt",
    "phoneNumber",
    "disabled",
    "customAttributes",
    "providerUserInfo",
    "mfaInfo",
    "tenantId",
    "screenName",
];
/// So many ids of imported users are remembered for taking them back.
const IDS_MAX: usize = 500_000;

fn url(database: &Database, method: &str) -> String {
    format!("{}/v1/projects/{}/accounts:{method}", database.users_base, database.project)
}

async fn page(cx: &Context, database: &Database, size: usize, token: &str) -> Result<Value, FirestoreError> {
    let token = if token.is_empty() { String::new() } else { format!("&nextPageToken={}", escaped(token)) };
    database.ask(cx, &format!("{}?maxResults={size}{token}", url(database, "batchGet")), None).await
}

/// Whether there is a user at all.
pub(super) async fn exist(cx: &Context, database: &Database) -> Result<bool, FirestoreError> {
    let mut token = String::new();
    loop {
        let page = page(cx, database, 1, &token).await?;
        if page.get("users").and_then(Value::as_array).is_some_and(|users| !users.is_empty()) {
            return Ok(true);
        }
        match next_token(&page, &token)? {
            // A page without users is not the end where it names another.
            Some(next) => token = next,
            None => return Ok(false),
        }
    }
}

/// Looks whether the users can be read with their passwords' hashes.
pub(super) async fn check(
    cx: &Context,
    database: &Database,
    warnings: &mut Vec<String>,
) -> Result<(), FirestoreError> {
    let page = page(cx, database, 20, "").await?;
    for user in page.get("users").and_then(Value::as_array).into_iter().flatten() {
        refuse_withheld(user)?;
    }
    if hashing(cx, database).await?.is_none() {
        warnings.push(
            "the parameters of the passwords' hashes are not told here: passwords will not work elsewhere"
                .to_owned(),
        );
    }
    warnings.push(
        "users of Firebase Auth are of the time they are read, not of the documents' moment".to_owned(),
    );
    Ok(())
}

fn refuse_withheld(user: &Value) -> Result<(), FirestoreError> {
    match user.get("passwordHash").and_then(Value::as_str) {
        Some(WITHHELD) => Err(FirestoreError::Refused {
            http: 403,
            word: "PERMISSION_DENIED".to_owned(),
            message:
                "the service withholds the passwords' hashes (firebaseauth.configs.getHashConfig is missing)"
                    .to_owned(),
            retry_after: None,
        }),
        _ => Ok(()),
    }
}

/// How the project hashes passwords; `None` where the service does not know the question.
async fn hashing(cx: &Context, database: &Database) -> Result<Option<Value>, FirestoreError> {
    let url = format!("{}/admin/v2/projects/{}/config", database.users_base, database.project);
    match database.ask(cx, &url, None).await {
        Ok(config) => Ok(config.pointer("/signIn/hashConfig").filter(|config| config.is_object()).cloned()),
        Err(FirestoreError::Refused { http: 404 | 501, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the page names as the next; `None` behind the last.
fn next_token(page: &Value, token: &str) -> Result<Option<String>, FirestoreError> {
    let next = page.get("nextPageToken").and_then(Value::as_str).unwrap_or_default();
    if !next.is_empty() && next == token {
        return Err(FirestoreError::Answer("the same page of users again".to_owned()));
    }
    Ok((!next.is_empty()).then(|| next.to_owned()))
}

/// Whether a user was refused because there is one of its id already, as the service says it.
fn is_there(message: &str) -> bool {
    message.starts_with("localId belongs to an existing account")
        || message.contains("DUPLICATE_LOCAL_ID")
        || message.contains("already exists")
}

/// All users, page by page.
#[derive(Debug, Default)]
pub(super) struct Pages {
    token: Option<String>,
    ended: bool,
}

impl Pages {
    /// The lines of the next page; `None` behind the last.
    pub(super) async fn next(
        &mut self,
        cx: &Context,
        database: &Database,
    ) -> Result<Option<Lines>, FirestoreError> {
        if self.ended {
            return Ok(None);
        }
        let mut lines = Lines::default();
        let token = match self.token.take() {
            Some(token) => token,
            None => {
                if let Some(config) = hashing(cx, database).await? {
                    lines.push_hashing(&config);
                }
                String::new()
            }
        };
        let page = page(cx, database, PAGE, &token).await?;
        let users = page.get("users").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for user in users {
            if !user.is_object() || user.get("localId").and_then(Value::as_str).is_none() {
                return Err(FirestoreError::Answer("a user without an id".to_owned()));
            }
            refuse_withheld(user)?;
            lines.push_user(user);
        }
        // The last page with users names a token too; behind it there is an empty one without.
        self.token = next_token(&page, &token)?;
        self.ended = self.token.is_none();
        Ok(Some(lines))
    }
}

/// An import under way.
#[derive(Debug, Default)]
pub(super) struct Import {
    hashing: Option<Value>,
    waiting: Vec<Value>,
    conflicts: Conflicts,
    imported: u64,
    ids: Vec<String>,
    /// So many were sent and not answered for: they may be there.
    doubt: u64,
    skipped: u64,
    left_out: u64,
    without_hashing: bool,
}

impl Import {
    /// How the passwords of the users to come were hashed.
    pub(super) fn hashing(&mut self, config: Value) {
        self.hashing = Some(config);
    }

    /// Counts a user that is not wanted.
    pub(super) fn left_out(&mut self) {
        self.left_out += 1;
    }

    /// Takes a user; sends a request when it is full.
    pub(super) async fn push(
        &mut self,
        cx: &Context,
        database: &Database,
        conflicts: Conflicts,
        user: Value,
    ) -> Result<()> {
        self.conflicts = conflicts;
        self.waiting.push(creatable(&user));
        if self.waiting.len() == PAGE { self.send(cx, database).await } else { Ok(()) }
    }

    /// Sends the rest.
    pub(super) async fn finish(&mut self, cx: &Context, database: &Database) -> Result<()> {
        if self.waiting.is_empty() { Ok(()) } else { self.send(cx, database).await }
    }

    async fn send(&mut self, cx: &Context, database: &Database) -> Result<()> {
        let failed = |error: FirestoreError| database.failed(error);
        let users = std::mem::take(&mut self.waiting);
        let overwrite = matches!(self.conflicts, Conflicts::Overwrite | Conflicts::Merge);
        let mut body = json!({ "users": users, "allowOverwrite": overwrite, "sanityCheck": false });
        let passwords = users.iter().any(|user| user.get("passwordHash").is_some());
        match &self.hashing {
            Some(config) => parameters(config, &mut body),
            None => self.without_hashing |= passwords,
        }
        self.doubt = users.len() as u64;
        let answer = database.ask(cx, &url(database, "batchCreate"), Some(body)).await.map_err(failed)?;
        self.doubt = 0;
        let mut refused = Vec::new();
        for error in answer.get("error").and_then(Value::as_array).into_iter().flatten() {
            // Proto3 leaves out an index of zero.
            let index = error.get("index").and_then(Value::as_u64).unwrap_or(0) as usize;
            let message = error.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
            refused.push((index, message));
        }
        for (index, user) in users.iter().enumerate() {
            if refused.iter().all(|(refused, _)| *refused != index) {
                self.imported += 1;
                if self.ids.len() < IDS_MAX && !overwrite {
                    self.ids.extend(user.get("localId").and_then(Value::as_str).map(str::to_owned));
                }
            }
        }
        for (index, message) in refused {
            let exists = is_there(&message);
            if exists && self.conflicts == Conflicts::Skip {
                self.skipped += 1;
                continue;
            }
            let id =
                users.get(index).and_then(|user| user.get("localId")).and_then(Value::as_str).unwrap_or("?");
            let kind = if exists { ErrorKind::Conflict } else { ErrorKind::Unsupported };
            let subject = format!("user {id} of {}", database.project);
            return Err(Error::new(kind, subject, format!("cannot be imported: {message}"))
                .with_hint("choose conflicts=skip or conflicts=overwrite, or import into another project"));
        }
        Ok(())
    }

    /// How many users there are now that were not there before.
    pub(super) fn imported(&self) -> u64 {
        self.imported
    }

    /// How many more there may be: sent, and not answered for.
    pub(super) fn doubt(&self) -> u64 {
        self.doubt
    }

    /// Removes what was imported.
    pub(super) async fn remove(&mut self, cx: &Context, database: &Database) -> Result<(), FirestoreError> {
        for ids in self.ids.chunks(PAGE) {
            let body = json!({ "localIds": ids, "force": true });
            database.ask(cx, &url(database, "batchDelete"), Some(body)).await?;
        }
        if self.ids.len() as u64 == self.imported && self.doubt == 0 {
            return Ok(());
        }
        Err(FirestoreError::Answer("it is not known which users were there before".to_owned()))
    }

    /// What a person should know.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.left_out > 0 {
            warnings
                .push(format!("{} users of Firebase Auth were left out: include_auth is off", self.left_out));
        }
        if self.skipped > 0 {
            warnings.push(format!("{} users existed and were kept as they were", self.skipped));
        }
        if self.without_hashing {
            warnings.push(
                "the backup does not say how passwords were hashed: they work in the same project only"
                    .to_owned(),
            );
        }
        warnings
    }
}

/// What the service takes of a user that it gave.
fn creatable(user: &Value) -> Value {
    let mut created = Map::new();
    for key in KEPT {
        if let Some(value) = user.get(key) {
            let value = match (key, value.as_str()) {
                ("passwordHash" | "salt", Some(text)) => url_safe(text).into(),
                _ => value.clone(),
            };
            created.insert(key.to_owned(), value);
        }
    }
    created.into()
}

/// The names that an import has for what the configuration says.
fn parameters(config: &Value, body: &mut Value) {
    for (theirs, ours) in [
        ("algorithm", "hashAlgorithm"),
        ("signerKey", "signerKey"),
        ("saltSeparator", "saltSeparator"),
        ("rounds", "rounds"),
        ("memoryCost", "memoryCost"),
    ] {
        if let Some(value) = config.get(theirs) {
            body[ours] = match value.as_str() {
                Some(text) if theirs != "algorithm" => url_safe(text).into(),
                _ => value.clone(),
            };
        }
    }
}

/// The alphabet of base64 that imports want (RFC 4648, section 5).
fn url_safe(text: &str) -> String {
    text.replace('+', "-").replace('/', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_created_with_what_it_had_and_nothing_that_is_made() {
        let user = json!({ "localId": "u", "passwordHash": "a+/=", "salt": "b", "lastRefreshAt": "x", "email": "e" });
        let expected = json!({ "localId": "u", "passwordHash": "a-_=", "salt": "b", "email": "e" });
        assert_eq!(creatable(&user), expected);
        let mut body = json!({});
        parameters(
            &json!({ "algorithm": "SCRYPT", "signerKey": "+/", "rounds": 8, "memoryCost": 14 }),
            &mut body,
        );
        assert_eq!(
            body,
            json!({ "hashAlgorithm": "SCRYPT", "signerKey": "-_", "rounds": 8, "memoryCost": 14 })
        );
    }

    #[test]
    fn only_a_user_that_is_there_is_there() {
        for there in ["localId belongs to an existing account - can not overwrite.", "DUPLICATE_LOCAL_ID : u"]
        {
            assert!(is_there(there), "{there}");
        }
        for other in ["the tenant does not exist", "email exists in other account in database", ""] {
            assert!(!is_there(other), "{other}");
        }
    }

    #[test]
    fn an_empty_page_may_name_another() {
        let page = json!({ "nextPageToken": "b+" });
        assert_eq!(next_token(&page, "a"), Ok(Some("b+".to_owned())));
        assert!(next_token(&page, "b+").is_err());
        assert_eq!(next_token(&json!({ "users": [{}] }), "a"), Ok(None));
    }

    #[test]
    fn a_hash_that_is_withheld_is_no_hash() {
        assert!(refuse_withheld(&json!({ "passwordHash": WITHHELD })).is_err());
        assert!(refuse_withheld(&json!({ "passwordHash": "x" })).is_ok());
        assert!(refuse_withheld(&json!({})).is_ok());
    }
}
