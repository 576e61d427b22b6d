//! Reading a manifest that nobody vouches for.

use backup_core::{
    Attestation, BackupRef, Error, ErrorKind, Manifest, Origin, Removal, Result, Shredding, StatementKind,
    Trust, VouchedManifest,
};

use crate::sign::StoredStatement;

/// Takes manifests without asking who signed them: the backup may be intact, its origin is unknown.
///
/// Only for a person who asks for it by name. Form, payload type and place are still checked, so
/// that data and manifest belong together.
#[derive(Debug, Clone, Copy, Default)]
pub struct UnsignedOrigin;

impl Trust for UnsignedOrigin {
    fn vouch(&self, at: &BackupRef, stored: &[u8]) -> Result<VouchedManifest> {
        let statement = StoredStatement::parse(StatementKind::Manifest, stored)
            .map_err(|error| error.about(at.manifest().to_string()))?;
        let pae_sha256 = statement.pae_sha256();
        let manifest = Manifest::from_json(at, &statement.into_unbelieved_payload())?;
        Ok(VouchedManifest::vouched(manifest, Origin::Unknown, pae_sha256))
    }

    fn vouch_attestation(&self, at: &BackupRef, _: &[u8]) -> Result<Attestation> {
        Err(nobody(at))
    }

    fn vouch_removal(&self, at: &BackupRef, _: &[u8]) -> Result<Removal> {
        Err(nobody(at))
    }

    fn vouch_shredding(&self, at: &BackupRef, _: &[u8]) -> Result<Shredding> {
        Err(nobody(at))
    }
}

/// What is said of a backup counts only if it is known who said it.
fn nobody(at: &BackupRef) -> Error {
    Error::new(
        ErrorKind::Denied,
        at.to_string(),
        "statements about it are not believed without their signers",
    )
}
