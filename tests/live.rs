//! The main job for real: a private server, a daemon, a fault, a report; and the model's process killed in the middle.

use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{galen, lines, repository, run, within};

/// One demo at a time: two would disturb each other's load on a small machine.
static STAGE: Mutex<()> = Mutex::new(());

fn demo(arguments: &[&str]) -> (Value, String) {
    demo_with(arguments, |_| ())
}

/// A demo in a temporary folder of its own, which `meanwhile` is given once it runs.
fn demo_with(arguments: &[&str], meanwhile: impl FnOnce(&Path)) -> (Value, String) {
    let _stage = STAGE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (out, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut command = galen();
    command.env("TMPDIR", folder.path()).arg("demo").args(arguments).args(["--json", "--out", out.path().to_str().unwrap()]);
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    meanwhile(folder.path());
    let output = running.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{log}");
    let mut reports = lines(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(reports.len(), 1, "{log}");
    let page = std::fs::read_to_string(
        std::fs::read_dir(out.path())
            .unwrap()
            .filter_map(Result::ok)
            .find(|e| e.path().extension().is_some_and(|x| x == "html"))
            .unwrap()
            .path(),
    )
    .unwrap();
    assert!(page.contains("<svg") && !page.contains("<script"), "the page has charts and no script");
    (reports.remove(0), log)
}

#[test]
fn the_daemon_finds_a_lost_index_by_itself_with_the_model() {
    let (report, log) = demo(&["--fault", "missing_index", "--model", "smollm2-135m"]);
    let cause = &report["root_causes"][0];
    assert_eq!(cause["cause"], "missing_index", "{log}");
    assert!(cause["summary"].as_str().unwrap().contains("orders_customer_id_idx"), "{cause}");
    assert!(cause["remedies"][0]["sql"].as_str().unwrap().starts_with("CREATE INDEX CONCURRENTLY"));
    assert!(!cause["knowledge"].as_array().unwrap().is_empty());
    assert_eq!(report["model"], "smollm2-135m");
    // On a busy machine the report goes out before the model is done, and says so; anything else is a fault.
    match report["model_note"].as_str() {
        None => assert!(report["bill"]["prompt_tokens"].as_u64().unwrap() > 0),
        Some(note) => assert!(note.contains("had not answered within"), "{note}"),
    }
    assert!(report["experts"].as_array().unwrap().len() >= 3);
    assert!(log.contains("noticed by itself"));
}

#[test]
fn a_blocking_transaction_is_named_with_its_session() {
    let (report, log) = demo_with(&["--fault", "blocking_transaction", "--no-model"], ingest_a_page);
    let cause = &report["root_causes"][0];
    assert_eq!(cause["cause"], "blocking_transaction", "{log}");
    assert!(
        report["knowledge"].to_string().contains("Ask the shop's night desk"),
        "taken in while the daemon ran: {}",
        report["knowledge"]
    );
    assert!(cause["culprits"].as_array().unwrap().iter().any(|c| c["kind"] == "session"));
}

/// Waits until the demo's daemon is ready, and takes a document into its store from another process.
fn ingest_a_page(folder: &Path) {
    let ready = |dir: &Path| std::fs::read_to_string(dir.join("galen.log")).is_ok_and(|log| log.contains("ready"));
    let daemon = || std::fs::read_dir(folder).unwrap().filter_map(Result::ok).map(|e| e.path()).find(|path| ready(path));
    within(60, "a daemon of the demo's", || daemon().is_some());
    let page = folder.join("desk.md");
    std::fs::write(&page, "# Blocking transaction (blocking_transaction)\n\nAsk the shop's night desk before you end it.\n").unwrap();
    let (code, _, error) = run(&["ingest", page.to_str().unwrap(), "--data-dir", daemon().unwrap().to_str().unwrap()]);
    assert_eq!(code, 0, "{error}");
}

#[test]
fn a_healthy_server_raises_nothing_and_is_called_healthy() {
    let (report, log) = demo(&["--fault", "healthy", "--no-model"]);
    assert!(log.contains("silent, as it should be"), "{log}");
    let evidence = report["evidence"].as_array().unwrap();
    let host = evidence.iter().find(|e| e["tool"] == "host").map_or(&Value::Null, |e| &e["facts"]);
    let above = |name: &str, limit: f64| host[name].as_f64().is_some_and(|value| value > limit);
    // Beside other work the machine may be as busy as it can be all the time: then a doubt is due.
    if above("cpu_busy", 0.85) || above("psi_io", 0.25) || above("disk_util", 0.85) {
        assert_eq!((&report["status"], report["root_causes"].as_array().unwrap().len()), (&"undetermined".into(), 0), "{log}");
        return;
    }
    let causes = report["root_causes"].as_array().unwrap();
    assert_eq!((causes.len(), causes[0]["cause"].as_str()), (1, Some("healthy")), "{log}");
}

/// Process ids of the children of a process that run the model.
fn workers(parent: u32) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let of = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if of == Some(parent) && String::from_utf8_lossy(&command).contains("llm-worker") {
            found.push(pid);
        }
    }
    found
}

/// Threads of a process, but for the one that helps it load: the second one then is there once it has loaded.
fn threads(pid: i32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    tasks.map(name).filter(|name| name.trim() != "galen-prefault").count()
}

/// Processor time of a process so far, in clock ticks.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(11)?.parse().ok()).unwrap_or(0)
}

#[test]
fn killing_the_model_costs_its_votes_and_never_the_diagnosis() {
    use nix::sys::resource::{Resource, setrlimit};
    use nix::sys::signal::{Signal, kill};
    let capture = repository("examples/captures/missing_index.galen");
    let _stage = STAGE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // Processes inherit it: what dies leaves no core file here.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
    // One run, and a diagnosis for each kind of death: whoever lost its process goes on without, and the next starts another.
    let deaths = [(Signal::SIGSEGV, 11), (Signal::SIGABRT, 6), (Signal::SIGKILL, 9)];
    let child = galen()
        .args(["replay", "--json", "--model", "smollm2-135m"])
        .args(deaths.map(|_| &capture))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let parent = child.id();
    // Read meanwhile: the reports may be more than a pipe holds.
    let run = std::thread::spawn(move || child.wait_with_output().unwrap());
    let end = Instant::now() + Duration::from_secs(120);
    let mut doomed: Vec<i32> = Vec::new();
    while Instant::now() < end && !run.is_finished() {
        for pid in workers(parent) {
            // Not before it has loaded: death at the start is another failure (exit code 6, the model was demanded).
            if !doomed.contains(&pid) && threads(pid) > 1 && ticks(pid) > 60 {
                doomed.push(pid);
            }
            // Until it is gone: Rust's handler lets the first SIGSEGV pass that no bad access follows.
            if let Some(turn) = doomed.iter().position(|other| *other == pid) {
                let _ = kill(nix::unistd::Pid::from_raw(pid), deaths[turn % deaths.len()].0);
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = run.join().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!doomed.is_empty(), "the model was never seen: run make model; {log}");
    assert_eq!(output.status.code(), Some(0), "{log}");
    let reports = lines(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(reports.len(), deaths.len(), "{log}");
    let notes: Vec<&str> = reports.iter().map(|report| report["model_note"].as_str().unwrap_or_default()).collect();
    for (report, note) in reports.iter().zip(&notes) {
        assert_eq!(report["root_causes"][0]["cause"], "missing_index");
        assert!(note.contains("without the model's votes"), "{notes:?}");
    }
    for (signal, number) in deaths {
        assert!(notes.iter().any(|note| note.contains(&format!("killed by signal {number}"))), "{signal}: {notes:?}");
    }
}

#[test]
fn a_frozen_model_costs_its_votes_and_never_the_diagnosis() {
    use nix::sys::signal::{Signal, kill};
    let capture = repository("examples/captures/missing_index.galen");
    let _stage = STAGE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let child = galen()
        .args(["replay", "--json", "--model", "smollm2-135m", "--model-timeout", "2"])
        .arg(&capture)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    let mut frozen = std::collections::BTreeSet::new();
    while Instant::now() < end && std::fs::read_to_string(format!("/proc/{}/stat", child.id())).is_ok_and(|s| !s.contains(") Z ")) {
        for pid in workers(child.id()) {
            // Once it has loaded and works: a request is under way, and stays so.
            if !frozen.contains(&pid)
                && ticks(pid) > 60
                && threads(pid) > 1
                && kill(nix::unistd::Pid::from_raw(pid), Signal::SIGSTOP).is_ok()
            {
                frozen.insert(pid);
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!frozen.is_empty(), "the model was never seen: run make model; {log}");
    assert_eq!(output.status.code(), Some(0), "{log}");
    let report = &lines(&String::from_utf8_lossy(&output.stdout))[0];
    assert_eq!(report["root_causes"][0]["cause"], "missing_index");
    assert!(report["model_note"].as_str().unwrap_or_default().contains("within 2 s"), "{}", report["model_note"]);
    // A model's process that is frozen when the program ends dies with it; its entry stays until init has taken note.
    let end = Instant::now() + Duration::from_secs(10);
    let lives = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
    while frozen.iter().any(lives) {
        assert!(Instant::now() < end, "a frozen process is left");
        std::thread::sleep(Duration::from_millis(20));
    }
}
