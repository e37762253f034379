//! Who may read what the daemon keeps: its own user and group, as with its socket, and nobody else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::stat::{Mode, umask};

/// Bits that others never get, and the group's right to write.
const OTHERS: u32 = 0o027;

/// From now on new folders are 0750 and new files 0640.
pub fn close_to_others() {
    umask(Mode::from_bits_truncate(OTHERS));
}

/// Takes away what an earlier version left open: the folders of captures and reports, and the database. The data
/// folder itself stays as its owner made it.
pub fn tighten(data_dir: &Path) {
    for name in ["captures", "reports", "galen.db", "galen.db-wal", "galen.db-shm", "knowledge.db", "knowledge.db-wal", "knowledge.db-shm"]
    {
        let path = data_dir.join(name);
        let Ok(about) = fs::metadata(&path) else { continue };
        let mode = about.permissions().mode();
        if mode & OTHERS != 0
            && let Err(error) = fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777 & !OTHERS))
        {
            tracing::warn!(path = %path.display(), %error, "others may read this, and it cannot be changed");
        }
    }
}
