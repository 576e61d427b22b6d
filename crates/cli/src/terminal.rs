//! Asking a person at the terminal, with echo off.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::sync::Mutex;

use backup_core::{Error, ErrorKind, Result};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// The terminal's modes while a question is open, for whoever ends the process meanwhile.
static ASKING: Mutex<Option<(File, Termios)>> = Mutex::new(None);

/// Asks for a secret on the controlling terminal, whatever stdin and stdout are. Blocks.
///
/// # Errors
/// `Config` when there is no terminal, `Cancelled` on Ctrl-C, Ctrl-D or a hang-up.
pub(crate) fn ask_secret(question: &str) -> Result<Zeroizing<String>> {
    let mut tty =
        OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|_| no_terminal(question))?;
    let before = tcgetattr(&tty).map_err(|_| no_terminal(question))?;
    let mut silent = before.clone();
    // Without signals from keys, Ctrl-C arrives here as a byte and echo is never left off.
    silent.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
    silent.special_codes[SpecialCodeIndex::VMIN] = 1;
    silent.special_codes[SpecialCodeIndex::VTIME] = 0;
    if let (Ok(mut asking), Ok(copy)) = (ASKING.lock(), tty.try_clone()) {
        *asking = Some((copy, before));
    }
    let _ = write!(tty, "{question}: ");
    let answer = match tcsetattr(&tty, OptionalActions::Flush, &silent) {
        Ok(()) => read_line(&mut tty),
        Err(_) => Err(no_terminal(question)),
    };
    restore();
    let _ = writeln!(tty);
    answer
}

/// Gives the terminal back as it was; answers whether a question was open.
pub(crate) fn restore() -> bool {
    let Ok(mut asking) = ASKING.lock() else { return false };
    match asking.take() {
        Some((tty, modes)) => {
            let _ = tcsetattr(&tty, OptionalActions::Now, &modes);
            true
        }
        None => false,
    }
}

fn read_line(tty: &mut File) -> Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(Vec::with_capacity(1024));
    let mut byte = [0];
    loop {
        match tty.read(&mut byte) {
            Ok(1) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            _ => return Err(Error::cancelled("the question on the terminal")),
        }
        match byte[0] {
            b'\n' | b'\r' => break,
            3 | 4 => return Err(Error::cancelled("the question on the terminal")),
            8 | 127 => {
                // One character may be several bytes of UTF-8.
                while line.pop().is_some_and(|last| last & 0xc0 == 0x80) {}
            }
            21 => line.clear(),
            other if line.len() < 1024 => line.push(other),
            _ => {
                return Err(Error::new(
                    ErrorKind::Config,
                    "the answer on the terminal",
                    "longer than 1024 bytes",
                ));
            }
        }
    }
    match std::str::from_utf8(&line) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(Error::new(ErrorKind::Config, "the answer on the terminal", "not UTF-8")),
    }
}

fn no_terminal(question: &str) -> Error {
    Error::new(ErrorKind::Config, question.to_lowercase(), "needed, and there is no terminal to ask on")
        .with_hint("pass --passphrase-file F or --passphrase-fd N, or set STRONGROOM_PASSPHRASE")
}
