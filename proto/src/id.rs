//! The ids, as types with one text form each: `msg_`, `dlv_`, `lease_`, `node_`.

use crate::common::v1;
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Crockford's base32, lower-case letters are read as well.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CHARACTERS: usize = 26;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {expected}")]
pub struct Invalid {
    pub expected: &'static str,
}

fn encode(value: u128) -> [u8; CHARACTERS] {
    let mut text = [b'0'; CHARACTERS];
    for (place, character) in text.iter_mut().rev().enumerate() {
        *character = ALPHABET[((value >> (5 * place)) & 31) as usize];
    }
    text
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != CHARACTERS || text.as_bytes()[0] > b'7' {
        return None;
    }
    text.bytes().try_fold(0u128, |value, character| {
        let digit = ALPHABET.iter().position(|known| *known == character.to_ascii_uppercase())?;
        Some(value << 5 | digit as u128)
    })
}

fn write(f: &mut fmt::Formatter<'_>, prefix: &str, value: u128) -> fmt::Result {
    f.write_str(prefix)?;
    f.write_str(std::str::from_utf8(&encode(value)).expect("base32 is ASCII"))
}

/// An id of 128 bits with a prefix, and its twin in the contracts.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $form:literal, $wire:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u128);

        impl $name {
            /// A new one, ordered by the time of its making (UUIDv7, RFC 9562 section 5.7).
            pub fn new() -> Self {
                Self(Uuid::now_v7().as_u128())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write(f, $prefix, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                text.strip_prefix($prefix).and_then(decode).map(Self).ok_or(Invalid { expected: $form })
            }
        }

        impl From<$name> for v1::$wire {
            fn from(id: $name) -> Self {
                Self { value: id.to_string() }
            }
        }

        impl TryFrom<&v1::$wire> for $name {
            type Error = Invalid;
            fn try_from(wire: &v1::$wire) -> Result<Self, Invalid> {
                wire.value.parse()
            }
        }

        impl TryFrom<&Option<v1::$wire>> for $name {
            type Error = Invalid;
            fn try_from(wire: &Option<v1::$wire>) -> Result<Self, Invalid> {
                wire.as_ref().ok_or(Invalid { expected: $form })?.try_into()
            }
        }
    };
}

id!(
    /// A message: one envelope, one body.
    MessageId, "msg_", "msg_ and 26 characters", MessageId
);
id!(
    /// A lease on one delivery; known to the queue node that gave it.
    LeaseId, "lease_", "lease_ and 26 characters", LeaseId
);
id!(
    /// A process that runs services; kept in its data folder.
    NodeId, "node_", "node_ and 26 characters", NodeId
);

/// A delivery: the message, and which of its deliveries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId {
    pub message: MessageId,
    pub part: u16,
}

const DELIVERY: &str = "dlv_, 26 characters, - and a number";

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, "dlv_", self.message.0)?;
        write!(f, "-{}", self.part)
    }
}

impl fmt::Debug for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DeliveryId {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = Invalid { expected: DELIVERY };
        let (message, part) = text.strip_prefix("dlv_").and_then(|rest| rest.split_once('-')).ok_or(invalid.clone())?;
        match (decode(message), part.parse()) {
            (Some(message), Ok(part)) => Ok(Self { message: MessageId(message), part }),
            (None, _) | (_, Err(_)) => Err(invalid),
        }
    }
}

impl From<DeliveryId> for v1::DeliveryId {
    fn from(id: DeliveryId) -> Self {
        Self { value: id.to_string() }
    }
}

impl TryFrom<&Option<v1::DeliveryId>> for DeliveryId {
    type Error = Invalid;
    fn try_from(wire: &Option<v1::DeliveryId>) -> Result<Self, Invalid> {
        wire.as_ref().ok_or(Invalid { expected: DELIVERY })?.value.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_are_read_back() {
        for value in [0, 1, u128::MAX, Uuid::now_v7().as_u128()] {
            let id = MessageId(value);
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(id.to_string().to_lowercase().parse(), Ok(id));
            let delivery = DeliveryId { message: id, part: 65535 };
            assert_eq!(delivery.to_string().parse(), Ok(delivery));
        }
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in [
            "",
            "msg_",
            "msg_8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "msg_0000000000000000000000000U",
            "dlv_00000000000000000000000000",
        ] {
            assert!(text.parse::<MessageId>().is_err(), "{text}");
            assert!(text.parse::<DeliveryId>().is_err(), "{text}");
        }
    }
}
