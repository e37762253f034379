//! What `galen model density` prints.

use serde_json::json;

use galen_agents::evaluation::Capability;
use galen_agents::evaluation::density::{Density, LossLaw};

use super::{ByScore, CAPABILITIES, Row};
use crate::cli::Global;
use crate::output;

/// Prints rows, laws and the smallest model that serves, as a table or as the last line of JSON.
pub(super) fn show(global: &Global, rows: &[Row], laws: &[Result<LossLaw, String>], scored: &[Result<ByScore, String>], need: f64) {
    let smallest = smallest(rows, need);
    if global.json {
        let by_score: Vec<_> = CAPABILITIES
            .iter()
            .zip(scored)
            .map(|(c, scored)| match scored {
                Ok(scored) => json!({"capability": c, "law": scored.law, "densities": scored.densities}),
                Err(why) => json!({"capability": c, "no_law": why}),
            })
            .collect();
        let told: Vec<_> = CAPABILITIES
            .iter()
            .zip(laws)
            .map(|(c, law)| match law {
                Ok(law) => json!({"capability": c, "law": law}),
                Err(why) => json!({"capability": c, "no_law": why}),
            })
            .collect();
        output::line(
            &json!({
                "laws": told,
                "capabilities": CAPABILITIES,
                "densities": rows.iter().map(|r| json!({"model": r.model, "densities": r.densities})).collect::<Vec<_>>(),
                "by_score": by_score,
                "need": need,
                "smallest": smallest.map(|r| &r.model),
            })
            .to_string(),
        );
        return;
    }
    output::line(&format!(
        "{:<26} {:>9} {:>8} {:>9} {:>11} {:>10}  {:<30} {:<30}",
        "model",
        "params M",
        "file MB",
        "memory MB",
        "prompt t/s",
        "writes t/s",
        "root cause: loss score density",
        "faithfulness: loss score density"
    ));
    for row in rows {
        output::line(&format!(
            "{:<26} {:>9.0} {:>8.0} {:>9.0} {:>11.0} {:>10.1}  {:<30} {:<30}",
            row.model,
            row.parameters as f64 / 1e6,
            row.file_bytes as f64 / 1e6,
            row.memory_bytes as f64 / 1e6,
            row.prefill_tps,
            row.decode_tps,
            cell(row, 0),
            cell(row, 1)
        ));
    }
    for (capability, law) in CAPABILITIES.iter().zip(laws) {
        output::line(&match law {
            Ok(law) => format!(
                "{}: loss = {:.3} (N / {:.0} M)^-{:.3} + {:.3} over the registry's models, error {:.3} nats",
                capability.word(),
                law.a,
                law.unit / 1e6,
                law.b,
                law.c,
                law.error
            ),
            Err(why) => format!("{}: no density: {why}", capability.word()),
        });
    }
    for (capability, scored) in CAPABILITIES.iter().zip(scored) {
        show_by_score(*capability, scored);
    }
    output::line(&match smallest {
        Some(row) => format!(
            "smallest that scores {need} in root_cause here: {} ({:.0} MB of memory, {:.0} prompt and {:.1} written tokens/s)",
            row.model,
            row.memory_bytes as f64 / 1e6,
            row.prefill_tps,
            row.decode_tps
        ),
        None => format!("no model here scores {need} in root_cause: do without one, or fetch a larger one"),
    });
}

fn show_by_score(capability: Capability, scored: &Result<ByScore, String>) {
    let word = capability.word();
    let ByScore { law, densities } = match scored {
        Ok(scored) => scored,
        Err(why) => {
            output::line(&format!("{word}: no density by score: {why}"));
            return;
        }
    };
    output::line(&format!(
        "{word}: score = {:.2} + {:.2} / (1 + exp({:.1} (loss - {:.3}))) over the registry's models; by it",
        law.floor,
        1.0 - law.floor,
        law.slope,
        law.middle
    ));
    for told in densities {
        output::line(&match told {
            Density { model, effective: Some(n), density: Some(d), note } => {
                let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
                format!("  {model:<26} effective {:>9.0} M, density {d:.2}{note}", n / 1e6)
            }
            Density { model, note, .. } => format!("  {model:<26} {note}"),
        });
    }
}

fn cell(row: &Row, at: usize) -> String {
    let Some(result) = row.results.get(at) else { return "-".to_owned() };
    let density = match row.densities.get(at).and_then(Option::as_ref) {
        Some(Density { density: Some(d), note, .. }) if note.is_empty() => format!("{d:.2}"),
        Some(Density { density: Some(d), .. }) => format!("{d:.2} (extrapolated)"),
        Some(_) => "beyond".to_owned(),
        None => "-".to_owned(),
    };
    format!("{:.3} {:.2} {density}", result.loss, result.score)
}

/// The model with the least memory that reaches the score.
fn smallest(rows: &[Row], need: f64) -> Option<&Row> {
    let serves = rows.iter().filter(|r| r.results.first().is_some_and(|m| m.score >= need));
    serves.min_by_key(|r| r.memory_bytes)
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn the_smallest_that_serves_is_chosen_by_memory() {
        let rows = [row("large", 900, 0.9), row("small", 300, 0.6), row("tiny", 100, 0.3)];
        assert_eq!(smallest(&rows, 0.5).unwrap().model, "small");
        assert!(smallest(&rows, 0.95).is_none());
    }
}
