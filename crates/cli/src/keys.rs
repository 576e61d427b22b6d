//! From names and files of keys to recipients and identities.

use std::path::Path;
use std::sync::Arc;

use backup_core::{Error, ErrorKind, Result};
use envelope_crypto::PassphraseKdf;
use envelope_crypto::keys::{
    Passphrase, RsaPrivateKey, RsaPublicKey, SecretKey, needs_passphrase, read_key_file,
};
use envelope_crypto::recipients::{
    Identity, NoneRecipient, PassphraseIdentity, PassphraseRecipient, Recipient, RsaIdentity, RsaRecipient,
    SecretKeyIdentity, SecretKeyRecipient,
};
use envelope_crypto::sign::SigningKey;

use crate::checks::Checks;
use crate::failure::{Failure, io_error};
use crate::printer::Printer;
use crate::secrets;
use crate::settings::{Kdf, KeyName, PassphraseFrom, SecretKeyFrom, Settings};

/// Rounds of PBKDF2 where that is asked for; the format takes 600,000 to 10,000,000.
const PBKDF2_ITERATIONS: u32 = 1_000_000;

/// Who can open what is sealed.
///
/// # Errors
/// Those of the key files and of the secrets.
pub(crate) fn recipients(settings: &Settings, printer: &Printer) -> Result<Vec<Arc<dyn Recipient>>> {
    if settings.no_encryption {
        printer.warn("NO ENCRYPTION: everyone who can read the result can read the data");
        return Ok(vec![Arc::new(NoneRecipient)]);
    }
    let mut recipients: Vec<Arc<dyn Recipient>> = Vec::new();
    for name in &settings.recipients {
        let recipient: Arc<dyn Recipient> = match name {
            KeyName::File(path) => Arc::new(rsa_recipient(path)?),
            KeyName::Passphrase => {
                let text = secrets::new_passphrase(&settings.passphrase, "the backup")?;
                let passphrase = Passphrase::new(text.as_bytes()).map_err(|e| e.about("passphrase"))?;
                let kdf = match settings.kdf {
                    Kdf::Argon2id => PassphraseKdf::DEFAULT,
                    Kdf::Pbkdf2 => PassphraseKdf::Pbkdf2 { iterations: PBKDF2_ITERATIONS },
                };
                let recipient = PassphraseRecipient::with_kdf(passphrase, kdf);
                Arc::new(recipient.map_err(|e| Error::bug(format!("a derivation is out of bounds: {e}")))?)
            }
            KeyName::SecretKey => Arc::new(SecretKeyRecipient::from_bytes(secret_key(settings)?)),
            KeyName::None => continue,
        };
        // One key named twice is one recipient.
        if !recipients.iter().any(|r| r.describe() == recipient.describe()) {
            recipients.push(recipient);
        }
    }
    Ok(recipients)
}

/// What opens backups. A key file that the passphrase at hand does not open is left out with a
/// warning when something else is left to open with: the passphrase may be another identity's.
///
/// # Errors
/// Those of the key files and of the secrets; a refused key file's when nothing else is left.
pub(crate) fn identities(settings: &Settings, printer: &Printer) -> Result<Vec<Arc<dyn Identity>>> {
    let mut identities: Vec<Arc<dyn Identity>> = Vec::new();
    let mut refused = Vec::new();
    for name in &settings.identities {
        identities.push(match name {
            KeyName::None => continue,
            KeyName::File(path) => match rsa_identity(path, &settings.passphrase, printer) {
                Ok(identity) => Arc::new(identity),
                Err(error) if error.kind() == ErrorKind::Denied => {
                    refused.push(error);
                    continue;
                }
                Err(error) => return Err(error),
            },
            KeyName::Passphrase => {
                let text = secrets::passphrase(&settings.passphrase, "the backup")?;
                let identity = PassphraseIdentity::new(&text);
                Arc::new(identity.map_err(|e| e.about("passphrase"))?)
            }
            KeyName::SecretKey => Arc::new(SecretKeyIdentity::from_bytes(secret_key(settings)?)),
        });
    }
    if identities.is_empty() && !refused.is_empty() {
        return Err(refused.remove(0));
    }
    for error in &refused {
        printer.warn(&format!("{} is left out: {}", error.subject(), error.what()));
    }
    Ok(identities)
}

/// Says that the passphrase and the data cannot both come from stdin: each would take the other's bytes.
pub(crate) fn check_stdin(settings: &Settings, is_data: bool, checks: &mut Checks) {
    let stdin = ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];
    let (setting, meant) = match &settings.passphrase {
        PassphraseFrom::Descriptor(0) => ("flag --passphrase-fd 0".to_owned(), true),
        PassphraseFrom::File(path) => {
            (settings.named("keys.passphrase_file"), stdin.iter().any(|name| path == Path::new(name)))
        }
        _ => (String::new(), false),
    };
    if is_data && meant {
        let what = "standard input cannot hold both the passphrase and the data";
        let hint = "name a file for one of them, or another descriptor, as in --passphrase-fd 3 3<FILE";
        checks.keep("", Err::<(), _>(Failure::usage(setting, what, hint)));
    }
}

/// Says what is wrong with a public key's file, unless that is a pipe.
pub(crate) fn check_public(path: &Path) -> Result<()> {
    match is_file(path)? {
        true => rsa_recipient(path).map(drop),
        // What is in a pipe can be read once.
        false => Ok(()),
    }
}

/// Says what is wrong with the recipients, as far as that can be known without asking anybody.
pub(crate) fn check_recipients(settings: &Settings, checks: &mut Checks) {
    for name in &settings.recipients {
        match name {
            KeyName::File(path) => {
                checks.keep(&settings.named("keys.recipients"), check_public(path));
            }
            other => check_secret(settings, other, checks),
        }
    }
}

/// Says what is wrong with the identities, as far as that can be known without asking anybody.
pub(crate) fn check_identities(settings: &Settings, checks: &mut Checks) {
    for name in &settings.identities {
        let KeyName::File(path) = name else {
            check_secret(settings, name, checks);
            continue;
        };
        let needed = is_file(path).and_then(|file| match file {
            false => Ok(false),
            true => {
                let subject = path.display().to_string();
                let file = read_key_file(path).map_err(|e| e.about(&subject))?;
                needs_passphrase(&file.contents).map_err(|e| e.about(&subject))
            }
        });
        if checks.keep(&settings.named("keys.identities"), needed) == Some(true) {
            check_secret(settings, &KeyName::Passphrase, checks);
        }
    }
}

fn check_secret(settings: &Settings, name: &KeyName, checks: &mut Checks) {
    match name {
        KeyName::Passphrase => match &settings.passphrase {
            PassphraseFrom::File(path) => {
                checks.keep(&settings.named("keys.passphrase_file"), is_file(path));
            }
            PassphraseFrom::Descriptor(number) => {
                checks.keep("", secrets::check_descriptor(*number));
            }
            PassphraseFrom::Variable(_) | PassphraseFrom::Prompt => {}
        },
        KeyName::SecretKey => match &settings.secret_key {
            Some(SecretKeyFrom::File(path)) => {
                checks.keep(&settings.named("keys.secret_key_file"), is_file(path));
            }
            Some(SecretKeyFrom::Variable(_)) => {}
            None => {
                checks.keep("", secret_key(settings).map(drop));
            }
        },
        KeyName::File(_) | KeyName::None => {}
    }
}

/// Whether it is a regular file, which can be read more than once.
fn is_file(path: &Path) -> Result<bool> {
    let meta = path.metadata().map_err(|e| io_error(path, "read", e))?;
    if meta.is_dir() {
        return Err(
            Error::new(ErrorKind::Config, path.display().to_string(), "is a folder").with_hint("name a file")
        );
    }
    if meta.is_file() {
        std::fs::File::open(path).map_err(|e| io_error(path, "read", e))?;
    }
    Ok(meta.is_file())
}

/// The passphrase, as a key derivation takes it.
pub(crate) fn passphrase(from: &PassphraseFrom, what: &str) -> Result<Passphrase> {
    let text = secrets::passphrase(from, what)?;
    Passphrase::new(text.as_bytes()).map_err(|e| e.about("passphrase"))
}

/// A private key that signs, from a file.
pub(crate) fn signing_key(path: &Path, from: &PassphraseFrom, printer: &Printer) -> Result<SigningKey> {
    let about = |e: envelope_crypto::keys::KeyError| e.about(path.display().to_string());
    let file = read_key_file(path).map_err(about)?;
    if let Some(warning) = &file.warning {
        printer.warn(&warning.to_string());
    }
    let passphrase = match needs_passphrase(&file.contents).map_err(about)? {
        true => Some(passphrase(from, &path.display().to_string())?),
        false => None,
    };
    SigningKey::from_pem(&file.contents, passphrase.as_ref()).map_err(about)
}

fn rsa_recipient(path: &Path) -> Result<RsaRecipient> {
    let subject = path.display().to_string();
    let file = read_key_file(path).map_err(|e| e.about(&subject))?;
    let key = RsaPublicKey::from_pem(&file.contents).map_err(|e| e.about(&subject))?;
    RsaRecipient::from_public(key.as_rsa().clone())
        .map_err(|e| Error::new(ErrorKind::Config, subject, e.to_string()))
}

fn rsa_identity(path: &Path, from: &PassphraseFrom, printer: &Printer) -> Result<RsaIdentity> {
    let subject = path.display().to_string();
    let file = read_key_file(path).map_err(|e| e.about(&subject))?;
    if let Some(warning) = &file.warning {
        printer.warn(&warning.to_string());
    }
    let passphrase = match needs_passphrase(&file.contents).map_err(|e| e.about(&subject))? {
        true => Some(passphrase(from, &subject)?),
        false => None,
    };
    let key = RsaPrivateKey::from_pem(&file.contents, passphrase.as_ref()).map_err(|e| e.about(&subject))?;
    RsaIdentity::from_private(key.as_rsa().clone())
        .map_err(|e| Error::new(ErrorKind::Config, subject, e.to_string()))
}

fn secret_key(settings: &Settings) -> Result<zeroize::Zeroizing<[u8; 32]>> {
    let Some(from) = &settings.secret_key else {
        return Err(Error::new(ErrorKind::Config, "secret key", "not given")
            .with_hint("pass --secret-key-file F, or set STRONGROOM_ENCRYPTION_KEY or ENCRYPTION_KEY"));
    };
    let text = secrets::secret_key(from)?;
    let key = SecretKey::from_base64(text.as_bytes()).map_err(|e| e.about("secret key"))?;
    Ok(zeroize::Zeroizing::new(*key.as_bytes()))
}
