//! The fault laboratory as people use it: recorded cases are kept, labels stay out of diagnoses, nothing is left behind.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use galen_tools::store::file;

use crate::support::{galen, lines, repository, run};

/// A small scenario with short phases: some ten seconds.
fn record(out: &Path) -> (i32, String, String) {
    let out = out.to_str().unwrap();
    run(&["lab", "record", "--scenario", "workers_take_turns", "--baseline", "4s", "--duration", "5s", "--out", out, "--json"])
}

#[test]
fn scenarios_are_listed_with_causes_and_parameters() {
    let (code, out, error) = run(&["lab", "list", "--json"]);
    assert_eq!(code, 0, "{error}");
    let all = lines(&out);
    let mut causes: Vec<&str> = all.iter().flat_map(|one| one["causes"].as_array().unwrap()).map(|it| it.as_str().unwrap()).collect();
    let (code, out, error) = run(&["lab", "list", "--left-out", "--json"]);
    assert_eq!(code, 0, "{error}");
    let left_out = lines(&out);
    let page = std::fs::read_to_string(repository("docs/lab.md")).unwrap();
    for cause in &left_out {
        let (id, why) = (cause["cause"].as_str().unwrap(), cause["why"].as_str().unwrap());
        assert!(page.contains(&format!("| {id} | {why} |")), "docs/lab.md says why {id} is left out");
        assert!(!causes.contains(&id), "{id} is left out, and some scenario produces it");
        causes.push(id);
    }
    causes.sort_unstable();
    causes.dedup();
    let catalog = galen_knowledge::catalog::Catalog::builtin().unwrap();
    let mut known: Vec<&str> = catalog.iter().map(|cause| cause.id.as_str()).chain(["healthy"]).collect();
    known.sort_unstable();
    assert_eq!(causes, known, "each cause of the catalog has a scenario or a reason");
    let schemas_of = |tag: &str| {
        let of_tag = all.iter().filter(|one| one["tags"].as_array().unwrap().iter().any(|it| it == tag));
        of_tag.map(|one| one["schema"].as_str().unwrap()).collect::<std::collections::BTreeSet<_>>().len()
    };
    for tag in ["missing_metrics", "red_herring", "noise"] {
        assert!(schemas_of(tag) >= 2, "{tag} is tried in one schema only");
    }
    let one = all.iter().find(|one| one["name"] == "concurrent_updates").unwrap();
    assert_eq!((one["parameters"]["clients"].as_i64(), one["schema"].as_str()), (Some(24), Some("shop")));
    let (code, _, error) = run(&["lab", "run", "no_such_fault"]);
    assert_eq!((code, error.contains("missing_index"), error.lines().count()), (2, true, 1), "{error}");
    let (code, _, error) = run(&["lab", "run", "missing_index", "--dsn", "host=127.0.0.1 user=x"]);
    assert_eq!((code, error.contains("--i-own-this-server")), (2, true), "{error}");
    assert!(page.contains(&format!("names {} scenarios", all.len())), "docs/lab.md says how many scenarios there are");
}

#[test]
fn what_would_change_somebodys_server_for_good_is_refused_before_it_is_asked() {
    // Nothing listens there: a refusal that needs the server would end with 4.
    let dsn = "host=127.0.0.1 port=1 user=x";
    for (name, why) in [
        ("work_mem_spill", "ALTER SYSTEM"),
        ("checkpoint_storm", "ALTER SYSTEM"),
        ("missing_index_and_harmless_change", "ALTER SYSTEM"),
        ("spill_and_inserts", "ALTER SYSTEM"),
        ("cpu_contention", "busy processes"),
        ("network_congestion", "network of its own"),
        ("replication_lag", "standby"),
    ] {
        let (code, _, error) = run(&["lab", "run", name, "--dsn", dsn, "--i-own-this-server"]);
        assert_eq!((code, error.lines().count()), (2, 1), "{name}: {error}");
        assert!(error.contains(why) && error.contains("without --dsn"), "{name}: {error}");
    }
    let (code, _, error) = run(&["lab", "run", "missing_index", "--dsn", dsn, "--i-own-this-server"]);
    assert_eq!((code, error.contains("cannot connect")), (4, true), "{error}");
}

/// The answer as it was written before answers had this key.
fn without(answer: &serde_json::Value, key: &str) -> String {
    let mut older = answer.clone();
    older.as_object_mut().unwrap().remove(key).unwrap();
    older.to_string()
}

#[test]
fn a_recorded_case_is_labelled_kept_and_guarded() {
    let folder = tempfile::tempdir().unwrap();
    let (code, out, error) = record(folder.path());
    assert_eq!(code, 0, "{error}");
    assert_eq!(lines(&out)[0]["state"], "recorded");
    let case = folder.path().join("workers_take_turns-1.galen");
    let answer: serde_json::Value = serde_json::from_slice(&std::fs::read(case.with_extension("answer.json")).unwrap()).unwrap();
    assert_eq!(answer["causes"][0], "concurrent_updates");
    assert!(answer["fault"]["statements"].as_u64().unwrap() > 100 && answer["steady"]["errors"] == 0, "{answer}");
    let capture = file::read(&case).unwrap();
    assert_eq!(capture.manifest.labels, ["concurrent_updates"]);
    let span = capture.span().unwrap();
    let (start, end) = (answer["window"]["start"].as_i64().unwrap(), answer["window"]["end"].as_i64().unwrap());
    assert!(span.start + 3_000 < start && start < end && end <= span.end + 1_500, "{answer} {span:?}");

    let before = std::fs::read(&case).unwrap();
    let (code, out, error) = record(folder.path());
    assert_eq!((code, lines(&out)[0]["state"].as_str()), (0, Some("kept")), "{error}");
    assert_eq!(std::fs::read(&case).unwrap(), before);

    std::fs::write(case.with_extension("answer.json"), without(&answer, "scenario_sha256")).unwrap();
    let (code, _, error) = record(folder.path());
    assert_eq!((code, error.lines().count()), (2, 1), "{error}");
    assert!(error.contains("scenario_sha256: null / ") && error.contains("workers_take_turns-1.galen"), "{error}");
    std::fs::write(case.with_extension("answer.json"), answer.to_string()).unwrap();

    let out = folder.path().to_str().unwrap();
    let (code, _, error) =
        run(&["lab", "record", "--scenario", "workers_take_turns", "--baseline", "4s", "--duration", "6s", "--out", out, "--json"]);
    assert_eq!((code, error.lines().count()), (2, 1), "{error}");
    assert!(error.contains("phases.anomaly.secs: 5 / 6") && error.contains("workers_take_turns-1.galen"), "{error}");
    assert_eq!(std::fs::read(&case).unwrap(), before);

    let (code, _, error) = run(&["lab", "record", "--scenario", "workers_take_turns", "--server-bin", "7", "--out", out]);
    assert_eq!((code, error.contains("PostgreSQL 7 is not installed"), error.lines().count()), (2, true, 1), "{error}");

    let (code, _, error) = run(&["lab", "run", "workers_take_turns", "--baseline", "4s", "--duration", "5s", "--out", out]);
    assert_eq!((code, error.lines().count()), (2, 1), "{error}");
    assert!(error.contains("workers_take_turns-1.galen is there already") && error.contains("another folder"), "{error}");
    assert_eq!(std::fs::read(&case).unwrap(), before);

    let lock = std::fs::File::open(folder.path().join(".lock")).unwrap();
    lock.lock().unwrap();
    let (code, _, error) = record(folder.path());
    assert_eq!((code, error.contains("another `galen lab`"), error.lines().count()), (2, true, 1), "{error}");
}

/// True where this machine gives a process a network of its own, asked without galen.
fn gives_networks() -> bool {
    // Where galen looks too.
    let script = "PATH=\"$PATH:/usr/sbin:/sbin\"; command -v tc && unshare -n ip link set lo up";
    let asked = std::process::Command::new("sh").args(["-c", script]).output();
    nix::unistd::geteuid().is_root() && asked.is_ok_and(|output| output.status.success())
}

#[test]
fn a_batch_has_a_network_of_its_own_only_while_a_case_that_narrows_it_is_to_be_recorded() {
    let folder = tempfile::tempdir().unwrap();
    // Recorded, nobody can tell of what: a batch with such a case is refused before there is a server.
    let put = |case: &str| {
        let capture = folder.path().join(case).with_extension("galen");
        std::fs::copy(repository("examples/captures/healthy.galen"), &capture).unwrap();
        std::fs::write(capture.with_extension("answer.json"), "{}").unwrap();
    };
    let refused = || {
        let out = folder.path().to_str().unwrap();
        let (code, _, error) = run(&["lab", "record", "--scenario", "network_congestion", "--scenario", "queue_healthy", "--out", out]);
        assert!(code == 2 && error.lines().next_back().is_some_and(|line| line.contains("was recorded otherwise")), "{code} {error}");
        error
    };
    put("queue_healthy-1");
    let open = refused();
    put("network_congestion-1");
    let done = refused();
    assert_eq!(done.lines().count(), 1, "{done}");
    if !gives_networks() {
        eprintln!("skipped: this machine gives nobody a network of its own");
        return;
    }
    assert!(open.lines().count() == 2 && open.starts_with("this batch has a network of its own"), "{open}");
}

#[test]
fn a_batch_ends_where_the_disk_under_its_servers_has_no_room() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: a small volume needs root to be mounted");
        return;
    }
    let (small, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Less than a new server writes, as much as it takes to say so. The server's user gets in.
    if mount(Some("lab"), small.path(), Some("tmpfs"), MsFlags::empty(), Some("size=12m,mode=1777")).is_err() {
        eprintln!("skipped: this machine lets nobody mount a volume");
        return;
    }
    let mut command = galen();
    command.args(["lab", "record", "--scenario", "queue_healthy", "--scenario", "workers_take_turns", "--jobs", "1"]);
    command.args(["--baseline", "2s", "--duration", "2s", "--out", out.path().to_str().unwrap()]).env("TMPDIR", small.path());
    let output = command.output().unwrap();
    umount2(small.path(), MntFlags::MNT_DETACH).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), error.lines().count()), (Some(70), 1), "{error}");
    assert!(error.contains("the disk is full: 0 finished cases stay") && error.contains("TMPDIR"), "{error}");
}

#[test]
fn a_diagnosis_is_the_same_without_label_and_answer() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["missing_index", "blocking_transaction", "healthy"] {
        let labelled = folder.path().join("case.galen");
        let mut capture = file::read(&repository(&format!("examples/captures/{name}.galen"))).unwrap();
        capture.manifest.labels = vec![name.to_owned()];
        file::write(&capture, &labelled).unwrap();
        std::fs::write(folder.path().join("case.answer.json"), r#"{"causes":["disk_full"]}"#).unwrap();
        let (_, with, _) = run(&["replay", "--json", labelled.to_str().unwrap()]);
        std::fs::remove_file(folder.path().join("case.answer.json")).unwrap();
        for labels in [vec![], vec!["disk_full".to_owned()]] {
            capture.manifest.labels = labels;
            file::write(&capture, &labelled).unwrap();
            let (code, without, error) = run(&["replay", "--json", labelled.to_str().unwrap()]);
            assert_eq!((code, &without), (0, &with), "{name}: {error}");
        }
    }
}

#[test]
fn a_role_that_moved_is_a_failover_and_the_restart_that_came_with_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("case.galen");
    let mut capture = file::read(&repository("examples/captures/healthy.galen")).unwrap();
    let span = capture.span().unwrap();
    let event = |kind: &str, text: &str| galen_tools::model::Event {
        at: (span.start + span.end) / 2,
        source: "catalog".into(),
        kind: kind.into(),
        object: "shop".into(),
        text: text.into(),
    };
    capture.events.push(event("restart", "the server was restarted; not seen for 3 s"));
    file::write(&capture, &place).unwrap();
    let causes = |place: &Path| -> (Vec<String>, String) {
        let (code, out, error) = run(&["replay", "--json", place.to_str().unwrap()]);
        assert_eq!(code, 0, "{error}");
        let report = lines(&out).remove(0);
        let named = report["root_causes"].as_array().unwrap().iter().map(|it| it["cause"].as_str().unwrap().to_owned()).collect();
        (named, out)
    };
    assert_eq!(causes(&place).0, ["crash_restart"]);
    capture.events.push(event("role_changed", "the server was promoted: it was a standby and is the primary now"));
    file::write(&capture, &place).unwrap();
    let (named, report) = causes(&place);
    assert_eq!(named, ["failover"]);
    assert!(report.contains("A failover took place: the server was promoted"), "{report}");
}

#[test]
fn an_interrupted_recording_leaves_nothing_behind() {
    let (temporary, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(temporary.path(), open).unwrap();
    let entries = || std::fs::read_dir(temporary.path()).unwrap().count();
    let mut child = galen()
        .args(["lab", "record", "--scenario", "queue_healthy", "--baseline", "60s", "--out", out.path().to_str().unwrap()])
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while entries() == 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(entries() > 0, "the server's folder is there when the interrupt comes");
    std::thread::sleep(Duration::from_millis(1500));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait().unwrap();
    assert_eq!(output.code(), Some(130));
    let end = Instant::now() + Duration::from_secs(15);
    while entries() > 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(entries(), 0);
    let left: Vec<_> = std::fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".lock"]);
}

#[test]
fn copies_and_contradicted_answers_are_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).with_extension("galen");
    let (second, done) = (serde_json::json!({"secs": 1, "nanos": 0}), serde_json::json!({"statements": 1, "errors": 0, "rows": 0}));
    for (name, recording, labels, cause) in [
        ("a", "missing_index", vec!["missing_index"], "missing_index"),
        ("b", "missing_index", vec!["missing_index"], "missing_index"),
        ("c", "healthy", vec!["healthy"], "deadlocks"),
        ("d", "bulk_delete", vec![], "slow_disk"),
    ] {
        let mut capture = file::read(&repository("examples/captures").join(recording).with_extension("galen")).unwrap();
        capture.manifest.name = name.to_owned();
        capture.manifest.labels = labels.into_iter().map(str::to_owned).collect();
        file::write(&capture, &at(name)).unwrap();
        let answer = serde_json::json!({
            "scenario": "x", "schema": "shop", "title": "made up", "causes": [cause], "culprits": [], "parameters": {},
            "phases": {"warmup": second, "baseline": second, "anomaly": second, "recovery": second}, "seed": 1, "window": null,
            "server_version_num": 150_000, "galen_version": "0", "steady": done, "fault": done,
        });
        std::fs::write(at(name).with_extension("answer.json"), answer.to_string()).unwrap();
    }
    let (code, out, error) = run(&["lab", "check", folder.path().to_str().unwrap(), "--json"]);
    let cases: Vec<String> = lines(&out).iter().map(|row| row["case"].as_str().unwrap().to_owned()).collect();
    assert_eq!((code, cases), (5, vec!["a".to_owned()]), "{error}");
    for (name, why) in [
        ("b", format!("the same recording as {}", at("a").display())),
        ("c", "mislabelled: its answer says deadlocks, the capture healthy".to_owned()),
        ("d", "mislabelled: `slow_disk` is no cause id".to_owned()),
    ] {
        assert!(error.contains(&format!("{}: {why}", at(name).display())), "{name}: {error}");
    }
    assert!(error.contains("1 of 1 named first") && error.contains("3 cases could not be used"), "{error}");
}
