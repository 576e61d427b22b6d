//! Every version of one object, by ListObjectVersions and DeleteObject of the S3 API.

use backup_core::{Erased, Error, ErrorKind, ObjectKey, Result};
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;

use crate::s3::S3Store;
use crate::s3::requests::{Ask, encoded};
use crate::trouble::{Trouble, from_opendal};

/// One page; servers differ in the order of what is in it.
#[derive(Debug, Deserialize)]
struct Page {
    #[serde(rename = "$value", default)]
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
enum Node {
    IsTruncated(String),
    NextKeyMarker(String),
    NextVersionIdMarker(String),
    Version(Version),
    DeleteMarker(Version),
    #[serde(other)]
    Other,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Version {
    key: String,
    version_id: String,
}

/// Removes every version of an object and every mark of its deletion, and looks that none is left.
pub(super) async fn erase(store: &S3Store, key: &ObjectKey) -> Result<Erased> {
    let full = format!("{}{key}", store.requests.prefix());
    let Some(versions) = versions(store, key, &full).await? else {
        backup_core::Remover::remove(store, key).await?;
        return Ok(Erased { versions: None });
    };
    for version in &versions {
        let query = format!("versionId={}", encoded(version, false));
        match store.requests.send(Ask::new("DeleteObject", Method::DELETE, &full, query)).await {
            Ok(_) => {}
            Err(error) if error.kind() == opendal::ErrorKind::NotFound => {}
            Err(error) => {
                let refused = from_opendal(store.subject(key), "removing a version", &error);
                return Err(match store.held_by(key).await {
                    Ok(Some(held)) if held.holds(Timestamp::now()) => {
                        Error::new(ErrorKind::Conflict, store.subject(key), format!("is {held}"))
                            .with_hint("try again when that has ended")
                            .with_source(refused)
                    }
                    _ => refused,
                });
            }
        }
    }
    match self::versions(store, key, &full).await? {
        Some(left) if !left.is_empty() => Err(Error::new(
            ErrorKind::Conflict,
            store.subject(key),
            format!("{} of {} versions are still there after they were removed", left.len(), versions.len()),
        )
        .with_hint("a lock or a legal hold of the store keeps them; try again when it has ended")),
        _ => Ok(Erased { versions: Some(versions.len() as u64) }),
    }
}

/// The ids of all versions, or `None` from a server that cannot tell.
async fn versions(store: &S3Store, key: &ObjectKey, full: &str) -> Result<Option<Vec<String>>> {
    let mut found = Vec::new();
    let mut after: Option<(String, String)> = None;
    loop {
        let mut query = format!("prefix={}&versions=", encoded(full, false));
        if let Some((key, version)) = &after {
            query = format!(
                "key-marker={}&prefix={}&version-id-marker={}&versions=",
                encoded(key, false),
                encoded(full, false),
                encoded(version, false)
            );
        }
        let ask = Ask::new("ListObjectVersions", Method::GET, "", query);
        let answer = match store.requests.send(ask).await {
            Ok(answer) => answer,
            Err(error) if Trouble::of_opendal(&error) == Trouble::NotSupported => return Ok(None),
            Err(error) => return Err(from_opendal(store.subject(key), "listing its versions", &error)),
        };
        let Ok(page) = quick_xml::de::from_reader::<_, Page>(answer.body.as_slice()) else { return Ok(None) };
        let (mut truncated, mut next) = (false, (String::new(), String::new()));
        for node in page.nodes {
            match node {
                Node::IsTruncated(text) => truncated = text == "true",
                Node::NextKeyMarker(text) => next.0 = text,
                Node::NextVersionIdMarker(text) => next.1 = text,
                // A prefix is also that of longer names.
                Node::Version(one) | Node::DeleteMarker(one) if one.key == full => {
                    // A listing without versions would show the object and nothing to remove it by.
                    if one.version_id.is_empty() {
                        return Ok(None);
                    }
                    found.push(one.version_id);
                }
                Node::Version(_) | Node::DeleteMarker(_) | Node::Other => {}
            }
        }
        if !truncated || next.0.is_empty() || after.as_ref() == Some(&next) {
            return Ok(Some(found));
        }
        after = Some(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_marks_of_deletion_are_read_in_any_order() {
        let page = "<?xml version=\"1.0\"?><ListVersionsResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
            <Name>b</Name><Prefix/><IsTruncated>true</IsTruncated>\
            <Version><Key>a</Key><VersionId>1</VersionId><IsLatest>false</IsLatest><Owner><ID>x</ID></Owner></Version>\
            <DeleteMarker><Key>a</Key><VersionId>2</VersionId></DeleteMarker>\
            <Version><Key>ab</Key><VersionId>3</VersionId></Version>\
            <NextKeyMarker>ab</NextKeyMarker><NextVersionIdMarker>3</NextVersionIdMarker></ListVersionsResult>";
        let page: Page = quick_xml::de::from_reader(page.as_bytes()).unwrap();
        let told: Vec<String> = page
            .nodes
            .iter()
            .map(|node| match node {
                Node::Version(one) => format!("{}@{}", one.key, one.version_id),
                Node::DeleteMarker(one) => format!("-{}@{}", one.key, one.version_id),
                Node::IsTruncated(text) | Node::NextKeyMarker(text) | Node::NextVersionIdMarker(text) => {
                    text.clone()
                }
                Node::Other => String::new(),
            })
            .filter(|text| !text.is_empty())
            .collect();
        assert_eq!(told, ["true", "a@1", "-a@2", "ab@3", "ab", "3"]);
    }
}
