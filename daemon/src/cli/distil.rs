//! `galen model distil`: static vectors for searching by meaning, made on this machine from the sentence transformer.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use galen_agents::llm::registry::Registry;
use galen_knowledge::index::distil::TokenVectors;
use galen_knowledge::index::minilm::MiniLm;

use super::Global;
use crate::failure::Failure;
use crate::output;
use crate::shelf::VECTORS_FILE;

/// The sentence transformer's name in the registry.
pub const NAME: &str = "all-minilm-l6-v2";

/// Embeds every token of the vocabulary and keeps the result in the models folder.
pub fn distil(global: &Global) -> Result<(), Failure> {
    let models = global.models_dir()?;
    let failed = |e: &dyn std::fmt::Display| Failure::model(e.to_string());
    let registry = Registry::builtin().map_err(|e| failed(&e))?;
    let (mut weights, mut vocabulary) = (None, None);
    for file in registry.find(NAME).map_err(|e| failed(&e))?.files() {
        let path = file.path(&models);
        file.verify(&path).map_err(|e| failed(&e))?;
        *(if file.name == NAME { &mut weights } else { &mut vocabulary }) = Some(path);
    }
    let (Some(weights), Some(vocabulary)) = (weights, vocabulary) else {
        return Err(Failure::fault(format!("{NAME} has no vocabulary in the registry")));
    };
    let model = MiniLm::load(&weights).map_err(|e| failed(&e))?;
    let bar = ProgressBar::new(model.vocabulary() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} tokens, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    let step = |done: usize, _: usize| bar.set_position(done as u64);
    let vectors = TokenVectors::distil(&model, &vocabulary, &step).map_err(|e| failed(&e))?;
    bar.finish_and_clear();
    let path = models.join(VECTORS_FILE);
    vectors.save(&path)?;
    let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
    output::line(&if global.json {
        json!({"file": path, "bytes": bytes, "dims": vectors.dims()}).to_string()
    } else {
        format!("{} written, {:.1} MB, {} components a token", path.display(), bytes as f64 / 1e6, vectors.dims())
    });
    Ok(())
}
