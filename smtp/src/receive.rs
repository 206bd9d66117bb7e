//! The receiving side of SMTP: commands in, replies out, and a question wherever somebody else must decide.
//!
//! The driver's loop:
//! ```text
//! loop match session.advance(&mut input) {
//!     Step::NeedInput => { write out session.output(); read into input (or session.timeout()) }
//!     Step::Ask(ask)  => { if let Ask::Message(_) = ask { write out session.output() }; session.answer(decide(ask).await) }
//!     Step::StartTls  => { write out session.output(); do the handshake, or close; session.secured() }
//!     Step::Close     => { write out session.output(); shut the socket; break }
//! }
//! ```
//! Input is never consumed past an `Ask`. Replies to pipelined commands gather in the output until input runs out.
//! What was said in the clear is never believed, nor answered, after the handshake (RFC 3207 sections 4.2 and 6).

mod ask;
mod config;
mod line;
mod session;
#[cfg(test)]
mod tests;
mod verbs;
mod verdict;

pub use ask::{Ask, Helo, Recipient, Step, Transaction, Verdict};
pub use config::{Config, Extensions, Tls};
pub use session::{Phase, Session};
