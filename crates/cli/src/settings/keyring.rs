//! Which keys, passphrases and secret keys are meant.

use std::path::PathBuf;

use zeroize::Zeroizing;

use super::file::{Found, Value};
use super::layers::{Layers, beside};
use super::problem::Origin;
use super::resolve::KeyName;
use super::value::{PassphraseFrom, SecretKeyFrom};

impl Layers<'_> {
    fn keys(&mut self, key: &'static str) -> Vec<KeyName> {
        let Some((names, origin)) = self.list(key) else { return Vec::new() };
        names
            .into_iter()
            .map(|name| match (name.as_str(), self.file.recipients.get(&name)) {
                ("passphrase", _) => KeyName::Passphrase,
                ("secret-key", _) => KeyName::SecretKey,
                ("none", _) if key == "keys.identities" => KeyName::None,
                (_, Some(Found { value: Value::Text(path), .. })) if key == "keys.recipients" => {
                    KeyName::File(PathBuf::from(path))
                }
                _ => match &origin {
                    Origin::File { path, .. } => KeyName::File(PathBuf::from(beside(path, &name))),
                    _ => KeyName::File(PathBuf::from(name)),
                },
            })
            .collect()
    }

    /// Whether backups are stored for everyone to read. The higher of the layers that name
    /// recipients and that switch encryption off decides; one layer that does both is refused.
    pub(super) fn no_encryption(&mut self) -> bool {
        if !self.switch("keys.no_encryption", false) {
            return false;
        }
        let named = self.list("keys.recipients").is_some_and(|(names, _)| !names.is_empty());
        let recipients = if named { self.layer("keys.recipients") } else { None };
        let none = self.layer("keys.no_encryption");
        if recipients == none {
            let origin = self.get("keys.no_encryption").map_or(Origin::Default, |found| found.origin);
            self.wrong(
                "keys.no_encryption",
                &origin,
                "contradicts keys.recipients (flag --recipient, variable STRONGROOM_RECIPIENTS), set in the same place",
            );
            self.hint("keep one of the two: the recipients to encrypt, or no_encryption to store for everyone to read");
        }
        none > recipients
    }

    /// Who can open new backups; `no_encryption` is what the function of that name decided.
    pub(super) fn recipients(&mut self, needed: bool, no_encryption: bool) -> Vec<KeyName> {
        if no_encryption {
            return Vec::new();
        }
        let keys = self.keys("keys.recipients");
        if needed && keys.is_empty() {
            self.missing(
                "keys.recipients",
                "nobody is named who could open the backup",
                "make a key with `strongroom keygen -o key.pem` and pass -r key.pub.pem; to store without encryption, say --no-encryption",
            );
        }
        let symmetric = keys.iter().any(|k| matches!(k, KeyName::Passphrase | KeyName::SecretKey));
        if needed && symmetric && !self.switch("keys.allow_symmetric", false) {
            self.missing(
                "keys.allow_symmetric",
                "a passphrase or secret key lets this machine read its own backups",
                "pass --allow-symmetric if that is meant, or use a public key",
            );
        }
        keys
    }

    pub(super) fn identities(&mut self, needed: bool) -> Vec<KeyName> {
        let mut keys = self.keys("keys.identities");
        if keys.is_empty() {
            // A passphrase or secret key that is at hand is meant to be used.
            if !matches!(self.passphrase(), PassphraseFrom::Prompt) {
                keys.push(KeyName::Passphrase);
            }
            if self.secret_key().is_some() {
                keys.push(KeyName::SecretKey);
            }
        }
        if needed && keys.is_empty() {
            self.missing(
                "keys.identities",
                "no key to open the backup with",
                "pass -i key.pem, -i passphrase or -i secret-key; -i none for a backup without encryption",
            );
        }
        keys
    }

    pub(super) fn passphrase(&mut self) -> PassphraseFrom {
        if let Some(number) = self.args.passphrase_fd {
            return PassphraseFrom::Descriptor(number);
        }
        let file = self.get("keys.passphrase_file");
        let variable = self.env.get("STRONGROOM_PASSPHRASE");
        match (file, variable) {
            (Some(Found { value: Value::Text(path), origin: Origin::Flag | Origin::Variable }), _) => {
                PassphraseFrom::File(PathBuf::from(path))
            }
            (_, Some(text)) => PassphraseFrom::Variable(Zeroizing::new(text.to_owned())),
            (Some(Found { value: Value::Text(path), .. }), None) => PassphraseFrom::File(PathBuf::from(path)),
            _ => PassphraseFrom::Prompt,
        }
    }

    pub(super) fn secret_key(&mut self) -> Option<SecretKeyFrom> {
        let file = self.get("keys.secret_key_file");
        let variable = self.env.get("STRONGROOM_ENCRYPTION_KEY").or_else(|| self.env.get("ENCRYPTION_KEY"));
        match (file, variable) {
            (Some(Found { value: Value::Text(path), origin: Origin::Flag | Origin::Variable }), _) => {
                Some(SecretKeyFrom::File(PathBuf::from(path)))
            }
            (_, Some(text)) => Some(SecretKeyFrom::Variable(Zeroizing::new(text.to_owned()))),
            (Some(Found { value: Value::Text(path), .. }), None) => {
                Some(SecretKeyFrom::File(PathBuf::from(path)))
            }
            _ => None,
        }
    }
}
