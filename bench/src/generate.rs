//! Messages to send: each with an id of its own, a random body, and the digest of its content.

use bytes::Bytes;
use memchr::memmem;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use sha2::{Digest, Sha256};

/// The header field that carries a message's id.
pub const ID_FIELD: &str = "X-Bench-Id";

/// The digest of a content.
pub type Sum = [u8; 32];

/// One message, ready to be sent.
#[derive(Debug, Clone)]
pub struct Message {
    pub id: String,
    pub recipient: String,
    /// Dot-stuffed, with the final dot.
    pub wire: Bytes,
    /// Of the content as the receiver must have it.
    pub sum: Sum,
}

/// What to make.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The same seed makes the same messages.
    pub seed: u64,
    /// Of the content, about.
    pub size_bytes: usize,
    /// Recipients' domains, in turn.
    pub domains: Vec<String>,
}

impl Plan {
    /// The message of a number. One in 50 has lines of dots, 8-bit bytes or lines of 998 octets.
    pub fn message(&self, number: usize) -> Message {
        let mut random = SmallRng::seed_from_u64(self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number as u64);
        let id = format!("{:x}-{number}", self.seed);
        let domain = &self.domains[number % self.domains.len()];
        let recipient = format!("r{number}@{domain}");
        let mut content = format!(
            "{ID_FIELD}: {id}\r\nFrom: <load@bench.example>\r\nTo: <{recipient}>\r\nSubject: {number}\r\n\
             Date: Tue, 24 Nov 2026 08:00:00 +0000\r\nMessage-ID: <{id}@bench.example>\r\n\r\n"
        )
        .into_bytes();
        if number % 50 == 7 {
            awkward_lines(&mut content);
        }
        while content.len() < self.size_bytes {
            plain_line(&mut content, &mut random);
        }
        let sum = Sha256::digest(&content).into();
        Message { id, recipient, wire: stuffed(&content), sum }
    }
}

fn awkward_lines(content: &mut Vec<u8>) {
    content.extend_from_slice(b".\r\n..\r\n...\r\n.x\r\n\r\n.\r\n");
    content.extend_from_slice("Gr\u{fc}\u{df}e aus K\u{f6}ln \u{2709}\r\n".as_bytes());
    content.extend(0x80..=0xFFu8);
    content.extend_from_slice(b"\r\n");
    content.extend(std::iter::repeat_n(b'.', 998));
    content.extend_from_slice(b"\r\n");
    content.extend(std::iter::repeat_n(b'y', 998));
    content.extend_from_slice(b"\r\n");
}

fn plain_line(content: &mut Vec<u8>, random: &mut SmallRng) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for _ in 0..9 {
        let bits: u64 = random.random();
        content.extend((0..8).map(|place| LETTERS[(bits >> (place * 6)) as usize & 63]));
    }
    content.extend_from_slice(b"\r\n");
}

/// Dot-stuffed, with the final dot (RFC 5321 section 4.5.2).
fn stuffed(content: &[u8]) -> Bytes {
    let mut wire = Vec::with_capacity(content.len() + 64);
    if content.starts_with(b".") {
        wire.push(b'.');
    }
    let mut done = 0;
    for place in memmem::find_iter(content, b"\r\n.") {
        wire.extend_from_slice(&content[done..place + 2]);
        wire.push(b'.');
        done = place + 2;
    }
    wire.extend_from_slice(&content[done..]);
    wire.extend_from_slice(b".\r\n");
    wire.into()
}

/// A random seed, so that two runs share no id.
pub fn seed() -> u64 {
    u64::from(rand::rng().next_u32())
}

/// A content's id: the first [`ID_FIELD`] in it.
pub fn id_of(content: &[u8]) -> Option<String> {
    let start = memmem::find(content, ID_FIELD.as_bytes())? + ID_FIELD.len() + 2;
    let rest = content.get(start..)?;
    let end = memchr::memchr(b'\r', rest)?;
    String::from_utf8(rest[..end].to_vec()).ok()
}
