//! What a path asks of a connection. Pure.

use godwit_shaping::EnableTls;
use godwit_shaping::path::TlsPolicy;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    pub when: When,
    pub trust: Trust,
    /// Where TLS does not work, the mail goes in the clear over a new connection.
    pub falls_back: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Never,
    Offered,
    /// Or not at all.
    Always,
}

/// Whom to encrypt to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Who has a valid certificate.
    Valid,
    /// Whoever it is; whether the certificate is valid is noted.
    Judged,
    /// Whoever it is.
    Anybody,
}

impl Wish {
    /// In the clear.
    pub const CLEAR: Self = Self { when: When::Never, trust: Trust::Anybody, falls_back: false };

    pub fn of(policy: &TlsPolicy) -> Self {
        let falls_back = policy.opportunistic_tls_reconnect_on_failed_handshake;
        let required = |trust| Self { when: When::Always, trust, falls_back: false };
        let opportunistic = |trust| Self { when: When::Offered, trust, falls_back };
        match policy.enable_tls {
            EnableTls::Disabled => Self::CLEAR,
            // Encrypted to whoever it is: what is better than the clear is not given up for it.
            EnableTls::Opportunistic if falls_back => opportunistic(Trust::Judged),
            EnableTls::Opportunistic => opportunistic(Trust::Valid),
            EnableTls::OpportunisticInsecure => opportunistic(Trust::Anybody),
            EnableTls::Required => required(Trust::Valid),
            EnableTls::RequiredInsecure => required(Trust::Anybody),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_opportunistic_policies_fall_back() {
        use EnableTls::{Disabled, Opportunistic, OpportunisticInsecure, Required, RequiredInsecure};
        for (enable_tls, reconnects, when, trust, falls_back) in [
            (Opportunistic, true, When::Offered, Trust::Judged, true),
            (Opportunistic, false, When::Offered, Trust::Valid, false),
            (OpportunisticInsecure, true, When::Offered, Trust::Anybody, true),
            (OpportunisticInsecure, false, When::Offered, Trust::Anybody, false),
            (Required, true, When::Always, Trust::Valid, false),
            (RequiredInsecure, true, When::Always, Trust::Anybody, false),
            (Disabled, true, When::Never, Trust::Anybody, false),
        ] {
            let policy = TlsPolicy {
                enable_tls,
                opportunistic_tls_reconnect_on_failed_handshake: reconnects,
                ..TlsPolicy::default()
            };
            assert_eq!(Wish::of(&policy), Wish { when, trust, falls_back }, "{policy:?}");
        }
    }
}
