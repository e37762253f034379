//! Digests: the few lines of an observation that people and models read.

use serde_json::Value;

use crate::observe::Observation;

/// Most lines of a digest.
const MOST_LINES: usize = 7;
/// Most characters of a text in a line.
const MOST_TEXT: usize = 160;

/// Facts of each tool, most telling first. A tool that is not here shows its facts in order of name.
const TELLING: &[(&str, &[&str])] = &[
    ("detector", &["signals", "quiet", "window_s"]),
    (
        "load_profile",
        &["source", "aas", "aas_base", "top_event", "top_event_share", "cpu_share", "lock_share", "io_share", "extra_db_seconds"],
    ),
    ("blocking", &["blocked_peak", "blocked_seconds", "root_blockers", "blocker_pid", "blocker_state", "blocker_xact_age_s", "relation"]),
    ("idle_transactions", &["idle_peak", "idle_age_max_s", "application", "pid", "blocks_others"]),
    ("sparse_indexes", &["sparse", "index", "table", "index_bytes", "rows", "bytes_per_row"]),
    ("dead_rows", &["table", "dead_rows", "dead_ratio", "dead_growth", "since_vacuum_s"]),
    (
        "vacuum",
        &["source", "vacuum_text", "workers", "worker_share", "xmin_age_max", "xmin_holder_kind", "xmin_holder_name", "frozen_xid_age_max"],
    ),
    (
        "checkpoints",
        &["source", "reported_interval_s", "requested_per_min", "timed_per_min", "buffers_per_s", "wal_bytes_per_s", "max_wal_size_bytes"],
    ),
    ("wal", &["wal_wait_share", "wal_wait_share_base", "commits_per_s", "commits_per_s_base", "wal_bytes_per_s", "wal_bytes_per_s_base"]),
    ("cache", &["hit_ratio", "hit_ratio_base", "read_blks_per_s", "data_read_share", "shared_buffers_bytes", "database_bytes"]),
    ("events", &["source", "onset_at", "past", "first_failure", "kinds"]),
    ("storage", &["source", "missing_metric", "full_text", "free_bytes", "full_in_s", "write_iops_last", "write_latency_max_s"]),
    ("connections", &["used_peak", "max_connections", "idle_sessions", "new_sessions_per_s", "top_application"]),
    (
        "host",
        &[
            "source",
            "instance_cpu",
            "instance_cpu_base",
            "disk_queue",
            "write_latency_s",
            "cpu_busy",
            "cpu_busy_base",
            "postgres_cpu",
            "outside_cpu",
            "run_queue",
            "disk_util",
            "memory_available_share",
            "psi_cpu",
        ],
    ),
    (
        "replication",
        &[
            "source",
            "reported_text",
            "missing_metric",
            "replica_name",
            "replicas",
            "lag_bytes_max",
            "lag_seconds_max",
            "inactive_slots",
            "slot_name",
            "slot_retained_bytes",
        ],
    ),
    ("errors", &["rollbacks_per_s", "rollback_share", "deadlocks", "restarted"]),
    ("settings", &["shared_buffers_bytes", "work_mem_bytes", "max_wal_size_bytes", "changed"]),
    ("traffic", &["tps", "tps_base", "rows_read_per_s", "rows_read_per_s_base", "rows_written_per_s", "rows_written_per_s_base"]),
    (
        "top_statement",
        &["source", "query_id", "text", "share", "sessions", "top_event", "mean_ms", "mean_ms_base", "calls_per_s", "calls_per_s_base"],
    ),
    ("statement_shape", &["correlated", "max_joins", "joins_share", "cartesian", "unlimited", "index_creations"]),
    ("workload_mix", &["calls_per_s", "calls_per_s_base", "statements_up", "statements_seen", "new_share"]),
    (
        "table_scans",
        &[
            "table",
            "access",
            "rows_read_per_s",
            "rows_read_per_s_base",
            "rows_per_scan",
            "predicate_columns",
            "index_exists",
            "dropped_index",
        ],
    ),
    ("index_advice", &["definition", "cost_before", "cost_after", "uses_index", "index_bytes"]),
    ("plan", &["query_id", "total_cost", "node_types", "seq_scan_tables", "subplan", "cartesian"]),
    (
        "index_overhead",
        &["table", "secondary_indexes", "unused_indexes", "created_indexes", "write_mean_ms", "write_mean_ms_base", "wal_per_write_ratio"],
    ),
    (
        "wal_writers",
        &["source", "writer_text", "writer_sessions", "writer_wal_share", "wal_bytes_per_s", "wal_bytes_per_s_base", "reader_text"],
    ),
    (
        "write_profile",
        &[
            "rows_inserted_per_s",
            "rows_updated_per_s",
            "rows_deleted_per_s",
            "commits_per_s",
            "insert_sessions",
            "update_sessions",
            "deleted_rows",
            "top_delete_table_per_s",
        ],
    ),
    ("results", &["query_id", "rows_per_call", "rows_per_s", "rows_per_s_base", "rows_share", "client_write_share", "has_limit"]),
    ("temp_files", &["temp_bytes_per_s", "temp_bytes_per_s_base", "query_id", "temp_bytes_per_call", "work_mem_bytes", "spilling_share"]),
    ("stale_statistics", &["table", "modified_share", "since_analyze_s", "never_analyzed"]),
];

/// At most seven short lines, each a fact with its unit.
pub fn lines(observation: &Observation) -> Vec<String> {
    let telling = TELLING.iter().find(|(tool, _)| *tool == observation.tool).map(|(_, facts)| *facts);
    let line = |name: &str, value: &Value| format!("{}: {}", label(name), humanise(name, value));
    match telling {
        Some(names) => names.iter().filter_map(|n| Some(line(n, observation.facts.get(*n)?))).take(MOST_LINES).collect(),
        None => observation.facts.iter().map(|(n, v)| line(n, v)).take(MOST_LINES).collect(),
    }
}

/// `dead_growth_per_s` as `dead growth`, `aas_base` as `aas before`: the unit stands with the value.
fn label(name: &str) -> String {
    let (stem, before) = name.strip_suffix("_base").map_or((name, ""), |stem| (stem, " before"));
    let stem = ["_per_s", "_per_min", "_ms", "_bytes", "_share", "_s"].iter().find_map(|unit| stem.strip_suffix(unit)).unwrap_or(stem);
    format!("{}{before}", stem.replace('_', " "))
}

/// A fact for people, with the unit its name tells.
pub fn humanise(name: &str, value: &Value) -> String {
    let stem = name.strip_suffix("_base").unwrap_or(name);
    match value {
        Value::Number(number) => quantity(stem, number.as_f64().unwrap_or(0.0)),
        Value::String(text) => cut(text),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Array(items) => {
            let of = if stem.ends_with("pids") { "pid" } else { "" };
            cut(&items.iter().map(|i| humanise(of, i)).collect::<Vec<_>>().join(", "))
        }
        Value::Null => "unknown".to_owned(),
        Value::Object(_) => cut(&value.to_string()),
    }
}

fn quantity(name: &str, n: f64) -> String {
    if let Some(stem) = name.strip_suffix("_per_s") {
        return if stem.ends_with("_bytes") { format!("{}/s", bytes(n)) } else { format!("{}/s", plain(n)) };
    }
    match () {
        () if name.ends_with("pid") || name.ends_with("_id") => format!("{n:.0}"),
        () if name.ends_with("_per_min") => format!("{} a minute", plain(n)),
        () if name.ends_with("_bytes") || name.ends_with("bytes_max") || name.ends_with("_bytes_per_call") => bytes(n),
        () if name.ends_with("_share")
            || matches!(name, "hit_ratio" | "dead_ratio" | "cpu_busy" | "postgres_cpu" | "outside_cpu" | "disk_util" | "psi_cpu") =>
        {
            format!("{} %", plain(n * 100.0))
        }
        () if name.ends_with("_ratio") => format!("{} times", plain(n)),
        () if name.ends_with("_ms") => format!("{} ms", plain(n)),
        () if name.ends_with("_s") || name.ends_with("_seconds") => format!("{} s", plain(n)),
        () => plain(n),
    }
}

fn plain(n: f64) -> String {
    match n.abs() {
        a if a >= 100.0 || n.fract() == 0.0 => grouped(n),
        a if a >= 1.0 => format!("{n:.1}"),
        _ => format!("{n:.3}"),
    }
}

/// `13,084,645`.
fn grouped(n: f64) -> String {
    let digits = format!("{n:.0}");
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        let left = digits.len() - i;
        if left.is_multiple_of(3) && out.ends_with(|c: char| c.is_ascii_digit()) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

fn bytes(n: f64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (n, 0);
    while value.abs() >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", plain(value), units[unit])
}

fn cut(text: &str) -> String {
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if flat.chars().count() <= MOST_TEXT { flat } else { flat.chars().take(MOST_TEXT - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_carry_the_unit_of_their_name() {
        assert_eq!(humanise("wal_bytes_per_s", &1_048_576.0.into()), "1 MB/s");
        assert_eq!(humanise("lock_share_base", &0.425.into()), "42.5 %");
        assert_eq!(humanise("text", &"a\u{1b}[31mb".into()), "a [31mb");
        assert_eq!(label("aas_base"), "aas before");
        assert_eq!(humanise("rows_read_per_s", &13_084_645.into()), "13,084,645/s");
        assert_eq!((grouped(-1_234.4), grouped(999.0)), ("-1,234".into(), "999".into()));
        assert_eq!(humanise("blocker_pid", &27_960.into()), "27960");
    }
}
