//! Times as logs and records have them.

use std::io::Write as _;

use crate::UnixNanos;

const SECOND: i64 = 1_000_000_000;

/// The length of what [`rfc3339`] writes for the years 1 to 9999.
pub const RFC3339_BYTES: usize = 30;

/// Appends a time in UTC as `2006-01-02T15:04:05.000000000Z`.
pub fn rfc3339(at: UnixNanos, out: &mut Vec<u8>) {
    let (seconds, nanos) = (at.div_euclid(SECOND), at.rem_euclid(SECOND));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    // Writing to a Vec does not fail.
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z");
}

/// A time in UTC as [`rfc3339`] writes it.
pub fn rfc3339_text(at: UnixNanos) -> String {
    let mut out = Vec::with_capacity(RFC3339_BYTES);
    rfc3339(at, &mut out);
    // It wrote ASCII.
    String::from_utf8_lossy(&out).into_owned()
}

/// The date of a day counted from 1970-01-01, in the proleptic Gregorian calendar. Years begin in March
/// here, so that the leap day is the last one.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_400_YEARS: i64 = 146_097;
    let from_0000_03_01 = days + 719_468;
    let era = from_0000_03_01.div_euclid(DAYS_PER_400_YEARS);
    let day_of_era = from_0000_03_01.rem_euclid(DAYS_PER_400_YEARS);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_kubelet_reads_them() {
        for (at, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400 * SECOND + 1, "2000-02-29T00:00:00.000000001Z"),
            (1_709_251_199 * SECOND + 999_999_999, "2024-02-29T23:59:59.999999999Z"),
            (4_107_542_400 * SECOND, "2100-03-01T00:00:00.000000000Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
        ] {
            let mut out = Vec::new();
            rfc3339(at, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
            assert_eq!(text.len(), RFC3339_BYTES);
        }
    }
}
