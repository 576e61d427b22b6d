//! Files and folders of a server: what the ports are made of.

use backup_core::BackupId;

use crate::local::UNFINISHED;
use crate::sftp::fault::Fault;
use crate::sftp::place::SftpPlace;
use crate::sftp::session::{Handle, Session};
use crate::sftp::wire::{self, Attributes, Reply, Request, kind, open, status};
use crate::trouble::Trouble;

use std::sync::Arc;

/// Less room than this and a write fails: one request.
const ROOM: u64 = 256 * 1024;
/// The file system can only be read, in the flags of `statvfs`.
const READ_ONLY: u64 = 0x1;

/// What is there under a name, or `None`. Links are followed or not.
pub(super) async fn look(session: &Session, path: &str, follow: bool) -> Result<Option<Attributes>, Fault> {
    let kind = if follow { kind::STAT } else { kind::LSTAT };
    match session.ask(Request::new(kind).text(path.as_bytes())).await? {
        Reply::Attributes(found) => Ok(Some(found)),
        Reply::Status { code: status::NO_SUCH_FILE, .. } => Ok(None),
        Reply::Status { code, said } => Err(Fault::Refused { code, said }),
        _ => Err(Fault::Malformed),
    }
}

/// What is there behind a handle.
pub(super) async fn look_at(handle: &Handle) -> Result<Attributes, Fault> {
    match handle.session.ask(Request::new(kind::FSTAT).text(handle.bytes())).await? {
        Reply::Attributes(found) => Ok(found),
        Reply::Status { code, said } => Err(Fault::Refused { code, said }),
        _ => Err(Fault::Malformed),
    }
}

/// Opens a file for reading.
pub(super) async fn open(session: &Arc<Session>, path: &str) -> Result<Handle, Fault> {
    let request = Request::new(kind::OPEN).text(path.as_bytes()).u32(open::READ).no_attributes();
    Handle::of(session, request).await
}

/// The folder of unfinished uploads.
pub(super) fn unfinished(place: &SftpPlace) -> String {
    place.path(UNFINISHED)
}

/// Makes the file of an upload that is for nobody else: its path and what is open.
pub(super) async fn begin(session: &Arc<Session>, place: &SftpPlace) -> Result<(String, Handle), Fault> {
    let folder = unfinished(place);
    ensure_folder(session, &folder).await?;
    let path = format!("{folder}/{}.part", BackupId::random());
    let flags = open::WRITE | open::CREATE | open::EXCLUSIVE;
    let request = Request::new(kind::OPEN).text(path.as_bytes()).u32(flags).mode(0o600);
    match Handle::of(session, request).await {
        Ok(handle) => Ok((path, handle)),
        Err(fault) => Err(explained(session, &folder, fault).await),
    }
}

/// Makes a folder and what is missing above it, with mode 0700.
pub(super) async fn ensure_folder(session: &Arc<Session>, folder: &str) -> Result<(), Fault> {
    let mut missing = Vec::new();
    let mut next = Some(folder);
    // Upwards to what is there, then downwards again.
    while let Some(folder) = next.filter(|folder| !folder.is_empty()) {
        match look(session, folder, true).await? {
            Some(found) if found.is_folder() => break,
            Some(_) => return Err(Fault::Known(Trouble::NotAFolder)),
            None => missing.push(folder),
        }
        next = folder.rsplit_once('/').map(|(parent, _)| parent);
    }
    for folder in missing.into_iter().rev() {
        let request = Request::new(kind::MKDIR).text(folder.as_bytes()).mode(0o700);
        let parent = match folder.rsplit_once('/') {
            Some(("", _)) => "/",
            Some((parent, _)) => parent,
            None => ".",
        };
        match session.done(request).await {
            Ok(()) => sync_folder(session, parent).await,
            // Somebody else made it meanwhile, or nobody can.
            Err(fault) => match look(session, folder, true).await {
                Ok(Some(found)) if found.is_folder() => {}
                Ok(Some(_)) => return Err(Fault::Known(Trouble::NotAFolder)),
                _ => return Err(explained(session, parent, fault).await),
            },
        }
    }
    Ok(())
}

/// Writes a file's bytes to the disk, where the server can; `false` where it cannot.
pub(super) async fn sync(handle: &Handle, patience: std::time::Duration) -> Result<bool, Fault> {
    if !handle.session.offers().fsync {
        return Ok(false);
    }
    let request = Request::extended("fsync@openssh.com").text(handle.bytes());
    super::session::done(handle.session.send(request).await?.reply(patience).await?)?;
    Ok(true)
}

/// Writes a folder's entries to the disk, where the server lets us: OpenSSH opens folders like files.
pub(super) async fn sync_folder(session: &Arc<Session>, folder: &str) {
    if session.offers().fsync
        && let Ok(handle) = open(session, folder).await
    {
        let _ = sync(&handle, session.patience()).await;
    }
}

/// Gives the file `from` the name `to` as well, or instead; says whether the way was one that never replaces.
///
/// A second name never replaces anything. Without second names there is the rename of version 3, which by the draft's
/// rule does not either; of a server that does not keep to it, the look before is all there is.
pub(super) async fn publish(session: &Arc<Session>, from: &str, to: &str) -> Result<bool, Fault> {
    if session.links() {
        let request = Request::extended("hardlink@openssh.com").text(from.as_bytes()).text(to.as_bytes());
        match session.done(request).await {
            // Some servers offer it, say that it is done, and have done nothing.
            Ok(()) if look(session, to, false).await?.is_some() => return Ok(true),
            Ok(()) | Err(Fault::Refused { code: status::OP_UNSUPPORTED, .. }) => session.without_links(),
            Err(fault) => return Err(fault),
        }
    }
    if look(session, to, false).await?.is_some() {
        return Err(Fault::Known(Trouble::Taken));
    }
    session.done(Request::new(kind::RENAME).text(from.as_bytes()).text(to.as_bytes())).await?;
    Ok(false)
}

/// Removes a file; one that is not there is no error.
pub(super) async fn remove(session: &Session, path: &str) -> Result<bool, Fault> {
    match session.done(Request::new(kind::REMOVE).text(path.as_bytes())).await {
        Ok(()) => Ok(true),
        Err(fault) if fault.is_absent() => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Removes a folder that is empty.
pub(super) async fn remove_folder(session: &Session, path: &str) -> Result<(), Fault> {
    session.done(Request::new(kind::RMDIR).text(path.as_bytes())).await
}

/// The entries of a folder whose names are plain text; `None` where there is no such folder.
pub(super) async fn entries(
    session: &Arc<Session>,
    folder: &str,
) -> Result<Option<Vec<(String, Attributes)>>, Fault> {
    let handle = match Handle::of(session, Request::new(kind::OPENDIR).text(folder.as_bytes())).await {
        Ok(handle) => handle,
        Err(fault) if fault.is_absent() => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let mut found = Vec::new();
    loop {
        let names = match session.ask(Request::new(kind::READDIR).text(handle.bytes())).await? {
            Reply::Names(names) => names,
            Reply::Status { code: status::EOF, .. } => return Ok(Some(found)),
            Reply::Status { code, said } => return Err(Fault::Refused { code, said }),
            _ => return Err(Fault::Malformed),
        };
        for (name, attributes) in names {
            // A name with a slash would lead elsewhere.
            if let Ok(name) = String::from_utf8(name.to_vec())
                && !name.contains('/')
                && name != "."
                && name != ".."
            {
                found.push((name, attributes));
            }
        }
    }
}

/// Finds out why a server said no without saying why: version 3 has one status for a full and for a read-only disk.
pub(super) async fn explained(session: &Session, folder: &str, fault: Fault) -> Fault {
    if !fault.is_unexplained() || !session.offers().statvfs {
        return fault;
    }
    let request = Request::extended("statvfs@openssh.com").text(folder.as_bytes());
    let Ok(Reply::Extended(reply)) = session.ask(request).await else { return fault };
    match wire::numbers(reply) {
        Ok([_, _, _, _, _, _, _, _, _, flags, _]) if flags & READ_ONLY != 0 => {
            Fault::Known(Trouble::ReadOnly)
        }
        Ok([_, fragment, _, _, free, files, _, files_free, ..])
            if free.saturating_mul(fragment) < ROOM || (files > 0 && files_free == 0) =>
        {
            Fault::Known(Trouble::NoSpace)
        }
        _ => fault,
    }
}
