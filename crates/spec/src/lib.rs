//! The file: `backstay.toml` → [`Spec`], with every problem at once, each at its line and column and with a suggestion.
//!
//! Pure: it is handed text and never opens a file.

mod types;

pub use types::*;
