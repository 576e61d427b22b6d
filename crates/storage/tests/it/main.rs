//! Places as they really are: file systems, and S3 servers on this machine.

mod faults;
mod folder;
mod memory;
mod proxy;
mod s3;
mod servers;
