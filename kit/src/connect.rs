//! The road to a peer.
/// Set on a Status for a call that was never sent.
pub const NOT_SENT: &str = "godwit-not-sent";
