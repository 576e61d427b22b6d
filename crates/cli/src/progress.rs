//! A bar on the terminal: bytes, rate, elapsed time, and what is being done.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backup_core::{Event, Progress, RunStatus};
use indicatif::{ProgressBar, ProgressStyle};

use crate::printer::Printer;

const UNKNOWN: &str = "{spinner} {prefix:11} {bytes} {bytes_per_sec} {elapsed} {wide_msg}";
const KNOWN: &str =
    "{spinner} {prefix:11} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} {elapsed}, {eta} left {wide_msg}";

/// Draws on stderr when somebody sees it; passes warnings on in any case.
#[derive(Debug)]
pub(crate) struct Bar {
    printer: Printer,
    bar: Option<ProgressBar>,
    /// Bytes on the side that is counted: plaintext, or sealed bytes where no plaintext passes.
    plain: AtomicU64,
    sealed: AtomicU64,
    status: Mutex<RunStatus>,
}

impl Bar {
    /// A bar for one run, `drawn` where there is a terminal.
    pub(crate) fn new(printer: &Printer, drawn: bool) -> Self {
        let bar = printer.bars().filter(|_| drawn).map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(style(UNKNOWN));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self {
            printer: printer.clone(),
            bar,
            plain: AtomicU64::new(0),
            sealed: AtomicU64::new(0),
            status: Mutex::new(RunStatus::Pending),
        }
    }

    /// Takes the bar off the terminal.
    pub(crate) fn done(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn status(&self, status: RunStatus) {
        let changed = match self.status.lock() {
            Ok(mut current) => std::mem::replace(&mut *current, status) != status,
            Err(_) => false,
        };
        if !changed {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_prefix(status.to_string());
        } else {
            self.printer.detail(&status.to_string());
        }
    }

    fn count(&self, bar: &ProgressBar) {
        let plain = self.plain.load(Ordering::Relaxed);
        bar.set_position(if plain > 0 { plain } else { self.sealed.load(Ordering::Relaxed) });
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants; a plain spinner stands in for a broken one.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Progress for Bar {
    fn on(&self, event: Event<'_>) {
        match event {
            Event::Status(status) => self.status(status),
            Event::Warning(text) => self.printer.warn_once(text),
            Event::ToolLine(text) => self.printer.detail(&format!("  {text}")),
            Event::Plain { bytes } => {
                self.plain.fetch_add(bytes, Ordering::Relaxed);
                self.bar.iter().for_each(|bar| self.count(bar));
            }
            Event::Sealed { bytes } => {
                self.sealed.fetch_add(bytes, Ordering::Relaxed);
                self.bar.iter().for_each(|bar| self.count(bar));
            }
            Event::Estimate { bytes } => {
                if let Some(bar) = &self.bar {
                    bar.set_length(bytes);
                    bar.set_style(style(KNOWN));
                }
            }
            Event::Table(name) => {
                if let Some(bar) = &self.bar {
                    bar.set_message(name.to_owned());
                }
            }
            _ => {}
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.done();
    }
}
