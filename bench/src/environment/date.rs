//! The date of a run, as RFC 3339 writes it: in UTC, to the second.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now; the epoch for a clock that is before it.
pub(super) fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    rfc3339(since.map_or(0, |since| since.as_secs()))
}

/// `seconds` since 1970, POSIX's, which know no leap seconds.
///
/// The days are counted from the 1st of March of the year 0, so that a leap day is the last of its year, in eras of 400 years,
/// which are all of the same length (as in Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms").
fn rfc3339(seconds: u64) -> String {
    const DAYS_OF_AN_ERA: u64 = 146_097;
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / DAYS_OF_AN_ERA, days % DAYS_OF_AN_ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // March is 0. Five months from March, and from August, have 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!(
        "{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        400 * era + year + next,
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        // As `date -u -d @SECONDS` says.
        let dates = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_704_067_199, "2023-12-31T23:59:59Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (1_735_689_600, "2025-01-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, date) in dates {
            assert_eq!(rfc3339(seconds), date);
        }
        assert!(now().as_str() > "2025-01-01T00:00:00Z" && now().len() == 20);
    }
}
