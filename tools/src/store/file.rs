//! Capture files: one SQLite database, zstd-compressed, in `NAME.galen`. `zstd -d` and then `sqlite3` open it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{StoreError, StoreErrorKind};
use super::image;
use super::seal::SQLITE_MAGIC;
use crate::capture::{Capture, Manifest};

/// The most that `read` decompresses, and the most that what it decodes may take in memory, in bytes: 1 GiB each.
pub const MAX_BYTES: u64 = 1 << 30;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Level 9 costs little more than the default here and saves a tenth.
const ZSTD_LEVEL: i32 = 9;
/// Windows above 128 MiB are refused: decompression memory is bounded whatever a file says.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Writes a capture: whole or not at all, durable when it returns, the same bytes for the same capture.
///
/// Rows are put in time order. Fails with `Damaged` where the capture contradicts itself (a signal with values that
/// are not finite or times that do not increase), `DiskFull`, `Permission`, `NotFound` (no such folder) or `Io`.
pub fn write(capture: &Capture, path: &Path) -> Result<(), StoreError> {
    let image = image::encode(capture).map_err(|error| error.at(path))?;
    let packed = compress(&image).map_err(|error| StoreError::io(path, "compress", &error))?;
    replace(path, &packed).map_err(|error| StoreError::io(path, "write", &error))
}

/// Reads a capture of at most [`MAX_BYTES`]. Its manifest's name becomes the file's stem.
///
/// The file may come from a stranger. Fails with any [`StoreErrorKind`] except `DiskFull`.
pub fn read(path: &Path) -> Result<Capture, StoreError> {
    read_within(path, MAX_BYTES)
}

/// Reads a capture that decompresses to at most `max_bytes`.
pub fn read_within(path: &Path, max_bytes: u64) -> Result<Capture, StoreError> {
    let packed = load(path, max_bytes)?;
    let decoded = unpack(&packed, max_bytes).and_then(|image| image::decode(&image, max_bytes));
    let mut capture = decoded.map_err(|error| error.at(path))?;
    capture.manifest.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(capture)
}

/// The head alone of the capture in these bytes of a file; its name is the one it was written under. That the rest is
/// whole is not checked.
///
/// Fails as [`read`] does.
pub fn manifest(packed: &[u8]) -> Result<Manifest, StoreError> {
    let image = unpack(packed, MAX_BYTES)?;
    image::decode_manifest(&image, MAX_BYTES)
}

fn load(path: &Path, max_bytes: u64) -> Result<Vec<u8>, StoreError> {
    let about = fs::metadata(path).map_err(|error| StoreError::io(path, "read", &error))?;
    if !about.is_file() {
        return Err(StoreError::new(StoreErrorKind::NotACapture, "not a file").at(path));
    }
    if about.len() > max_bytes {
        return Err(too_large(max_bytes).at(path));
    }
    fs::read(path).map_err(|error| StoreError::io(path, "read", &error))
}

fn too_large(max_bytes: u64) -> StoreError {
    StoreError::new(StoreErrorKind::TooLarge, format!("holds more than the limit of {max_bytes} bytes"))
}

fn compress(image: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(image.len() as u64))?;
    encoder.write_all(image)?;
    encoder.finish()
}

fn unpack(packed: &[u8], max_bytes: u64) -> Result<Vec<u8>, StoreError> {
    if !packed.starts_with(&ZSTD_MAGIC) {
        let what = if packed.is_empty() { "the file is empty" } else { "not a capture (no zstd data)" };
        return Err(StoreError::new(StoreErrorKind::NotACapture, what));
    }
    let decoding = |error: io::Error| StoreError::damaged(format!("cut off or altered: {error}"));
    let mut decoder = zstd::Decoder::with_buffer(packed).map_err(decoding)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(decoding)?;
    let mut image = Vec::new();
    // The first bytes decide: a bomb that is no database costs nothing.
    decoder.by_ref().take(SQLITE_MAGIC.len() as u64).read_to_end(&mut image).map_err(decoding)?;
    if image != SQLITE_MAGIC {
        return Err(StoreError::new(StoreErrorKind::NotACapture, "not a capture (no SQLite database inside)"));
    }
    let rest = (max_bytes + 1).saturating_sub(image.len() as u64);
    decoder.take(rest).read_to_end(&mut image).map_err(decoding)?;
    if image.len() as u64 > max_bytes {
        return Err(too_large(max_bytes));
    }
    Ok(image)
}

/// Replaces a file in one step: a reader sees the old or the new, also after a crash.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stem = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file name"))?;
    let draft = Draft::new(folder, &stem.to_string_lossy())?;
    (&draft.file).write_all(bytes)?;
    draft.file.sync_all()?;
    fs::rename(&draft.path, path)?;
    File::open(folder)?.sync_all()
}

/// A file under a temporary name, removed when it was not renamed.
struct Draft {
    path: PathBuf,
    file: File,
}

impl Draft {
    fn new(folder: &Path, name: &str) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unique = format!(".{name}.{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = folder.join(unique);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path)?;
        Ok(Draft { path, file })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a successful rename there is nothing under this name: that failure is the good case.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod hostile_tests;
