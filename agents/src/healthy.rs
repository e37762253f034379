//! What a healthy report rests on: the measures that were looked at and where they stood. "Nothing is wrong" is worth as
//! much as the list of what was checked.

use galen_tools::detect::LEAST_SAMPLES;

use crate::assemble::rfc3339;
use crate::driver::{Case, MOST_BESIDE, describe};
use crate::report::{Claim, clock};

/// Tool and sentence; a sentence whose facts are missing is not said.
const SENTENCES: &[(&str, &str)] = &[
    ("host", "The instance's CPU was {{ instance_cpu|pct }} busy, {{ instance_cpu_peak|pct }} at most."),
    (
        "host",
        "The host's CPUs were {{ cpu_busy|pct }} busy{% if outside_cpu is defined %}, {{ outside_cpu|pct }} outside PostgreSQL{% endif %}{% if cpu_iowait is defined %}, and waited for disks {{ cpu_iowait|pct }} of the time{% endif %}.",
    ),
    (
        "host",
        "The busiest disk had I/O outstanding {{ disk_util|pct }} of the time, at {{ disk_read_bytes_per_s|bytes }}/s read and {{ disk_write_bytes_per_s|bytes }}/s written{% if psi_io is defined %}; processes stalled for I/O {{ psi_io|pct }} of the time{% endif %}.",
    ),
    ("load_profile", "{{ aas|num }} sessions were active at a time."),
    (
        "connections",
        "At most {{ used_peak|num }}{% if max_connections is defined %} of {{ max_connections|num }}{% endif %} connections were in use.",
    ),
    ("replication", "A replica lagged by {{ lag_seconds_max|secs }} at most."),
    ("storage", "{{ free_bytes|bytes }} of storage are free."),
    (
        "events",
        "{% if failures == 0 %}{{ source }} report no failure{% if kinds is defined %}; they report {{ kinds }}{% endif %}.{% endif %}",
    ),
];

/// The sentences, each with its evidence.
pub fn claims(case: &Case<'_>) -> Vec<Claim> {
    let plain = |name: &str| !name.contains('{');
    let followed = case.capture.series.iter().filter(|(name, s)| plain(name) && s.times.len() >= LEAST_SAMPLES).count();
    let beside = &case.detection.beside;
    let mut claims = Vec::new();
    if let Some(id) = case.board.id_of("detector").filter(|_| followed > 0) {
        let text = if beside.is_empty() {
            format!("All {followed} signals that were followed stayed within their normal bounds.")
        } else {
            let strays = beside.iter().filter(|a| plain(&a.signal)).count();
            format!("Of {followed} signals that were followed {} stayed within their normal bounds.", followed.saturating_sub(strays))
        };
        claims.push(Claim { text, evidence: vec![id.clone()] });
        claims.extend(beside.iter().take(MOST_BESIDE).map(|abnormal| {
            let text = format!("At {} {}, which is not enough for an incident.", clock(&rfc3339(abnormal.began)), describe(abnormal));
            Claim { text, evidence: vec![id.clone()] }
        }));
    }
    for (tool, template) in SENTENCES {
        if let Some((id, text)) = case.board.id_of(tool).zip(case.say(template, Some(tool))) {
            claims.push(Claim { text, evidence: vec![id] });
        }
    }
    claims
}
