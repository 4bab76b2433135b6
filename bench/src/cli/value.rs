//! Values of options: sizes, times, CPU pairs. Each parser's error completes clap's "invalid value
//! 'x' for '--y': ".

use crate::machine::Placement;
use std::time::Duration;

/// Bytes, with an optional binary suffix k, m, g or t in either case, as fio writes sizes.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (digits, multiplier) = match text.char_indices().last() {
        Some((end, 'k' | 'K')) => (&text[..end], 1 << 10),
        Some((end, 'm' | 'M')) => (&text[..end], 1 << 20),
        Some((end, 'g' | 'G')) => (&text[..end], 1 << 30),
        Some((end, 't' | 'T')) => (&text[..end], 1u64 << 40),
        _ => (text, 1),
    };
    let number: u64 = whole(digits).ok_or("write a number of bytes, such as 4096, 4k or 64m")?;
    number.checked_mul(multiplier).ok_or_else(|| "this is more than 2^64 bytes".to_owned())
}

/// Parses a number that consists of digits only; `parse` alone would accept "+5".
fn whole(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// A time with a suffix ns, us, ms or s. A number alone counts in `unit`. Decimals are allowed:
/// 0.5s.
pub(crate) fn duration(text: &str, unit: Duration) -> Result<Duration, String> {
    let malformed = || "write a time, such as 500ns, 20us, 200ms or 2s".to_owned();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(split);
    let unit = match suffix {
        "" => unit,
        "ns" => Duration::from_nanos(1),
        "us" => Duration::from_micros(1),
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        _ => return Err(malformed()),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(malformed());
    }
    let number: f64 = digits.parse().map_err(|_| malformed())?;
    Duration::try_from_secs_f64(number * unit.as_secs_f64()).map_err(|_| "this is too long".to_owned())
}

/// A share in percent, from 0 to 1000; a share of one is 1.0.
pub(crate) fn percent(text: &str) -> Result<f64, String> {
    let digits = text.strip_suffix('%').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: Option<f64> = if plain { digits.parse().ok() } else { None };
    let number = number.filter(|number| *number <= 1_000.0);
    number
        .map(|number| number / 100.0)
        .ok_or_else(|| "write a percentage from 0 to 1000, such as 5".to_owned())
}

/// `GUEST,DEVICE`: two CPU numbers, which may be the same.
pub(crate) fn pin(text: &str) -> Result<Placement, String> {
    let cpu = |digits: &str| whole(digits).and_then(|cpu| usize::try_from(cpu).ok());
    let pair = text.split_once(',').and_then(|(guest, device)| Some((cpu(guest)?, cpu(device)?)));
    let (guest, device) = pair.ok_or("write two CPU numbers, GUEST,DEVICE, such as 0,1 or 0,0")?;
    Ok(Placement { guest, device })
}

/// A whole number from `low` to `high`.
pub(crate) fn within(text: &str, low: u64, high: u64) -> Result<u64, String> {
    let number = whole(text).filter(|number| (low..=high).contains(number));
    number.ok_or_else(|| format!("must be {low} to {high}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_have_binary_suffixes() {
        let cases =
            [("512", 512), ("4k", 4_096), ("4K", 4_096), ("1m", 1 << 20), ("2g", 2 << 30), ("1t", 1 << 40)];
        for (text, bytes) in cases {
            assert_eq!(size(text), Ok(bytes));
        }
        for text in
            ["", "k", "4kb", "-1", "+1", "0x10", "1.5k", "four", "4 k", "\u{664}k", "99999999999999999999"]
        {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(size("99999999999t").unwrap_err(), "this is more than 2^64 bytes");
    }

    #[test]
    fn times_have_units() {
        let seconds = |text| duration(text, Duration::from_secs(1));
        assert_eq!(seconds("2"), Ok(Duration::from_secs(2)));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(seconds("20us"), Ok(Duration::from_micros(20)));
        assert_eq!(duration("700", Duration::from_nanos(1)), Ok(Duration::from_nanos(700)));
        for text in ["", "s", "-1s", "1e9", "1h", "nan", "inf", "1 s", "1.2.3s", "."] {
            assert!(seconds(text).is_err(), "{text}");
        }
        let forever = "9".repeat(400);
        assert_eq!(seconds(&forever).unwrap_err(), "this is too long");
    }

    #[test]
    fn percentages_are_shares() {
        assert_eq!((percent("5"), percent("2.5%"), percent("0")), (Ok(0.05), Ok(0.025), Ok(0.0)));
        for text in ["", "%", "-1", "1e3", "1001", "five", "1.2.3"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pin_is_two_cpus() {
        assert_eq!(pin("0,1"), Ok(Placement { guest: 0, device: 1 }));
        assert_eq!(pin("3,3"), Ok(Placement { guest: 3, device: 3 }));
        for text in ["", "0", "0,", ",1", "0,1,2", "a,b", "-1,0", "0, 1", "99999999999999999999,0"] {
            assert!(pin(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_bounded() {
        assert_eq!(within("7", 1, 7), Ok(7));
        assert_eq!(within("8", 1, 7).unwrap_err(), "must be 1 to 7");
        assert!(within("", 1, 7).is_err() && within("99999999999999999999", 1, 7).is_err());
    }

    proptest! {
        #[test]
        fn no_text_breaks_a_parser(text in "\\PC{0,24}") {
            let _ = size(&text);
            let _ = duration(&text, Duration::from_secs(1));
            let _ = pin(&text);
            let _ = percent(&text);
            let _ = within(&text, 0, 10);
        }

        #[test]
        fn whole_numbers_of_kibibytes_are_taken(number in 0u64..1 << 40) {
            prop_assert_eq!(size(&format!("{number}k")), Ok(number << 10));
        }
    }
}
