//! The models that Galen knows, and the check that a file on disk is the one it claims to be.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::LlmError;

/// All known models.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// The models, the smallest first.
    #[serde(rename = "model")]
    pub models: Vec<Model>,
}

/// One model file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What users call it, such as `smollm2-135m`.
    pub name: String,
    /// The family it belongs to.
    pub family: String,
    /// Weights in the file.
    pub parameters: u64,
    /// How the weights are stored.
    pub quantisation: String,
    /// Name of the file.
    pub file: String,
    /// Size of the file.
    pub bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// SPDX identifier.
    pub licence: String,
    /// Tokens that the model was trained to attend to.
    pub context: u32,
    /// Page where the file can be fetched with internet.
    pub publisher: String,
    /// `PACKAGE==VERSION MEMBER` in the order in which the members are joined.
    pub parts: Vec<String>,
}

impl Registry {
    /// The registry that this build carries.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when the embedded file does not parse, which a test rules out.
    pub fn builtin() -> Result<Self, LlmError> {
        toml::from_str(include_str!("../../models/models.toml"))
            .map_err(|e| LlmError::Unavailable(format!("the embedded model registry does not parse: {e}")))
    }

    /// The model called `name`.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] that lists the names there are.
    pub fn find(&self, name: &str) -> Result<&Model, LlmError> {
        self.models.iter().find(|m| m.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.models.iter().map(|m| m.name.as_str()).collect();
            LlmError::Unavailable(format!("no model '{name}' is known; there are: {}", names.join(", ")))
        })
    }
}

impl Model {
    /// Where the file is in `models_dir`.
    pub fn path(&self, models_dir: &Path) -> PathBuf {
        models_dir.join(&self.file)
    }

    /// Checks that `path` is this model: size, GGUF header, digest. The digest is remembered beside the file.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] that says what is wrong and what to do.
    pub fn verify(&self, path: &Path) -> Result<(), LlmError> {
        let size = fs::metadata(path)
            .map_err(|e| LlmError::Unavailable(format!("{}: {e}; fetch it with `make model MODEL={}`", path.display(), self.name)))?
            .len();
        if size != self.bytes {
            return Err(self.wrong(path, &format!("it has {size} bytes, not {}", self.bytes)));
        }
        super::gguf::check(path)?;
        let digest = digest(path)?;
        if digest == self.sha256 { Ok(()) } else { Err(self.wrong(path, &format!("its sha256 is {digest}"))) }
    }

    fn wrong(&self, path: &Path, why: &str) -> LlmError {
        LlmError::Unavailable(format!("{} is not {}: {why}; remove it and run `make model MODEL={}`", path.display(), self.name, self.name))
    }
}

/// The folder for models: `GALEN_MODELS_DIR`, else `.cache/galen/models` in the home folder.
pub fn default_models_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("GALEN_MODELS_DIR").filter(|d| !d.is_empty()) {
        return PathBuf::from(dir);
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
    home.join(".cache/galen/models")
}

/// SHA-256 of a file in hexadecimal. A side file `NAME.sha256` remembers it with the file's size and modification
/// time, so that a gigabyte is not hashed at every start; it is written again when either differs.
///
/// # Errors
/// [`LlmError::Unavailable`] when the file cannot be read.
pub fn digest(path: &Path) -> Result<String, LlmError> {
    let stamp = stamp(path).map_err(|e| unreadable(path, &e))?;
    let side = side_file(path);
    if let Some(known) = remembered(&side, &stamp) {
        return Ok(known);
    }
    let digest = hash(path).map_err(|e| unreadable(path, &e))?;
    // A folder that cannot be written to only costs the next start some seconds.
    if let Err(e) = fs::write(&side, format!("{digest} {stamp}\n")) {
        tracing::debug!(file = %side.display(), error = %e, "digest not remembered");
    }
    Ok(digest)
}

fn unreadable(path: &Path, error: &std::io::Error) -> LlmError {
    LlmError::Unavailable(format!("{}: {error}", path.display()))
}

fn side_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sha256");
    PathBuf::from(name)
}

fn stamp(path: &Path) -> std::io::Result<String> {
    let meta = fs::metadata(path)?;
    let modified = meta.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{} {}", meta.len(), modified.as_nanos()))
}

fn remembered(side: &Path, stamp: &str) -> Option<String> {
    let text = fs::read_to_string(side).ok()?;
    let (digest, rest) = text.trim_end().split_once(' ')?;
    let plausible = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    (plausible && rest == stamp).then(|| digest.to_owned())
}

fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hasher.update(buffer.get(..n).unwrap_or_default());
    }
    Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_registry_parses_and_each_entry_is_whole() {
        let registry = Registry::builtin().unwrap();
        assert!(registry.models.len() >= 3);
        for model in &registry.models {
            assert_eq!(model.sha256.len(), 64, "{}", model.name);
            assert!(model.bytes > 1 << 20 && !model.parts.is_empty(), "{}", model.name);
            assert!(model.parts.iter().all(|p| p.contains("==") && p.split(' ').count() == 2), "{}", model.name);
            assert!(!model.file.contains('/'), "{}", model.name);
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let error = Registry::builtin().unwrap().find("gpt").unwrap_err().to_string();
        assert!(error.contains("smollm2-135m"), "{error}");
    }

    #[test]
    fn a_changed_file_is_hashed_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        fs::write(&path, "abc").unwrap();
        let first = digest(&path).unwrap();
        assert_eq!(first, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(side_file(&path).exists());
        fs::write(&path, "abcd").unwrap();
        assert_ne!(digest(&path).unwrap(), first);
    }

    #[test]
    fn a_file_of_the_wrong_size_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.gguf");
        fs::write(&path, "GGUF").unwrap();
        let registry = Registry::builtin().unwrap();
        let error = registry.find("smollm2-135m").unwrap().verify(&path).unwrap_err().to_string();
        assert!(error.contains("4 bytes") && error.contains("make model MODEL=smollm2-135m"), "{error}");
    }
}
