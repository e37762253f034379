//! What `galen model density` prints.

use serde_json::{Value, json};

use galen_agents::evaluation::Capability;
use galen_agents::evaluation::density::Density;

use super::{Asked, ByScore, Fitted, Row};
use crate::cli::Global;
use crate::output;

/// Prints rows, laws and the smallest model that serves, as tables or as the last line of JSON.
pub(super) fn show(global: &Global, rows: &[Row], fitted: &[Fitted], need: f64) {
    let place = fitted.iter().position(|f| f.asked.capability == Capability::RootCause);
    let smallest = place.and_then(|at| smallest(rows, at, need));
    if global.json {
        output::line(&object(rows, fitted, need, smallest).to_string());
        return;
    }
    output::line(&format!(
        "{:<26} {:>9} {:>8} {:>9} {:>11} {:>10}",
        "model", "params M", "file MB", "memory MB", "prompt t/s", "writes t/s"
    ));
    for row in rows {
        output::line(&format!(
            "{:<26} {:>9.0} {:>8.0} {:>9.0} {:>11.0} {:>10.1}",
            row.model,
            row.parameters as f64 / 1e6,
            row.file_bytes as f64 / 1e6,
            row.memory_bytes as f64 / 1e6,
            row.prefill_tps,
            row.decode_tps
        ));
    }
    for (at, capability) in fitted.iter().enumerate() {
        show_capability(rows, capability, at);
    }
    output::line("");
    output::line(&match (smallest, place) {
        (Some(row), _) => format!(
            "smallest that scores {need} in root_cause here: {} ({:.0} MB of memory, {:.0} prompt and {:.1} written tokens/s)",
            row.model,
            row.memory_bytes as f64 / 1e6,
            row.prefill_tps,
            row.decode_tps
        ),
        (None, Some(_)) => format!("no model here scores {need} in root_cause: do without one, or fetch a larger one"),
        (None, None) => "these captures ask nothing about root causes: none of their labels was tested".to_owned(),
    });
}

fn object(rows: &[Row], fitted: &[Fitted], need: f64, smallest: Option<&Row>) -> Value {
    let law = |f: &Fitted| match &f.law {
        Ok(law) => json!({"capability": f.asked.capability, "law": law}),
        Err(why) => json!({"capability": f.asked.capability, "no_law": why}),
    };
    let by_score = |f: &Fitted| match &f.by_score {
        Ok(ByScore { law, densities }) => json!({"capability": f.asked.capability, "law": law, "densities": densities}),
        Err(why) => json!({"capability": f.asked.capability, "no_law": why}),
    };
    let of_row = |(at, row): (usize, &Row)| {
        let densities: Vec<Option<&Density>> = fitted.iter().map(|f| f.densities.get(at)).collect();
        json!({"model": row.model, "densities": densities})
    };
    let questions = |f: &Fitted| json!({"capability": f.asked.capability, "questions": f.asked.questions, "chance": f.asked.chance});
    json!({
        "laws": fitted.iter().map(law).collect::<Vec<_>>(),
        "capabilities": fitted.iter().map(|f| f.asked.capability).collect::<Vec<_>>(),
        "asked": fitted.iter().map(questions).collect::<Vec<_>>(),
        "densities": rows.iter().enumerate().map(of_row).collect::<Vec<_>>(),
        "by_score": fitted.iter().map(by_score).collect::<Vec<_>>(),
        "need": need,
        "smallest": smallest.map(|r| &r.model),
    })
}

fn show_capability(rows: &[Row], fitted: &Fitted, at: usize) {
    let Asked { capability, chance, questions } = fitted.asked;
    output::line(&format!("\n{}: {questions} questions, {chance} right by chance", capability.word()));
    match &fitted.law {
        Ok(law) => output::line(&format!(
            "  loss = {:.3} (N / {:.0} M)^-{:.3} + {:.3} over the registry's models, error {:.3} nats",
            law.a,
            law.unit / 1e6,
            law.b,
            law.c,
            law.error
        )),
        Err(why) => output::line(&format!("  no density: {why}")),
    }
    match &fitted.by_score {
        Ok(ByScore { law, .. }) => output::line(&format!(
            "  score = {:.2} + {:.2} / (1 + exp({:.1} (loss - {:.3}))) over the registry's models",
            law.floor,
            1.0 - law.floor,
            law.slope,
            law.middle
        )),
        Err(why) if fitted.law.is_ok() => output::line(&format!("  no density by score: {why}")),
        Err(_) => {}
    }
    output::line(&format!("  {:<26} {:>15} {:>6}  {:<24} density by score", "model", "loss, nats", "score", "density"));
    for (place, row) in rows.iter().enumerate() {
        let Some(result) = row.results.get(at) else { continue };
        let error = row.loss_errors.get(at).filter(|error| **error > 0.0).map(|error| format!(" ± {error:.3}")).unwrap_or_default();
        let by_score = fitted.by_score.as_ref().ok().and_then(|by| by.densities.get(place));
        output::line(&format!(
            "  {:<26} {:>15} {:>6.2}  {:<24} {}",
            row.model,
            format!("{:.3}{error}", result.loss),
            result.score,
            cell(fitted.densities.get(place)),
            cell(by_score)
        ));
    }
}

fn cell(density: Option<&Density>) -> String {
    match density {
        Some(Density { density: Some(d), note, .. }) if note.is_empty() => format!("{d:.2}"),
        Some(Density { density: Some(d), .. }) => format!("{d:.2} (extrapolated)"),
        Some(Density { note, .. }) => note.clone(),
        None => "-".to_owned(),
    }
}

/// The model with the least memory that reaches the score.
fn smallest(rows: &[Row], at: usize, need: f64) -> Option<&Row> {
    let serves = rows.iter().filter(|r| r.results.get(at).is_some_and(|m| m.score >= need));
    serves.min_by_key(|r| r.memory_bytes)
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn the_smallest_that_serves_is_chosen_by_memory() {
        let rows = [row("large", 900, 0.9), row("small", 300, 0.6), row("tiny", 100, 0.3)];
        assert_eq!(smallest(&rows, 0, 0.5).unwrap().model, "small");
        assert!(smallest(&rows, 1, 0.95).is_none());
    }
}
