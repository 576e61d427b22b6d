//! Behaviour suites for every port, the memory store, the faulty port and the manual clock.

mod ledger;

pub use ledger::{FaultyLedger, MemoryCatalog, MemoryLedger};

mod dump_suite;

pub use dump_suite::{MemoryRestorer, ScriptedDumper, broken, collect, dumper_suite, known, restorer_suite};

mod catalog_suite;
mod inspect_suite;
mod ledger_suite;
mod notify_suite;
mod seal_suite;
mod statement_suite;

pub use catalog_suite::catalog_suite;
pub use inspect_suite::inspector_suite;
pub use ledger_suite::ledger_suite;
pub use notify_suite::notifier_suite;
pub use seal_suite::{Cipher, seal_suite};
pub use statement_suite::{Signing, statement_suite};

mod faulty_ports;
mod faulty_store;
mod journals;
mod manual_clock;
mod memory_store;
pub mod store_suite;

pub use faulty_ports::Faulty;
pub use faulty_store::{Fault, FaultPlan, FaultyStore};
pub use journals::MemoryJournals;
pub use manual_clock::ManualClock;
pub use memory_store::MemoryStore;
pub use store_suite::{commit, noise, put};
