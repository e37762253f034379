//! The `[model]` section: who runs the language model, with what, and its adapters.

use std::path::PathBuf;

use galen_agents::llm::offload::Cache;
use galen_agents::llm::openai::{Dialect, Key};
use galen_agents::llm::registry::{self, Registry};
use galen_agents::llm::{AdapterFile, OpenAiConfig};
use serde::{Deserialize, Serialize};

use super::Secret;
use crate::failure::Failure;

/// See [`Config`](super::Config).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Model {
    pub provider: ModelProvider,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models_dir: Option<PathBuf>,
    pub threads: u16,
    pub timeout_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vram: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_type: Option<Cache>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flash_attention: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
    #[serde(rename = "adapter", skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<Adapter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    pub allow_remote: bool,
    pub dialect: Dialect,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
}

/// See [`Config`](super::Config).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Adapter {
    pub name: String,
    pub file: PathBuf,
    #[serde(default = "as_trained")]
    pub scale: f32,
}

fn as_trained() -> f32 {
    1.0
}

impl Adapter {
    /// As the engine takes it.
    pub fn file(&self) -> AdapterFile {
        AdapterFile { name: self.name.clone(), path: self.file.clone(), scale: self.scale }
    }
}

/// Who runs the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelProvider {
    /// The embedded engine.
    #[default]
    Local,
    /// A server that speaks OpenAI's chat completions.
    Openai,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            provider: ModelProvider::default(),
            name: "none".into(),
            models_dir: None,
            threads: 2,
            timeout_s: 60,
            vram: None,
            kv_type: None,
            flash_attention: None,
            memory_limit: None,
            adapters: Vec::new(),
            base_url: None,
            allow_remote: false,
            dialect: Dialect::default(),
            api_key: None,
            api_key_file: None,
        }
    }
}

impl Model {
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(vram) = &self.vram {
            galen_agents::llm::plan::bytes(vram).map_err(|why| format!("model.vram: {why}"))?;
        }
        if let Some(limit) = self.memory_limit.as_ref().filter(|limit| *limit != "none") {
            galen_agents::llm::plan::bytes(limit).map_err(|why| format!("model.memory_limit: {why}, or none"))?;
        }
        if self.kv_type == Some(Cache::Q8_0) && self.flash_attention == Some(false) {
            return Err("model.kv_type \"q8_0\" needs flash attention: leave model.flash_attention out or say true".into());
        }
        self.check_adapters()?;
        if self.name == "none" {
            return Ok(());
        }
        match self.provider {
            ModelProvider::Local => Ok(()),
            ModelProvider::Openai => self.server(None).check().map_err(|why| format!("model: {why}")),
        }
    }

    /// Whether the embedded engine's model is one that is known; asked last, for it needs the folder of models.
    pub(super) fn known(&self) -> Result<(), String> {
        if self.name == "none" || self.provider != ModelProvider::Local {
            return Ok(());
        }
        let registry = Registry::load(&self.folder()).map_err(|error| format!("model.name: {error}"))?;
        registry.chat(&self.name).map(|_| ()).map_err(|error| format!("model.name: {error}, none"))
    }

    /// The folder of model files: the configured one, else [`registry::default_models_dir`].
    pub fn folder(&self) -> PathBuf {
        self.models_dir.clone().unwrap_or_else(registry::default_models_dir)
    }

    fn check_adapters(&self) -> Result<(), String> {
        if self.provider != ModelProvider::Local && !self.adapters.is_empty() {
            return Err("model.adapter: the server of provider \"openai\" has its own".into());
        }
        let mut names = std::collections::BTreeSet::new();
        for adapter in &self.adapters {
            adapter.file().check().map_err(|why| format!("model.adapter `{}`: {why}", adapter.name))?;
            if !names.insert(&adapter.name) {
                return Err(format!("model.adapter `{}` is there twice", adapter.name));
            }
        }
        Ok(())
    }

    /// The server that runs the model, without its key.
    fn server(&self, key: Option<Key>) -> OpenAiConfig {
        let mut server = OpenAiConfig::new(self.base_url.as_deref().unwrap_or_default(), &self.name);
        server.allow_remote = self.allow_remote;
        server.dialect = self.dialect;
        server.request_timeout = std::time::Duration::from_secs(self.timeout_s);
        server.key = key;
        server
    }

    /// The server that runs the model; none when the embedded engine does.
    ///
    /// # Errors
    /// Code 3 when the file of the key cannot be read.
    pub fn openai(&self) -> Result<Option<OpenAiConfig>, Failure> {
        if self.provider != ModelProvider::Openai {
            return Ok(None);
        }
        let key = match (&self.api_key_file, &self.api_key) {
            (Some(file), _) => {
                let text = std::fs::read_to_string(file);
                Some(Key::new(&text.map_err(|e| Failure::config(format!("model.api_key_file {}: {e}", file.display())))?))
            }
            (None, Some(key)) => Some(Key::new(key.expose())),
            (None, None) => None,
        };
        Ok(Some(self.server(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load;
    use super::*;

    #[test]
    fn a_models_server_on_another_machine_needs_a_yes_and_its_key_is_never_shown() {
        let server = |more: &str| load(&format!("[model]\nprovider = \"openai\"\nname = \"m\"\n{more}"));
        assert!(server("base_url = \"http://127.0.0.1:8000/v1\"").is_ok());
        assert!(server("").unwrap_err().message.contains("base_url"));
        let there = "base_url = \"http://10.0.0.9:8000/v1\"\n";
        let refused = server(there).unwrap_err();
        assert!(refused.code == 3 && refused.message.contains("allow_remote = true"), "{refused}");
        let allowed = server(&format!("{there}allow_remote = true\napi_key = \"hunter2\"")).unwrap();
        assert!(!format!("{allowed:?}").contains("hunter2") && !toml::to_string(&allowed).unwrap().contains("hunter2"));
        assert!(allowed.model.openai().unwrap().unwrap().key.is_some());
        let missing = server(&format!("{there}allow_remote = true\napi_key_file = \"/nonexistent/key\"")).unwrap();
        assert_eq!(missing.model.openai().unwrap_err().code, 3);
        assert!(server("provider = \"x\"").is_err() && load("[model]\nvram = \"lots\"").unwrap_err().message.contains("model.vram"));
    }

    #[test]
    fn a_target_has_an_adapter_that_is_defined_and_sound() {
        let adapter = |name: &str, more: &str| format!("[[model.adapter]]\nname = \"{name}\"\nfile = \"a.gguf\"\n{more}");
        let target = "[[target]]\nname = \"a\"\ndsn = \"host=x\"\nadapter = \"shop\"\n";
        let config = load(&format!("{target}{}{}", adapter("shop", "scale = 0.5\n"), adapter("other", ""))).unwrap();
        let scales: Vec<f32> = config.model.adapters.iter().map(|a| a.file().scale).collect();
        assert_eq!(scales, [0.5, 1.0]);
        for (text, expected) in [
            (format!("{target}{}", adapter("other", "")), "target `a` wants the adapter `shop`"),
            (adapter("s", "").repeat(2), "`s` is there twice"),
            (adapter("a b", ""), "a name has letters"),
            (adapter("s", "scale = inf\n"), "its scale is no number"),
            (format!("[model]\nprovider = \"openai\"\n{}", adapter("s", "")), "has its own"),
            ("[model]\nmemory_limit = \"much\"".to_owned(), "model.memory_limit"),
            ("[model]\nkv_type = \"q8_0\"\nflash_attention = false".to_owned(), "needs flash attention"),
            ("[model]\nkv_type = \"q2\"".to_owned(), "q2"),
        ] {
            let failure = load(&text).unwrap_err();
            assert!(failure.code == 3 && failure.message.contains(expected), "{text}: {failure}");
        }
        assert_eq!(load("[model]\nkv_type = \"q8_0\"").unwrap().model.kv_type, Some(Cache::Q8_0));
        assert!(load("[model]\nmemory_limit = \"none\"").is_ok() && load("[model]\nmemory_limit = \"6GiB\"").is_ok());
    }
}
