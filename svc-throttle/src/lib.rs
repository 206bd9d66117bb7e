//! The throttle service.
