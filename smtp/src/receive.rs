//! The receiving side of SMTP: commands in, replies out, and a question wherever somebody else must decide.
//!
//! The driver's loop:
//! ```text
//! loop match session.advance(&mut input) {
//!     Step::NeedInput => { write out session.output(); read into input (or session.timeout()) }
//!     Step::Ask(ask)  => { if let Ask::Message(_) = ask { write out session.output() }; session.answer(decide(ask).await) }
//!     Step::Close     => { write out session.output(); shut the socket; break }
//! }
//! ```
//! Input is never consumed past an `Ask`. Replies to pipelined commands gather in the output until input runs out.

mod ask;
mod config;
mod line;
mod session;
#[cfg(test)]
mod tests;
mod verbs;
mod verdict;

pub use ask::{Ask, Helo, Recipient, Step, Transaction, Verdict};
pub use config::{Config, Extensions};
pub use session::{Phase, Session};
