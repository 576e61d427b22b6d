//! What must stay true of the workspace and of the ports as others see them.

mod catalogue;
mod copy;
mod documents;
mod edges;
mod held;
mod incidents;
mod mirror;
mod orphans;
mod pipeline;
mod ports;
mod prune;
mod shred;
mod spool;
mod stamp;
