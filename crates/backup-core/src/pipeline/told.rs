//! What a dump tells people while it is made, kept with its report: whoever restores it should know.

use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;

use crate::context::Context;
use crate::dump::Dump;
use crate::progress::{Event, Progress};
use crate::settled::Settled;
use crate::stream::ByteStream;

/// The most warnings that are kept, and the most characters of one.
const WARNINGS_MAX: usize = 200;
const WARNING_LEN_MAX: usize = 2000;

/// Hears the warnings of one dump and passes everything on.
#[derive(Debug, Clone)]
pub(super) struct Told {
    warnings: Arc<Mutex<Vec<String>>>,
    next: Arc<dyn Progress>,
}

impl Progress for Told {
    fn on(&self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
            let text: String = text.chars().take(WARNING_LEN_MAX).collect();
            if warnings.len() < WARNINGS_MAX && !warnings.contains(&text) {
                warnings.push(text);
            }
        }
        self.next.on(event);
    }
}

impl Told {
    /// Listens to what is told through the context that it gives.
    pub(super) fn listening(cx: &Context) -> (Self, Context) {
        let told = Self { warnings: Arc::default(), next: cx.progress() };
        (told.clone(), cx.clone().with_progress(Arc::new(told)))
    }

    /// The dump, whose report holds at its clean end what was told by then, too.
    pub(super) fn kept_with(self, dump: Dump) -> Dump {
        let (settler, settled) = Settled::pending();
        let Dump { format, bytes, report } = dump;
        let mut end = Some((settler, self.warnings));
        let bytes = bytes.map(Some).chain(futures::stream::iter([None])).filter_map(move |item| {
            // After the last chunk of a clean end, and before the end itself.
            if item.is_none()
                && let (Some((settler, warnings)), Some(known)) = (end.take(), report.get())
            {
                let told = std::mem::take(&mut *warnings.lock().unwrap_or_else(PoisonError::into_inner));
                let mut whole = known.clone();
                whole.warnings.extend(told);
                settler.settle(whole);
            }
            std::future::ready(item)
        });
        Dump { format, bytes: ByteStream::new(bytes), report: settled }
    }
}
