//! What the strict reader accepts, an ordinary one reads as well, and in one way only.
#![no_main]

use backup_core::strict_json;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    if strict_json::check(bytes).is_err() {
        return;
    }
    assert!(bytes.iter().all(|byte| (0x20..=0x7e).contains(byte)));
    let value: Value = serde_json::from_slice(bytes).expect("strict JSON is JSON");
    // Written again it is strict again: no number, no string and no member has a second reading.
    let written = serde_json::to_vec(&value).expect("a value can be written");
    let again: Value = strict_json::from_slice(&written).expect("what was strict stays strict");
    assert_eq!(again, value);
});
