//! MongoDB Extended JSON v2, canonical form
//! (<https://github.com/mongodb/specifications/blob/master/source/extended-json/extended-json.md>),
//! compact and in the document's own order.

use std::fmt::Write as _;

use base64::Engine as _;
use mongodb::bson::{Bson, Document};

/// The text of a document.
pub(super) fn canonical(document: &Document) -> String {
    let mut text = String::new();
    put_document(&mut text, document);
    text
}

fn put_document(text: &mut String, document: &Document) {
    text.push('{');
    for (index, (key, value)) in document.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        put_text(text, key);
        text.push(':');
        put(text, value);
    }
    text.push('}');
}

fn put_text(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if u32::from(c) < 0x20 => write_to(text, format_args!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
}

fn write_to(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let written = text.write_fmt(arguments);
    debug_assert!(written.is_ok(), "a string takes everything");
}

/// `{"$name":"value"}`.
fn wrapped(text: &mut String, name: &str, value: &str) {
    text.push_str("{\"");
    text.push_str(name);
    text.push_str("\":");
    put_text(text, value);
    text.push('}');
}

fn put(text: &mut String, value: &Bson) {
    match value {
        Bson::Double(value) => wrapped(text, "$numberDouble", &double(*value)),
        Bson::String(value) => put_text(text, value),
        Bson::Array(values) => {
            text.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                put(text, value);
            }
            text.push(']');
        }
        Bson::Document(document) => put_document(text, document),
        Bson::Boolean(value) => text.push_str(if *value { "true" } else { "false" }),
        Bson::Null => text.push_str("null"),
        Bson::RegularExpression(regex) => {
            text.push_str("{\"$regularExpression\":{\"pattern\":");
            put_text(text, regex.pattern.as_str());
            text.push_str(",\"options\":");
            put_text(text, regex.options.as_str());
            text.push_str("}}");
        }
        Bson::JavaScriptCode(code) => wrapped(text, "$code", code),
        Bson::JavaScriptCodeWithScope(code) => {
            text.push_str("{\"$code\":");
            put_text(text, &code.code);
            text.push_str(",\"$scope\":");
            put_document(text, &code.scope);
            text.push('}');
        }
        Bson::Int32(value) => wrapped(text, "$numberInt", &value.to_string()),
        Bson::Int64(value) => wrapped(text, "$numberLong", &value.to_string()),
        Bson::Timestamp(value) => {
            write_to(
                text,
                format_args!("{{\"$timestamp\":{{\"t\":{},\"i\":{}}}}}", value.time, value.increment),
            );
        }
        Bson::Binary(value) => {
            let base64 = base64::engine::general_purpose::STANDARD.encode(&value.bytes);
            let subtype = u8::from(value.subtype);
            write_to(
                text,
                format_args!("{{\"$binary\":{{\"base64\":\"{base64}\",\"subType\":\"{subtype:02x}\"}}}}"),
            );
        }
        Bson::ObjectId(id) => wrapped(text, "$oid", &id.to_hex()),
        Bson::DateTime(date) => {
            text.push_str("{\"$date\":");
            wrapped(text, "$numberLong", &date.timestamp_millis().to_string());
            text.push('}');
        }
        Bson::Symbol(value) => wrapped(text, "$symbol", value),
        Bson::Decimal128(value) => wrapped(text, "$numberDecimal", &value.to_string()),
        Bson::Undefined => text.push_str("{\"$undefined\":true}"),
        Bson::MaxKey => text.push_str("{\"$maxKey\":1}"),
        Bson::MinKey => text.push_str("{\"$minKey\":1}"),
        // Options and indexes cannot hold one: servers that had it are long gone.
        Bson::DbPointer(_) => text.push_str("{\"$undefined\":true}"),
    }
}

/// The shortest text that is the number again, as Go's `strconv` has it (`'G'`), with a point.
fn double(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}E{sign}{:02}", exponent.abs())
        }
        _ if value.fract() == 0.0 => format!("{value:.1}"),
        _ => format!("{value}"),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::doc;

    use super::*;

    #[test]
    fn text_is_canonical_in_order_and_read_back_the_same() {
        let document = doc! {
            "z": 1_i32, "a": -2_i64, "half": 0.5, "whole": -1.0, "large": 1e300, "small": 2.5e-9,
            "nested": { "b": [true, Bson::Null, "q\"\\\n\u{1}é"] },
            "max": Bson::MaxKey, "date": mongodb::bson::DateTime::from_millis(-1),
        };
        let text = canonical(&document);
        assert!(text.starts_with(
            r#"{"z":{"$numberInt":"1"},"a":{"$numberLong":"-2"},"half":{"$numberDouble":"0.5"},"whole":{"$numberDouble":"-1.0"},"#
        ));
        assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), document, "{text}");
    }
}
