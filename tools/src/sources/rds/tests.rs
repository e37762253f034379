//! Imports of made-up answers: both spellings, disorder, duplicates, averages, kinds of events.

use serde_json::{Value, json};

use super::*;

fn of(documents: &[Value]) -> Capture {
    let files: Vec<(String, Vec<u8>)> =
        documents.iter().enumerate().map(|(i, d)| (format!("{i}.json"), d.to_string().into_bytes())).collect();
    import(&files, "x").unwrap()
}

fn metric(label: &str, times: Value, values: Value) -> Value {
    json!({"MetricDataResults": [{"Id": "a", "Label": label, "Timestamps": times, "Values": values, "StatusCode": "Complete"}]})
}

#[test]
fn both_spellings_and_pages_in_any_order_give_the_same_series() {
    let api = of(&[
        metric("CPUUtilization", json!(["1970-01-01T00:03:00Z", "1970-01-01T00:02:00Z"]), json!([30.0, 20.0])),
        metric("CPUUtilization", json!([60.0, 120.0]), json!([10.0, 99.0])),
    ]);
    let snake =
        of(&[json!({"metric_data_results": [{"id": "a", "metric_name": "CPUUtilization", "unit": "Percent", "status_code": "Complete",
        "timestamps": ["1970-01-01T00:01:00Z", "1970-01-01T00:02:00Z", "1970-01-01T00:03:00Z"], "values": [10.0, 20.0, 30.0]}]})]);
    let series = &api.series["instance_cpu_ratio"];
    assert_eq!((series.times.as_slice(), series.unit.as_str()), ([60_000, 120_000, 180_000].as_slice(), "ratio"));
    assert_eq!(series.values, [0.1, 0.2, 0.3]);
    assert_eq!(snake.series["instance_cpu_ratio"], *series);
    assert_eq!(api.span(), Some(Window { start: 60_000, end: 240_000 }));
}

#[test]
fn a_missing_metric_and_a_null_are_missing_and_never_zero() {
    let capture = of(&[metric("DatabaseConnections", json!([60, 120, 180]), json!([5, null, 7]))]);
    assert_eq!(capture.series["sessions"].times, [60_000, 180_000]);
    assert!(!capture.series.contains_key("storage_free_bytes"));
    let gaps: Vec<&str> = capture.manifest.missing.iter().map(|m| m.what.as_str()).collect();
    for what in ["FreeStorageSpace", "Performance Insights", "RDS events", "sessions"] {
        assert!(gaps.contains(&what), "{what} is not among {gaps:?}");
    }
    assert!(!gaps.contains(&"ReplicaLag"), "nothing speaks of a replica");
}

#[test]
fn metrics_of_another_instance_keep_its_name_and_replicas_have_samples_of_their_own() {
    let result = |name: &str, instance: &str, value: f64| {
        json!({"MetricName": name, "Label": "x", "Dimensions": [{"Name": "DBInstanceIdentifier", "Value": instance}],
            "Timestamps": [60, 120], "Values": [value, value]})
    };
    let capture = of(&[
        json!({"MetricDataResults": [result("CPUUtilization", "b", 50.0), result("CPUUtilization", "a", 10.0), result("ReplicaLag", "b", 7.0), result("ReplicaLag", "c", 9.0)]}),
        json!({"AlarmName": "cpu", "NewStateValue": "ALARM", "Trigger": {"Dimensions": [{"name": "DBInstanceIdentifier", "value": "a"}]}}),
    ]);
    assert_eq!(capture.manifest.target, "a");
    assert_eq!(capture.series["instance_cpu_ratio"].values, [0.1, 0.1]);
    assert_eq!(capture.series["instance_cpu_ratio{instance=\"b\"}"].values, [0.5, 0.5]);
    assert_eq!(capture.series["replica_lag_seconds"].values, [9.0, 9.0], "the one furthest behind");
    assert_eq!(capture.holders.len(), 4);
}

#[test]
fn load_is_read_as_averages_over_time_as_series_and_as_shares() {
    let keys = of(&[
        metric("DBLoad", json!([60, 120]), json!([3, 3])),
        json!({"AlignedStartTime": 60, "PartitionKeys": [{"Dimensions": {"db.wait_event.name": "CPU", "db.wait_event.type": "CPU"}}, {"Dimensions": {"db.wait_event.name": "DataFileRead", "db.wait_event.type": "IO"}}],
            "Keys": [{"Dimensions": {"db.sql_tokenized.statement": "SELECT 1 FROM t WHERE a = 'secret'"}, "Total": 2.0, "Partitions": [1.5, null], "AdditionalMetrics": {"db.sql_tokenized.stats.calls_per_sec.avg": 4.0}}]}),
    ]);
    let loads: Vec<(&str, f64)> = keys
        .series
        .iter()
        .filter(|(n, _)| n.starts_with("statement_load"))
        .map(|(n, s)| (n.rsplit("wait=").next().unwrap(), s.values[0]))
        .collect();
    assert_eq!(loads, [("\"CPU\"}", 1.5), ("\"unknown\"}", 0.5)]);
    assert!(keys.texts.values().all(|t| !t.contains("secret")));
    let series = of(&[json!({"MetricList": [
        {"Key": {"Metric": "db.load.avg"}, "DataPoints": [{"Timestamp": 60, "Value": 1.0}, {"Timestamp": 120, "Value": 4.0}]},
        {"Key": {"Metric": "db.load.avg", "Dimensions": {"db.wait_event.name": "CPU"}}, "DataPoints": [{"Timestamp": 60, "Value": 1.0}, {"Timestamp": 120, "Value": 2.0}]}]})]);
    assert_eq!(series.series["active_sessions"].values, [1.0, 4.0]);
    assert_eq!(series.series["wait_load{wait=\"CPU\"}"].values, [1.0, 2.0]);
    let shares = of(&[json!({"db_instance_identifier": "a", "start_time": "1970-01-01T00:01:00Z",
        "db_load": {"timestamps": ["1970-01-01T00:01:00Z", "1970-01-01T00:02:00Z"], "values": [1.0, 3.0]},
        "top_wait_events": [{"name": "CPU", "type": "CPU", "db_load_avg": 75.0}, {"name": "IO:WALWrite", "type": "IO", "db_load_avg": 25.0}]})]);
    assert_eq!(shares.series["wait_load{wait=\"CPU\"}"].values, [1.5], "75 per cent of 2 sessions");
}

#[test]
fn the_kind_of_an_event_is_told_from_its_message() {
    for (message, kind) in [
        ("Allocated storage has been exhausted. The instance ran out of storage.", "storage_full"),
        ("The free storage capacity for DB instance x is low at 4% of the provisioned storage [Free Storage: 0.98 GB]", "storage_low"),
        ("Multi-AZ instance failover started.", "failover_started"),
        ("Multi-AZ failover to standby complete - DNS propagation may take a few minutes.", "failover_finished"),
        ("A failover of x has been requested by the user", "failover_started"),
        ("Read replica x is being promoted to a standalone instance", "promotion_started"),
        ("Finished DB Instance backup", "backup_finished"),
        ("Backing up DB instance", "backup_started"),
        ("Updated to use DBParameterGroup p; reboot to apply", "setting_changed"),
        ("Applying off-line patches to DB instance", "maintenance_started"),
        ("Finished applying off-line patches to DB instance", "maintenance_finished"),
        ("A minor version upgrade is available for x", "maintenance_announced"),
        ("DB instance restarted", "restart_finished"),
        ("DB instance shutdown", "restart_started"),
        ("Replication for the Read Replica has stopped", "replication_stopped"),
        ("x has used 990 of 1000 max_connections", "connections_near_limit"),
        ("The weather is fine", "other_notification"),
    ] {
        let events = json!({"Events": [{"Date": 70, "Message": message, "EventCategories": ["notification"]}]});
        let capture = of(&[metric("DBLoad", json!([60, 120]), json!([1, 1])), events]);
        assert_eq!(capture.events[0].kind, kind, "{message}");
    }
}

#[test]
fn numbers_of_messages_become_signals_and_settings() {
    let events = json!({"Events": [
        {"Date": 200, "Message": "Replica r has fallen behind: replication lag exceeded 20 minutes", "SourceIdentifier": "r"},
        {"Date": 100, "Message": "approaching max_connections: 88 of 100 in use"},
        {"Date": 150, "Message": "low storage: 1.5 GB remaining of 20 GB. STATEMENT: select 'secret'"}]});
    let capture = of(&[metric("DatabaseConnections", json!([60, 120]), json!([50, 88])), events]);
    assert_eq!(capture.events.iter().map(|e| e.at).collect::<Vec<_>>(), [100_000, 150_000, 200_000]);
    assert_eq!(capture.series["connections_used_ratio"].values, [0.5, 0.88]);
    assert_eq!(capture.series["replica_lag_reported_seconds"].values, [1200.0]);
    assert_eq!(capture.series["storage_reported_free_bytes"].values, [1.5 * 1_073_741_824.0]);
    assert!(!format!("{:?}", capture.events).contains("secret"));
    assert!(capture.manifest.missing.iter().any(|m| m.what == "ReplicaLag"), "an event speaks of a replica");
}

#[test]
fn too_much_is_refused_in_one_line() {
    let big = vec![b' '; MAX_BYTES + 1];
    assert!(import(&[("big.json".into(), big)], "x").unwrap_err().to_string().starts_with("big.json: "));
    let far = json!({"MetricDataResults": [{"Label": "DBLoad", "Timestamps": [0, 4_000_000_000u32], "Values": [1, 1]}]});
    assert!(import(&[("a".into(), far.to_string().into_bytes())], "x").unwrap_err().to_string().contains("days"));
}
