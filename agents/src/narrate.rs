//! The summary: a plain template that is always right, or a model's prose where every sentence passes the check.

use crate::assemble::plain_claims;
use crate::claims;
use crate::driver::Case;
use crate::llm::{GenerateRequest, Prompt, Provider};
use crate::panel::{self, Opinion};
use crate::report::{Claim, ModelCost, Report, Status};

/// A summary and where it came from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    /// Sentences with evidence.
    pub claims: Vec<Claim>,
    /// `template`, or the model and how much of its prose passed.
    pub by: String,
    /// What happened to the model, when something did.
    pub note: Option<String>,
    /// What the model cost over the whole diagnosis.
    pub bill: Vec<ModelCost>,
}

/// Prose is letters, digits and plain punctuation, one to three sentences: nothing that could be markup.
const PROSE: &str = r#"root ::= sentence sentence? sentence?
sentence ::= [A-Z] [a-zA-Z0-9 ,_%()/-] body
body ::= ([a-zA-Z0-9 ,_%()/-] | "." [a-z0-9])+ ". "?
"#;

/// Writes the summary. The model rewrites the plain claims; each of its sentences that passes the check takes the
/// place of the claim it paraphrases, the others are withheld and the plain claim stays.
pub async fn summary(case: &Case<'_>, report: &Report, provider: Option<&dyn Provider>, opinion: &Opinion) -> Told {
    let plain = plain_claims(case, report);
    let mut told = Told { claims: plain.clone(), by: "template".into(), note: None, bill: opinion.bill.clone() };
    let Some(provider) = provider.filter(|_| report.status == Status::Diagnosed && opinion.note.is_none()) else { return told };
    let facts: Vec<String> = plain.iter().take(3).map(|c| format!("- {}", c.text)).collect();
    let own = format!(
        "Facts:\n{}\n\nRewrite the facts as two short sentences for a database administrator. Keep every number and name exactly. Add nothing.",
        facts.join("\n")
    );
    // It tells of what was found; that is a leaf of the search.
    let branch = report.root_causes.first().map(|cause| cause.cause.clone()).unwrap_or_default();
    let request = GenerateRequest {
        agent: "writer".into(),
        branch: branch.clone(),
        prompt: Prompt::new(panel::SYSTEM, own),
        grammar: Some(PROSE.into()),
        max_tokens: 80,
        ..GenerateRequest::default()
    };
    match provider.generate(request).await {
        Ok(answer) => {
            told.bill.push(ModelCost::of("writer", &branch, answer.usage));
            let model = &provider.identity().name;
            let (kept, of) = adopt(&mut told.claims, &answer.text, case);
            told.by =
                format!("{} ({kept} of {of} sentences of {model} passed the check)", if kept > 0 { model.as_str() } else { "template" });
        }
        Err(error) => told.note = Some(format!("{error}; the summary is the plain template")),
    }
    told
}

/// Puts each sentence that passes in the place of its claim. Returns how many of how many passed.
fn adopt(plain: &mut [Claim], prose: &str, case: &Case<'_>) -> (usize, usize) {
    let sentences = claims::sentences(prose);
    let evidence_text = |id: &str| case.board.get(id).map(|e| e.lines.join("\n")).unwrap_or_default();
    let original: Vec<Claim> = plain.to_vec();
    let mut kept = 0;
    for sentence in &sentences {
        let Ok(claim) = claims::check(sentence, &original, evidence_text) else { continue };
        // A paraphrase may not say less than the claim: half its words must be there.
        let place = original.iter().position(|c| c.evidence == claim.evidence && claim.text.len() * 2 >= c.text.len());
        if let Some(at) = place {
            plain[at] = claim;
            kept += 1;
        }
    }
    (kept, sentences.len())
}
