//! Amounts as people write and read them: sizes, and percentages of a CPU.
//!
//! Sizes are powers of 1024, as systemd and cgroups count memory. Refuses what can be read in two ways.

/// The suffixes, smallest first.
const UNITS: [char; 4] = ['K', 'M', 'G', 'T'];

/// `512M`, `4G`, `1.5GiB`, or plain bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let unfit =
        |why: &str| format!("\"{text}\" is no size{why}; write it like 512M or 4G, in powers of 1024");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.strip_suffix("iB").unwrap_or(unit) {
        "" if unit.is_empty() => 1,
        one => {
            let mut letters = one.chars();
            let letter = letters.next().map(|letter| letter.to_ascii_uppercase());
            let at = UNITS.iter().position(|known| Some(*known) == letter);
            match (at, letters.next()) {
                (Some(at), None) => 1_u64 << (10 * (at + 1)),
                (Some(_), Some('B' | 'b')) => return Err(unfit(": its unit may mean 1000 or 1024")),
                (Some(_) | None, _) => return Err(unfit("")),
            }
        }
    };
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor),
        Err(_) if number.contains('.') && factor > 1 => {
            let parsed: f64 = number.parse().map_err(|_| unfit(""))?;
            let bytes = (parsed * factor as f64).round();
            (bytes < u64::MAX as f64).then_some(bytes as u64)
        }
        Err(_) => return Err(unfit("")),
    };
    bytes.ok_or_else(|| unfit(": it is too large"))
}

/// `200%`: a whole number of percent.
pub fn parse_percent(text: &str) -> Result<u32, String> {
    text.strip_suffix('%')
        .filter(|number| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| format!("\"{text}\" is no percentage; write it like 50% or 200%, which is two CPUs"))
}

/// A size for people: exact where it is a whole number of a unit, else rounded to a tenth.
pub fn size(bytes: u64) -> String {
    let mut at = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && at < UNITS.len() {
        value /= 1024.0;
        at += 1;
    }
    match at.checked_sub(1).map(|at| UNITS[at]) {
        None => format!("{bytes}"),
        Some(unit) if value.fract() == 0.0 => format!("{value:.0}{unit}"),
        Some(unit) => format!("{value:.1}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_and_nothing_is_guessed() {
        for (text, bytes) in [
            ("1048576", 1 << 20),
            ("512M", 512 << 20),
            ("4G", 4 << 30),
            ("4g", 4 << 30),
            ("4GiB", 4 << 30),
            ("1.5G", 3 << 29),
            ("2T", 2 << 40),
            ("64K", 64 << 10),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "iB", "4GB", "4 G", "-1", "4X", "1.5", "1..5G", "4GG", "0x10", "99999999T"] {
            let why = parse_size(text).expect_err(text);
            assert!(why.contains(&format!("\"{text}\"")) && why.contains("512M"), "{why}");
        }
        assert!(parse_size("4GB").expect_err("two meanings").contains("1000 or 1024"));
    }

    #[test]
    fn a_percentage_is_whole_and_says_so() {
        assert_eq!(parse_percent("200%"), Ok(200));
        for text in ["200", "%", "-5%", "1.5%", "+5%", "5 %", "99999999999%"] {
            assert!(parse_percent(text).expect_err(text).contains("200%"), "{text}");
        }
    }

    #[test]
    fn sizes_read_as_they_are_written() {
        for (bytes, text) in [(512, "512"), (4 << 30, "4G"), (3 << 29, "1.5G"), (5 << 50, "5120T")] {
            assert_eq!(size(bytes), text);
        }
    }
}
