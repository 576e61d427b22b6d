//! What libraries log, said on stderr like everything else.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::printer::Printer;

/// Passes warnings and errors of our own crates on to the printer, and more when it is verbose.
pub(crate) struct ToPrinter(pub(crate) Printer);

impl Subscriber for ToPrinter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What other libraries say of their inner life may quote requests.
        let ours = ["cli", "storage", "dumpers", "envelope_crypto", "backup_core", "notifiers"];
        let named = metadata.target().split("::").next().unwrap_or_default();
        ours.contains(&named) && *metadata.level() <= Level::DEBUG
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut sentence = Sentence::default();
        event.record(&mut sentence);
        let Sentence { message, details } = sentence;
        // What a setting names is read again by every run and every look before it.
        let once = ["cli", "dumpers::secret"].iter().any(|part| event.metadata().target().starts_with(part));
        if *event.metadata().level() <= Level::WARN && once {
            self.0.warn_once(&format!("{message}{details}"));
        } else if *event.metadata().level() <= Level::WARN {
            self.0.warn(&format!("{message}{details}"));
        } else {
            self.0.detail(&format!("{message}{details}"));
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Sentence {
    message: String,
    details: String,
}

impl Visit for Sentence {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.details, ", {} {value:?}", field.name())
        };
    }
}
