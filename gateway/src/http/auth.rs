//! Who calls the API: a bearer token, or nobody in particular where none is configured.

use axum::http::{HeaderMap, StatusCode};
use godwit_kit::roles::Role;
use godwit_kit::tokens::{Shown, Tokens};

/// Where no token is configured everyone who reaches the listener may, which is then on loopback.
///
/// # Errors
/// 401 without a known token, 403 where its role does not reach.
pub fn check(tokens: &Tokens, headers: &HeaderMap, needed: Role) -> Result<(), StatusCode> {
    match tokens.shown(headers) {
        _ if tokens.is_empty() => Ok(()),
        Shown::Known(holder) if holder.role.may(needed) => Ok(()),
        Shown::Known(_) => Err(StatusCode::FORBIDDEN),
        Shown::Nothing | Shown::Unknown => Err(StatusCode::UNAUTHORIZED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::header::AUTHORIZATION;
    use godwit_kit::tokens::Holder;
    use sha2::{Digest, Sha256};

    #[test]
    fn tokens_reach_as_far_as_their_role() {
        let holder = Holder { name: "app".into(), role: Role::Inject };
        let tokens = Tokens::new([(Sha256::digest("secret").into(), holder)]);
        let checked = |value: Option<&str>, needed| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(AUTHORIZATION, value.parse().unwrap());
            }
            check(&tokens, &headers, needed)
        };
        assert_eq!(checked(Some("Bearer secret"), Role::Inject), Ok(()));
        assert_eq!(checked(Some("Bearer secret"), Role::Read), Err(StatusCode::FORBIDDEN));
        assert_eq!(checked(Some("Bearer wrong"), Role::Inject), Err(StatusCode::UNAUTHORIZED));
        assert_eq!(checked(None, Role::Inject), Err(StatusCode::UNAUTHORIZED));
        assert_eq!(check(&Tokens::default(), &HeaderMap::new(), Role::Admin), Ok(()));
    }
}
