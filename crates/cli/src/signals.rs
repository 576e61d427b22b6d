//! Ctrl-C and SIGTERM: once stops in order, twice stops at once.

use backup_core::CancelToken;
use tokio::signal::unix::{SignalKind, signal};

use crate::printer::Printer;
use crate::terminal;

/// The exit code of a run that was cancelled.
const CANCELLED: i32 = 130;

/// Watches for the signals for as long as the process runs; must be called inside a runtime.
pub(crate) fn watch(cancel: CancelToken, printer: Printer) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        printer.warn("signals cannot be watched; Ctrl-C will end the program at once");
        return;
    };
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // An open question blocks the work, so nothing is under way that could stop in order.
            if terminal::restore() || cancel.is_cancelled() {
                std::process::exit(CANCELLED);
            }
            cancel.cancel();
            printer.say("stopping; once more to stop at once");
        }
    });
}
