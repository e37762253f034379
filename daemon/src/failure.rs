//! How a command ends when it cannot do its work: an exit code and one line that says what to do.

use std::path::Path;
use std::{fmt, io};

use galen_tools::store::{StoreError, StoreErrorKind};

/// A fault of ours.
pub const FAULT: u8 = 70;

/// An exit code of the CLI contract and one line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// 2 usage, 3 configuration, 4 target, 5 input, 6 model, 70 a fault of ours, 128 and the number of a signal.
    pub code: u8,
    /// Lowercase, with the value that was wrong and what to do.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever a library put into its message; no control characters reach the terminal.
        f.write_str(crate::output::plain(&self.message).trim())
    }
}

macro_rules! kinds {
    ($($name:ident $code:literal $help:literal;)+) => {
        impl Failure {
            $(#[doc = $help]
            pub fn $name(message: impl Into<String>) -> Self {
                Self { code: $code, message: message.into() }
            })+
        }
    };
}

kinds! {
    usage 2 "The command line asks for something that is not there.";
    config 3 "The configuration is wrong.";
    target 4 "A target or the daemon cannot be reached, or refuses.";
    input 5 "A file cannot be read or understood.";
    model 6 "A model that was demanded is not available.";
    fault 70 "A fault of ours, or of the machine under us.";
}

impl Failure {
    /// Says which file it is about, unless it does already.
    pub fn of(mut self, path: &Path) -> Self {
        let name = path.display().to_string();
        if !self.message.contains(&name) {
            self.message = format!("{name}: {}", self.message);
        }
        self
    }

    /// A file or folder that cannot be written or made, and what to do about it.
    pub fn write(path: &Path, error: &io::Error) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room, or choose a folder on another disk",
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "; choose a folder that you may write to",
            _ => "",
        };
        Self::fault(format!("cannot write {}: {error}{advice}", path.display()))
    }
}

/// Things left out of many, each told on standard error when it happened.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// How many.
    pub count: usize,
    /// The gravest exit code among them.
    code: u8,
}

impl LeftOut {
    /// Takes note of one.
    pub fn add(&mut self, failure: &Failure) {
        self.count += 1;
        self.code = self.code.max(failure.code);
    }

    /// How the whole ends: `what` says what could not be done with them.
    ///
    /// # Errors
    /// Something was left out.
    pub fn end(&self, of: usize, what: &str) -> Result<(), Failure> {
        let told = || format!("{} of {of} {what}; each is named above", self.count);
        if self.count == 0 { Ok(()) } else { Err(Failure { code: self.code, message: told() }) }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match error.kind {
            StoreErrorKind::DiskFull | StoreErrorKind::Io => FAULT,
            _ => 5,
        };
        Self { code, message: error.to_string() }
    }
}

impl From<galen_docs_ingest::store::StoreError> for Failure {
    fn from(error: galen_docs_ingest::store::StoreError) -> Self {
        use galen_docs_ingest::store::StoreErrorKind;
        let code = match error.kind {
            StoreErrorKind::DiskFull | StoreErrorKind::Io | StoreErrorKind::Busy => FAULT,
            _ => 5,
        };
        Self { code, message: error.to_string() }
    }
}

impl From<galen_tools::sources::pg::SourceError> for Failure {
    fn from(error: galen_tools::sources::pg::SourceError) -> Self {
        Self::target(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_what_to_do() {
        let full = Failure::write(Path::new("/data/x"), &io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.code, FAULT);
        assert!(full.message.starts_with("cannot write /data/x: ") && full.message.ends_with("another disk"), "{full}");
        assert!(!Failure::write(Path::new("x"), &io::Error::other("odd")).message.contains(';'));
    }
}
