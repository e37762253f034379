//! Low-rank adapters of the model's weights: loaded with the model, switched on and off between requests.

use std::path::PathBuf;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};

use super::{LlmError, gguf};

/// A file of adapters and how strongly it counts.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFile {
    /// What it is called: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The GGUF file.
    pub path: PathBuf,
    /// Factor of its change to the weights; 1 is as trained.
    pub scale: f32,
}

impl AdapterFile {
    /// Whether the engine takes it, the file aside.
    ///
    /// # Errors
    /// What is wrong with its name or its factor.
    pub fn check(&self) -> Result<(), &'static str> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return Err("a name has letters, digits, `-`, `_` and `.`");
        }
        if self.scale.is_finite() { Ok(()) } else { Err("its scale is no number") }
    }

    /// As an argument of the model's process: `name:scale:path`.
    pub(super) fn argument(&self) -> std::ffi::OsString {
        let mut argument = std::ffi::OsString::from(format!("{}:{}:", self.name, self.scale));
        argument.push(&self.path);
        argument
    }

    /// Reads such an argument.
    pub(super) fn parse(argument: &str) -> Option<Self> {
        let mut parts = argument.splitn(3, ':');
        let (name, scale, path) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
        let file = Self { name: name.to_owned(), path: PathBuf::from(path), scale };
        Some(file).filter(|file| !path.is_empty() && file.check().is_ok())
    }
}

/// The adapters of a model.
#[derive(Debug, Default)]
pub struct Adapters(Vec<(AdapterFile, LlamaLoraAdapter)>);

impl Adapters {
    /// Loads them all; each costs as much memory as its file is long.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when one is no adapter, or not one of this model.
    pub fn load(model: &mut LlamaModel, files: &[AdapterFile]) -> Result<Self, LlmError> {
        let architecture = model.meta_val_str("general.architecture").unwrap_or_default();
        let mut adapters = Vec::new();
        for file in files {
            gguf::check_adapter(&file.path, &architecture)?;
            let refuse =
                |e: &dyn std::fmt::Display| LlmError::Unavailable(format!("the adapter {} does not load: {e}", file.path.display()));
            adapters.push((file.clone(), model.lora_adapter_init(&file.path).map_err(|e| refuse(&e))?));
        }
        Ok(Self(adapters))
    }

    /// Whether there is one of this name; no name is the model as it is.
    ///
    /// # Errors
    /// [`LlmError::Invalid`] with the names that there are.
    pub fn check(&self, name: Option<&str>) -> Result<(), LlmError> {
        let Some(name) = name else { return Ok(()) };
        let known: Vec<&str> = self.0.iter().map(|(file, _)| file.name.as_str()).collect();
        if known.contains(&name) {
            return Ok(());
        }
        Err(LlmError::Invalid(format!("no adapter '{name}' is loaded; there are: {}", known.join(", "))))
    }

    /// Sets the one of this name on a context, or takes all off.
    ///
    /// # Errors
    /// [`LlmError::Crashed`] when llama.cpp refuses.
    pub fn set(&mut self, name: Option<&str>, context: &mut LlamaContext<'_>) -> Result<(), LlmError> {
        let broken = |e: &dyn std::fmt::Display| LlmError::Crashed(format!("llama.cpp cannot change adapters: {e}"));
        match self.0.iter_mut().find(|(file, _)| name.is_some_and(|name| file.name == name)) {
            Some((file, adapter)) => context.lora_adapter_set(adapter, file.scale).map_err(|e| broken(&e)),
            // Any adapter names the model's list, which is emptied; without adapters it is empty already.
            None => self.0.first_mut().map_or(Ok(()), |(_, any)| context.lora_adapter_remove(any).map_err(|e| broken(&e))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_back_and_odd_ones_refused() {
        let file = AdapterFile { name: "locks-2.1".into(), path: "/a b/c:d.gguf".into(), scale: 0.5 };
        assert_eq!(AdapterFile::parse(file.argument().to_str().unwrap()), Some(file));
        for bad in ["", "name", "name:1", "name:1:", "name:x:p", "na me:1:p", ":1:p", "n:inf:p"] {
            assert_eq!(AdapterFile::parse(bad), None, "{bad}");
        }
    }
}
