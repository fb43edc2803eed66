//! Watches whether a program serves.
