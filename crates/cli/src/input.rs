//! Bytes from a file or stdin, read by a thread of their own.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::path::Path;

use backup_core::{ByteStream, Error, ErrorKind, Plain, Result, Sealed};
use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;

use crate::failure::io_error;
use crate::output::{closed, was_closed};

/// Bytes of one chunk.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks that wait; with the one being read and the one in use, 4 MiB.
const CHUNKS_WAITING: usize = 2;

/// What a command reads: a file, or stdin for `-` and `None`.
#[derive(Debug)]
pub(crate) struct Input {
    reader: Reader,
    name: String,
    len: Option<u64>,
}

#[derive(Debug)]
enum Reader {
    File(File),
    Stdin,
}

impl Input {
    /// Opens the file.
    ///
    /// # Errors
    /// Those of the file system; `Config` for a folder, and for stdin when it is closed.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            let stdin = io::stdin().as_fd().try_clone_to_owned();
            let stdin = stdin.map_err(|e| io_error("standard input".as_ref(), "open", e))?;
            if was_closed(&File::from(stdin)) {
                return Err(closed("input", "</dev/null is an empty input"));
            }
            return Ok(Self { reader: Reader::Stdin, name: "standard input".to_owned(), len: None });
        };
        let file = File::open(path).map_err(|e| io_error(path, "read", e))?;
        let meta = file.metadata().map_err(|e| io_error(path, "look at", e))?;
        let name = path.display().to_string();
        if meta.is_dir() {
            return Err(Error::new(ErrorKind::Config, name, "is a folder")
                .with_hint("name a file, or pipe an archive of the folder into stdin"));
        }
        let len = meta.is_file().then_some(meta.len());
        Ok(Self { reader: Reader::File(file), name, len })
    }

    /// Whether it is stdin.
    pub(crate) fn is_stdin(&self) -> bool {
        matches!(self.reader, Reader::Stdin)
    }

    /// The length, where it is known beforehand.
    pub(crate) fn len(&self) -> Option<u64> {
        self.len
    }

    /// The bytes as plaintext.
    pub(crate) fn plain(self) -> ByteStream<Plain> {
        ByteStream::new(self.stream())
    }

    /// The bytes as an envelope.
    pub(crate) fn sealed(self) -> ByteStream<Sealed> {
        ByteStream::declare_sealed(self.stream())
    }

    fn stream(self) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
        let Self { reader, name, .. } = self;
        std::thread::spawn(move || match reader {
            Reader::File(file) => pump(file, &name, &sender),
            Reader::Stdin => pump(io::stdin().lock(), &name, &sender),
        });
        futures::stream::unfold((receiver, false), |(mut receiver, ended)| async move {
            if ended {
                return None;
            }
            match receiver.recv().await {
                Some(Ok(Some(chunk))) => Some((Ok(chunk), (receiver, false))),
                Some(Ok(None)) => None,
                Some(Err(error)) => Some((Err(error), (receiver, true))),
                // The thread says when it reached the end; without that word it died.
                None => Some((Err(Error::bug("the reading thread ended without an end")), (receiver, true))),
            }
        })
    }
}

fn pump(mut reader: impl Read, name: &str, sender: &mpsc::Sender<Result<Option<Bytes>>>) {
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let item = match fill(&mut reader, &mut chunk) {
            Ok(0) => Ok(None),
            Ok(len) => {
                chunk.truncate(len);
                Ok(Some(Bytes::from(chunk)))
            }
            Err(error) => Err(io_error(name.as_ref(), "read", error)),
        };
        let last = !matches!(item, Ok(Some(_)));
        if sender.blocking_send(item).is_err() || last {
            return;
        }
    }
}

/// Reads until the chunk is full or the input ends.
fn fill(reader: &mut impl Read, chunk: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < chunk.len() {
        match reader.read(&mut chunk[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_read_to_its_last_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in");
        let content: Vec<u8> = (0..CHUNK_BYTES * 3 + 7).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let input = Input::open(Some(&path)).unwrap();
        assert_eq!(input.len(), Some(content.len() as u64));
        let mut stream = input.plain();
        let mut read = Vec::new();
        while let Some(chunk) = stream.next().await {
            read.extend_from_slice(&chunk.unwrap());
        }
        assert!(read == content);
    }

    /// A file that cannot be read to its end is an error, never a short success.
    #[tokio::test]
    async fn incident_06_an_unreadable_input_is_an_error() {
        struct Broken(bool);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(io::Error::from_raw_os_error(5));
                }
                buffer[0] = 1;
                Ok(1)
            }
        }
        let (sender, mut receiver) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || pump(Broken(false), "disk", &sender)).await.unwrap();
        assert!(receiver.recv().await.unwrap().is_err());
        assert_eq!(Input::open(Some(Path::new("/proc"))).unwrap_err().what(), "is a folder");
        assert_eq!(Input::open(Some(Path::new("/nowhere/x"))).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
