//! What a run pins: digests of everything that changes its results, and the machine that it was measured on.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest, Sha256};

use galen_agents::driver::{Library, Options};
use galen_agents::evaluation::record::{Machine, ModelPin, Pins};
use galen_agents::llm::Provider;

use super::suite::hex;

/// What was run: a suite's name, the digest of its definition, and the half.
pub struct Asked<'a> {
    /// Name.
    pub suite: &'a str,
    /// SHA-256 over cases, captures and answers.
    pub sha256: String,
    /// As [`Pins::half`].
    pub half: &'a str,
}

/// The pins of a run.
pub fn pins(asked: Asked<'_>, library: &Library, provider: Option<(&str, &dyn Provider)>, options: &Options) -> Pins {
    Pins {
        galen_version: env!("CARGO_PKG_VERSION").into(),
        sources: env!("SOURCES_DIGEST").into(),
        suite: asked.suite.into(),
        suite_sha256: asked.sha256,
        half: asked.half.into(),
        catalog_sha256: digest(&library.catalog.iter().collect::<Vec<_>>()),
        knowledge_sha256: digest(&library.chunks),
        signals_sha256: digest(&library.signals.iter().collect::<Vec<_>>()),
        skill_sha256: digest(&library.skill),
        signatures_sha256: digest(&library.signatures),
        model: provider.map(|(name, p)| ModelPin { name: name.to_owned(), sha256: p.identity().sha256.clone() }),
        options: Some(options.clone()),
        parameters: BTreeMap::new(),
    }
}

/// SHA-256 over the JSON: independent of files, folders and version control.
fn digest(value: &impl Serialize) -> String {
    hex(&Sha256::digest(serde_json::to_vec(value).unwrap_or_default()))
}

/// This machine.
pub fn machine() -> Machine {
    let line = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let found = text.lines().find(|l| l.starts_with(key)).and_then(|l| l.split_once(':')).map(|(_, v)| v.trim().to_owned());
        found.unwrap_or_default()
    };
    let kilobytes = line("/proc/meminfo", "MemTotal").split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    Machine {
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        cpu: line("/proc/cpuinfo", "model name"),
        memory_bytes: kilobytes * 1024,
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    }
}
