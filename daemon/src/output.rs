//! Printing: results on standard output, everything else on standard error; a closed pipe ends quietly, a full disk does not.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use crate::failure::Failure;

/// Prints one line.
pub fn line(text: &str) {
    write(&format!("{text}\n"));
}

/// Prints text as it is.
pub fn text(text: &str) {
    write(text);
}

/// Prints one line about a file that was written. Whoever reads along may go away: the files are what was asked for.
pub fn progress(text: &str) {
    if let Err(error) = put(&format!("{text}\n"))
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        end(&error);
    }
}

fn write(text: &str) {
    if let Err(error) = put(text) {
        end(&error);
    }
}

fn put(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Ends the process when standard output takes no more.
fn end(error: &io::Error) -> ! {
    let Some(failure) = lost(error) else { std::process::exit(0) };
    tell(&format!("galen: {failure}"));
    std::process::exit(i32::from(failure.code))
}

/// What is wrong when standard output takes no more; nothing when its reader went away: there is nobody left to tell.
fn lost(error: &io::Error) -> Option<Failure> {
    let advice = match error.kind() {
        io::ErrorKind::BrokenPipe => return None,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room and run the same command again",
        _ => "",
    };
    Some(Failure::fault(format!("cannot write standard output: {error}{advice}")))
}

/// Writes a line to standard error; a terminal that is gone is no reason to fail.
pub fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Colours only on a terminal, and not where NO_COLOR is set.
pub fn colours() -> bool {
    coloured(std::io::stdout().is_terminal(), std::env::var_os("NO_COLOR"))
}

/// As [`colours`], for the log on standard error.
pub fn log_colours() -> bool {
    coloured(std::io::stderr().is_terminal(), std::env::var_os("NO_COLOR"))
}

fn coloured(terminal: bool, no_color: Option<std::ffi::OsString>) -> bool {
    terminal && no_color.is_none_or(|value| value.is_empty())
}

/// Text on one line that cannot steer a terminal: control characters become blanks, and what turns the direction of
/// writing or has no width is left out.
pub fn plain(text: &str) -> String {
    let hidden =
        |c: &char| matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    text.chars().filter(|c| !hidden(c)).map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c }).collect()
}

/// Checks that a file can be written, before the work whose result it is to hold. Leaves no trace.
///
/// # Errors
/// Usage, with the path and why.
pub fn writable(path: &Path) -> Result<(), Failure> {
    let fail = |why: &dyn std::fmt::Display| Failure::usage(format!("cannot write {}: {why}; choose another file", path.display()));
    match std::fs::metadata(path) {
        Ok(about) if !about.is_file() => return Err(fail(&"it is there and no plain file")),
        Ok(_) => drop(std::fs::File::options().append(true).open(path).map_err(|e| fail(&e))?),
        Err(_) if path.file_name().is_none() => return Err(fail(&"it names no file")),
        Err(_) => {}
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new().prefix(".galen-").tempfile_in(folder).map_err(|e| fail(&e.kind()))?;
    Ok(())
}

/// Writes a file in one step: whoever reads it sees the old or the new one, and two writers do not mix. Makes its folder.
///
/// # Errors
/// A fault, with the path and what to do.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    // A link stays one, and what is no file, such as a pipe, cannot be replaced.
    let real = path.canonicalize();
    let path = real.as_deref().unwrap_or(path);
    let fail = |e: std::io::Error| Failure::write(path, &e);
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return std::fs::write(path, bytes).map_err(fail);
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(fail)?;
    // As it was; a new one may be read by the daemon, which is another user where an administrator writes.
    let new = |_| std::os::unix::fs::PermissionsExt::from_mode(0o644);
    let mode = std::fs::metadata(path).map_or_else(new, |old| old.permissions());
    let mut draft = tempfile::Builder::new().prefix(".galen-").permissions(mode).tempfile_in(folder).map_err(fail)?;
    draft.write_all(bytes).and_then(|()| draft.as_file().sync_all()).map_err(fail)?;
    draft.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
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
    fn text_cannot_steer_a_terminal() {
        assert_eq!(plain("a\u{1b}[31m\u{202e}b\u{2066}c\u{200f}\nd"), "a [31mbc d");
        assert!(coloured(true, None) && coloured(true, Some("".into())));
        assert!(!coloured(true, Some("1".into())) && !coloured(false, None));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_refused_beforehand() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("x.galen");
        assert!(writable(&new).is_ok() && !new.exists());
        for bad in [folder.path().join("none/x.galen"), folder.path().to_owned(), "/dev/null".into(), "/".into()] {
            let failure = writable(&bad).unwrap_err();
            assert!(failure.code == 2 && failure.message.contains(&bad.display().to_string()), "{failure}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_a_reader_that_went_away_ends_it_quietly() {
        assert_eq!(lost(&io::ErrorKind::BrokenPipe.into()), None);
        let full = lost(&io::ErrorKind::StorageFull.into()).unwrap();
        assert!(full.code == crate::failure::FAULT && full.message.ends_with("; make room and run the same command again"), "{full}");
        assert_eq!(lost(&io::Error::other("odd")).map(|failure| failure.message), Some("cannot write standard output: odd".into()));
    }

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
