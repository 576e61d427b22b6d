//! The last thing a process does: turn what happened into a code.

use std::process::ExitCode;

use crate::failure::Outcome;
use crate::printer::Printer;

/// Tells a failure, once, and picks the exit code.
pub(crate) fn code(outcome: Outcome, printer: &Printer) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            printer.failed(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}
