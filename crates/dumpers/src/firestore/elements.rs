//! The elements of a JSON array, as they arrive.

/// An element may have this many bytes. A document has at most 1 MiB as Firestore counts; written as
/// typed JSON, one full of small values becomes some twenty times as long.
pub(super) const ELEMENT_MAX: usize = 64 << 20;

/// Cuts `[{...},{...}]` into its objects without understanding them.
#[derive(Debug, Default)]
pub(super) struct Elements {
    buffer: Vec<u8>,
    scanned: usize,
    start: Option<usize>,
    depth: usize,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Before,
    Inside,
    Text,
    Escape,
    After,
}

/// Why an answer is no array of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ElementsError {
    /// Something else, or not UTF-8.
    #[error("the answer is not an array of objects")]
    Shape,
    /// Longer than [`ELEMENT_MAX`].
    #[error("an element of the answer is longer than {ELEMENT_MAX} bytes")]
    TooLong,
}

impl Elements {
    /// Takes the next bytes of the answer.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        // What was handed out is dropped here, once for each chunk.
        let keep = self.start.unwrap_or(self.scanned);
        self.buffer.drain(..keep);
        self.scanned -= keep;
        self.start = self.start.map(|start| start - keep);
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole element, or `None` until more bytes are pushed.
    pub(super) fn next(&mut self) -> Result<Option<&str>, ElementsError> {
        while let Some(&byte) = self.buffer.get(self.scanned) {
            let at = self.scanned;
            self.scanned += 1;
            match (self.state, byte) {
                (_, b' ' | b'\t' | b'\n' | b'\r') if self.depth == 0 => {}
                (State::Before, b'[') => self.state = State::Inside,
                (State::Inside, b'"') if self.depth > 0 => self.state = State::Text,
                (State::Inside, b'{' | b'[') if self.depth > 0 || byte == b'{' => {
                    if self.depth == 0 {
                        self.start = Some(at);
                    }
                    self.depth += 1;
                }
                (State::Inside, b'}' | b']') if self.depth > 0 => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        let start = self.start.take().unwrap_or(at);
                        let element = &self.buffer[start..self.scanned];
                        return std::str::from_utf8(element).map(Some).map_err(|_| ElementsError::Shape);
                    }
                }
                (State::Inside, b']') => self.state = State::After,
                (State::Inside, b',') if self.depth == 0 => {}
                (State::Inside, _) if self.depth > 0 => {}
                (State::Text, b'"') => self.state = State::Inside,
                (State::Text, b'\\') => self.state = State::Escape,
                (State::Text, _) => {}
                (State::Escape, _) => self.state = State::Text,
                _ => return Err(ElementsError::Shape),
            }
        }
        if self.buffer.len() > ELEMENT_MAX { Err(ElementsError::TooLong) } else { Ok(None) }
    }

    /// Whether the array was closed.
    pub(super) fn ended(&self) -> bool {
        self.state == State::After
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str, size: usize) -> (Vec<String>, Result<bool, ElementsError>) {
        let mut elements = Elements::default();
        let mut found = Vec::new();
        for chunk in text.as_bytes().chunks(size) {
            elements.push(chunk);
            loop {
                match elements.next() {
                    Ok(Some(element)) => found.push(element.to_owned()),
                    Ok(None) => break,
                    Err(error) => return (found, Err(error)),
                }
            }
        }
        (found, Ok(elements.ended()))
    }

    #[test]
    fn elements_are_cut_in_chunks_of_any_size() {
        let text = " [ {\"a\":\"]}\\\"{é\"}\n,{\"b\":[[1],{}]},{}]\n";
        for size in 1..text.len() + 1 {
            let (found, ended) = cut(text, size);
            assert_eq!(found, ["{\"a\":\"]}\\\"{é\"}", "{\"b\":[[1],{}]}", "{}"]);
            assert_eq!(ended, Ok(true));
        }
        assert_eq!(cut("[]", 1), (vec![], Ok(true)));
    }

    #[test]
    fn an_array_that_is_cut_has_not_ended() {
        let text = "[{\"a\":1},{\"b\":2}]";
        for len in 0..text.len() {
            assert_eq!(cut(&text[..len], 3).1, Ok(false), "{len}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["x", "{}", "[1]", "[{}]x", "[\"a\"]", "[[]]", "[{}}"] {
            assert_eq!(cut(text, 2).1, Err(ElementsError::Shape), "{text}");
        }
    }
}
