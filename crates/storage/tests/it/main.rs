//! Places as they really are: file systems, and S3 servers on this machine.

// The lint's own exception covers test functions and not the helpers beside them.
#![allow(clippy::unwrap_used)]

mod azure;
mod faults;
mod folder;
mod gcs;
mod identity;
mod memory;
mod peer;
mod probe;
mod proxy;
mod resumable;
mod s3;
mod servers;
mod tls;
mod versions;
