//! How many connections a backlog is worth, and how much one lease takes. Pure.

use std::time::Duration;

/// Deliveries of one lease.
pub const LEASE_MESSAGES_MAX: u32 = 64;
/// Bodies of one lease, in bytes.
pub const LEASE_BYTES_MAX: u64 = 8 << 20;
/// A lease should be worked off in about this long, so that nothing waits behind a slow peer while others are free.
const LEASE_WORK: Duration = Duration::from_secs(2);
/// The same where rates are limited: what is in hand comes to the peer later than its tokens were taken, on top of what
/// is allowed then.
const LEASE_WORK_RATED: Duration = Duration::from_millis(100);
/// Deliveries of a connection's first lease: nothing is known of the peer's pace.
const LEASE_FIRST_MAX: u32 = 16;
const LEASE_FIRST_RATED_MAX: u32 = 4;

/// Connections for `backlog` messages, due or in hand: few for a few, near the limit only for many.
pub fn connections(limit: u32, backlog: u64) -> u32 {
    if backlog == 0 {
        return 0;
    }
    let share = 1.0 - (-0.023 * backlog as f64).exp();
    let ideal = (f64::from(limit) * share).ceil() as u64;
    ideal.clamp(1, backlog).min(u64::from(limit)) as u32
}

/// What decides a lease's size.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Due and not leased.
    pub backlog: u64,
    /// That share the backlog.
    pub connections: u32,
    /// Deliveries that this connection may still make.
    pub left: u32,
    /// How long a transaction takes here; `None` before the first.
    pub each: Option<Duration>,
    /// Tokens are taken for each.
    pub is_rated: bool,
}

/// Deliveries to lease at once; at least one while the connection may make any.
pub fn lease_messages(pace: Pace) -> u32 {
    let share = pace.backlog.div_ceil(u64::from(pace.connections.max(1)));
    let (work, first) =
        if pace.is_rated { (LEASE_WORK_RATED, LEASE_FIRST_RATED_MAX) } else { (LEASE_WORK, LEASE_FIRST_MAX) };
    let by_pace = match pace.each {
        None => first,
        Some(each) => (work.as_micros() / each.as_micros().max(1)).min(u128::from(LEASE_MESSAGES_MAX)) as u32,
    };
    let most = by_pace.clamp(1, LEASE_MESSAGES_MAX).min(pace.left);
    u32::try_from(share).unwrap_or(u32::MAX).max(1).min(most)
}

/// How long a site that cannot be reached is left alone: 5 s, doubled up to 5 min.
pub fn backoff(failures: u32) -> Duration {
    Duration::from_secs(5 << failures.saturating_sub(1).min(6)).min(Duration::from_secs(300))
}

/// How long to wait before calling a peer again that failed: 50 ms, doubled up to 5 s.
pub fn call_backoff(failures: u32) -> Duration {
    Duration::from_millis(50 << failures.saturating_sub(1).min(7)).min(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_grow_with_the_backlog_up_to_the_limit() {
        for (limit, backlog, expected) in
            [(32, 0, 0), (32, 1, 1), (32, 2, 2), (32, 30, 16), (32, 1000, 32), (1, 9999, 1), (10, 2, 1)]
        {
            assert_eq!(connections(limit, backlog), expected, "{backlog} of {limit}");
        }
    }

    #[test]
    fn leases_follow_share_pace_and_what_is_left() {
        let each = Some(Duration::from_millis(4));
        let pace = Pace { backlog: 10_000, connections: 32, left: 1024, each, is_rated: false };
        assert_eq!(lease_messages(pace), 64);
        assert_eq!(lease_messages(Pace { backlog: 64, ..pace }), 2);
        assert_eq!(lease_messages(Pace { left: 5, ..pace }), 5);
        assert_eq!(lease_messages(Pace { left: 0, ..pace }), 0);
        assert_eq!(lease_messages(Pace { each: None, ..pace }), LEASE_FIRST_MAX);
        let rated = Pace { is_rated: true, ..pace };
        assert_eq!(lease_messages(rated), 25, "little waits in hand");
        assert_eq!(lease_messages(Pace { each: Some(Duration::from_millis(300)), ..rated }), 1);
        assert_eq!(lease_messages(Pace { each: None, ..rated }), LEASE_FIRST_RATED_MAX);
        assert_eq!(lease_messages(Pace { each: Some(Duration::from_secs(600)), ..pace }), 1);
        assert_eq!(lease_messages(Pace { backlog: 0, connections: 0, ..pace }), 1);
    }

    #[test]
    fn backoff_grows_and_is_bounded() {
        assert_eq!(backoff(1), Duration::from_secs(5));
        assert_eq!(backoff(2), Duration::from_secs(10));
        assert_eq!(backoff(99), Duration::from_secs(300));
        assert_eq!(call_backoff(99), Duration::from_secs(5));
    }
}
