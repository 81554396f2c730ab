//! Rendered boot files: the script that iPXE gets.
//!
//! What this module never does: I/O.
