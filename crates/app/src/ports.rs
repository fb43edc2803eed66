//! Finds and explains ports.
