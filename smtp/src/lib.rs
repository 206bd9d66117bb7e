//! SMTP itself (RFC 5321), sans-IO: bytes go in, replies and questions come out; no socket, no clock, no runtime.
//!
//! | module | its one thing |
//! |---|---|
//! | [`address`] | mailboxes and paths: parsed strictly, shown canonically |
//! | [`command`] | one command line, typed, or the reply that refuses it |
//! | [`reply`] | replies: encoding without injection, parsing with caps |
//! | [`data`] | the DATA phase: dot-stuffing undone and done, line endings policed |
//! | [`receive`] | the server's state machine: [`receive::Session`] |
//! | [`submit`] | the client's state machine: [`submit::Client`] |
//!
//! A driver owns the socket and the timers. It reads into a `BytesMut`, lets the machine advance, writes what the
//! machine's output holds, and answers what the machine asks.
//!
//! Invariants:
//! - nothing here waits, reads a clock or keeps anything beyond one connection;
//! - memory is bounded whatever the peer sends: lines, replies, recipients and messages are all capped;
//! - no control character gets into an [`Address`], a parameter or a [`Reply`]'s wire form, and no CR or LF stands alone in
//!   a message that was read or is written;
//! - input is never consumed past a decision: neither past an open ask, nor past a reply that answers nothing.

pub mod address;
pub mod command;
pub mod data;
pub mod receive;
pub mod reply;
pub mod submit;

pub use address::{Address, ForwardPath, ReversePath};
pub use command::Command;
pub use reply::{Enhanced, Reply};
