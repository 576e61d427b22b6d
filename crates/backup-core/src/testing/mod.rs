//! Behaviour suites for every port, the memory store, the faulty port and the manual clock.

mod ledger;

pub use ledger::{FaultyLedger, MemoryCatalog, MemoryLedger};

mod dump_suite;

pub use dump_suite::{MemoryRestorer, ScriptedDumper, broken, collect, dumper_suite, known, restorer_suite};

mod faulty_store;
mod manual_clock;
mod memory_store;
pub mod store_suite;

pub use faulty_store::{Fault, FaultPlan, FaultyStore};
pub use manual_clock::ManualClock;
pub use memory_store::MemoryStore;
pub use store_suite::{commit, noise, put};
