//! How a report ends: causes named, healthy, or undetermined with what to collect. Silence is `healthy` only where it
//! proves something.

use galen_knowledge::cause::Verdict;
use galen_knowledge::condition::Lookup;
use galen_knowledge::template::{inside, number};
use galen_tools::capture::TARGET;
use galen_tools::detect;

use crate::driver::{Case, describe};
use crate::healthy;
use crate::report::{Claim, Report, RootCause, Status, clock};
use crate::search::Hypothesis;

/// Above this share of the load in statements that cannot be parsed, nobody is called healthy.
const UNREAD: f64 = 0.2;
/// What a calm report says where something moved all the same.
const NOT_ENOUGH: &str = "No signal left its usual range far or long enough for an incident";

/// Decides the status: causes named, healthy, or not enough evidence.
pub fn settle(case: &Case<'_>, report: &mut Report, root_causes: Vec<RootCause>) {
    let quiet = case.detection.abnormal.is_empty();
    let unread = unread_share(case);
    report.root_causes = root_causes;
    if let Some(first) = report.root_causes.first() {
        report.status = Status::Diagnosed;
        let since = first.since.clone().unwrap_or_else(|| report.window.start.clone());
        report.headline = format!("{}: {} Since {}.", first.title, first.summary, clock(&since));
    } else if let Some(why) = unseen(case) {
        report.status = Status::Undetermined;
        report.headline = why;
        report.collect_next = collect_next(case);
    } else if quiet && unread > UNREAD {
        report.status = Status::Undetermined;
        let load = unread * 100.0;
        report.headline = format!("{}, but {load:.0} % of the load comes from statements that cannot be parsed.", calm(case));
        report.collect_next = collect_next(case);
        report.collect_next.push("the texts of these statements as the server ran them (pg_stat_statements keeps them whole)".into());
    } else if let Some(why) = doubt(case).filter(|_| quiet) {
        report.status = Status::Undetermined;
        report.headline = why;
        report.collect_next = collect_next(case);
    } else if quiet {
        report.status = Status::Healthy;
        report.headline = match case.detection.beside.first() {
            None => format!("Nothing is wrong with {}: no signal left its usual range.", case.capture.manifest.target),
            Some(beside) => format!("Nothing amounts to an incident at {}, but {}.", case.capture.manifest.target, describe(beside)),
        };
        report.root_causes = vec![healthy(case)];
    } else {
        report.status = Status::Undetermined;
        report.headline = format!("{} abnormal, but the evidence does not single out a cause.", counted(case.detection.abnormal.len()));
        report.collect_next = collect_next(case);
    }
}

/// Why silence proves nothing: the target is away, or nothing of it was seen.
fn unseen(case: &Case<'_>) -> Option<String> {
    let manifest = &case.capture.manifest;
    if let Some(gap) = manifest.missing.iter().find(|m| m.what == TARGET) {
        return Some(format!("{} cannot be reached: {}.", manifest.target, gap.why.trim_end_matches('.')));
    }
    // A role that sees neither sessions nor their waits misses whoever queues behind a lock.
    let quiet = case.detection.abnormal.is_empty();
    if let Some(gap) = manifest.missing.iter().find(|m| quiet && m.what == "pg_monitor" && m.at.is_none()) {
        return Some(format!("{}, but {}.", calm(case), gap.why.trim_end_matches('.')));
    }
    // Below this the detector cannot tell usual from unusual.
    let nothing = case.capture.series.values().all(|s| s.times.len() < detect::LEAST_SAMPLES) && case.capture.sessions.is_empty();
    (nothing && case.capture.statements.is_empty()).then(|| format!("Too little was seen of {} to tell.", manifest.target))
}

/// Why a capture without abnormal signals is not called healthy: it is too short, Galen's own detector had raised the
/// alarm, or the server is as busy as it can be and nothing shows whether it always is.
fn doubt(case: &Case<'_>) -> Option<String> {
    let manifest = &case.capture.manifest;
    let seconds = case.capture.span().map_or(0.0, |s| s.seconds());
    if seconds < case.options.detect.warm_up_s {
        return Some(format!("Only {seconds:.0} s of {} were seen: too little to tell usual from unusual.", manifest.target));
    }
    let quiet = quiet(case);
    if let Some(alarm) = case.capture.alerts.iter().find(|a| a.source == "detector") {
        return Some(format!("The detector raised the alarm ({}), but over the whole window {quiet}.", alarm.summary));
    }
    if manifest.origin != "live" {
        return None;
    }
    let busy = crowded(case).or_else(|| saturated(case))?;
    Some(format!(
        "Nothing changed while {} was watched, but {busy}: without a calm stretch to compare with, whether that is usual cannot be told.",
        manifest.target
    ))
}

/// The beginning of a headline where the detector kept quiet.
fn calm(case: &Case<'_>) -> &'static str {
    if case.detection.beside.is_empty() { "No signal left its usual range" } else { NOT_ENOUGH }
}

/// Why the detector kept quiet. What is not enough for an incident may have moved all the same.
fn quiet(case: &Case<'_>) -> String {
    if !case.detection.beside.is_empty() {
        return inside(NOT_ENOUGH);
    }
    case.detection.quiet.clone().unwrap_or_else(|| "no signal left its usual range".to_owned())
}

/// As many sessions active as there are CPUs, or more.
fn crowded(case: &Case<'_>) -> Option<String> {
    let active = case.board.fact("load_profile.aas").and_then(serde_json::Value::as_f64)?;
    let cpus = case.capture.manifest.cpus.filter(|cpus| active >= f64::from(*cpus))?;
    let heaviest = case.say("; statement {{ top_statement.query_id }} takes {{ top_statement.share|pct }} of the time", None);
    Some(format!("{} sessions are active at a time on {cpus} CPUs{}", number(active), heaviest.unwrap_or_default()))
}

/// When the host is as busy as it can be, and what is said of it.
const SATURATED: &[(&str, &str)] = &[
    (
        "host.cpu_busy > 0.85",
        "the host's CPUs are {{ cpu_busy|pct }} busy all the time{% if outside_cpu is defined %} ({{ outside_cpu|pct }} outside PostgreSQL){% endif %}",
    ),
    (
        "host.psi_io > 0.25",
        "processes stall for I/O {{ psi_io|pct }} of the time{% if disk_write_bytes_per_s is defined %} ({{ disk_read_bytes_per_s|bytes }}/s read, {{ disk_write_bytes_per_s|bytes }}/s written){% endif %}",
    ),
    ("host.disk_util > 0.85", "the busiest disk has I/O outstanding {{ disk_util|pct }} of the time"),
];

fn saturated(case: &Case<'_>) -> Option<String> {
    SATURATED.iter().filter(|(when, _)| case.holds(when) == Some(true)).find_map(|(_, said)| case.say(said, Some("host")))
}

/// Share of the load in statements that cannot be parsed.
fn unread_share(case: &Case<'_>) -> f64 {
    let shape = case.board.of_tool("statement_shape").and_then(|e| e.observation.facts.get("unread_share"));
    shape.and_then(serde_json::Value::as_f64).unwrap_or(0.0)
}

fn healthy(case: &Case<'_>) -> RootCause {
    let evidence: Vec<String> = case.board.all().iter().filter(|e| e.observation.no_data.is_none()).map(|e| e.id.clone()).collect();
    let quiet = quiet(case);
    let mut claims =
        vec![Claim { text: format!("The detector found no anomaly: {quiet}."), evidence: evidence.iter().take(1).cloned().collect() }];
    claims.extend(healthy::claims(case));
    RootCause {
        cause: "healthy".into(),
        title: "Healthy".into(),
        probability: 0.95,
        summary: format!("No anomaly: {quiet}."),
        claims,
        evidence,
        ..RootCause::default()
    }
}

/// What would decide the hypotheses that stayed open: their tools without data, and gaps in collection.
fn collect_next(case: &Case<'_>) -> Vec<String> {
    let mut wanted: Vec<String> = case.capture.manifest.missing.iter().map(|m| format!("{}: {}", m.what, m.fix)).collect();
    let mut open: Vec<&Hypothesis<'_>> = case.search.hypotheses().values().collect();
    open.sort_by(|a, b| b.belief.probability().total_cmp(&a.belief.probability()));
    for hypothesis in open.into_iter().take(4) {
        let cause = hypothesis.cause;
        let unseen = hypothesis.with_verdict(Verdict::Inconclusive).map(|t| &cause.test[t.test]).find_map(|test| {
            let why = case.board.of_tool(&test.tool)?.observation.no_data.clone()?;
            Some(why)
        });
        if let Some(why) = unseen {
            wanted.push(format!("to settle {} ({:.0} %): {why}", inside(&cause.title), hypothesis.belief.probability() * 100.0));
        }
    }
    if case.detection.baseline.is_none() {
        wanted.push("a healthy stretch before the incident: record for longer, or let the daemon run before the next one".into());
    }
    wanted
}

/// `1 signal is`, `3 signals are`.
pub fn counted(signals: usize) -> String {
    if signals == 1 { "1 signal is".into() } else { format!("{signals} signals are") }
}
