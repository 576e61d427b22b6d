//! The accounts that views, triggers, routines and events run as.

use std::ops::Range;

/// The word before a definer's name, as `SHOW CREATE` prints it.
const WORD: &[u8] = b"DEFINER=`";

/// The definers that some definitions name, as `user@host`.
pub(super) fn definers(text: &[u8]) -> Vec<String> {
    places(text)
        .into_iter()
        .map(|place| {
            let named = String::from_utf8_lossy(&text[place.start + WORD.len() - 1..place.end]).into_owned();
            let inner = named.trim_matches('`').replace("`@`", "@");
            inner.replace("``", "`")
        })
        .collect()
}

/// The same text, with the restoring user for every definer.
pub(super) fn with_current_user(text: &[u8]) -> Vec<u8> {
    let mut changed = Vec::with_capacity(text.len());
    let mut at = 0;
    for place in places(text) {
        changed.extend_from_slice(&text[at..place.start]);
        changed.extend_from_slice(b"DEFINER=CURRENT_USER");
        at = place.end;
    }
    changed.extend_from_slice(&text[at..]);
    changed
}

/// Where `DEFINER=`user`@`host`` stands in the head of a definition: in a line that begins with
/// `CREATE` or with a conditional comment. A body may hold the same words further down; only the
/// first in such a line counts, and only before the word that says what is defined.
fn places(text: &[u8]) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    let mut start = 0;
    // Between `DELIMITER ;;` and the end of its block, only the first line of each statement.
    let (mut in_block, mut statement_begins) = (false, true);
    while start < text.len() {
        let end = memchr::memchr(b'\n', &text[start..]).map_or(text.len(), |at| start + at + 1);
        let line = &text[start..end];
        let begins = !in_block || statement_begins;
        if line.starts_with(b"DELIMITER ;;") {
            (in_block, statement_begins) = (true, true);
        } else if line.starts_with(b"DELIMITER ;") {
            in_block = false;
        } else {
            if begins
                && (line.starts_with(b"CREATE ") || line.starts_with(b"/*!"))
                && let Some(at) = memchr::memmem::find(line, WORD)
                && let Some(len) = account(&line[at + WORD.len() - 1..])
            {
                places.push(start + at..start + at + WORD.len() - 1 + len);
            }
            statement_begins = line.trim_ascii_end().ends_with(b";;");
        }
        start = end;
    }
    places
}

/// The length of `` `user`@`host` `` at the beginning of a text.
fn account(text: &[u8]) -> Option<usize> {
    let quoted = |text: &[u8]| -> Option<usize> {
        let mut at = 1;
        loop {
            at += memchr::memchr(b'`', text.get(at..)?)?;
            if text.get(at + 1) != Some(&b'`') {
                return Some(at + 1);
            }
            at += 2;
        }
    };
    let user = quoted(text)?;
    let rest = &text[user..];
    if rest.starts_with(b"@`") { Some(user + 1 + quoted(&rest[1..])?) } else { Some(user) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definers_are_found_in_heads_and_not_in_bodies() {
        let text = b"/*!50013 DEFINER=`o'n`@`%` SQL SECURITY DEFINER */\n\
            DELIMITER ;;\n/*!50003 CREATE*/ /*!50017 DEFINER=`a``b`@`localhost`*/ /*!50003 TRIGGER t\n\
            CREATE DEFINER=`body`@`x`\n*/;;\nDELIMITER ;\n\
            DELIMITER ;;\nCREATE DEFINER=`p`@`h` PROCEDURE x() begin end ;;\nDELIMITER ;\n";
        assert_eq!(definers(text), ["o'n@%", "a`b@localhost", "p@h"]);
        let changed = String::from_utf8(with_current_user(text)).unwrap();
        assert_eq!(changed.matches("DEFINER=CURRENT_USER").count(), 3, "{changed}");
        assert!(
            changed.contains("/*!50017 DEFINER=CURRENT_USER*/") && changed.contains("`body`@`x`"),
            "{changed}"
        );
    }
}
