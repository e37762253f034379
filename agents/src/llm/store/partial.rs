//! A file that is not whole yet: bytes are hashed while they are written, and what is there is hashed again when a pull
//! goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::super::registry::hexadecimal;
use super::{PullError, disk};

/// Bytes moved at once.
const CHUNK: usize = 1 << 20;

/// The unfinished file.
pub struct Partial {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    len: u64,
    origin: String,
    validator: Option<String>,
}

/// A file whose bytes are all on the disk.
pub struct Sealed {
    path: PathBuf,
    /// Size.
    pub bytes: u64,
    /// Digest in hexadecimal.
    pub sha256: String,
}

/// Which side of a copy failed.
#[derive(Debug)]
pub enum AppendError {
    /// The file that is read.
    Read(io::Error),
    /// The file that is written.
    Write(io::Error),
}

impl Partial {
    /// Opens what an earlier pull left at `path`, or begins. Without a digest to tell in the end (`pinned`), only bytes
    /// of the same origin and version are gone on from.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub async fn open(path: &Path, origin: &str, pinned: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut partial = Self { path: path.into(), file, hasher: Sha256::new(), len: 0, origin: origin.into(), validator: None };
        let noted = fs::read_to_string(origin_file(path)).unwrap_or_default();
        let (from, validator) = noted.split_once('\n').unwrap_or((&noted, ""));
        partial.validator = Some(validator.trim()).filter(|v| !v.is_empty() && from == origin).map(str::to_owned);
        if pinned || partial.validator.is_some() {
            partial.hash_again().await?;
        } else {
            partial.file.set_len(0)?;
        }
        Ok(partial)
    }

    async fn hash_again(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = self.file.read(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            self.hasher.update(buffer.get(..n).unwrap_or_default());
            self.len += n as u64;
            // Gigabytes take their time: whoever waits for a signal beside this must get to see it.
            tokio::task::yield_now().await;
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are there.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// What the server called the version that is there.
    pub fn validator(&self) -> Option<&str> {
        self.validator.as_deref()
    }

    /// Refuses at once what cannot fit: `bytes` is what there will be, with those that are there.
    ///
    /// # Errors
    /// [`PullError::Disk`] of the kind `StorageFull`.
    pub fn room(&self, bytes: u64) -> Result<(), PullError> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let missing = bytes.saturating_sub(self.len);
        let Ok(state) = nix::sys::statvfs::statvfs(folder) else { return Ok(()) };
        let free = state.blocks_available().saturating_mul(state.fragment_size());
        if free >= missing {
            return Ok(());
        }
        let why = format!("{} MB are missing and {} MB are free", missing.div_ceil(1_000_000), free / 1_000_000);
        Err(disk(folder, io::Error::new(io::ErrorKind::StorageFull, why)))
    }

    /// Begins again, with another version.
    ///
    /// # Errors
    /// [`PullError::Disk`].
    pub fn restart(&mut self, validator: Option<String>) -> Result<(), PullError> {
        self.validator = validator;
        self.len = 0;
        self.hasher = Sha256::new();
        let note = format!("{}\n{}\n", self.origin, self.validator.as_deref().unwrap_or_default());
        let begun = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        begun.and_then(|_| fs::write(origin_file(&self.path), note)).map_err(|e| disk(&self.path, e))
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`PullError::Disk`]; what was written before stays good.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), PullError> {
        if let Err(error) = self.file.write_all(bytes) {
            // A part of the chunk may have been written: the file must hold what the hash has seen.
            let _ = self.file.set_len(self.len).and_then(|()| self.file.seek(SeekFrom::Start(self.len)));
            return Err(disk(&self.path, error));
        }
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Adds all of `from`; `progress` hears the bytes that are there. It can be dropped after each chunk.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn append(&mut self, from: &mut impl Read, progress: impl Fn(u64)) -> Result<(), AppendError> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = from.read(&mut buffer).map_err(AppendError::Read)?;
            if n == 0 {
                return Ok(());
            }
            self.write(buffer.get(..n).unwrap_or_default()).map_err(|e| match e {
                PullError::Disk { error, .. } => AppendError::Write(error),
                other => AppendError::Write(io::Error::other(other.to_string())),
            })?;
            progress(self.len);
            tokio::task::yield_now().await;
        }
    }

    /// Waits until the bytes are on the disk.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn seal(self) -> io::Result<Sealed> {
        let Self { path, file, hasher, len, .. } = self;
        tokio::task::spawn_blocking(move || file.sync_all()).await.map_err(io::Error::other)??;
        Ok(Sealed { path, bytes: len, sha256: hexadecimal(hasher) })
    }
}

impl Sealed {
    /// Removes the file, when it is still under its unfinished name, and the note beside it.
    pub fn discard(&self) {
        discard(&self.path);
    }
}

/// Removes what is not whole at `path`, and the note beside it.
pub fn discard(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_file(origin_file(path));
}

/// The note of where the bytes at `path` are from.
pub fn origin_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".from");
    PathBuf::from(name)
}
