//! Chunks and questions written out for other programs.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use galen_knowledge::chunk::KnowledgeChunk;

use super::Asked;
use crate::failure::Failure;

/// Writes `chunks.jsonl` (id, text) and `questions.jsonl` (question, right ids).
pub fn export(folder: &Path, chunks: &[KnowledgeChunk], asked: &[Asked<'_>]) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|e| Failure::fault(format!("cannot create {}: {e}", folder.display())))?;
    let mut text = String::new();
    for chunk in chunks {
        let whole = format!("{}\n{}", chunk.source.section.join("\n"), chunk.content);
        let _ = writeln!(text, "{}", json!({"id": chunk.id, "text": whole}));
    }
    write(&folder.join("chunks.jsonl"), &text)?;
    text.clear();
    for (question, right) in asked {
        let _ = writeln!(text, "{}", json!({"q": question.q, "right": right, "by_hand": question.template.is_none()}));
    }
    write(&folder.join("questions.jsonl"), &text)
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|e| Failure::fault(format!("cannot write {}: {e}", file.display())))
}
