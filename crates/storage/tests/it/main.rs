//! Places as they really are: file systems, and S3 servers on this machine.

// The lint's own exception covers test functions and not the helpers beside them.
#![allow(clippy::unwrap_used)]

mod faults;
mod folder;
mod memory;
mod probe;
mod proxy;
mod s3;
mod servers;
mod tls;
mod versions;
