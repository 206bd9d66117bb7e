//! The sending side of SMTP: transactions in, bytes to write and outcomes out; replies are never shifted by one.
//!
//! The driver's loop:
//! ```text
//! loop {
//!     write client.output() (client.wrote(n)), with the timeout of client.stage()
//!     match client.feed(&mut input) {
//!         Some(Event::Ready(_)) | Some(Event::Done(_)) => client.start(next) or client.quit(),
//!         Some(Event::Refused { .. }) | Some(Event::Closed(_)) => break,
//!         None => read into input; at end of file or timeout: client.lost(reason)
//!     }
//! }
//! ```

mod capabilities;
mod client;
mod open;
mod outcome;
mod replies;
#[cfg(test)]
mod tests;
mod transaction;
mod wire;

pub use capabilities::Capabilities;
pub use client::{Client, Config, Start};
pub use outcome::{Closed, Delivery, Event, Lost, Outcome, Stage, Violation};
pub use transaction::{Recipient, Transaction};
