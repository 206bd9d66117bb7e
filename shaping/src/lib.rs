//! Shaping files.
