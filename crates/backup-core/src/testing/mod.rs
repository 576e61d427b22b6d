//! Behaviour suites for every port, the memory store, the faulty port and the manual clock.

mod ledger;

pub use ledger::{MemoryCatalog, MemoryLedger};

mod dump_suite;

pub use dump_suite::{MemoryRestorer, ScriptedDumper, broken, collect, dumper_suite, known, restorer_suite};
