//! Real engines, real programs.

#![allow(missing_docs, clippy::unwrap_used)]

mod command;
mod emulated_firestore;
mod firebase_auth;
mod folder;
mod inspectors;
mod mongodb;
mod mongodb_faults;
mod mongodb_moment;
mod mongodb_server;
mod mongodb_tools;
mod mongodb_undo;
mod mysql;
mod mysql_faults;
mod mysql_server;
mod own_mariadb;
mod own_server;
mod postgres;
mod postgres_cluster;
mod postgres_connect;
mod postgres_faults;
mod postgres_full;
mod postgres_parallel;
mod postgres_parallel_faults;
mod postgres_polite;
mod postgres_replica;
mod postgres_restore;
mod postgres_versions;
mod processes;
mod redis;
mod redis_faults;
mod redis_server;
mod server;
mod sqlite;
mod sqlite_bundle;
