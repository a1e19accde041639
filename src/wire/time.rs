//! Times as the outside reads them: RFC 3339 in UTC with milliseconds, by jiff.

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

use crate::core::vocab::Wall;

/// Of each time a record has several.
const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));

/// `2026-03-12T04:21:54.644Z`.
pub fn rfc3339(at: Wall) -> String {
    match Timestamp::from_microsecond(at.0) {
        Ok(time) => PRINTER.timestamp_to_string(&time),
        // A clock outside the years that people write; the number at least is not lost.
        Err(_) => format!("@{}us", at.0),
    }
}

/// Reads what [`rfc3339`] wrote.
pub fn parse_rfc3339(text: &str) -> Option<Wall> {
    text.parse::<Timestamp>().ok().map(|time| Wall(time.as_microsecond()))
}

/// Reads the date of an HTTP header (RFC 9110, 5.6.7), which is RFC 2822 with `GMT`.
pub fn parse_http_date(text: &str) -> Option<Wall> {
    let zoned = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(Wall(zoned.timestamp().as_microsecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits_and_a_z() {
        assert_eq!(rfc3339(Wall(1_773_289_314_644_000)), "2026-03-12T04:21:54.644Z");
        assert_eq!(rfc3339(Wall(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(parse_rfc3339("2026-03-12T04:21:54.644Z"), Some(Wall(1_773_289_314_644_000)));
    }
}
