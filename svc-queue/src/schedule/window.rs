//! The days and minutes in which attempts may start. Pure.

use godwit_proto::common::v1::SendWindow;

const MINUTE_MS: u64 = 60_000;
const DAY_MINUTES: u64 = 24 * 60;
/// 1 January 1970 was a Thursday, the fourth day of a week that begins on Monday.
const EPOCH_WEEKDAY: u64 = 3;

/// A window in UTC. Small: many deliveries have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Bit 0 is Monday.
    days: u8,
    start_minute: u16,
    /// How long it is open from `start_minute` on.
    open_minutes: u16,
}

/// What is wrong with a window: the field and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("window.{field}: {what}")]
pub struct WindowFault {
    pub field: &'static str,
    pub what: &'static str,
}

impl Window {
    pub fn parse(wire: &SendWindow) -> Result<Self, WindowFault> {
        let fault = |field, what| Err(WindowFault { field, what });
        if !matches!(wire.time_zone.as_str(), "" | "UTC" | "Etc/UTC") {
            return fault("time_zone", "only UTC is known to this version");
        }
        let minutes = u64::from(wire.start_minute)..u64::from(wire.end_minute);
        if minutes.start >= DAY_MINUTES {
            return fault("start_minute", "not below 1440");
        }
        if minutes.end > DAY_MINUTES {
            return fault("end_minute", "above 1440");
        }
        let mut days = 0;
        for day in &wire.days {
            match day {
                1..=7 => days |= 1 << (day - 1),
                _ => return fault("days", "not from 1 (Monday) to 7 (Sunday)"),
            }
        }
        let over_midnight = if minutes.end <= minutes.start { DAY_MINUTES } else { 0 };
        Ok(Self {
            days: if days == 0 { 0x7f } else { days },
            start_minute: wire.start_minute as u16,
            open_minutes: (minutes.end + over_midnight - minutes.start) as u16,
        })
    }

    /// The first instant from `at_ms` on at which an attempt may start.
    pub fn next(&self, at_ms: u64) -> u64 {
        let today = at_ms / MINUTE_MS / DAY_MINUTES;
        let opens = |day: u64| (day * DAY_MINUTES + u64::from(self.start_minute)).saturating_mul(MINUTE_MS);
        // One that opened yesterday may still be open; a week on, every day has had its turn.
        (today.saturating_sub(1)..=today + 7)
            .filter(|day| self.days >> ((day + EPOCH_WEEKDAY) % 7) & 1 == 1)
            .find(|day| at_ms < opens(*day).saturating_add(u64::from(self.open_minutes) * MINUTE_MS))
            .map_or(at_ms, |day| at_ms.max(opens(day)))
    }

    /// Its form on disk, and back.
    pub fn pack(&self) -> u64 {
        u64::from(self.days) << 32 | u64::from(self.start_minute) << 16 | u64::from(self.open_minutes)
    }

    pub fn unpack(packed: u64) -> Option<Self> {
        let days = (packed >> 32 & 0x7f) as u8;
        (days != 0).then_some(Self { days, start_minute: (packed >> 16) as u16, open_minutes: packed as u16 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(days: &[u32], start_minute: u32, end_minute: u32) -> Window {
        Window::parse(&SendWindow { days: days.to_vec(), time_zone: String::new(), start_minute, end_minute }).unwrap()
    }

    /// Minutes from Thursday, 1 January 1970.
    fn next(window: &Window, minute: u64) -> u64 {
        window.next(minute * MINUTE_MS) / MINUTE_MS
    }

    #[test]
    fn opens_and_closes() {
        let office = window(&[1, 2, 3, 4, 5], 540, 1_020);
        for (at, expected) in [
            (0, 540),                                 // Thursday night
            (600, 600),                               // within
            (1_019, 1_019),                           // the last minute
            (1_020, DAY_MINUTES + 540),               // the end is excluded: Friday
            (2 * DAY_MINUTES, 4 * DAY_MINUTES + 540), // Saturday: Monday
        ] {
            assert_eq!(next(&office, at), expected, "{at}");
        }
    }

    #[test]
    fn passes_midnight() {
        let night = window(&[4], 1_380, 60);
        assert_eq!(next(&night, DAY_MINUTES + 30), DAY_MINUTES + 30);
        assert_eq!(next(&night, DAY_MINUTES + 60), 7 * DAY_MINUTES + 1_380);
        assert_eq!(next(&window(&[], 5, 5), 7), 7);
    }

    #[test]
    fn nonsense_is_named() {
        let check = |wire: SendWindow, field| assert_eq!(Window::parse(&wire).unwrap_err().field, field);
        check(SendWindow { days: vec![8], ..SendWindow::default() }, "days");
        check(SendWindow { start_minute: 1_440, ..SendWindow::default() }, "start_minute");
        check(SendWindow { end_minute: 1_441, ..SendWindow::default() }, "end_minute");
        check(SendWindow { time_zone: "Mars/Olympus".into(), ..SendWindow::default() }, "time_zone");
    }

    proptest! {
        #[test]
        fn the_next_is_open_and_not_before(days in 1u32..=7, start in 0u32..1_440, end in 0u32..=1_440, at in 0u64..4_000_000_000_000) {
            let window = window(&[days], start, end);
            let next = window.next(at);
            prop_assert!(next >= at && next - at <= 8 * DAY_MINUTES * MINUTE_MS);
            prop_assert_eq!(window.next(next), next);
            prop_assert_eq!(Window::unpack(window.pack()), Some(window));
        }
    }
}
