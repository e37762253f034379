//! Brings signatures into a diagnosis: an observation like any other, and a test of each cause that has a signature.

use galen_knowledge::catalog::Catalog;
use galen_knowledge::cause::{Cause, Symptom, Test};
use galen_tools::capture::Capture;
use galen_tools::detect::Detection;
use galen_tools::observe::Observation;
use galen_tools::signals::SignalTable;

use super::effects::{ONSET_S, effects, first_seconds};
use super::{Signature, Signatures};

/// Name of the observation tool.
pub const TOOL: &str = "signatures";
/// A class speaks for its cause from this share of the explanation on: a compound of two has about half each.
pub const EXPLAINS: f64 = 0.3;
/// Below this share it speaks against it.
pub const EXPLAINS_NOT: f64 = 0.05;
/// Prior of a cause that only a signature knows.
const PRIOR: f64 = 0.03;
/// A prior of the catalog weighs as many labelled cases.
const PRIOR_CASES: f64 = 20.0;
/// Effects from here on are symptoms of such a cause.
const SYMPTOM: f64 = 0.8;
/// Most symptoms and shown classes.
const MOST: usize = 6;

/// A class' name as part of a fact's name: lower-case letters, digits and `_`.
pub fn slug(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join("_")
}

/// Compares an incident with the signatures. Facts: `best`, `share_CLASS` for each class, `unexplained_share`, `novel`, `compared`.
pub fn observe(capture: &Capture, detection: &Detection, signatures: &Signatures, table: &SignalTable) -> Observation {
    let mut observation = Observation { tool: TOOL.into(), window: detection.window, ..Observation::default() };
    let (Some(window), Some(baseline)) = (detection.window, detection.baseline) else {
        observation.invocation = TOOL.into();
        observation.no_data = Some("there is no anomaly with a baseline to compare with".into());
        return observation;
    };
    let onset = window.seconds() <= ONSET_S + 1.0;
    let seen = if onset { first_seconds(window) } else { window };
    observation.invocation = format!("{TOOL} window={seen} baseline={baseline}");
    let moved = effects(capture, baseline, seen, table);
    let Some(found) = signatures.explain(&moved, onset) else {
        observation.no_data = Some("too few of the learnt signals are in this capture".into());
        return observation;
    };
    let order = found.ranking();
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let lines: Vec<serde_json::Value> = order
        .iter()
        .take(3)
        .filter(|i| found.shares[**i] > 0.0)
        .map(|i| format!("{} {}", signatures.class[*i].name, percent(found.shares[*i])).into())
        .collect();
    let mut put = |name: String, value: serde_json::Value| observation.facts.insert(name, value);
    put("classes".into(), lines.into());
    put("compared".into(), found.signals.into());
    put("novel".into(), found.novel.into());
    put("unexplained_share".into(), three(found.unexplained).into());
    for (class, share) in signatures.class.iter().zip(&found.shares) {
        put(format!("share_{}", slug(&class.name)), three(*share).into());
    }
    if let Some(best) = order.first().map(|i| &signatures.class[*i]) {
        put("best".into(), best.name.clone().into());
        let mut telling: Vec<(&String, f64)> = moved.iter().map(|(n, e)| (n, e * best.effects.get(n).copied().unwrap_or(0.0))).collect();
        telling.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        observation.signals = telling.into_iter().take(3).map(|(n, _)| n.clone()).collect();
    }
    observation
}

fn three(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0 + 0.0
}

/// Gives each class' cause a test that asks for the signature; a class that the catalog does not know becomes a cause. What was
/// labelled here also tells how often it happens here: priors move towards the shares of the classes.
pub fn extend(catalog: &mut Catalog, signatures: &Signatures) {
    let learnt: usize = signatures.class.iter().map(|c| c.cases).sum();
    for class in &signatures.class {
        let known = class.causes.first().and_then(|id| catalog.get(id)).cloned();
        let mut cause = known.unwrap_or_else(|| stranger(class));
        cause.prior = (class.cases as f64 + PRIOR_CASES * cause.prior) / (learnt as f64 + PRIOR_CASES);
        cause.test.push(test(class));
        catalog.add(cause);
    }
}

fn test(class: &Signature) -> Test {
    let share = format!("share_{}", slug(&class.name));
    let name = plain(&class.name);
    Test {
        id: format!("signature_{}", slug(&class.name)),
        tool: TOOL.into(),
        with: Vec::new(),
        supports: format!("not novel and {share} >= {EXPLAINS}"),
        refutes: Some(format!("not novel and {share} < {EXPLAINS_NOT}")),
        ratio: class.ratio,
        essential: true,
        says: format!("The signals move as in {} learnt cases of {name}: {{{{ {share}|pct }}}} of the explanation.", class.cases),
        denies: Some(format!("The signals do not move as in {} learnt cases of {name}.", class.cases)),
    }
}

/// Names are other people's text: they must not open a template, nor break a line.
fn plain(name: &str) -> String {
    let kept: String = name.chars().map(|c| if c.is_control() || matches!(c, '{' | '}' | '%' | '#') { ' ' } else { c }).collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A cause that is known by its signature alone.
fn stranger(class: &Signature) -> Cause {
    let mut moves: Vec<(&String, f64)> = class.effects.iter().filter(|(_, e)| e.abs() >= SYMPTOM).map(|(n, e)| (n, *e)).collect();
    moves.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(b.0)));
    let symptom = moves
        .into_iter()
        .take(MOST)
        .map(|(signal, effect)| Symptom { signal: signal.clone(), direction: if effect > 0.0 { "up" } else { "down" }.into() })
        .collect();
    let name = plain(&class.name);
    Cause {
        stands_alone: None,
        id: slug(&class.name),
        title: name.clone(),
        domain: "host".into(),
        prior: PRIOR,
        means: format!("Incidents of this class were recorded and labelled {name}; nothing else is known of it."),
        symptom,
        test: Vec::new(),
        explains: Vec::new(),
        confused_with: Vec::new(),
        summary: vec![format!("The incident looks like {} learnt cases of {name}.", class.cases)],
        remedy: Vec::new(),
        references: Vec::new(),
    }
}
