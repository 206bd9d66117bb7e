//! Callers known by a bearer token, of which only the digest is kept (RFC 6750).

use crate::roles::Role;
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// A token's holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub name: String,
    pub role: Role,
}

/// The tokens that are known. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tokens(Arc<Vec<([u8; 32], Holder)>>);

/// What a request's headers say of its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown<'a> {
    Nothing,
    /// A token that nobody here knows, or credentials of another scheme.
    Unknown,
    Known(&'a Holder),
}

impl Tokens {
    /// By the SHA-256 of each token.
    pub fn new(tokens: impl IntoIterator<Item = ([u8; 32], Holder)>) -> Self {
        Self(Arc::new(tokens.into_iter().collect()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whose token the request carries.
    pub fn shown(&self, headers: &HeaderMap) -> Shown<'_> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Shown::Nothing };
        // Of two, another on the way may have judged the other.
        if values.next().is_some() {
            return Shown::Unknown;
        }
        let Some(token) = value.to_str().ok().and_then(bearer) else { return Shown::Unknown };
        // Digests are compared, so that the time it takes tells nothing about a token.
        let given: [u8; 32] = Sha256::digest(token).into();
        self.0.iter().find(|(digest, _)| *digest == given).map_or(Shown::Unknown, |(_, holder)| Shown::Known(holder))
    }

    /// Where no token is configured everyone who reaches the listener may.
    ///
    /// # Errors
    /// 401 without a known token, 403 where its role does not reach.
    pub fn check(&self, headers: &HeaderMap, needed: Role) -> Result<(), StatusCode> {
        match self.shown(headers) {
            _ if self.is_empty() => Ok(()),
            Shown::Known(holder) if holder.role.may(needed) => Ok(()),
            Shown::Known(_) => Err(StatusCode::FORBIDDEN),
            Shown::Nothing | Shown::Unknown => Err(StatusCode::UNAUTHORIZED),
        }
    }
}

/// The scheme's name is written as one likes (RFC 9110 section 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    // The digest of nothing is what an unset variable gives.
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// A SHA-256 as 64 hexadecimal digits.
pub fn digest(hexadecimal: &str) -> Option<[u8; 32]> {
    let digits = hexadecimal.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut digest = [0; 32];
    for (place, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hexadecimal.get(place * 2..place * 2 + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_digest() {
        let holder = Holder { name: "app".into(), role: Role::Inject };
        let tokens = Tokens::new([(Sha256::digest("secret").into(), holder.clone())]);
        let shown = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(AUTHORIZATION, value.parse().unwrap());
            }
            match tokens.shown(&headers) {
                Shown::Nothing => "nothing",
                Shown::Unknown => "unknown",
                Shown::Known(known) => {
                    assert_eq!(known, &holder);
                    "known"
                }
            }
        };
        assert_eq!(shown(None), "nothing");
        for (value, expected) in [
            ("Bearer secret", "known"),
            ("bEARER secret", "known"),
            ("Bearer wrong", "unknown"),
            ("Basic secret", "unknown"),
            ("secret", "unknown"),
        ] {
            assert_eq!(shown(Some(value)), expected, "{value}");
        }
    }

    #[test]
    fn neither_nothing_nor_two_tokens_are_a_token() {
        let holder = Holder { name: "app".into(), role: Role::Inject };
        let tokens = Tokens::new(["", "secret"].map(|token| (Sha256::digest(token).into(), holder.clone())));
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "Bearer ".parse().unwrap());
        assert_eq!(tokens.shown(&headers), Shown::Unknown);
        headers.insert(AUTHORIZATION, "Bearer secret".parse().unwrap());
        assert_eq!(tokens.shown(&headers), Shown::Known(&holder));
        headers.append(AUTHORIZATION, "Bearer secret".parse().unwrap());
        assert_eq!(tokens.shown(&headers), Shown::Unknown);
    }

    #[test]
    fn tokens_reach_as_far_as_their_role() {
        let holder = Holder { name: "app".into(), role: Role::Inject };
        let tokens = Tokens::new([(Sha256::digest("secret").into(), holder)]);
        let checked = |value: Option<&str>, needed| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(AUTHORIZATION, value.parse().unwrap());
            }
            tokens.check(&headers, needed)
        };
        assert_eq!(checked(Some("Bearer secret"), Role::Inject), Ok(()));
        assert_eq!(checked(Some("Bearer secret"), Role::Read), Err(StatusCode::FORBIDDEN));
        assert_eq!(checked(Some("Bearer wrong"), Role::Inject), Err(StatusCode::UNAUTHORIZED));
        assert_eq!(checked(None, Role::Inject), Err(StatusCode::UNAUTHORIZED));
        assert_eq!(Tokens::default().check(&HeaderMap::new(), Role::Admin), Ok(()));
    }

    #[test]
    fn digests_are_64_digits() {
        assert_eq!(digest(&"0f".repeat(32)), Some([15; 32]));
        for text in ["", "0f", &"0g".repeat(32), &"ä".repeat(32)] {
            assert_eq!(digest(text), None, "{text}");
        }
    }
}
