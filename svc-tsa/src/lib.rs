//! The tsa service.
