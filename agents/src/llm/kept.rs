//! Small records of the models folder that several processes may change at once.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Waits for the right to change `name` of the folder. Between reading and writing it nobody else must write, or what they added
/// is lost. The lock is a file of its own, since the record is replaced; it is held for as long as a small file takes.
/// None where the file system has no locks: a whole download does not fail for that.
///
/// # Errors
/// When the folder cannot be written.
pub fn lock(folder: &Path, name: &str) -> io::Result<Option<Flock<File>>> {
    let file = File::create(folder.join(format!(".{name}.lock")))?;
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Replaces `name` of the folder as a whole; only under its lock.
///
/// # Errors
/// When it cannot be written; what was there before is still there then.
pub fn replace(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    // A name of this process's own: not every network disk honours locks.
    let draft = folder.join(format!(".{name}.{}.new", std::process::id()));
    let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, folder.join(name)));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}
