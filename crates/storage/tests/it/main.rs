//! Places as they really are: file systems, and servers on this machine.

// The lint's own exception covers test functions and not the helpers beside them.
#![allow(clippy::unwrap_used)]

mod azure;
mod cutter;
mod faults;
mod folder;
mod gcs;
mod identity;
mod locks;
mod memory;
mod peer;
mod probe;
mod proxy;
mod resumable;
mod s3;
mod servers;
mod sftp;
mod tls;
mod versions;
mod webdav;
