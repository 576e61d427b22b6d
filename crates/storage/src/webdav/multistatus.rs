//! What a PROPFIND says (RFC 4918, sections 9.1 and 14), read with bounds and without trust.

use jiff::Timestamp;
use quick_xml::NsReader;
use quick_xml::events::Event;
use quick_xml::name::{Namespace, ResolveResult};

/// What is asked for.
pub(super) const ASK: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
    <D:propfind xmlns:D=\"DAV:\"><D:prop><D:resourcetype/><D:getcontentlength/><D:getetag/><D:getlastmodified/>\
    </D:prop></D:propfind>";

const DAV: Namespace<'static> = Namespace("DAV:");
/// Elements within elements: an answer has six.
const DEPTH_MAX: usize = 32;

/// What a server says of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// As the server wrote it: a path or a URL, encoded.
    pub(super) href: String,
    pub(super) is_folder: bool,
    pub(super) len: Option<u64>,
    pub(super) etag: Option<String>,
    pub(super) modified: Option<String>,
}

impl Found {
    /// When it was last changed, as far as that can be understood.
    pub(super) fn modified(&self) -> Option<Timestamp> {
        self.modified.as_deref().and_then(moment)
    }
}

/// A moment as HTTP writes it (RFC 9110, section 5.6.7).
fn moment(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

/// The answer is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads a multi-status document; names that are gone are left out.
pub(super) fn parse(document: &[u8]) -> Result<Vec<Found>, Malformed> {
    // UTF-8 is what every server writes.
    let mut reader = NsReader::from_str(std::str::from_utf8(document).map_err(|_| Malformed)?);
    // Where we are: the local names of the elements around, all in the namespace `DAV:`; others are empty.
    let mut path: Vec<String> = Vec::new();
    let (mut all, mut one, mut properties) = (Vec::new(), Found::default(), Found::default());
    let (mut text, mut refused, mut given, mut gone) = (String::new(), false, false, false);
    let mut whole = false;
    loop {
        let (namespace, event) = reader.read_resolved_event().map_err(|_| Malformed)?;
        let ours = matches!(namespace, ResolveResult::Bound(found) if found == DAV);
        match event {
            Event::Start(_) | Event::Empty(_) => {
                let (element, empty) = match &event {
                    Event::Start(element) => (element, false),
                    Event::Empty(element) => (element, true),
                    _ => return Err(Malformed),
                };
                let name = if ours { element.local_name().as_ref().to_owned() } else { String::new() };
                match name.as_str() {
                    "response" => (one, given, gone) = (Found::default(), false, false),
                    "propstat" => (properties, refused) = (Found::default(), false),
                    "collection" if path.last().is_some_and(|parent| parent == "resourcetype") => {
                        properties.is_folder = true;
                    }
                    _ => {}
                }
                text.clear();
                if !empty {
                    path.push(name);
                    if path.len() > DEPTH_MAX {
                        return Err(Malformed);
                    }
                }
            }
            Event::Text(piece) => text.push_str(&piece.xml10_content()),
            Event::CData(piece) => text.push_str(&piece.xml10_content()),
            Event::GeneralRef(reference) => {
                let character = match reference.resolve_char_ref().map_err(|_| Malformed)? {
                    Some(character) => character,
                    None => match &*reference.xml10_content() {
                        "amp" => '&',
                        "lt" => '<',
                        "gt" => '>',
                        "quot" => '"',
                        "apos" => '\'',
                        _ => return Err(Malformed),
                    },
                };
                text.push(character);
            }
            Event::End(_) => {
                let Some(name) = path.pop() else { return Err(Malformed) };
                let parent = path.last().map_or("", String::as_str);
                let word = text.trim();
                match (parent, name.as_str()) {
                    ("response", "href") => one.href = word.to_owned(),
                    ("response", "status") => gone = word.split_ascii_whitespace().nth(1) == Some("404"),
                    ("propstat", "status") => refused = !is_success(word),
                    ("prop", "getcontentlength") => properties.len = word.parse().ok(),
                    ("prop", "getetag") if !word.is_empty() => properties.etag = Some(word.to_owned()),
                    ("prop", "getlastmodified") if !word.is_empty() => {
                        properties.modified = Some(word.to_owned());
                    }
                    (_, "propstat") if !refused => {
                        one.is_folder |= properties.is_folder;
                        one.len = properties.len.or(one.len);
                        one.etag = properties.etag.take().or(one.etag);
                        one.modified = properties.modified.take().or(one.modified);
                        given = true;
                    }
                    (_, "response") if gone => {}
                    (_, "response") if given && !one.href.is_empty() => all.push(std::mem::take(&mut one)),
                    (_, "response") => return Err(Malformed),
                    (_, "multistatus") => whole = path.is_empty(),
                    _ => {}
                }
                text.clear();
            }
            // A document type could name entities, and nothing here needs one.
            Event::DocType(_) => return Err(Malformed),
            Event::Eof => break,
            _ => {}
        }
    }
    // A document that was cut is not a shorter list.
    if whole && path.is_empty() { Ok(all) } else { Err(Malformed) }
}

/// Whether a status line (`HTTP/1.1 200 OK`) is of success.
fn is_success(line: &str) -> bool {
    line.split_ascii_whitespace().nth(1).is_some_and(|code| code.starts_with('2'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Apache writes it, with two prefixes for one namespace, and a property that it does not have.
    const APACHE: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:" xmlns:ns0="DAV:">
<D:response xmlns:lp1="DAV:" xmlns:lp2="http://apache.org/dav/props/">
<D:href>/dav/a%20b/</D:href>
<D:propstat><D:prop><lp1:resourcetype><D:collection/></lp1:resourcetype>
<lp1:getetag>"1000"</lp1:getetag><lp1:getlastmodified>Sun, 22 Nov 2026 05:00:00 GMT</lp1:getlastmodified></D:prop>
<D:status>HTTP/1.1 200 OK</D:status></D:propstat>
<D:propstat><D:prop><D:getcontentlength/></D:prop><D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>
</D:response>
<D:response><D:href>/dav/a%20b/x&amp;y&#33;</D:href>
<D:propstat><D:prop><D:resourcetype/><D:getcontentlength>7</D:getcontentlength><D:getetag>W/"7-1"</D:getetag>
<x:getcontentlength xmlns:x="urn:x">9</x:getcontentlength></D:prop>
<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
<D:response><D:href>/dav/gone</D:href><D:status>HTTP/1.1 404 Not Found</D:status></D:response>
</D:multistatus>"#;

    #[test]
    fn what_apache_says_is_understood() {
        let found = parse(APACHE.as_bytes()).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].is_folder && found[0].len.is_none());
        assert_eq!(found[0].modified().unwrap().to_string(), "2026-11-22T05:00:00Z");
        assert_eq!(
            (found[1].href.as_str(), found[1].len, found[1].is_folder),
            ("/dav/a%20b/x&y!", Some(7), false)
        );
        assert_eq!(found[1].etag.as_deref(), Some("W/\"7-1\""));
    }

    #[test]
    fn a_cut_document_is_no_shorter_list() {
        for cut in 0..APACHE.len() {
            assert_eq!(parse(&APACHE.as_bytes()[..cut]), Err(Malformed), "{cut}");
        }
        for strange in ["<html><body>Hello</body></html>", "", "<!DOCTYPE x [<!ENTITY a 'b'>]><x/>"] {
            assert_eq!(parse(strange.as_bytes()), Err(Malformed), "{strange}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(at in 0usize..1_000, byte: u8, noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut document = APACHE.as_bytes().to_vec();
            let at = at % document.len();
            document[at] = byte;
            let _ = parse(&document);
            let _ = parse(&noise);
        }
    }
}
