//! Google's emulator of Firebase Auth beside its emulator of Firestore.

use dumpers::firestore::FirestoreConfig;
use serde_json::{Value, json};

use crate::emulated_firestore::lab::{Project, dump_of, restore};
use crate::server::variable;

#[tokio::test]
async fn users_come_back_by_googles_own_rules() {
    let address = variable("STRONGROOM_TEST_FIREBASE_AUTH");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |project: &Project, method: &str, body: Option<Value>| -> Value {
        let url =
            format!("http://{address}/identitytoolkit.googleapis.com/v1/projects/{}/{method}", project.id);
        let request = match body {
            Some(body) => http.post(url).header("content-type", "application/json").body(body.to_string()),
            None => http.get(url),
        };
        let text = request.bearer_auth("owner").send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let (source, target) = (Project::new("demo-auth"), Project::new("demo-auth-back"));
    for i in 0..25 {
        let user =
            json!({ "email": format!("u{i}@example.com"), "password": "hunter22", "displayName": "é" });
        let made = ask(&source, "accounts", Some(user)).await;
        assert!(made["localId"].is_string(), "{made}");
    }
    let config = |project: &Project| FirestoreConfig {
        include_auth: true,
        auth_emulator: Some(address.clone()),
        ..project.config()
    };
    let whole = dump_of(&config(&source)).await;
    restore(&config(&target), &whole, false).await.unwrap();
    let all = async |project: &Project| {
        let answer = ask(project, "accounts:batchGet?maxResults=100", None).await;
        let mut users = answer["users"].as_array().unwrap().clone();
        users.sort_by_key(|user| user["localId"].to_string());
        let kept = ["localId", "email", "displayName", "passwordHash", "salt", "createdAt"];
        users.iter().map(|user| kept.map(|key| user[key].clone())).collect::<Vec<_>>()
    };
    let (before, after) = (all(&source).await, all(&target).await);
    assert_eq!(before.len(), 25);
    assert_eq!(after, before);
}
