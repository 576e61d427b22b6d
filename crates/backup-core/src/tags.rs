//! What people write on a backup to find it again: `env=prod`, `ticket=4711`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most tags of one backup.
const TAGS_MAX: usize = 32;
/// The longest name of a tag, in bytes.
const NAME_LEN_MAX: usize = 63;
/// The longest value of a tag, in bytes.
const VALUE_LEN_MAX: usize = 200;

/// One tag: a name and a value. Names are made of `a-z A-Z 0-9 . _ -` and values of printable ASCII, so that both
/// can be signed, shown on a terminal and compared byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    /// Its name.
    pub name: String,
    /// Its value; may be empty.
    pub value: String,
}

/// Why a text is no tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TagError {
    /// There is no `=`.
    #[error("a tag is written NAME=VALUE")]
    Shape,
    /// Characters or length of the name.
    #[error("the name of a tag has 1 to {NAME_LEN_MAX} of A-Z a-z 0-9 . _ -")]
    Name,
    /// Characters or length of the value.
    #[error("the value of a tag has at most {VALUE_LEN_MAX} printable ASCII characters")]
    Value,
    /// One name twice.
    #[error("the tag {0} is given twice")]
    Twice(String),
    /// Too many of them.
    #[error("a backup has at most {TAGS_MAX} tags")]
    TooMany,
}

impl Tag {
    fn checked(name: &str, value: &str) -> Result<Self, TagError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(plain) {
            return Err(TagError::Name);
        }
        if value.len() > VALUE_LEN_MAX || !value.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
            return Err(TagError::Value);
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let (name, value) = text.split_once('=').ok_or(TagError::Shape)?;
        Self::checked(name, value)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

/// The tags of one backup, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Tags(BTreeMap<String, String>);

impl Tags {
    /// These tags.
    ///
    /// # Errors
    /// For a name that is given twice, and for too many.
    pub fn of(tags: impl IntoIterator<Item = Tag>) -> Result<Self, TagError> {
        let mut all = BTreeMap::new();
        for Tag { name, value } in tags {
            if let Some((name, _)) = all.remove_entry(&name) {
                return Err(TagError::Twice(name));
            }
            all.insert(name, value);
        }
        if all.len() > TAGS_MAX { Err(TagError::TooMany) } else { Ok(Self(all)) }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this very tag is among them.
    #[must_use]
    pub fn has(&self, tag: &Tag) -> bool {
        self.0.get(&tag.name) == Some(&tag.value)
    }

    /// Names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl TryFrom<BTreeMap<String, String>> for Tags {
    type Error = TagError;

    fn try_from(tags: BTreeMap<String, String>) -> Result<Self, TagError> {
        Self::of(tags.iter().map(|(name, value)| Tag::checked(name, value)).collect::<Result<Vec<_>, _>>()?)
    }
}

impl From<Tags> for BTreeMap<String, String> {
    fn from(tags: Tags) -> Self {
        tags.0
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, value)) in self.iter().enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_plain_name_and_a_printable_value() {
        for good in ["env=prod", "a=", "release.v1_2-x=1=2", "note=two words"] {
            assert_eq!(good.parse::<Tag>().unwrap().to_string(), good);
        }
        let long = format!("{}=x", "n".repeat(64));
        for (bad, why) in [
            ("env", TagError::Shape),
            ("=x", TagError::Name),
            ("a b=x", TagError::Name),
            (long.as_str(), TagError::Name),
            ("a=\n", TagError::Value),
            ("a=größe", TagError::Value),
        ] {
            assert_eq!(bad.parse::<Tag>(), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn names_are_given_once_and_not_too_often() {
        let tag = |text: &str| text.parse::<Tag>().unwrap();
        let tags = Tags::of([tag("b=2"), tag("a=1")]).unwrap();
        assert_eq!(tags.to_string(), "a=1 b=2");
        assert!(tags.has(&tag("a=1")) && !tags.has(&tag("a=2")) && !tags.has(&tag("c=")));
        assert_eq!(Tags::of([tag("a=1"), tag("a=2")]), Err(TagError::Twice("a".into())));
        let many = (0..33).map(|n| tag(&format!("n{n}=x")));
        assert_eq!(Tags::of(many), Err(TagError::TooMany));
    }

    #[test]
    fn stored_tags_are_as_strict() {
        let read = |text: &str| serde_json::from_str::<Tags>(text);
        assert_eq!(read(r#"{"a":"1"}"#).unwrap().to_string(), "a=1");
        for bad in [r#"{"a b":"1"}"#, r#"{"a":"\u001b[2J"}"#, r#"{"":"x"}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
