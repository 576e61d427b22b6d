//! What must stay true of the workspace and of the ports as others see them.

mod documents;
mod edges;
mod incidents;
mod pipeline;
mod ports;
mod prune;
mod stamp;
