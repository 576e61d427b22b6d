//! Measurements of every hot path.
