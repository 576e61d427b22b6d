//! Dumps on their way out, compressed for tools that want them so.

use std::io::{self, Write};

use backup_core::{ByteStream, Error, Plain, Result};
use bytes::Bytes;
use clap::ValueEnum;
use tokio::task::spawn_blocking;

/// How an exported dump is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Export {
    /// gzip, RFC 1952
    Gzip,
    /// brotli, RFC 7932
    Brotli,
    /// zstd, RFC 8878
    Zstd,
}

/// Brotli's middle: about as quick as gzip, and denser.
const BROTLI_QUALITY: u32 = 5;
const BROTLI_WINDOW: u32 = 22;
/// Of the writers' own buffers, in bytes.
const BUFFER_LEN: usize = 64 << 10;

enum Encoder {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    fn new(how: Export) -> io::Result<Self> {
        let out = Vec::new();
        Ok(match how {
            Export::Gzip => Self::Gzip(flate2::write::GzEncoder::new(out, flate2::Compression::default())),
            Export::Brotli => {
                let writer = brotli::CompressorWriter::new(out, BUFFER_LEN, BROTLI_QUALITY, BROTLI_WINDOW);
                Self::Brotli(Box::new(writer))
            }
            Export::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)?;
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Takes a chunk; what it made of it and of those before, which may be nothing yet.
    fn push(&mut self, chunk: &[u8]) -> io::Result<Vec<u8>> {
        let out = match self {
            Self::Gzip(encoder) => {
                encoder.write_all(chunk)?;
                encoder.get_mut()
            }
            Self::Brotli(encoder) => {
                encoder.write_all(chunk)?;
                encoder.get_mut()
            }
            Self::Zstd(encoder) => {
                encoder.write_all(chunk)?;
                encoder.get_mut()
            }
        };
        Ok(std::mem::take(out))
    }

    /// The end of the compressed stream, by which its readers know that it is whole.
    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Brotli(encoder) => Ok(encoder.into_inner()),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// The compressed stream. It ends cleanly, with the mark of its format, only after `plain` did.
pub(crate) fn compressed(how: Export, plain: ByteStream<Plain>) -> ByteStream<Plain> {
    ByteStream::new(futures::stream::try_unfold((plain, Step::Begin(how)), async |(mut plain, step)| {
        let mut encoder = match step {
            Step::Begin(how) => Encoder::new(how).map_err(|e| broken(&e))?,
            Step::Running(encoder) => encoder,
            Step::Ended => return Ok(None),
        };
        loop {
            let Some(chunk) = plain.next().await.transpose()? else {
                let end = off_thread(move || encoder.finish()).await?;
                return Ok(Some((Bytes::from(end), (plain, Step::Ended))));
            };
            let (pushed, back) = off_thread(move || {
                let pushed = encoder.push(&chunk)?;
                Ok((pushed, encoder))
            })
            .await?;
            encoder = back;
            if !pushed.is_empty() {
                return Ok(Some((Bytes::from(pushed), (plain, Step::Running(encoder)))));
            }
        }
    }))
}

enum Step {
    Begin(Export),
    Running(Encoder),
    Ended,
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    let done = spawn_blocking(work).await;
    done.map_err(|e| Error::bug(format!("the compressing thread died: {e}")))?.map_err(|e| broken(&e))
}

fn broken(error: &io::Error) -> Error {
    Error::bug(format!("the compressor failed: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use backup_core::ErrorKind;
    use backup_core::testing::collect;

    use super::*;

    fn chunks() -> Vec<Result<Bytes>> {
        (0..50_u8).map(|i| Ok(Bytes::from(vec![i; 70_000]))).collect()
    }

    #[tokio::test]
    async fn every_format_comes_back_and_a_failed_dump_has_no_end() {
        let whole: Vec<u8> = chunks().into_iter().flat_map(|chunk| chunk.unwrap().to_vec()).collect();
        for how in [Export::Gzip, Export::Brotli, Export::Zstd] {
            let plain = ByteStream::new(futures::stream::iter(chunks()));
            let out = collect(compressed(how, plain)).await.unwrap();
            assert!(out.len() < whole.len() / 10);
            let mut back = Vec::new();
            match how {
                Export::Gzip => flate2::read::GzDecoder::new(&out[..]).read_to_end(&mut back).unwrap(),
                Export::Brotli => brotli::Decompressor::new(&out[..], 4096).read_to_end(&mut back).unwrap(),
                Export::Zstd => {
                    zstd::stream::read::Decoder::new(&out[..]).unwrap().read_to_end(&mut back).unwrap()
                }
            };
            assert!(back == whole, "{how:?}");

            let failing = chunks().into_iter().chain([Err(Error::new(ErrorKind::Integrity, "dump", "cut"))]);
            let plain = ByteStream::new(futures::stream::iter(failing.collect::<Vec<_>>()));
            assert_eq!(collect(compressed(how, plain)).await.unwrap_err().kind(), ErrorKind::Integrity);
        }
    }
}
