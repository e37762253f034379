//! The daemon's doors with a target that cannot be reached: what is taken in stays, what is hostile is refused.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{ALERTS, BEGAN, Daemon, NOWHERE, alerts, galen, incident, payload, run, signal, until, within};

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

/// Two targets that cannot be reached, and their names.
fn two() -> String {
    format!("{NOWHERE}{}", NOWHERE.replace("\"shop\"", "\"other\""))
}

#[test]
fn an_alert_from_the_future_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), &two());
    let ahead = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(2)).to_string();
    let (status, first) = daemon.post(ALERTS, &alerts(&[("f1", &ahead, "shop")]));
    assert_eq!(status, 200, "{first}");
    let (_, second) = daemon.post(ALERTS, &alerts(&[("f2", BEGAN, "other")]));
    for id in [incident(&first), incident(&second)] {
        daemon.until("reported", || daemon.state(id) == "reported");
    }
    let (_, again) = daemon.post(ALERTS, &alerts(&[("f1", &ahead, "shop")]));
    assert!(again.contains("\"new\":false"), "{again}");
}

#[test]
fn the_alerts_of_one_payload_go_to_their_targets_or_all_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), &two());
    let (status, body) = daemon.post(ALERTS, &alerts(&[("f1", BEGAN, "shop"), ("f2", BEGAN, "other"), ("f3", BEGAN, "shop")]));
    assert_eq!(status, 200, "{body}");
    let taken: serde_json::Value = serde_json::from_str(&body).unwrap();
    let listed = daemon.call("incidents.list", json!({}));
    for (target, count) in [("shop", 2), ("other", 1)] {
        let part = taken["incidents"].as_array().unwrap().iter().find(|i| i["target"] == target).unwrap();
        let kept = listed.as_array().unwrap().iter().find(|i| i["id"] == part["incident"]).unwrap();
        assert_eq!((kept["target"].as_str(), kept["fingerprints"].as_array().map(Vec::len)), (Some(target), Some(count)), "{listed}");
    }
    let (status, body) = daemon.post(ALERTS, &alerts(&[("f4", BEGAN, "shop"), ("f5", BEGAN, "nosuch")]));
    assert!(status == 422 && body.contains("`nosuch`") && body.contains("other, shop"), "{status} {body}");
    let kept = daemon.call("incidents.list", json!({}));
    let fingerprints: Vec<&str> =
        kept.as_array().unwrap().iter().flat_map(|i| i["fingerprints"].as_array().unwrap()).filter_map(|f| f.as_str()).collect();
    assert!(fingerprints.len() == 3 && !fingerprints.contains(&"f4"), "nothing of a refused payload is kept: {kept}");
    drop(daemon);
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), NOWHERE);
    assert_eq!(daemon.post(ALERTS, &alerts(&[("f1", BEGAN, "nosuch")])).0, 422, "an unknown name does not mean the only target");
    let instance = String::from_utf8(payload("f1", BEGAN)).unwrap().replace("\"target\":\"\"", "\"instance\":\"db.internal:9187\"");
    assert_eq!(daemon.post(ALERTS, instance.as_bytes()).0, 200, "an exporter's address does");
}

#[test]
fn an_incident_that_is_still_collected_holds_up_no_other() {
    // It accepts and says nothing: a target that is not known to be away yet.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let targets = two().replace("127.0.0.1:1/", &format!("{}/", silent.local_addr().unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let settling = ("GALEN_INCIDENT__SETTLE_S", "9");
    let mut daemon = Daemon::start_with(folder.path(), &targets, settling);
    let now = jiff::Timestamp::now().to_string();
    let young = incident(&daemon.post(ALERTS, &alerts(&[("f1", &now, "shop")])).1);
    daemon.until("collecting", || daemon.state(young) == "collecting");
    let old = incident(&daemon.post(ALERTS, &alerts(&[("f2", BEGAN, "other")])).1);
    daemon.until("reported", || daemon.state(old) == "reported");
    assert_eq!(daemon.state(young), "collecting", "it settles for 9 s");
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    drop(daemon);
    let daemon = Daemon::start_with(folder.path(), &targets, settling);
    daemon.until("picked up", || daemon.state(young) == "reported");
    assert_eq!(daemon.call("incidents.list", json!({})).as_array().unwrap().len(), 2);
}

/// A file system of its own, taken off when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of_kilobytes(size: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}k,mode=0700");
        match nix::mount::mount(Some("tmpfs"), folder.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), Some(options.as_str())) {
            Ok(()) => Some(Self(folder)),
            Err(error) => {
                eprintln!("skipped: a tmpfs cannot be mounted here ({error})");
                None
            }
        }
    }

    /// Fills it up to some kilobytes.
    fn fill(&self, leave_kb: u64) {
        use std::io::Write;
        // Nothing is removed first: the daemon would use the moment.
        let mut file = std::fs::File::options().create(true).append(true).open(self.filler()).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        let size = file.metadata().unwrap().len();
        file.set_len(size.saturating_sub(leave_kb * 1024)).unwrap();
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> std::path::PathBuf {
        self.0.path().join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn what_a_full_disk_kept_from_being_stored_is_stored_once_there_is_room_also_after_a_crash() {
    let Some(disk) = Disk::of_kilobytes(3_000) else { return };
    let folder = disk.0.path();
    let mut daemon = Daemon::start(folder, &two());
    // A report first, so that the journal has its size: from then on small writes fit and large ones do not.
    let (_, body) = daemon.post(ALERTS, &alerts(&[("f0", BEGAN, "other")]));
    daemon.until("reported", || daemon.state(incident(&body)) == "reported");
    let taken_when_full = |daemon: &Daemon, fingerprint: &str, began: &str| {
        for leave_kb in (0..400).step_by(4) {
            disk.fill(leave_kb);
            let (status, body) = daemon.post(ALERTS, &alerts(&[(fingerprint, began, "shop")]));
            if status == 200 {
                disk.fill(0);
                return incident(&body);
            }
            assert_eq!(status, 503, "{body}");
        }
        panic!("never taken");
    };
    let first = taken_when_full(&daemon, "f1", BEGAN);
    std::thread::sleep(Duration::from_secs(2));
    let waiting = daemon.state(first);
    assert!(!matches!(waiting.as_str(), "failed" | "reported"), "{}", daemon.call("incidents.show", json!({"id": first})));
    disk.free();
    daemon.until("reported after freeing", || daemon.state(first) == "reported");
    daemon.until("captured after freeing", || folder.join(format!("captures/{first}.galen")).exists());

    let second = taken_when_full(&daemon, "f2", "2026-01-01T18:05:00Z");
    std::thread::sleep(Duration::from_secs(1));
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    drop(daemon);
    disk.free();
    let daemon = Daemon::start(folder, &two());
    daemon.until("reported after a crash", || daemon.state(second) == "reported");
}

#[test]
fn a_capture_that_cannot_be_written_delays_no_report_and_is_written_later() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), NOWHERE);
    let captures = folder.path().join("captures");
    // Root may write into any folder; a file in its place stops everybody.
    std::fs::remove_dir(&captures).unwrap();
    std::fs::write(&captures, "").unwrap();
    let (_, body) = daemon.post(ALERTS, &payload("f1", BEGAN));
    let id = incident(&body);
    daemon.until("reported", || daemon.state(id) == "reported");
    let shown = || daemon.call("incidents.show", json!({"id": id}))["error"].to_string();
    daemon.until("explained", || shown().contains("captures") && shown().contains("tried again"));
    std::fs::remove_file(&captures).unwrap();
    daemon.until("captured", || captures.join(format!("{id}.galen")).exists());
    daemon.until("well", || shown() == "null");
}

#[test]
fn what_the_daemon_keeps_is_closed_to_others() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("data");
    // As an earlier version left it.
    std::fs::create_dir_all(folder.join("reports")).unwrap();
    std::fs::set_permissions(folder.join("reports"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = Daemon::start_in(root.path(), &folder, NOWHERE);
    let (_, body) = daemon.post(ALERTS, &payload("f1", BEGAN));
    let id = incident(&body);
    daemon.until("reported", || daemon.state(id) == "reported");
    let mode = |path: &str| std::fs::metadata(folder.join(path)).unwrap().permissions().mode() & 0o777;
    for inside in ["captures", "reports"] {
        assert_eq!(mode(inside), 0o750, "{inside}");
    }
    for file in [
        "galen.db".to_owned(),
        "galen.db-wal".to_owned(),
        format!("captures/{id}.galen"),
        format!("reports/{id}.html"),
        format!("reports/{id}.json"),
    ] {
        assert_eq!(mode(&file), 0o640, "{file}");
    }
    drop(daemon);
    let fresh = root.path().join("fresh/data");
    let daemon = Daemon::start_in(root.path(), &fresh, NOWHERE);
    assert_eq!(std::fs::metadata(&fresh).unwrap().permissions().mode() & 0o777, 0o750);
    drop(daemon);
}

#[test]
fn members_of_the_sockets_group_may_ask_and_others_may_not() {
    let setpriv = std::process::Command::new("setpriv").arg("--version").output();
    if !nix::unistd::Uid::effective().is_root() || setpriv.is_err() {
        eprintln!("skipped: only root, with setpriv, can be somebody else");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("data");
    std::fs::create_dir(&folder).unwrap();
    for open in [root.path(), &folder] {
        std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let program = root.path().join("galen");
    std::fs::copy(galen().get_program(), &program).unwrap();
    let daemon = Daemon::start_in(root.path(), &folder, NOWHERE);
    nix::unistd::chown(&daemon.socket, None, Some(nix::unistd::Gid::from_raw(54_321))).unwrap();
    let ask_as = |groups: &[&str]| {
        let output = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534"])
            .args(groups)
            .arg(&program)
            .args(["incidents", "list", "--data-dir"])
            .arg(&folder)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(ask_as(&["--groups=54321"]), (Some(0), String::new()), "a supplementary group is enough");
    let (code, error) = ask_as(&["--clear-groups"]);
    assert!(code == Some(4) && error.contains("member of its group"), "{code:?} {error}");
}

#[test]
fn a_hung_up_terminal_ends_the_daemon_like_sigterm() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(folder.path(), NOWHERE);
    signal(&daemon.child, nix::sys::signal::Signal::SIGHUP);
    assert!(daemon.child.wait().unwrap().success() && !daemon.socket.exists());
}

#[test]
fn a_stopped_demo_leaves_no_process_and_no_file() {
    use nix::sys::signal::Signal;
    // Once while the server is being made, and once with load and daemon beside it.
    for (how, code, stage) in [(Signal::SIGHUP, 129, "starting a private"), (Signal::SIGTERM, 143, "learning what is usual")] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let log = folder.path().join("log");
        let mut child = galen()
            .args(["demo", "--no-model"])
            .env("TMPDIR", folder.path())
            .stderr(std::fs::File::create(&log).unwrap())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        within(90, stage, || std::fs::read_to_string(&log).unwrap().contains(stage));
        signal(&child, how);
        let status = child.wait().unwrap();
        let text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(status.code(), Some(code), "{text}");
        let left = || std::fs::read_dir(folder.path()).unwrap().filter_map(Result::ok).map(|e| e.file_name()).collect::<Vec<_>>();
        assert_eq!(left(), ["log"], "{text}");
        let mine = folder.path().display().to_string();
        until("alone", || running(&mine).is_empty());
    }
}

/// Command lines of the processes that name a path.
fn running(path: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines =
        entries.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok()).map(|l| String::from_utf8_lossy(&l).replace('\0', " "));
    lines.filter(|line| line.contains(path)).collect()
}

#[test]
fn text_that_turns_around_does_not_reach_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), NOWHERE);
    let hostile = String::from_utf8(payload("f1", BEGAN)).unwrap().replace("\"slow\"", "\"a\\u202eb\\u2066c\\u001b[31m\"");
    let (_, body) = daemon.post(ALERTS, hostile.as_bytes());
    let data = folder.path().to_str().unwrap();
    let (code, shown, error) = run(&["incidents", "show", &incident(&body).to_string(), "--data-dir", data]);
    assert_eq!(code, 0, "{error}");
    assert!(shown.contains(": abc [31m") && !shown.contains(['\u{202e}', '\u{2066}', '\u{1b}']), "{shown:?}");
    let (code, listed, _) = run(&["incidents", "list", "--json", "--data-dir", data]);
    assert!(code == 0 && !listed.contains('\u{202e}'));
}
