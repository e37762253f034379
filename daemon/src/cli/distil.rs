//! `galen model distil`: static vectors for searching by meaning, made on this machine from the sentence transformer.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use galen_agents::llm::registry::{default_models_dir, digest};
use galen_knowledge::index::distil::TokenVectors;
use galen_knowledge::index::minilm::MiniLm;

use super::Global;
use crate::failure::Failure;
use crate::output;
use crate::shelf::VECTORS_FILE;

/// Folder of the sentence transformer in the models folder.
pub const FOLDER: &str = "all-minilm-l6-v2";
/// The publisher's files and their digests.
const FILES: [(&str, &str); 2] = [
    ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    ("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
];

/// Embeds every token of the vocabulary and keeps the result in the models folder.
pub fn distil(global: &Global) -> Result<(), Failure> {
    let models = default_models_dir();
    let folder = models.join(FOLDER);
    for (name, wanted) in FILES {
        let path = folder.join(name);
        if !path.exists() {
            return Err(Failure::model(format!("{} is not there; fetch it with `make embedding`", path.display())));
        }
        let found = digest(&path).map_err(|e| Failure::model(e.to_string()))?;
        if found != wanted {
            return Err(Failure::model(format!(
                "{}: its sha256 is {found}, not {wanted}; remove it and run `make embedding`",
                path.display()
            )));
        }
    }
    let model = MiniLm::load(&folder.join(FILES[0].0)).map_err(|e| Failure::model(e.to_string()))?;
    let bar = ProgressBar::new(model.vocabulary() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} tokens, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    let step = |done: usize, _: usize| bar.set_position(done as u64);
    let vectors = TokenVectors::distil(&model, &folder.join(FILES[1].0), &step).map_err(|e| Failure::model(e.to_string()))?;
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
