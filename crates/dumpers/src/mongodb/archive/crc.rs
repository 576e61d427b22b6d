//! The checksum of a collection's documents.

use crc_fast::{CrcAlgorithm, Digest};

/// CRC-64/XZ: polynomial ECMA-182, reflected, start value and final XOR all ones.
#[derive(Clone)]
pub(in crate::mongodb) struct Crc64(Digest);

impl Crc64 {
    pub(in crate::mongodb) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64Xz))
    }

    pub(in crate::mongodb) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// As the archive holds it: a signed number.
    pub(in crate::mongodb) fn value(&self) -> i64 {
        self.0.finalize().cast_signed()
    }
}

impl std::fmt::Debug for Crc64 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Crc64({:016x})", self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_is_that_of_the_catalogue() {
        let mut crc = Crc64::new();
        assert_eq!(crc.value(), 0);
        crc.update(b"12345");
        crc.update(b"6789");
        assert_eq!(crc.value().cast_unsigned(), 0x995d_c9bb_df19_39fa);
    }
}
