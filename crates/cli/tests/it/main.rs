//! Whole commands, run as the built binary: stdout, stderr, status, and what must not exist
//! afterwards.

#![allow(clippy::unwrap_used, reason = "tests panic where something is not as it should be")]

mod configuration;
mod crash;
mod destinations;
mod emulated_firestore;
mod files;
mod folder;
mod keep;
mod keys;
mod killed;
mod lab;
mod locks;
mod memory;
mod mongodb;
mod mysql;
mod origin;
mod postgres;
mod quickstart;
mod redis;
mod retention;
mod s3;
mod sftp_webdav;
mod source;
mod spool;
mod sqlite;
mod storage;
