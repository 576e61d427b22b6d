//! Key files: PEM, PKCS#1, PKCS#8, SubjectPublicKeyInfo. No passphrase is given: deriving a key is
//! slow on purpose, and what is encrypted with it is read by the same code as what is not.
#![no_main]

use envelope_crypto::keys::{RsaPrivateKey, RsaPublicKey, SecretKey, needs_passphrase};
use envelope_crypto::sign::{SigningKey, VerifyingKey};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = RsaPublicKey::from_pem(bytes) {
        assert!((2048..=8192).contains(&key.bits()));
        let again = RsaPublicKey::from_pem(key.to_pem().as_bytes()).expect("what was written is read");
        assert_eq!(again.key_id(), key.key_id());
    }
    let private = RsaPrivateKey::from_pem(bytes, None);
    let signing = SigningKey::from_pem(bytes, None);
    assert!(private.is_err() || signing.is_err(), "one file is two keys");
    if private.is_ok() || signing.is_ok() {
        assert_eq!(needs_passphrase(bytes), Ok(false));
    }
    if let Ok(key) = VerifyingKey::from_pem(bytes) {
        let text = key.to_string();
        assert_eq!(text.parse::<VerifyingKey>().expect("what was written is read"), key);
    }
    let _ = SecretKey::from_base64(bytes);
});
