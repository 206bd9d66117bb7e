//! Keys of the widespread format that Godwit knows of and does not use: their presence is a warning, not a fault.

/// Why a key has no effect; `None` where the key is unknown altogether.
pub(crate) fn unused(key: &str) -> Option<&'static str> {
    Some(match key {
        "max_ready" => "mail stays in the queue until a connection asks for it",
        "refresh_interval" | "refresh_strategy" => "a change of the files takes effect at once",
        "dispatcher_wakeup_strategy"
        | "maintainer_wakeup_strategy"
        | "dispatcher_progress_watchdog_timeout"
        | "low_memory_reduction_policy"
        | "no_memory_reduction_policy"
        | "aggressive_connection_opening"
        | "readyq_pool_name"
        | "provider_name"
        | "_treat_domain_name_as_site_name" => "it steers parts that are built differently here",
        "tls_prefer_openssl" | "openssl_cipher_list" | "openssl_cipher_suites" | "openssl_options" => {
            "TLS is by rustls"
        }
        "rustls_cipher_suites" | "tls_certificate" | "tls_private_key" => NOT_YET,
        "smtp_auth_plain_username"
        | "smtp_auth_plain_password"
        | "allow_smtp_auth_plain_without_tls"
        | "allow_smtp_auth_plain_without_valid_certificate" => NOT_YET,
        "use_lmtp" | "system_shutdown_timeout" => NOT_YET,
        _ => return None,
    })
}

const NOT_YET: &str = "not in this version";
