//! Who calls: a bearer token, known by its digest.

use crate::config::Token;
use axum::http::{HeaderMap, StatusCode, header::AUTHORIZATION};
use godwit_kit::roles::Role;
use sha2::{Digest, Sha256};

/// The role of a name in the configuration.
pub fn role(name: &str) -> Option<Role> {
    match name {
        "inject" => Some(Role::Inject),
        "read" => Some(Role::Read),
        "operate" => Some(Role::Operate),
        "admin" => Some(Role::Admin),
        _ => None,
    }
}

/// The callers that are known. None: everyone who reaches the listener, which is then on loopback.
#[derive(Debug)]
pub struct Callers(Vec<([u8; 32], Role)>);

impl Callers {
    /// Of tokens that were checked.
    pub fn new(tokens: &[Token]) -> Self {
        Self(tokens.iter().filter_map(|token| Some((digest(&token.sha256)?, role(&token.role)?))).collect())
    }

    /// # Errors
    /// 401 without a known token, 403 where its role does not reach.
    pub fn check(&self, headers: &HeaderMap, needed: Role) -> Result<(), StatusCode> {
        if self.0.is_empty() {
            return Ok(());
        }
        let given = headers.get(AUTHORIZATION).and_then(|value| bearer(value.to_str().ok()?));
        // Digests are compared, so that the time it takes tells nothing about a token.
        let given: [u8; 32] = Sha256::digest(given.ok_or(StatusCode::UNAUTHORIZED)?).into();
        let known = self.0.iter().find(|(digest, _)| *digest == given).ok_or(StatusCode::UNAUTHORIZED)?;
        if known.1.may(needed) { Ok(()) } else { Err(StatusCode::FORBIDDEN) }
    }
}

/// The scheme's name is written as one likes (RFC 9110 section 11.1).
fn bearer(value: &str) -> Option<&str> {
    value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token)
}

fn digest(hexadecimal: &str) -> Option<[u8; 32]> {
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
    fn tokens_reach_as_far_as_their_role() {
        let sum: String = Sha256::digest("secret").iter().map(|byte| format!("{byte:02x}")).collect();
        let callers = Callers::new(&[Token { name: "app".into(), sha256: sum, role: "inject".into() }]);
        let check = |value: Option<&str>, needed| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(AUTHORIZATION, value.parse().unwrap());
            }
            callers.check(&headers, needed)
        };
        assert_eq!(check(Some("Bearer secret"), Role::Inject), Ok(()));
        assert_eq!(check(Some("Bearer secret"), Role::Read), Err(StatusCode::FORBIDDEN));
        assert_eq!(check(Some("Bearer wrong"), Role::Inject), Err(StatusCode::UNAUTHORIZED));
        assert_eq!(check(None, Role::Inject), Err(StatusCode::UNAUTHORIZED));
        assert_eq!(Callers::new(&[]).check(&HeaderMap::new(), Role::Admin), Ok(()));
    }
}
