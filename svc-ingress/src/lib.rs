//! The ingress service.
