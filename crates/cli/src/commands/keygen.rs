//! `keygen`: a key pair in two files.

use std::path::{Path, PathBuf};

use backup_core::Error;
use clap::Args;
use envelope_crypto::keys::{Passphrase, Protection, RSA_BITS_DEFAULT, RsaPrivateKey, write_key_pair};
use serde_json::json;

use super::Surroundings;
use crate::args::SecretArgs;
use crate::failure::{Failure, Outcome};
use crate::secrets;
use crate::settings::Needs;

/// Make a key pair.
#[derive(Debug, Args)]
pub(crate) struct Keygen {
    /// The file for the private key; the public key goes beside it as NAME.pub.pem
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Write the private key unencrypted
    #[arg(long, conflicts_with_all = ["passphrase_file", "passphrase_fd"])]
    no_passphrase: bool,
    /// The length of the key: 2048, 3072, 4096 or 8192
    #[arg(long, value_name = "N", default_value_t = RSA_BITS_DEFAULT)]
    bits: usize,
    #[command(flatten)]
    secrets: SecretArgs,
}

impl Keygen {
    /// Runs the command.
    pub(crate) fn run(self, mut around: Surroundings) -> Outcome {
        let settings = around.settings(&[&self.secrets], Needs::default())?;
        if self.output.file_name().is_none() || self.output == Path::new("-") {
            return Err(Failure::usage(
                "flag --output",
                format!("{:?} names no file; a key pair is two files", self.output),
                "name the private key's file, as in -o key.pem",
            ));
        }
        // Before anybody is asked for a passphrase.
        if ![2048, 3072, 4096, 8192].contains(&self.bits) {
            return Err(Failure::usage(
                "flag --bits",
                format!("RSA keys of {} bits are not made", self.bits),
                "choose 2048, 3072, 4096 or 8192",
            ));
        }
        let public = public_name(&self.output);
        for path in [&self.output, &public] {
            if path.symlink_metadata().is_ok() {
                return Err(Failure::from(
                    Error::new(
                        backup_core::ErrorKind::Conflict,
                        path.display().to_string(),
                        "is there already; a key file is never replaced",
                    )
                    .with_hint("choose another name with -o"),
                ));
            }
        }
        let passphrase = if self.no_passphrase {
            around.printer.warn("the private key will be readable by everyone who gets the file");
            None
        } else {
            let text = secrets::new_passphrase(&settings.passphrase, &self.output.display().to_string())?;
            Some(Passphrase::new(text.as_bytes()).map_err(|e| e.about("passphrase"))?)
        };
        let made = make(&self.output, &public, self.bits, passphrase.as_ref())?;
        around.printer.say(
            "Keep the private key away from the machine that backs up, in two places, one of them paper:",
        );
        around.printer.say("the file is text and can be printed. Without it no backup can ever be opened.");
        let text = format!(
            "private key  {}{}\npublic key   {}\nkey id       {made}\n",
            self.output.display(),
            if passphrase.is_some() { " (encrypted)" } else { " (NOT encrypted)" },
            public.display(),
        );
        let document = json!({
            "private_key": self.output, "public_key": public, "key_id": made, "type": "rsa-oaep-sha256",
            "bits": self.bits, "encrypted": passphrase.is_some(),
        });
        around.printer.result(&document, &text)
    }
}

/// Makes a pair and writes both files; answers the key's id.
pub(crate) fn make(
    private: &Path,
    public: &Path,
    bits: usize,
    passphrase: Option<&Passphrase>,
) -> Result<String, Error> {
    let key = RsaPrivateKey::generate(bits).map_err(|e| e.about("--bits"))?;
    let protection = passphrase.map_or(Protection::NoPassphrase, Protection::Passphrase);
    let pem = key.to_pem(protection).map_err(|e| e.about("private key"))?;
    write_key_pair(private, &pem, public, &key.public_key().to_pem())
        .map_err(|e| e.about(private.display().to_string()))?;
    Ok(key.key_id().to_string())
}

/// `key.pem` becomes `key.pub.pem`; any other name gets `.pub.pem` at its end.
pub(crate) fn public_name(private: &Path) -> PathBuf {
    let name = private.file_name().unwrap_or_default().to_string_lossy();
    private.with_file_name(format!("{}.pub.pem", name.strip_suffix(".pem").unwrap_or(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_name_stands_beside_the_private_one() {
        assert_eq!(public_name(Path::new("/k/key.pem")), Path::new("/k/key.pub.pem"));
        assert_eq!(public_name(Path::new("id")), Path::new("id.pub.pem"));
        assert_eq!(public_name(Path::new("a.b")), Path::new("a.b.pub.pem"));
    }
}
