//! Typed values as the REST interface writes them, checked and copied without white space.
//!
//! <https://firebase.google.com/docs/firestore/reference/rest/v1/Value>. Numbers and strings are copied
//! letter by letter.

use std::collections::HashSet;

use super::json::{Cursor, JsonError, push_string};

/// Copies the fields of a document (`{"name": {"integerValue": "1"}, ...}`), each value of a known
/// kind. `reference` is given every document reference and may name another in its place.
pub(super) fn copy_fields(
    cursor: &mut Cursor<'_>,
    out: &mut String,
    reference: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<(), JsonError> {
    out.push('{');
    let mut names = HashSet::new();
    cursor.object(|name, cursor| {
        if !names.insert(name.to_owned()) {
            return Err(JsonError::Value(format!("the field {name:?} stands twice")));
        }
        if names.len() > 1 {
            out.push(',');
        }
        push_string(out, name);
        out.push(':');
        copy_value(cursor, out, reference)
    })?;
    out.push('}');
    Ok(())
}

fn copy_value(
    cursor: &mut Cursor<'_>,
    out: &mut String,
    reference: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<(), JsonError> {
    let mut kinds = 0;
    out.push('{');
    cursor.object(|kind, cursor| {
        kinds += 1;
        if kinds > 1 {
            return Err(JsonError::Value("a value has two kinds".to_owned()));
        }
        push_string(out, kind);
        out.push(':');
        match kind {
            "nullValue" => {
                // Both spellings of the enumeration's only member.
                match cursor.peek() {
                    Some(b'"') if cursor.string()? == "NULL_VALUE" => {}
                    Some(b'"') => return Err(cursor.expected("null")),
                    _ if cursor.word()? == "null" => {}
                    _ => return Err(cursor.expected("null")),
                }
                out.push_str("null");
                Ok(())
            }
            "booleanValue" => match cursor.word()? {
                "null" => Err(cursor.expected("true or false")),
                word => {
                    out.push_str(word);
                    Ok(())
                }
            },
            "integerValue" => {
                let digits = match cursor.peek() {
                    Some(b'"') => cursor.string()?.into_owned(),
                    _ => cursor.number()?.to_owned(),
                };
                digits.parse::<i64>().map_err(|_| cursor.expected("an integer of 64 bits"))?;
                push_string(out, &digits);
                Ok(())
            }
            "doubleValue" => copy_double(cursor, out),
            "timestampValue" => {
                let text = cursor.string()?;
                text.parse::<jiff::Timestamp>().map_err(|_| cursor.expected("a time"))?;
                push_string(out, &text);
                Ok(())
            }
            "stringValue" => {
                let text = cursor.string()?;
                push_string(out, &text);
                Ok(())
            }
            "bytesValue" => {
                let text = cursor.string()?;
                let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_=".contains(&byte);
                if !text.bytes().all(fits) {
                    return Err(cursor.expected("bytes in base64"));
                }
                push_string(out, &text);
                Ok(())
            }
            "referenceValue" => {
                let text = cursor.string()?;
                match reference(&text) {
                    Some(other) => push_string(out, &other),
                    None => push_string(out, &text),
                }
                Ok(())
            }
            "geoPointValue" => copy_members(cursor, out, |name, cursor, out| match name {
                "latitude" | "longitude" => copy_double(cursor, out),
                _ => Err(cursor.expected("latitude or longitude")),
            }),
            "arrayValue" => copy_members(cursor, out, |name, cursor, out| {
                if name != "values" {
                    return Err(cursor.expected("values"));
                }
                let mut first = true;
                out.push('[');
                cursor.array(|cursor| {
                    if !std::mem::take(&mut first) {
                        out.push(',');
                    }
                    copy_value(cursor, out, reference)
                })?;
                out.push(']');
                Ok(())
            }),
            "mapValue" => copy_members(cursor, out, |name, cursor, out| {
                if name != "fields" {
                    return Err(cursor.expected("fields"));
                }
                copy_fields(cursor, out, reference)
            }),
            _ => Err(JsonError::Value(format!(
                "a value of the kind {kind:?}, which this version does not know"
            ))),
        }
    })?;
    if kinds == 0 {
        return Err(JsonError::Value("a value has no kind".to_owned()));
    }
    out.push('}');
    Ok(())
}

/// An object whose members may be missing: what is zero or empty is left out by the server.
fn copy_members(
    cursor: &mut Cursor<'_>,
    out: &mut String,
    mut copy: impl FnMut(&str, &mut Cursor<'_>, &mut String) -> Result<(), JsonError>,
) -> Result<(), JsonError> {
    let mut names: Vec<String> = Vec::new();
    out.push('{');
    cursor.object(|name, cursor| {
        if names.iter().any(|seen| seen == name) {
            return Err(JsonError::Value(format!("the member {name:?} stands twice")));
        }
        if !names.is_empty() {
            out.push(',');
        }
        names.push(name.to_owned());
        push_string(out, name);
        out.push(':');
        copy(name, cursor, out)
    })?;
    out.push('}');
    Ok(())
}

/// A number, or what JSON has no number for.
fn copy_double(cursor: &mut Cursor<'_>, out: &mut String) -> Result<(), JsonError> {
    if cursor.peek() == Some(b'"') {
        let text = cursor.string()?;
        let usable =
            matches!(&*text, "NaN" | "Infinity" | "-Infinity") || Cursor::new(&text).number().is_ok();
        if !usable {
            return Err(cursor.expected("a double"));
        }
        push_string(out, &text);
    } else {
        out.push_str(cursor.number()?);
    }
    Ok(())
}

/// The paths of all values in a document's fields that are not maps with something in them, as an
/// update mask names them. A vector is one value.
pub(super) fn leaf_paths(fields: &str) -> Result<Vec<String>, JsonError> {
    let mut paths = Vec::new();
    leaves(&mut Cursor::new(fields), "", &mut paths)?;
    Ok(paths)
}

fn leaves(cursor: &mut Cursor<'_>, prefix: &str, paths: &mut Vec<String>) -> Result<(), JsonError> {
    cursor.object(|name, cursor| {
        let mut path = prefix.to_owned();
        if !path.is_empty() {
            path.push('.');
        }
        push_segment(&mut path, name);
        let mut value = cursor.clone();
        cursor.any()?;
        let mut inside = 0;
        value.object(|kind, value| {
            if kind != "mapValue" {
                return value.any().map(drop);
            }
            value.object(|_, fields| {
                let mut vector = false;
                fields.clone().object(|name, value| {
                    inside += 1;
                    vector |= name == "__type__";
                    value.any().map(drop)
                })?;
                if vector || inside == 0 {
                    inside = 0;
                    return fields.any().map(drop);
                }
                leaves(fields, &path, paths)
            })
        })?;
        if inside == 0 {
            paths.push(path);
        }
        Ok(())
    })
}

/// A simple name as it is, any other in backticks.
fn push_segment(path: &mut String, name: &str) {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if first && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        path.push_str(name);
        return;
    }
    path.push('`');
    for letter in name.chars() {
        if matches!(letter, '`' | '\\') {
            path.push('\\');
        }
        path.push(letter);
    }
    path.push('`');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(fields: &str) -> Result<String, JsonError> {
        let mut cursor = Cursor::new(fields);
        let mut out = String::new();
        copy_fields(&mut cursor, &mut out, &mut |_| None)?;
        cursor.finish()?;
        Ok(out)
    }

    #[test]
    fn every_kind_of_value_keeps_every_letter() {
        for value in [
            r#"{"nullValue":null}"#,
            r#"{"booleanValue":true}"#,
            r#"{"integerValue":"-9223372036854775808"}"#,
            r#"{"doubleValue":-0.0}"#,
            r#"{"doubleValue":4.9E-324}"#,
            r#"{"doubleValue":0.1000000000000000055511151231257827}"#,
            r#"{"doubleValue":"NaN"}"#,
            r#"{"doubleValue":"-Infinity"}"#,
            r#"{"timestampValue":"2020-01-01T00:00:00.123456789Z"}"#,
            r#"{"stringValue":"é\"\\\n\u0000😀"}"#,
            r#"{"bytesValue":"AP8="}"#,
            r#"{"bytesValue":""}"#,
            r#"{"referenceValue":"projects/p/databases/d/documents/a/b"}"#,
            r#"{"geoPointValue":{}}"#,
            r#"{"geoPointValue":{"latitude":-0.0,"longitude":180}}"#,
            r#"{"arrayValue":{}}"#,
            r#"{"arrayValue":{"values":[{"nullValue":null},{"mapValue":{}}]}}"#,
            r#"{"mapValue":{"fields":{"__type__":{"stringValue":"__vector__"},"value":{"arrayValue":{"values":[{"doubleValue":1.0}]}}}}}"#,
        ] {
            let fields = format!(r#"{{"a":{value},"":{value}}}"#);
            assert_eq!(copied(&fields).as_deref(), Ok(&*fields));
        }
        assert_eq!(copied(" { } ").as_deref(), Ok("{}"));
        assert_eq!(
            copied(r#"{ "a" : { "nullValue" : "NULL_VALUE" } }"#).as_deref(),
            Ok(r#"{"a":{"nullValue":null}}"#)
        );
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for value in [
            "{}",
            "1",
            "null",
            r#"{"nullValue":1}"#,
            r#"{"nullValue":true}"#,
            r#"{"booleanValue":null}"#,
            r#"{"integerValue":"9223372036854775808"}"#,
            r#"{"integerValue":"1.5"}"#,
            r#"{"doubleValue":"one"}"#,
            r#"{"timestampValue":"today"}"#,
            r#"{"bytesValue":"*"}"#,
            r#"{"geoPointValue":{"x":1}}"#,
            r#"{"arrayValue":{"values":[1]}}"#,
            r#"{"mapValue":{"fields":{"a":{},"a":{}}}}"#,
            r#"{"stringValue":"a","integerValue":"1"}"#,
            r#"{"fieldReferenceValue":"a"}"#,
            r#"{"mapValue":{"fields":{},"fields":{}}}"#,
        ] {
            assert!(copied(&format!(r#"{{"a":{value}}}"#)).is_err(), "{value}");
        }
        assert!(copied(r#"{"a":{"nullValue":null},"a":{"nullValue":null}}"#).is_err());
    }

    #[test]
    fn references_are_rewritten_wherever_they_stand() {
        let fields = r#"{"a":{"arrayValue":{"values":[{"referenceValue":"x"},{"mapValue":{"fields":{"b":{"referenceValue":"y"}}}}]}}}"#;
        let mut out = String::new();
        let mut rename = |name: &str| (name == "y").then(|| "z\"".to_owned());
        copy_fields(&mut Cursor::new(fields), &mut out, &mut rename).unwrap();
        assert_eq!(out, fields.replace(r#""y""#, r#""z\"""#));
    }

    #[test]
    fn an_update_mask_names_every_leaf() {
        let fields = r#"{"a":{"mapValue":{"fields":{"b.c":{"nullValue":null},"d":{"mapValue":{"fields":{"`\\":{"nullValue":null}}}}}}},
            "e":{"mapValue":{}},"1f":{"arrayValue":{}},
            "v":{"mapValue":{"fields":{"__type__":{"stringValue":"__vector__"},"value":{"arrayValue":{}}}}}}"#;
        let paths = leaf_paths(fields).unwrap();
        assert_eq!(paths, ["a.`b.c`", r"a.d.`\`\\`", "e", "`1f`", "v"]);
        assert_eq!(leaf_paths("{}").unwrap(), Vec::<String>::new());
    }
}
