//! Printing: results on standard output, everything else on standard error; a closed pipe ends quietly.

use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Prints one line.
pub fn line(text: &str) {
    write(&format!("{text}\n"));
}

/// Prints text as it is.
pub fn text(text: &str) {
    write(text);
}

fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        // The reader went away: there is nobody left to tell.
        std::process::exit(0);
    }
}

/// Colours only on a terminal, and not where NO_COLOR is set.
pub fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Columns of the terminal, 100 where there is none.
pub fn width() -> usize {
    std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).filter(|c| (40..=400).contains(c)).unwrap_or(100)
}

/// `90s`, `15m`, `1h30m`, or seconds without a unit; from 1 s to 24 h.
///
/// # Errors
/// One line that shows the form.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration: write 90s, 15m or 1h30m (1 s to 24 h)");
    let (mut total, mut number) = (0u64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(wrong()),
        };
        total += std::mem::take(&mut number).parse::<u64>().map_err(|_| wrong())?.checked_mul(unit).ok_or_else(wrong)?;
    }
    if !number.is_empty() {
        total += number.parse::<u64>().map_err(|_| wrong())?;
    }
    if (1..=86_400).contains(&total) { Ok(Duration::from_secs(total)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("1h30m").unwrap().as_secs(), 5400);
        assert_eq!(duration("90s").unwrap().as_secs(), 90);
        assert_eq!(duration("45").unwrap().as_secs(), 45);
        for bad in ["", "0s", "5d", "m", "99999999999999999999s", "25h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
