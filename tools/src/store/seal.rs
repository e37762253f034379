//! What marks a database image as a capture, and the hash that shows whether it was altered.

use sha2::{Digest, Sha256};

use super::error::{StoreError, StoreErrorKind};
use crate::capture::FORMAT;

/// First bytes of every SQLite database.
pub(super) const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// `application_id` of captures: "galn".
pub(super) const APPLICATION_ID: i32 = 0x6761_6c6e;
/// Page size of captures.
pub(super) const PAGE_BYTES: usize = 4096;
/// Key of the hash in the manifest table.
pub(super) const HASH_KEY: &str = "sha256";
/// Stands where the hash belongs while it is computed.
pub(super) const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Where the first page, which lists the tables, says what kind of page it is.
const SCHEMA_PAGE_KIND: usize = 100;
/// A leaf of a table.
const LEAF: u8 = 13;

/// Magic, application id and version lie at fixed offsets: look before SQLite does.
pub(super) fn check_header(image: &[u8]) -> Result<(), StoreError> {
    let word = |at: usize| image.get(at..at + 4).and_then(|b| b.try_into().ok()).map(i32::from_be_bytes);
    if !image.starts_with(SQLITE_MAGIC) || word(68) != Some(APPLICATION_ID) {
        return Err(StoreError::new(StoreErrorKind::NotACapture, "what it contains is no capture"));
    }
    // The table list must be one leaf page: as a tree of forged links it could keep SQLite busy for ever.
    if image.get(SCHEMA_PAGE_KIND) != Some(&LEAF) {
        return Err(StoreError::damaged("its list of tables is forged"));
    }
    match word(60).and_then(|version| u32::try_from(version).ok()) {
        Some(version) if (1..=FORMAT).contains(&version) => Ok(()),
        Some(version) if version > FORMAT => Err(StoreError::new(
            StoreErrorKind::TooNew,
            format!("written in format {version}, this Galen reads up to {FORMAT}: use a newer galen"),
        )),
        _ => Err(StoreError::damaged("its format version is forged")),
    }
}

/// Puts the hash of the image, taken with zeros in the hash's own place, into that place.
pub(super) fn seal(image: &mut [u8]) -> Result<(), StoreError> {
    let hash = hash_of(image);
    let at = place_of_hash(image, NO_HASH).ok_or_else(|| StoreError::damaged("no place for the hash"))?;
    image[at..at + NO_HASH.len()].copy_from_slice(hash.as_bytes());
    Ok(())
}

/// Compares the hash that the manifest claims with that of the image.
pub(super) fn check_seal(image: &[u8], claimed: &str) -> Result<(), StoreError> {
    let place = (claimed.len() == NO_HASH.len()).then(|| place_of_hash(image, claimed)).flatten();
    let at = place.ok_or_else(|| StoreError::damaged("its sha256 is forged"))?;
    let mut hasher = Sha256::new();
    hasher.update(&image[..at]);
    hasher.update(NO_HASH);
    hasher.update(&image[at + NO_HASH.len()..]);
    if hex(&hasher.finalize()) == claimed {
        return Ok(());
    }
    Err(StoreError::damaged("its content does not match its sha256: it was altered after it was written"))
}

/// The manifest is the first table: its row lies in the second page, and nothing of a stranger's before it.
fn place_of_hash(image: &[u8], value: &str) -> Option<usize> {
    let needle = [HASH_KEY.as_bytes(), value.as_bytes()].concat();
    let head = &image[..image.len().min(2 * PAGE_BYTES)];
    let found = head.windows(needle.len()).position(|window| window[0] == needle[0] && window == needle)?;
    Some(found + HASH_KEY.len())
}

fn hash_of(image: &[u8]) -> String {
    hex(&Sha256::digest(image))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
