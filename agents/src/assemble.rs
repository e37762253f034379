//! Turns a finished search into a report: root causes, consequences, what was ruled out, remedies, charts.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use galen_knowledge::cause::{Cause, Remedy as Recipe, Verdict};
use galen_knowledge::template::inside;
use galen_tools::model::{Culprit, ProbeCost, UnixMs, Window};

use crate::driver::{Case, describe};
use crate::llm::Provider;
use crate::narrate;
use crate::panel::Opinion;
use crate::report::{
    Bill, Chart, Claim, Consequence, ExpertNote, ModelCost, Remedy, Report, Review, RootCause, RuledOut, Span, TreeSize, clock,
};
use crate::retrieve;
use crate::search::{Hypothesis, Search, round};
use crate::settle::{counted, settle};

/// A cause is named from this probability on.
const NAMED: f64 = 0.5;
/// A cause is ruled out below this probability.
const RULED_OUT: f64 = 0.2;
/// At most this many root causes are named.
const MOST_CAUSES: usize = 4;
/// At most this many charts and culprits a cause.
const MOST_SHOWN: usize = 5;

/// Assembles the report of a case. The search is refined into culprits on the way.
pub async fn report(case: &mut Case<'_>, opinion: &Opinion, provider: Option<&dyn Provider>) -> Report {
    let (named, consequences) = name_causes(case);
    refine(case, &named);
    let case = &*case;
    let mut knowledge = Vec::new();
    let incident = || retrieve::query(case.capture, case.detection, &case.library.signals, &case.library.catalog);
    let fitting = (case.options.knowledge && !named.is_empty()).then(|| retrieve::fitting(case.library, &incident()));
    let mut cite = |cause: &Cause| fitting.as_ref().map(|fitting| retrieve::cite(case.library, cause, fitting, &mut knowledge));
    let root_causes: Vec<RootCause> = named.iter().map(|id| root_cause(case, id, opinion, &mut cite)).collect();
    let window = case.detection.window.or_else(|| case.capture.span()).unwrap_or(Window { start: 0, end: 0 });
    let mut report = Report {
        capture: case.capture.manifest.name.clone(),
        target: case.capture.manifest.target.clone(),
        window: span_text(window),
        ruled_out: ruled_out(case, &named, &consequences),
        consequences,
        knowledge,
        missing: case.capture.manifest.missing.clone(),
        experts: case
            .panel
            .iter()
            .map(|(i, tests)| ExpertNote { expert: i.expert.id.clone(), chosen_because: i.because.clone(), tests: *tests })
            .collect(),
        tree: TreeSize { nodes: case.search.size() as u64, tests: case.search.tests() },
        model: provider.map(|p| p.identity().name.clone()),
        model_note: opinion.note.clone().or_else(|| opinion.unseen.clone()),
        ..Report::default()
    };
    report.charts = charts(case, &root_causes, window);
    settle(case, &mut report, root_causes);
    report.evidence = case.board.all().to_vec();
    let told = narrate::summary(case, &report, provider, opinion).await;
    report.summary = told.claims;
    report.summary_by = told.by;
    report.model_note = told.note.or(report.model_note);
    report.bill = bill(case, told.bill);
    report
}

/// Refines each named cause into its culprits: the last edges of the tree.
fn refine(case: &mut Case<'_>, named: &[String]) {
    for id in named {
        let Some((cause, hypothesis)) = case.library.catalog.get(id).zip(case.search.hypotheses().get(id)) else { continue };
        let found = culprits(case, cause, hypothesis);
        let evidence = evidence_for(case, id, Verdict::Supported);
        case.search.refine(id, &found, &evidence);
    }
}

fn bill(case: &Case<'_>, model: Vec<ModelCost>) -> Bill {
    let recorded: f64 = case.capture.answers.values().map(|a| a.cost_ms).sum();
    let collecting: f64 = case.capture.bill.iter().map(|cost| cost.total_ms).sum();
    let asked = if case.options.replay { recorded } else { case.probe_ms() };
    let figures = |cost: &ProbeCost| ProbeCost { total_ms: round(cost.total_ms), max_ms: round(cost.max_ms), ..cost.clone() };
    let mut probes: Vec<ProbeCost> = case.capture.bill.iter().map(figures).collect();
    probes.sort_by(|a, b| b.total_ms.total_cmp(&a.total_ms).then_with(|| a.probe.cmp(&b.probe)));
    Bill {
        probe_ms: round(collecting + asked),
        probes,
        prompt_tokens: model.iter().map(|cost| cost.prompt_tokens).sum(),
        generated_tokens: model.iter().map(|cost| cost.generated_tokens).sum(),
        model,
        wall_ms: if case.options.replay { case.capture.manifest.diagnosed_in_ms.unwrap_or(0) } else { 0 },
    }
}

/// Causes to name, most probable first, and those that follow from them.
fn name_causes(case: &Case<'_>) -> (Vec<String>, Vec<Consequence>) {
    let catalog = &case.library.catalog;
    let mut candidates: Vec<(&String, f64)> = case
        .search
        .hypotheses()
        .iter()
        .filter(|(_, h)| h.belief.probability() >= NAMED && h.established())
        .map(|(id, h)| (id, h.belief.probability()))
        .collect();
    candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    let ids: BTreeSet<&str> = candidates.iter().map(|(id, _)| id.as_str()).collect();
    let mut follows: BTreeMap<String, Consequence> = BTreeMap::new();
    for (id, _) in &candidates {
        let Some(cause) = catalog.get(id) else { continue };
        for explained in cause.explains.iter().filter(|e| ids.contains(e.cause.as_str())) {
            if follows.contains_key(&explained.cause) || explained.when.as_deref().is_some_and(|w| case.holds(w) != Some(true)) {
                continue;
            }
            let Some(consequence) = catalog.get(&explained.cause) else { continue };
            if consequence.stands_alone.as_deref().is_some_and(|w| case.holds(w) == Some(true)) {
                continue;
            }
            // Two that explain each other: the more probable one stays a root.
            if descends(&follows, id, &explained.cause) {
                continue;
            }
            let title = &consequence.title;
            let evidence = evidence_for(case, &explained.cause, Verdict::Supported);
            let reason = format!("{title} holds too, and follows from {}.", inside(&cause.title));
            follows.insert(explained.cause.clone(), Consequence { cause: explained.cause.clone(), of: cause.id.clone(), reason, evidence });
        }
    }
    let named: Vec<String> =
        candidates.iter().map(|(id, _)| (*id).clone()).filter(|id| !follows.contains_key(id)).take(MOST_CAUSES).collect();
    (named, follows.into_values().collect())
}

/// True when `cause` follows, directly or through others, from `root`.
fn descends(follows: &BTreeMap<String, Consequence>, cause: &str, root: &str) -> bool {
    let mut at = cause;
    while let Some(consequence) = follows.get(at) {
        at = &consequence.of;
        if at == root {
            return true;
        }
    }
    false
}

fn evidence_for(case: &Case<'_>, cause: &str, verdict: Verdict) -> Vec<String> {
    let Some(hypothesis) = case.search.hypotheses().get(cause) else { return Vec::new() };
    let mut ids: Vec<String> = Vec::new();
    for id in hypothesis.with_verdict(verdict).flat_map(|t| t.outcome.evidence.iter()) {
        if !ids.contains(id) {
            ids.push(id.clone());
        }
    }
    ids
}

fn root_cause(case: &Case<'_>, id: &str, opinion: &Opinion, cite: &mut dyn FnMut(&Cause) -> Option<Vec<String>>) -> RootCause {
    let Some((cause, hypothesis)) = case.library.catalog.get(id).zip(case.search.hypotheses().get(id)) else {
        return RootCause::default();
    };
    let claims: Vec<Claim> = hypothesis
        .with_verdict(Verdict::Supported)
        .filter(|t| !t.outcome.evidence.is_empty())
        .map(|t| Claim { text: t.outcome.reason.clone(), evidence: t.outcome.evidence.clone() })
        .collect();
    RootCause {
        cause: id.to_owned(),
        title: cause.title.clone(),
        probability: round(hypothesis.belief.probability()),
        summary: case.summary_of(cause).unwrap_or_else(|| cause.means.clone()),
        since: since(case, cause),
        claims,
        evidence: evidence_for(case, id, Verdict::Supported),
        knowledge: cite(cause).unwrap_or_default(),
        culprits: culprits(case, cause, hypothesis),
        remedies: cause.remedy.iter().filter_map(|recipe| remedy(case, recipe)).collect(),
        reviews: reviews(case, cause, hypothesis, opinion),
    }
}

/// The earliest moment at which a symptom of the cause left its baseline.
fn since(case: &Case<'_>, cause: &Cause) -> Option<String> {
    let of_cause = |signal: &str| {
        let bare = signal.split('{').next().unwrap_or_default();
        cause.symptom.iter().any(|s| s.signal == signal || s.signal == bare)
    };
    let first = case.detection.abnormal.iter().filter(|a| of_cause(&a.signal)).map(|a| a.began).min();
    first.or(case.detection.window.map(|w| w.start)).map(rfc3339)
}

/// Culprits of the tools whose tests support the cause, each once, in order of the tests.
fn culprits(case: &Case<'_>, cause: &Cause, hypothesis: &Hypothesis) -> Vec<Culprit> {
    let mut found: Vec<Culprit> = Vec::new();
    let supporting = hypothesis.with_verdict(Verdict::Supported).map(|t| &cause.test[t.test]);
    for test in supporting {
        let observed = case.board.of_tool(&test.tool).map(|e| e.observation.culprits.as_slice()).unwrap_or_default();
        for culprit in observed {
            if !found.iter().any(|known| known.kind == culprit.kind && known.id == culprit.id) {
                found.push(culprit.clone());
            }
        }
    }
    found.truncate(MOST_SHOWN);
    found
}

fn remedy(case: &Case<'_>, recipe: &Recipe) -> Option<Remedy> {
    if recipe.when.as_deref().is_some_and(|w| case.holds(w) != Some(true)) {
        return None;
    }
    let measured = recipe.measured.as_deref().and_then(|m| case.say(m, None));
    Some(Remedy {
        title: case.say(&recipe.title, None)?,
        sql: case.say_sql(&recipe.sql)?,
        lock: case.say(&recipe.lock, None)?,
        rollback: case.say_sql(&recipe.rollback)?,
        verify: case.say_sql(&recipe.verify)?,
        evidence: if measured.is_some() { case.board.id_of("index_advice").into_iter().collect() } else { Vec::new() },
        effect: measured.or_else(|| case.say(&recipe.effect, None))?,
    })
}

/// Verdicts of the other experts: what their own tests say of this cause's look-alikes, and their model's vote.
fn reviews(case: &Case<'_>, cause: &Cause, hypothesis: &Hypothesis, opinion: &Opinion) -> Vec<Review> {
    let mut reviews = Vec::new();
    for (invited, _) in case.panel.iter().filter(|(i, _)| i.expert.id != hypothesis.expert) {
        let rivals: Vec<(&String, &Hypothesis)> =
            case.search.hypotheses().iter().filter(|(id, h)| h.expert == invited.expert.id && **id != cause.id).collect();
        let strongest = rivals.iter().max_by(|a, b| a.1.belief.probability().total_cmp(&b.1.belief.probability()));
        let Some((rival, belief)) = strongest.map(|(id, h)| (*id, h.belief.probability())) else { continue };
        let explained = cause.explains.iter().any(|e| e.cause == **rival);
        // A rival that is neither ruled out nor explained by this cause leaves its expert undecided.
        let contested = belief >= RULED_OUT && !explained;
        let vote = opinion.votes.iter().find(|v| v.expert == invited.expert.id && v.cause == cause.id);
        let mut reason = format!("the strongest rival of its domain, {rival}, stands at {:.0} %", belief * 100.0);
        if explained && belief >= NAMED {
            reason.push_str(", and follows from this cause");
        }
        if let Some(vote) = vote {
            reason.push_str(&format!(
                "; its model gives this cause {:.0} % among {} options (counts {}x)",
                vote.share * 100.0,
                vote.options,
                vote.ratio
            ));
        }
        reviews.push(Review {
            expert: invited.expert.id.clone(),
            verdict: if contested { "inconclusive" } else { "supported" }.into(),
            reason,
            evidence: rival_evidence(&case.search, rival),
        });
    }
    reviews
}

fn rival_evidence(search: &Search<'_>, rival: &str) -> Vec<String> {
    let tested = search.hypotheses().get(rival).map(|h| h.tested.as_slice()).unwrap_or_default();
    let ids: BTreeSet<&String> = tested.iter().flat_map(|t| t.outcome.evidence.iter()).collect();
    ids.into_iter().take(3).cloned().collect()
}

fn ruled_out(case: &Case<'_>, named: &[String], consequences: &[Consequence]) -> Vec<RuledOut> {
    let catalog = &case.library.catalog;
    let look_alikes: BTreeSet<&str> =
        named.iter().filter_map(|id| catalog.get(id)).flat_map(|c| c.confused_with.iter().map(|x| x.cause.as_str())).collect();
    let mut out: Vec<(bool, RuledOut)> = case
        .search
        .hypotheses()
        .iter()
        .filter(|(id, h)| !named.contains(id) && !consequences.iter().any(|c| c.cause == **id) && h.belief.probability() < RULED_OUT)
        .filter_map(|(id, h)| {
            // Only an essential test says that the cause is not there; what merely speaks against it rules nothing out.
            let refuting = h.with_verdict(Verdict::Refuted).find(|t| h.cause.test[t.test].essential)?;
            let entry = RuledOut {
                cause: id.clone(),
                probability: round(h.belief.probability()),
                reason: refuting.outcome.reason.clone(),
                evidence: refuting.outcome.evidence.clone(),
            };
            Some((look_alikes.contains(id.as_str()), entry))
        })
        .collect();
    out.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.probability.total_cmp(&a.1.probability)).then(a.1.cause.cmp(&b.1.cause)));
    out.into_iter().map(|(_, entry)| entry).collect()
}

/// The signals that show the root causes best: those of the supporting observations, then the most abnormal.
fn charts(case: &Case<'_>, causes: &[RootCause], window: Window) -> Vec<Chart> {
    let mut wanted: Vec<(String, Vec<String>)> = Vec::new();
    let supporting = causes.iter().flat_map(|c| c.evidence.iter()).filter_map(|id| case.board.get(id));
    for entry in supporting {
        for signal in entry.observation.signals.iter().take(2) {
            wanted.push((signal.clone(), vec![entry.id.clone()]));
        }
    }
    wanted.extend(case.detection.abnormal.iter().map(|a| (a.signal.clone(), vec!["E1".to_owned()])));
    if wanted.is_empty() {
        wanted.extend(["active_sessions", "tps"].map(|s| (s.to_owned(), vec!["E1".to_owned()])));
    }
    // A quiet capture has no stretch to shade.
    let shade = if case.detection.abnormal.is_empty() { Window { start: 0, end: 0 } } else { window };
    let mut charts: Vec<Chart> = Vec::new();
    for (signal, evidence) in wanted {
        let Some(series) = case.capture.series.get(&signal).filter(|s| s.values.len() > 2) else { continue };
        if charts.len() == MOST_SHOWN || charts.iter().any(|c| c.signal == signal) {
            continue;
        }
        charts.push(Chart {
            unit: series.unit.clone(),
            times: series.times.clone(),
            values: series.values.iter().map(|v| round(*v)).collect(),
            from: shade.start,
            to: shade.end,
            baseline: case.detection.abnormal.iter().find(|a| a.signal == signal).and_then(|a| a.baseline),
            signal,
            evidence,
        });
    }
    charts
}

/// Sentences every report can open with: what is abnormal, the causes, the cost, what was ruled out.
pub fn plain_claims(case: &Case<'_>, report: &Report) -> Vec<Claim> {
    let mut claims = Vec::new();
    let strongest: Vec<String> = case.detection.abnormal.iter().take(3).map(describe).collect();
    if !strongest.is_empty() {
        // One of them may have been out of line before the others were.
        let began = case.detection.abnormal.iter().take(3).map(|a| a.began).min();
        let since = case.detection.window.map(|w| w.start).into_iter().chain(began).min();
        let text = format!(
            "Since {}, {} abnormal: {}.",
            clock(&since.map_or_else(|| report.window.start.clone(), rfc3339)),
            counted(case.detection.abnormal.len()),
            strongest.join("; ")
        );
        claims.push(Claim { text, evidence: vec!["E1".into()] });
    }
    for cause in report.root_causes.iter().filter(|c| !c.evidence.is_empty()) {
        claims.push(Claim { text: cause.summary.clone(), evidence: cause.evidence.clone() });
        if cause.cause == "healthy" {
            claims.extend(cause.claims.iter().skip(1).cloned());
        }
    }
    if let Some((id, text)) = case.board.id_of("load_profile").zip(cost(case)) {
        claims.push(Claim { text, evidence: vec![id] });
    }
    // Only look-alikes: what a reader would ask about next.
    let first = report.root_causes.first().and_then(|c| case.library.catalog.get(&c.cause));
    let alike = |r: &&RuledOut| first.is_some_and(|c| c.confused_with.iter().any(|x| x.cause == r.cause)) && !r.evidence.is_empty();
    for entry in report.ruled_out.iter().filter(alike).take(2) {
        let title = case.library.catalog.get(&entry.cause).map_or_else(|| entry.cause.clone(), |c| inside(&c.title));
        claims.push(Claim { text: format!("Ruled out: {title}. {}", entry.reason), evidence: entry.evidence.clone() });
    }
    claims
}

fn cost(case: &Case<'_>) -> Option<String> {
    let template = "It costs {{ load_profile.extra_db_seconds|secs }} of database time in the window: {{ load_profile.aas|num }} sessions are active at a time, {{ load_profile.aas_base|num }} before.";
    let whole =
        "{{ load_profile.aas|num }} sessions are active at a time, {{ load_profile.db_seconds|secs }} of database time in the window.";
    // A difference has to be larger than what a time before of one or two values can tell.
    let more = "load_profile.extra_db_seconds > 1 and load_profile.aas_ratio >= 1.5 and load_profile.aas_base_samples >= 3";
    if case.holds(more) == Some(true) {
        return case.say(template, None);
    }
    // Statements shorter than the sampling interval may leave no sample: nothing is said rather than "nothing".
    (case.holds("load_profile.db_seconds > 1") == Some(true)).then(|| case.say(whole, None)).flatten()
}

/// Start and end of a window as RFC 3339 text.
pub fn span_text(window: Window) -> Span {
    Span { start: rfc3339(window.start), end: rfc3339(window.end) }
}

/// RFC 3339 in UTC, to the second (or millisecond where there is one).
pub fn rfc3339(at: UnixMs) -> String {
    Timestamp::from_millisecond(at).map(|t| t.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_explains_each_other_does_not_fold_away_both() {
        let of = |cause: &str, of: &str| (cause.to_owned(), Consequence { cause: cause.into(), of: of.into(), ..Consequence::default() });
        let follows = BTreeMap::from([of("b", "a"), of("c", "b")]);
        assert!(descends(&follows, "c", "a") && descends(&follows, "b", "a"));
        assert!(!descends(&follows, "a", "c") && !descends(&follows, "c", "d"));
    }
}
