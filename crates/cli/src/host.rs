//! The keys that this machine signs with.

use std::path::Path;

use backup_core::{ErrorKind, Result};
use envelope_crypto::keys::{KeyError, Protection, read_key_file};
use envelope_crypto::sign::{SigningKey, VerifyingKey};

use crate::keys;
use crate::printer::Printer;
use crate::settings::{PassphraseFrom, Settings};
use crate::state::{State, durable};

/// This host's signing key, made at the first need; its public half lies beside it.
///
/// # Errors
/// Those of the state folder and of the key file.
pub(crate) fn host_key(state: &State, printer: &Printer) -> Result<SigningKey> {
    made_once(&state.host_key(), &state.host_public_key(), printer)
}

/// This host's public key where it has one; a machine that only reads has none.
///
/// # Errors
/// Those of the key file.
pub(crate) fn host_key_here(state: &State) -> Result<Option<VerifyingKey>> {
    let path = state.host_public_key();
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let about = |e: KeyError| e.about(path.display().to_string());
    let file = read_key_file(&path).map_err(about)?;
    VerifyingKey::from_pem(&file.contents).map(Some).map_err(about)
}

/// The owner's key where it still lies in the state folder.
///
/// # Errors
/// Those of the key file.
pub(crate) fn owner_key_here(
    state: &State,
    settings: &Settings,
    printer: &Printer,
) -> Result<Option<SigningKey>> {
    let path = state.owner_key();
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    keys::signing_key(&path, &settings.passphrase, printer).map(Some)
}

/// Makes the owner's key in the state folder, or reads the one that an interrupted run left there.
///
/// # Errors
/// Those of the state folder and of the key file.
pub(crate) fn make_owner_key(state: &State, printer: &Printer) -> Result<SigningKey> {
    made_once(&state.owner_key(), &state.owner_public_key(), printer)
}

fn made_once(private: &Path, public: &Path, printer: &Printer) -> Result<SigningKey> {
    if private.symlink_metadata().is_err() {
        let about = |e: KeyError| e.about(private.display().to_string());
        let key = SigningKey::generate().map_err(about)?;
        // An unattended host has nobody to type a passphrase; the file's mode and the folder's guard it.
        let pem = key.to_pem(Protection::NoPassphrase).map_err(about)?;
        match durable::create(private, pem.as_bytes(), 0o600) {
            // Another process was faster; its key is the one.
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            made => made?,
        }
    }
    let key = keys::signing_key(private, &PassphraseFrom::Prompt, printer)?;
    if public.symlink_metadata().is_err() {
        durable::replace(public, key.verifying_key().to_pem().as_bytes(), 0o644)?;
    }
    Ok(key)
}
