//! The claim to a model's file: who pulls, adds or removes it keeps others from doing so meanwhile.

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{PullError, disk};

/// Held until it is dropped.
pub struct Claim {
    _lock: Option<Flock<File>>,
}

impl Claim {
    /// Takes the claim to the model `name`, or returns `None` where somebody else has it. Where the file system has no
    /// locks, everybody gets it. The file of the lock stays: whoever waits for it would else hold one that nobody sees.
    ///
    /// # Errors
    /// [`PullError::Disk`] when the folder cannot be written.
    pub fn take(folder: &Path, name: &str) -> Result<Option<Self>, PullError> {
        // scripts/model.sh locks the same file.
        let path = folder.join(format!(".{name}.lock"));
        let file = File::create(&path).map_err(|e| disk(&path, e))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Self { _lock: Some(lock) })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS)) => Ok(Some(Self { _lock: None })),
            Err((_, error)) => Err(disk(&path, error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_a_claim_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Claim::take(dir.path(), "m").unwrap();
        assert!(first.is_some() && Claim::take(dir.path(), "m").unwrap().is_none());
        assert!(Claim::take(dir.path(), "other").unwrap().is_some());
        drop(first);
        assert!(Claim::take(dir.path(), "m").unwrap().is_some());
        assert!(matches!(Claim::take(&dir.path().join("none"), "m"), Err(PullError::Disk { .. })));
    }
}
