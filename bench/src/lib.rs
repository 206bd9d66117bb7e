//! Load generator and sink.
