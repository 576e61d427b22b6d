//! Bodies of manifests: what is accepted is written again to the same meaning.
#![no_main]

use backup_core::{BackupRef, Manifest, ObjectKey};
use libfuzzer_sys::fuzz_target;
use strongroom_fuzz::MANIFEST_KEY;

fuzz_target!(|bytes: &[u8]| {
    // Names of objects are read from listings, which nobody signed.
    if let Some(at) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<ObjectKey>().ok()) {
        if let Some(backup) = BackupRef::of_manifest(&at) {
            assert_eq!(backup.manifest(), at);
        }
    }
    let key: ObjectKey = MANIFEST_KEY.parse().expect("a valid key");
    let at = BackupRef::of_manifest(&key).expect("the key of a manifest");
    if let Ok(manifest) = Manifest::from_json(&at, bytes) {
        assert_eq!(manifest.backup(), at);
        if let Ok(written) = manifest.to_json() {
            assert_eq!(Manifest::from_json(&at, &written).expect("what was written is read"), manifest);
        }
    }
});
