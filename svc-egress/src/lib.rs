//! The egress service.
