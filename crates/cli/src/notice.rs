//! What is said of backups that anyone can read.

use backup_core::Manifest;

use crate::printer::Printer;

/// Whether a manifest says that its backup is encrypted.
pub(crate) fn is_encrypted(manifest: &Manifest) -> bool {
    !manifest.recipients.iter().any(|recipient| recipient.kind == "none")
}

/// Warns of a backup that is not encrypted; the format asks every reader to.
pub(crate) fn warn_unless_encrypted(printer: &Printer, manifest: &Manifest) {
    if !is_encrypted(manifest) {
        warn_not_encrypted(printer, &manifest.backup().to_string());
    }
}

/// Warns that `what`, a backup or a file, is not encrypted.
pub(crate) fn warn_not_encrypted(printer: &Printer, what: &str) {
    printer.warn(&format!("{what} is NOT encrypted: everyone who can read the place can read it"));
}
