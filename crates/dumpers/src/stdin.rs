//! The process's own standard input as a source.

use std::fmt;
use std::io::{ErrorKind as IoErrorKind, Read};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use backup_core::{
    Context, Dump, DumpFormat, DumpReport, Dumper, Error, ErrorKind, Probe, Result, Selection, Stage,
};
use bytes::BytesMut;
use serde::Deserialize;

use crate::produce::{Outlet, produce};
use crate::publish::EMPTY_HINT;

const SUBJECT: &str = "standard input";
const CHUNK: usize = 1024 * 1024;

/// Settings of a source that reads standard input.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StdinConfig {
    /// What the bytes are, when a restorer should know; `raw` without it.
    pub format: Option<String>,
    /// Accept an empty input as a whole dump.
    pub allow_empty: bool,
}

/// Reads one input to its end, once.
///
/// The end of an input says nothing about the program at its other end: a producer that died looks
/// like one that finished. Where the producer can be started by us, a `command` source is better.
pub struct StdinDumper {
    config: StdinConfig,
    input: Mutex<Option<Box<dyn Read + Send>>>,
}

impl StdinDumper {
    /// The standard input of this process.
    #[must_use]
    pub fn new(config: StdinConfig) -> Self {
        Self::reading(config, std::io::stdin())
    }

    /// Another input, read on a thread of its own.
    pub fn reading(config: StdinConfig, input: impl Read + Send + 'static) -> Self {
        Self { config, input: Mutex::new(Some(Box::new(input))) }
    }
}

impl fmt::Debug for StdinDumper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdinDumper").field("config", &self.config).finish_non_exhaustive()
    }
}

#[async_trait]
impl Dumper for StdinDumper {
    async fn probe(&self, _cx: &Context) -> Result<Probe> {
        Ok(Probe {
            engine: "stdin".to_owned(),
            warnings: vec![
                "the end of standard input does not tell whether its producer succeeded; \
                 a command source does"
                    .to_owned(),
            ],
            ..Probe::default()
        })
    }

    async fn dump(&self, cx: &Context, what: &Selection) -> Result<Dump> {
        cx.check(SUBJECT)?;
        crate::command::refuse_selection(SUBJECT, what)?;
        let input = self.input.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(input) = input else {
            return Err(Error::new(ErrorKind::Conflict, SUBJECT, "was already read").at(Stage::Dump));
        };
        let allow_empty = self.config.allow_empty;
        let (bytes, report) = produce(cx, SUBJECT, move |outlet| read_all(input, allow_empty, outlet))?;
        let format = DumpFormat::new(self.config.format.as_deref().unwrap_or("raw"));
        Ok(Dump { format, bytes, report })
    }
}

fn read_all(mut input: Box<dyn Read + Send>, allow_empty: bool, outlet: &Outlet) -> Result<DumpReport> {
    let mut total = 0;
    loop {
        let mut chunk = BytesMut::zeroed(CHUNK);
        let mut filled = 0;
        let ended = loop {
            match input.read(&mut chunk[filled..]) {
                Ok(0) => break true,
                Ok(count) => filled += count,
                Err(error) if error.kind() == IoErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        SUBJECT,
                        format!("cannot be read: {error}"),
                    )
                    .at(Stage::Dump)
                    .with_source(error));
                }
            }
            if filled == CHUNK {
                break false;
            }
        };
        total += filled as u64;
        chunk.truncate(filled);
        if filled > 0 {
            outlet.put(chunk.freeze())?;
        }
        if ended {
            break;
        }
    }
    if total == 0 && !allow_empty {
        return Err(Error::new(ErrorKind::Tool, SUBJECT, "held nothing at all")
            .at(Stage::Dump)
            .with_hint(EMPTY_HINT));
    }
    Ok(DumpReport { engine: "stdin".to_owned(), ..DumpReport::default() })
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Error as IoError};

    use backup_core::testing::collect;

    use super::*;

    #[tokio::test]
    async fn an_input_is_read_whole_and_once() {
        let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let dumper = StdinDumper::reading(StdinConfig::default(), Cursor::new(content.clone()));
        let cx = Context::new();
        let dump = dumper.dump(&cx, &Selection::default()).await.unwrap();
        assert_eq!(dump.format.as_str(), "raw");
        assert_eq!(collect(dump.bytes).await.unwrap(), content);
        assert_eq!(dump.report.get().unwrap().engine, "stdin");
        let again = dumper.dump(&cx, &Selection::default()).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Conflict);
    }

    #[tokio::test]
    async fn an_empty_input_needs_leave() {
        let cx = Context::new();
        let dumper = StdinDumper::reading(StdinConfig::default(), Cursor::new(Vec::new()));
        let dump = dumper.dump(&cx, &Selection::default()).await.unwrap();
        assert_eq!(collect(dump.bytes).await.unwrap_err().kind(), ErrorKind::Tool);
        let config = StdinConfig { allow_empty: true, ..StdinConfig::default() };
        let dumper = StdinDumper::reading(config, Cursor::new(Vec::new()));
        let dump = dumper.dump(&cx, &Selection::default()).await.unwrap();
        assert!(collect(dump.bytes).await.unwrap().is_empty());
    }

    struct Breaks;
    impl Read for Breaks {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(IoError::other("broken"))
        }
    }

    #[tokio::test]
    async fn a_read_error_is_no_end() {
        let dumper = StdinDumper::reading(StdinConfig::default(), Breaks);
        let dump = dumper.dump(&Context::new(), &Selection::default()).await.unwrap();
        assert_eq!(collect(dump.bytes).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}
