//! A wire between us and the emulator that breaks as it is told to.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What happens to a connection.
#[derive(Debug, Clone)]
pub(crate) enum Fate {
    /// Nothing.
    Pass,
    /// It breaks after so many bytes of answers.
    CutAfter(usize),
    /// The first request gets this answer, and not from the server.
    Answer(String),
    /// The answer to the first request that writes is lost.
    LoseWrite,
}

/// A listener whose connections have the fates it was given, one after the other, and the last one
/// for ever.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: String,
    seen: Arc<Mutex<usize>>,
}

impl Proxy {
    pub(crate) fn new(server: &str, fates: &[Fate]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (server, mut fates) = (server.to_owned(), fates.iter().cloned().collect::<VecDeque<_>>());
        let seen = Arc::new(Mutex::new(0));
        let count = Arc::clone(&seen);
        thread::spawn(move || {
            for client in listener.incoming() {
                let fate = match fates.len() {
                    1 => fates[0].clone(),
                    _ => fates.pop_front().unwrap_or(Fate::Pass),
                };
                *count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                let server = server.clone();
                thread::spawn(move || client.and_then(|client| connection(client, &server, &fate)));
            }
        });
        Self { address, seen }
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An HTTP answer with a body.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn connection(mut client: TcpStream, server: &str, fate: &Fate) -> std::io::Result<()> {
    if let Fate::Answer(text) = fate {
        // The request comes in one or two pieces; the answer may come before its end.
        client.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut buffer = [0; 64 * 1024];
        while client.read(&mut buffer).is_ok_and(|len| len > 0) {}
        client.write_all(text.as_bytes())?;
        return client.shutdown(Shutdown::Both);
    }
    let server = TcpStream::connect(server)?;
    let writes = Arc::new(Mutex::new(false));
    let up = {
        let (mut from, mut to, writes) = (client.try_clone()?, server.try_clone()?, Arc::clone(&writes));
        thread::spawn(move || -> std::io::Result<()> {
            let mut buffer = [0; 64 * 1024];
            loop {
                let len = from.read(&mut buffer)?;
                if len == 0 {
                    return to.shutdown(Shutdown::Write);
                }
                if buffer[..len].windows(11).any(|window| window == b":batchWrite") {
                    *writes.lock().unwrap_or_else(PoisonError::into_inner) = true;
                }
                to.write_all(&buffer[..len])?;
            }
        })
    };
    let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
    let mut left = match fate {
        Fate::CutAfter(bytes) => *bytes,
        _ => usize::MAX,
    };
    let mut buffer = [0; 16 * 1024];
    loop {
        let len = from.read(&mut buffer).unwrap_or(0).min(left);
        let lost = matches!(fate, Fate::LoseWrite) && *writes.lock().unwrap_or_else(PoisonError::into_inner);
        if len == 0 || lost || to.write_all(&buffer[..len]).is_err() {
            break;
        }
        left -= len;
        if left == 0 {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    let _ = up.join();
    Ok(())
}
