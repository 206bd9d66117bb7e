//! Reads a message in any chunking: dot-stuffing undone, faults noted, always on to the real end.

use bytes::{Bytes, BytesMut};

use super::{Fault, Limits};

/// The message as it comes in. Memory is bounded by `size_bytes_max`; a faulty message's body is dropped.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    body: BytesMut,
    size_bytes: usize,
    line_bytes: usize,
    fault: Option<Fault>,
}

impl Reader {
    /// `size_bytes_declared` is the client's SIZE: it sizes the first allocation, and promises nothing.
    pub fn new(limits: Limits, size_bytes_declared: Option<u64>) -> Self {
        todo!()
    }

    /// Takes from `input` what belongs to the message and gives the whole body once CRLF.CRLF has come.
    /// `None` means more is needed; up to two octets that cannot be judged yet stay in `input`.
    /// What follows the end stays there too.
    pub fn advance(&mut self, input: &mut BytesMut) -> Option<Result<Bytes, Fault>> {
        todo!()
    }
}
