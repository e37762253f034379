//! ZIP containers (DOCX, EPUB), read within bounds: what an entry claims to be is not believed, what comes out is counted.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::ZipArchive;
use zip::result::ZipError;

use crate::error::{ReadError, ReadErrorKind};

/// Most bytes that one entry may unpack to.
const MOST_ENTRY: u64 = 48 << 20;
/// Most bytes that are unpacked of one archive.
const MOST_TOTAL: u64 = 128 << 20;
/// Most entries: their list alone costs memory.
const MOST_ENTRIES: usize = 20_000;

/// An archive and what may still be unpacked of it.
pub struct Archive {
    zip: ZipArchive<BufReader<File>>,
    left: u64,
}

impl Archive {
    /// Opens an archive.
    ///
    /// # Errors
    /// `TooLarge` with too many entries, `Damaged`, or what the system says.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let entries = count_entries(File::open(path)?)?;
        if entries > MOST_ENTRIES {
            return Err(ReadError::new(ReadErrorKind::TooLarge, format!("{entries} entries, above the limit of {MOST_ENTRIES}")));
        }
        Ok(Self { zip: ZipArchive::new(BufReader::new(File::open(path)?)).map_err(broken)?, left: MOST_TOTAL })
    }

    /// Whether there is such an entry.
    pub fn has(&self, name: &str) -> bool {
        self.zip.index_for_name(name).is_some()
    }

    /// What an entry holds.
    ///
    /// # Errors
    /// `TooLarge` past the bounds, `Encrypted`, `Damaged`.
    pub fn read(&mut self, name: &str) -> Result<Vec<u8>, ReadError> {
        let most = MOST_ENTRY.min(self.left);
        let entry = self.zip.by_name(name).map_err(|e| match e {
            ZipError::FileNotFound => ReadError::damaged(format!("{name} is missing in it")),
            other => broken(other),
        })?;
        let mut bytes = Vec::new();
        entry.take(most + 1).read_to_end(&mut bytes).map_err(|e| ReadError::damaged(format!("{name}: {e}")))?;
        let read = bytes.len() as u64;
        if read > most {
            let mb = most >> 20;
            return Err(ReadError::new(ReadErrorKind::TooLarge, format!("{name} unpacks to more than {mb} MB: not read")));
        }
        self.left -= read;
        Ok(bytes)
    }
}

fn broken(error: ZipError) -> ReadError {
    let text = error.to_string();
    match error {
        ZipError::InvalidPassword => ReadError::new(ReadErrorKind::Encrypted, "encrypted with a password"),
        ZipError::UnsupportedArchive(why) if why.to_ascii_lowercase().contains("password") => {
            ReadError::new(ReadErrorKind::Encrypted, "encrypted with a password")
        }
        ZipError::Io(error) if error.kind() == std::io::ErrorKind::NotFound => error.into(),
        _ => ReadError::damaged(format!("not a readable archive: {text}")),
    }
}

/// Headers in the central directory, counted by their signature before anything is allocated for them.
fn count_entries(mut file: File) -> Result<usize, ReadError> {
    const SIGNATURE: &[u8; 4] = b"PK\x01\x02";
    let mut block = vec![0; 1 << 16];
    let (mut kept, mut found) = (0, 0);
    loop {
        let read = file.read(&mut block[kept..])?;
        if read == 0 {
            return Ok(found);
        }
        let filled = kept + read;
        found += block[..filled].windows(4).filter(|w| w == SIGNATURE).count();
        kept = filled.min(3);
        block.copy_within(filled - kept..filled, 0);
    }
}
