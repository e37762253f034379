//! The daemon's doors with a target that cannot be reached: what is taken in stays, what is hostile is refused.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Daemon, payload};

const NOWHERE: &str = "[[target]]\nname = \"shop\"\ndsn = \"postgresql://galen:hunter2@127.0.0.1:1/shop\"\n";
const BEGAN: &str = "2026-01-01T14:05:00Z";

#[test]
fn an_acknowledged_alert_survives_kill_9_and_leads_to_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path(), NOWHERE);
    let (status, body) = daemon.post("/api/v1/alerts/alertmanager", &payload("f1", BEGAN));
    assert_eq!(status, 200, "{body}");
    // SIGKILL at once: nothing may be left to a later write.
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    drop(daemon);
    let daemon = Daemon::start(folder.path(), NOWHERE);
    let list = daemon.call("incidents.list", json!({}));
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    let id = list[0]["id"].as_i64().unwrap();
    let (_, again) = daemon.post("/api/v1/alerts/alertmanager", &payload("f1", BEGAN));
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!((again["incident"].as_i64(), again["new"].as_bool()), (Some(id), Some(false)), "a repeated alert opens nothing");
    daemon.until("reported", || daemon.call("incidents.show", json!({"id": id}))["state"] == "reported");
    let report = daemon.call("incidents.report", json!({"id": id, "format": "json"}));
    assert!(report["missing"].to_string().contains("127.0.0.1:1"), "the report says that the target is away");
    assert_eq!((report["status"].as_str(), report["root_causes"].as_array().map(Vec::len)), (Some("undetermined"), Some(0)));
    assert!(report["headline"].as_str().unwrap().contains("cannot be reached"), "{}", report["headline"]);
    assert!(!report.to_string().contains("hunter2"));
    let (status, page) = daemon.get(&format!("/incidents/{id}"));
    assert!(status == 200 && page.contains("</html>"));
    let (status, metrics) = daemon.get("/metrics");
    assert!(status == 200 && metrics.contains("galen_target_up{target=\"shop\"} 0"));
}

#[test]
fn a_full_disk_refuses_alerts_and_loses_none_that_it_took() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_cramped(folder.path(), NOWHERE, 500);
    let post = |n: u32| daemon.post("/api/v1/alerts/alertmanager", &payload(&format!("f{n}-{}", "x".repeat(200)), BEGAN)).0;
    let answers: Vec<u16> = (0..400).map(post).collect();
    let taken = answers.iter().filter(|a| **a == 200).count();
    assert!(taken > 0 && answers.iter().all(|a| matches!(a, 200 | 503)), "{answers:?}");
    assert_eq!((answers[399], daemon.get("/healthz").0), (503, 200), "refused, and still there");
    drop(daemon);
    assert!(std::fs::read_to_string(folder.path().join("log")).unwrap().contains("the sender will try again"));
    let daemon = Daemon::start(folder.path(), NOWHERE);
    let incidents = daemon.call("incidents.list", json!({}));
    let alerts: usize = incidents
        .as_array()
        .unwrap()
        .iter()
        .map(|i| daemon.call("incidents.show", json!({"id": i["id"]}))["alerts"].as_array().map_or(0, Vec::len))
        .sum();
    assert_eq!(alerts, taken, "{incidents}");
}

#[test]
fn hostile_payloads_are_refused_and_the_door_stays_open() {
    let folder = tempfile::tempdir().unwrap();
    let two = format!("{NOWHERE}{}", NOWHERE.replace("\"shop\"", "\"other\""));
    let daemon = Daemon::start(folder.path(), &two);
    let path = "/webhook/alertmanager";
    let deep = format!("{{\"version\":\"4\",\"alerts\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000));
    for (body, expected) in [
        (b"".to_vec(), 400),
        (b"not json".to_vec(), 400),
        (deep.into_bytes(), 400),
        (br#"{"version":"4","alerts":[]}"#.to_vec(), 400),
        (br#"{"version":"4","alerts":[{"status":"firing","startsAt":"yesterday"}]}"#.to_vec(), 400),
        (vec![b' '; 2 << 20], 413),
        (payload("f", BEGAN), 422),
    ] {
        assert_eq!(daemon.post(path, &body).0, expected, "{:?}", String::from_utf8_lossy(&body[..body.len().min(60)]));
    }
    let foreign = "GET / HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(daemon.http(foreign, b"").0, 421, "another site's name for this address");
    assert_eq!(daemon.get("/incidents/1.json").0, 404);
    assert_eq!(daemon.get("/healthz").0, 200);
    assert!(daemon.call("incidents.list", json!({})).as_array().unwrap().is_empty());
}

#[test]
fn the_socket_speaks_json_rpc_to_its_group_only() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), NOWHERE);
    let mode = std::fs::metadata(&daemon.socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o660);
    let code = |line: &str| daemon.line(line)["error"]["code"].as_i64();
    assert_eq!(code("{nonsense"), Some(-32700));
    assert_eq!(code(r#"{"jsonrpc":"1.0","method":"status","id":1}"#), Some(-32600));
    assert_eq!(code(r#"{"jsonrpc":"2.0","method":"drop.everything","id":1}"#), Some(-32601));
    assert_eq!(code(r#"{"jsonrpc":"2.0","method":"incidents.show","params":{"id":"x"},"id":1}"#), Some(-32602));
    assert_eq!(code(r#"{"jsonrpc":"2.0","method":"incidents.show","params":{"id":99},"id":1}"#), Some(-32602));
    assert_eq!(code(&"x".repeat((1 << 20) + 10)), Some(-32600));
    assert_eq!(daemon.call("status", json!({}))["targets"][0]["target"], "shop");
}

#[test]
fn sigterm_ends_within_five_seconds_and_removes_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path(), NOWHERE);
    let started = Instant::now();
    let pid = nix::unistd::Pid::from_raw(daemon.child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = daemon.child.wait().unwrap();
    assert!(status.success() && started.elapsed() < Duration::from_secs(5), "{status} after {:?}", started.elapsed());
    assert!(!daemon.socket.exists());
}
