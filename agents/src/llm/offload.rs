//! What the engine is told about a GPU, as arguments of its process and as llama.cpp's parameters.

use std::ffi::CString;
use std::path::Path;
use std::pin::pin;

use llama_cpp_2::LlamaCppError;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use serde::{Deserialize, Serialize};

/// Type of the cache of keys and values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cache {
    /// Sixteen bits.
    #[default]
    F16,
    /// Eight bits in blocks of 32.
    Q8_0,
    /// Thirty-two bits, which no plan chooses: answers then hardly depend on what is evaluated together.
    F32,
}

impl Cache {
    /// Bytes of what has so many with sixteen bits.
    pub fn bytes(self, with_sixteen_bits: u64) -> u64 {
        match self {
            Self::F16 => with_sixteen_bits,
            Self::Q8_0 => with_sixteen_bits / 64 * 34,
            Self::F32 => with_sixteen_bits * 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::F32 => "f32",
        }
    }
}

/// How a model is spread over a GPU; by default as llama.cpp does: all of it, where the build has a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offload {
    /// Layers on the GPU, from the last; the output counts as one more. All, when absent.
    pub gpu_layers: Option<u32>,
    /// Layers, from the first, whose experts stay in main memory.
    pub cpu_experts: u32,
    /// Type of the cache.
    pub cache: Cache,
    /// Whether flash attention is demanded or refused; llama.cpp decides, when absent. With it keys and values are read with
    /// sixteen bits, whatever the cache has.
    pub flash_attention: Option<bool>,
}

impl Offload {
    /// Arguments of the model's process.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = Vec::new();
        if let Some(layers) = self.gpu_layers {
            arguments.extend(["--gpu-layers".to_owned(), layers.to_string()]);
        }
        arguments.extend(["--cpu-experts".to_owned(), self.cpu_experts.to_string()]);
        arguments.extend(["--kv-type".to_owned(), self.cache.name().to_owned()]);
        if let Some(on) = self.flash_attention {
            arguments.extend(["--flash-attention".to_owned(), if on { "on" } else { "off" }.to_owned()]);
        }
        arguments
    }

    /// Reads one of these arguments. Returns whether it is one.
    ///
    /// # Errors
    /// One line with the value that makes no sense.
    pub fn read(&mut self, flag: &str, value: &str) -> Result<bool, String> {
        let number = || value.parse().map_err(|_| format!("{flag} {value}: not a number that fits"));
        match (flag, value) {
            ("--gpu-layers", _) => self.gpu_layers = Some(number()?),
            ("--cpu-experts", _) => self.cpu_experts = number()?,
            ("--kv-type", "f16") => self.cache = Cache::F16,
            ("--kv-type", "q8_0") => self.cache = Cache::Q8_0,
            ("--kv-type", "f32") => self.cache = Cache::F32,
            ("--flash-attention", "on") => self.flash_attention = Some(true),
            ("--flash-attention", "off") => self.flash_attention = Some(false),
            ("--flash-attention", "auto") => self.flash_attention = None,
            ("--kv-type" | "--flash-attention", _) => return Err(format!("{flag} {value}: not known")),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Loads a model, spread like this.
    ///
    /// # Errors
    /// What llama.cpp says.
    pub fn load(&self, backend: &LlamaBackend, path: &Path) -> Result<LlamaModel, LlamaCppError> {
        let pattern = CString::new(self.pattern()).unwrap_or_default();
        let params = LlamaModelParams::default();
        let mut params = pin!(match self.gpu_layers {
            Some(layers) => params.with_n_gpu_layers(layers),
            None => params,
        });
        if self.cpu_experts > 0 {
            params.as_mut().add_cpu_buft_override(&pattern);
        }
        Ok(LlamaModel::load_from_file(backend, path, &params)?)
    }

    /// The names of the tensors that stay in main memory, as llama.cpp's regular expressions.
    fn pattern(&self) -> String {
        let layers: Vec<String> = (0..self.cpu_experts).map(|i| i.to_string()).collect();
        format!("blk\\.({})\\.ffn_(up|down|gate_up|gate)_(ch|)exps", layers.join("|"))
    }

    /// Context parameters with this cache.
    pub fn context(&self, params: LlamaContextParams) -> LlamaContextParams {
        let kind = match self.cache {
            Cache::F16 => KvCacheType::F16,
            Cache::Q8_0 => KvCacheType::Q8_0,
            Cache::F32 => KvCacheType::F32,
        };
        let params = params.with_type_k(kind).with_type_v(kind);
        match self.flash_attention {
            Some(true) => params.with_flash_attention_policy(llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_ENABLED),
            Some(false) => params.with_flash_attention_policy(llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED),
            None => params,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_back() {
        let offload = Offload { gpu_layers: Some(25), cpu_experts: 7, cache: Cache::Q8_0, flash_attention: Some(true) };
        let mut read = Offload::default();
        for pair in offload.arguments().chunks(2) {
            assert!(read.read(&pair[0], &pair[1]).unwrap());
        }
        assert_eq!(read, offload);
        assert!(!read.read("--threads", "2").unwrap());
        for (flag, value) in [("--gpu-layers", "x"), ("--kv-type", "q1"), ("--flash-attention", "maybe")] {
            assert!(read.read(flag, value).unwrap_err().contains(value));
        }
    }

    #[test]
    fn the_pattern_names_the_experts_of_the_first_layers() {
        let pattern = Offload { cpu_experts: 2, ..Offload::default() }.pattern();
        assert_eq!(pattern, "blk\\.(0|1)\\.ffn_(up|down|gate_up|gate)_(ch|)exps");
    }
}
