//! Data to stdout, talk to stderr; one place decides who hears what.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::MultiProgress;
use serde_json::Value;

use crate::failure::{Failure, Outcome, io_error};

/// How a command speaks. Cheap to clone; all clones obey one set of wishes.
#[derive(Debug, Clone)]
pub(crate) struct Printer {
    wishes: Arc<Wishes>,
    warned: Arc<Mutex<BTreeSet<String>>>,
    bars: MultiProgress,
}

#[derive(Debug)]
struct Wishes {
    json: AtomicBool,
    quiet: AtomicBool,
    verbose: AtomicBool,
}

impl Printer {
    /// A printer with these wishes.
    pub(crate) fn new(json: bool, quiet: bool, verbose: bool) -> Self {
        let wishes = Wishes {
            json: AtomicBool::new(json),
            quiet: AtomicBool::new(quiet),
            verbose: AtomicBool::new(verbose),
        };
        Self { wishes: Arc::new(wishes), warned: Arc::default(), bars: MultiProgress::new() }
    }

    /// Takes on the wishes of the settings, once these are understood.
    pub(crate) fn adopt(&self, json: bool, quiet: bool, verbose: bool) {
        self.wishes.json.store(json, Ordering::Relaxed);
        self.wishes.quiet.store(quiet, Ordering::Relaxed);
        self.wishes.verbose.store(verbose, Ordering::Relaxed);
    }

    /// Whether results are JSON.
    pub(crate) fn json(&self) -> bool {
        self.wishes.json.load(Ordering::Relaxed)
    }

    fn quiet(&self) -> bool {
        self.wishes.quiet.load(Ordering::Relaxed)
    }

    /// Where bars are drawn, if anybody would see them.
    pub(crate) fn bars(&self) -> Option<&MultiProgress> {
        (!self.quiet() && !self.json() && io::stderr().is_terminal()).then_some(&self.bars)
    }

    /// Says something on stderr, unless told to be quiet or to answer programs.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet() && !self.json() {
            self.stderr(text);
        }
    }

    /// Says more on stderr, when asked to.
    pub(crate) fn detail(&self, text: &str) {
        if self.wishes.verbose.load(Ordering::Relaxed) && !self.quiet() && !self.json() {
            self.stderr(text);
        }
    }

    /// Warns on stderr, always.
    pub(crate) fn warn(&self, text: &str) {
        self.is_new(text);
        self.stderr(&format!("warning: {text}"));
    }

    /// Warns of what was not warned of before: a look at a database and its dump may find the same.
    pub(crate) fn warn_once(&self, text: &str) {
        if self.is_new(text) {
            self.stderr(&format!("warning: {text}"));
        }
    }

    fn is_new(&self, text: &str) -> bool {
        self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned())
    }

    /// Tells how the command failed, on stderr.
    pub(crate) fn failed(&self, failure: &Failure) {
        if matches!(failure, Failure::ClosedPipe) {
            return;
        }
        if self.json() {
            self.stderr(&failure.for_a_program().to_string());
        } else {
            self.stderr(failure.for_a_person().trim_end());
        }
    }

    /// Prints a result on stdout: the JSON document or the text.
    ///
    /// # Errors
    /// `ClosedPipe` when nobody reads any more.
    pub(crate) fn result(&self, json: &Value, text: &str) -> Outcome {
        let document = if self.json() { format!("{json:#}") } else { text.trim_end().to_owned() };
        write_stdout(&document)
    }

    fn stderr(&self, text: &str) {
        let text = harmless(text);
        // Nothing can be done about a closed stderr.
        self.bars.suspend(|| {
            let _ = writeln!(io::stderr(), "{text}");
        });
    }
}

/// Writes a line or more to stdout.
pub(crate) fn write_stdout(text: &str) -> Outcome {
    let text = harmless(text);
    let mut out = io::stdout().lock();
    let written =
        if text.is_empty() { out.flush() } else { writeln!(out, "{text}").and_then(|()| out.flush()) };
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::ClosedPipe),
        Err(error) => Err(io_error("standard output".as_ref(), "write", error)
            .with_hint("what the command did stands; only its answer could not be written")
            .into()),
        Ok(()) => Ok(()),
    }
}

/// Words of servers, programs and files among ours, with `?` for what could move the cursor, change
/// colours or begin a terminal's commands.
fn harmless(text: &str) -> Cow<'_, str> {
    let harm = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(harm) { Cow::Owned(text.replace(harm, "?")) } else { Cow::Borrowed(text) }
}

/// A text that a server chose, such as a table's name, with `?` for what could move the cursor or
/// begin a line of its own.
pub(crate) fn on_one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Bytes for a person: three digits and a binary unit.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// A length of time for a person.
pub(crate) fn duration(seconds: i64) -> String {
    match seconds {
        ..0 => "in the future".to_owned(),
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_said_commands_a_terminal() {
        assert_eq!(harmless("a\x1b[2J\n\tb\x07\u{9b}"), "a?[2J\n\tb??");
        assert!(matches!(harmless("ünïcödé\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn durations_read_well() {
        let table = [
            (-5, "in the future"),
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7200, "2 h"),
            (172_800, "2 days"),
        ];
        for (seconds, text) in table {
            assert_eq!(duration(seconds), text);
        }
    }
}
