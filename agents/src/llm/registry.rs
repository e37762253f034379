//! The models that Galen knows, those that a user added, and the check that a file on disk is the one it claims to be.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::LlmError;
use super::pins::{self, Pin};

/// Name of the file in the models folder that lists what `galen model add` took in.
pub const OWN_FILE: &str = "own.toml";

/// All known models.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// The models, the smallest first; a user's own last.
    #[serde(rename = "model", default)]
    pub models: Vec<Model>,
}

/// What a model is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Answers questions: what a diagnosis asks.
    #[default]
    Chat,
    /// Orders passages by how well they answer.
    Rerank,
    /// Turns text into vectors.
    Embedding,
}

/// Whether a model thinks aloud before it answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Thinking {
    /// It does not.
    #[default]
    None,
    /// Its template can switch it off, and Galen does.
    Switchable,
    /// It always does. The embedded engine writes an empty thought, or the head of the final answer, in its place, so that it
    /// answers at once; at somebody's server it may think, within the tokens that it may generate.
    Always,
}

/// One model file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What users call it, such as `smollm2-135m`.
    pub name: String,
    /// The family it belongs to.
    pub family: String,
    /// What it is for.
    #[serde(default)]
    pub kind: Kind,
    /// Weights in the file; rounded where the entry is not pinned.
    pub parameters: u64,
    /// How the weights are stored.
    pub quantisation: String,
    /// Path of the file in the models folder: a name, or a name in a folder of its own.
    pub file: String,
    /// Size of the file, where it is pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// SHA-256 of the file in hexadecimal, where it is pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// SPDX identifier, or what its publisher calls it.
    pub licence: String,
    /// Tokens that the model was trained to attend to.
    pub context: u32,
    /// Resident memory of the engine with 4,096 tokens of context on a CPU, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// The form of a conversation, by llama.cpp's name for it; the file's own template is what counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Whether it thinks aloud.
    #[serde(default)]
    pub thinking: Thinking,
    /// Page about the model.
    pub publisher: String,
    /// The file at its publisher's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `PACKAGE==VERSION MEMBER` in the order in which the members are joined.
    #[serde(default)]
    pub parts: Vec<String>,
    /// What it does not work without, in the same folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Beside>,
}

/// A further file of a model, always pinned.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    /// Path in the models folder.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// The file at its publisher's.
    pub url: String,
    /// As [`Model::parts`].
    #[serde(default)]
    pub parts: Vec<String>,
}

impl Model {
    /// Resident memory of the engine with the model on a CPU in MB, and whether it was measured. Where it was not, about twice
    /// the weights: the file's pages, and a copy of most weights in the processor's order. That is 0.9 to 1.1 of what was
    /// measured for models of half a billion weights and more, and too little for smaller ones.
    pub fn memory_need(&self) -> (u64, bool) {
        if let Some(measured) = self.memory_mb {
            return (measured, true);
        }
        let bits = match self.quantisation.split('_').next().unwrap_or_default() {
            "F32" => 32.0,
            "F16" | "BF16" => 16.0,
            "Q8" => 8.5,
            "Q6" => 6.6,
            "Q5" => 5.7,
            "MXFP4" => 4.3,
            "Q3" => 3.9,
            "Q2" => 3.2,
            _ => 4.85,
        };
        let bytes = self.bytes.map_or(self.parameters as f64 * bits / 8.0, |bytes| bytes as f64);
        ((2.0 * bytes / 1e6).round() as u64, false)
    }
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

    /// The registry that this build carries, and the models that were added to `models_dir`.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when the folder's own list does not parse.
    pub fn load(models_dir: &Path) -> Result<Self, LlmError> {
        let mut registry = Self::builtin()?;
        registry.models.extend(Self::own(models_dir)?.models);
        Ok(registry)
    }

    /// The models that were added to `models_dir` alone.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when the list cannot be read or does not parse.
    pub fn own(models_dir: &Path) -> Result<Self, LlmError> {
        let path = models_dir.join(OWN_FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(unreadable(&path, &e)),
        };
        let own: Self = toml::from_str(&text).map_err(|e| LlmError::Unavailable(format!("{}: {}", path.display(), e.message())))?;
        match own.models.iter().find(|m| !plain_name(&m.file)) {
            Some(model) => Err(LlmError::Unavailable(format!("{}: {} is no file name", path.display(), model.file))),
            None => Ok(own),
        }
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

    /// As [`Registry::find`], for a model that is to answer questions.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`], also for a model of another kind.
    pub fn chat(&self, name: &str) -> Result<&Model, LlmError> {
        let model = self.find(name)?;
        if model.kind == Kind::Chat {
            return Ok(model);
        }
        Err(LlmError::Unavailable(format!("{name} does not answer questions; `galen model list` shows what each model is for")))
    }
}

impl Model {
    /// Where the file is in `models_dir`.
    pub fn path(&self, models_dir: &Path) -> PathBuf {
        models_dir.join(&self.file)
    }

    /// Its files, each as a model of its own, with the one that it is named after last: what is there is whole.
    pub fn files(&self) -> Vec<Self> {
        let further = self.beside.iter().map(|beside| Self {
            name: format!("{}-{}", self.name, base_name(&beside.file)),
            file: beside.file.clone(),
            bytes: Some(beside.bytes),
            sha256: Some(beside.sha256.clone()),
            url: Some(beside.url.clone()),
            parts: beside.parts.clone(),
            beside: Vec::new(),
            ..self.clone()
        });
        further.chain([Self { beside: Vec::new(), ..self.clone() }]).collect()
    }

    /// What the file must be: as pinned, else as recorded in `models_dir` at the first pull; nothing before that.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when the record cannot be read.
    pub fn expected(&self, models_dir: &Path) -> Result<Option<Pin>, LlmError> {
        if let (Some(bytes), Some(sha256)) = (self.bytes, &self.sha256) {
            return Ok(Some(Pin { bytes, sha256: sha256.clone(), from: "the registry".to_owned() }));
        }
        pins::find(models_dir, &self.name)
    }

    /// Checks that `path` is this model: size, GGUF header, digest, and returns the digest, which is remembered beside
    /// the file. The first file of a model without a pin is trusted, recorded in the same folder, and checked from then on.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] that says what is wrong and what to do.
    pub fn verify(&self, path: &Path) -> Result<String, LlmError> {
        let size =
            fs::metadata(path).map_err(|e| LlmError::Unavailable(format!("{}: {e}; fetch it with {}", path.display(), self.how())))?.len();
        let folder = path.parent().unwrap_or(Path::new("."));
        let expected = self.expected(folder)?;
        if let Some(pin) = expected.as_ref().filter(|pin| pin.bytes != size) {
            return Err(self.wrong(path, &format!("it has {size} bytes, not {}", pin.bytes), pin));
        }
        if self.file.ends_with(".gguf") {
            super::gguf::check(path)?;
        }
        let digest = digest(path)?;
        match expected {
            Some(pin) if pin.sha256 == digest => Ok(digest),
            Some(pin) => Err(self.wrong(path, &format!("its sha256 is {digest}"), &pin)),
            None => {
                tracing::warn!(model = self.name, sha256 = digest, "no digest of this model is known: recorded, and checked from now on");
                let pin = Pin { bytes: size, sha256: digest.clone(), from: "the file that was there".to_owned() };
                if let Err(error) = pins::record(folder, &self.name, pin) {
                    tracing::warn!(%error, "the digest could not be recorded");
                }
                Ok(digest)
            }
        }
    }

    /// The command that fetches it: `make` where that can, which works before anything is built.
    pub fn how(&self) -> String {
        if self.kind == Kind::Embedding {
            "`make embedding`".to_owned()
        } else if self.parts.is_empty() {
            format!("`galen model pull {}`", self.name)
        } else {
            format!("`make model MODEL={}` or `galen model pull {}`", self.name, self.name)
        }
    }

    fn wrong(&self, path: &Path, why: &str, pin: &Pin) -> LlmError {
        LlmError::Unavailable(format!(
            "{} is not {} as {} has it: {why}; remove it and run {}",
            path.display(),
            self.name,
            pin.from,
            self.how()
        ))
    }
}

/// What is behind the last slash.
fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether `name` is the name of a file in a folder, and of no other place.
pub fn plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
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
    if let Some(known) = remembered(&side_file(path), &stamp) {
        return Ok(known);
    }
    let digest = hash(path).map_err(|e| unreadable(path, &e))?;
    remember(path, &digest);
    Ok(digest)
}

/// Keeps a digest that was just computed of the file beside it.
pub(super) fn remember(path: &Path, digest: &str) {
    let side = side_file(path);
    let written = stamp(path).and_then(|stamp| fs::write(&side, format!("{digest} {stamp}\n")));
    // A folder that cannot be written to only costs the next start some seconds.
    if let Err(e) = written {
        tracing::debug!(file = %side.display(), error = %e, "digest not remembered");
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> LlmError {
    LlmError::Unavailable(format!("{}: {error}", path.display()))
}

/// Where the digest of the file at `path` is remembered.
pub(super) fn side_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sha256");
    PathBuf::from(name)
}

pub(super) fn stamp(path: &Path) -> std::io::Result<String> {
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
    Ok(hexadecimal(hasher))
}

/// The digest in hexadecimal.
pub(super) fn hexadecimal(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_that_is_told_without_being_measured_is_about_what_was_measured() {
        for model in Registry::builtin().unwrap().models {
            let (told, measured) = model.memory_need();
            assert_eq!((measured, model.memory_mb.unwrap_or(told)), (model.memory_mb.is_some(), told));
            let (guess, guessed) = Model { memory_mb: None, bytes: None, ..model.clone() }.memory_need();
            if measured && model.parameters > 500_000_000 {
                assert!(
                    !guessed && guess as f64 > 0.85 * told as f64 && (guess as f64) < 1.2 * told as f64,
                    "{}: {guess} {told}",
                    model.name
                );
            }
        }
    }

    #[test]
    fn the_builtin_registry_parses_and_each_entry_is_whole() {
        let registry = Registry::builtin().unwrap();
        let pinned = registry.models.iter().filter(|m| m.sha256.is_some()).count();
        assert!(pinned >= 5 && registry.models.len() > pinned + 5, "{pinned}");
        for model in &registry.models {
            assert_eq!(model.sha256.is_some(), model.bytes.is_some(), "{}", model.name);
            assert!(model.sha256.as_ref().is_none_or(|s| s.len() == 64 && s.bytes().all(|b| b.is_ascii_hexdigit())), "{}", model.name);
            assert!(model.parts.iter().all(|p| p.contains("==") && p.split(' ').count() == 2), "{}", model.name);
            assert!(model.parts.is_empty() || model.sha256.is_some(), "{}: what packages hold is pinned", model.name);
            assert!(!matches!(model.licence.as_str(), "" | "?"), "{}", model.name);
            // A base model has none.
            let template = model.template.as_ref().is_some_and(|t| !t.is_empty()) || model.name == "gemma-3-270m";
            assert!(model.kind != Kind::Chat || template, "{}", model.name);
            for file in model.files() {
                assert!(file.publisher.starts_with("https://") && file.file.split('/').all(plain_name), "{}", file.name);
                assert!(file.url.is_some_and(|u| u.starts_with("https://") && u.ends_with(base_name(&file.file))), "{}", file.name);
            }
            assert_eq!(registry.models.iter().filter(|m| m.name == model.name || m.file == model.file).count(), 1, "{}", model.name);
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones_and_a_reranker_is_no_chat_model() {
        let registry = Registry::builtin().unwrap();
        let error = registry.find("gpt").unwrap_err().to_string();
        assert!(error.contains("smollm2-135m"), "{error}");
        assert!(registry.chat("smollm2-135m").is_ok());
        assert!(registry.chat("bge-reranker-v2-m3").unwrap_err().to_string().contains("does not answer"));
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

    #[test]
    fn a_model_without_a_pin_is_trusted_once_and_checked_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Registry::builtin().unwrap().find("qwen3-0.6b").unwrap().clone();
        model.file = "weights.bin".to_owned();
        let path = model.path(dir.path());
        fs::write(&path, "first").unwrap();
        assert_eq!(model.expected(dir.path()).unwrap(), None);
        let digest = model.verify(&path).unwrap();
        assert_eq!(model.expected(dir.path()).unwrap().unwrap().sha256, digest);
        fs::write(&path, "other").unwrap();
        let error = model.verify(&path).unwrap_err().to_string();
        assert!(error.contains("its sha256 is") && error.contains("galen model pull qwen3-0.6b"), "{error}");
    }

    #[test]
    fn a_list_of_ones_own_is_read_beside_the_builtin_and_reaches_into_no_other_folder() {
        let dir = tempfile::tempdir().unwrap();
        let entry = |file: &str| {
            format!(
                "[[model]]\nname = \"mine\"\nfamily = \"x\"\nparameters = 1\nquantisation = \"F16\"\nfile = {file:?}\nlicence = \"?\"\ncontext = 1\npublisher = \"\"\n"
            )
        };
        fs::write(dir.path().join(OWN_FILE), entry("mine.gguf")).unwrap();
        assert!(Registry::load(dir.path()).unwrap().find("mine").is_ok());
        for bad in ["../x.gguf", "/etc/passwd", ".hidden", ""] {
            fs::write(dir.path().join(OWN_FILE), entry(bad)).unwrap();
            assert!(Registry::load(dir.path()).is_err(), "{bad}");
        }
        fs::write(dir.path().join(OWN_FILE), "model = 3").unwrap();
        let error = Registry::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains(OWN_FILE) && !error.contains('\n'), "{error}");
    }
}
