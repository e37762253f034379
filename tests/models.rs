//! The daemon's model: seen at work, and changed from one adapter to another between the incidents of two targets.

use serde_json::json;

use crate::support::{ALERTS, BEGAN, Daemon, NOWHERE, alerts, galen, incident, no_model, payload};

#[test]
fn the_models_work_is_seen_and_an_adapter_that_is_missing_costs_no_report() {
    if no_model() {
        return;
    }
    let reported = |targets: &str| {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(folder.path(), targets);
        let id = incident(&daemon.post(ALERTS, &payload("f1", BEGAN)).1);
        daemon.until("reported", || daemon.state(id) == "reported");
        (daemon.call("incidents.report", json!({"id": id, "format": "json"})), daemon.get("/metrics").1)
    };
    let model = "[model]\nname = \"smollm2-135m\"\n";
    let (report, metrics) = reported(&format!("{NOWHERE}{model}"));
    assert!(report["model_note"].is_null(), "{}", report["model_note"]);
    for line in ["galen_llm_restarts_total 0", "galen_llm_requests_failed_total 0", "galen_llm_requests_waiting 0"] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
    let adapted = format!("{NOWHERE}adapter = \"own\"\n{model}[[model.adapter]]\nname = \"own\"\nfile = \"/nonexistent/own.gguf\"\n");
    let (report, metrics) = reported(&adapted);
    assert!(metrics.lines().any(|l| l == "galen_llm_up 0"), "a model that did not start is not up\n{metrics}");
    let note = report["model_note"].as_str().unwrap_or_default();
    assert!(note.contains("own.gguf") && note.contains("without a model"), "{report}");
}

#[test]
fn the_model_changes_to_a_targets_adapter_and_back() {
    if no_model() {
        return;
    }
    let tiny = galen_agents::llm::registry::default_models_dir().join("tiny");
    let (model, adapter) = (tiny.join("tiny-minicpm.gguf"), tiny.join("tiny-minicpm-lora.gguf"));
    assert!(adapter.exists(), "{} is missing: run make tiny-models (or set GALEN_NO_MODEL=1)", adapter.display());
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    std::fs::create_dir(&models).unwrap();
    assert!(galen().args(["model", "add"]).arg(model).env("GALEN_MODELS_DIR", &models).status().unwrap().success());
    let other = NOWHERE.replace("\"shop\"", "\"other\"");
    let targets = format!(
        "{NOWHERE}adapter = \"own\"\n{other}[model]\nname = \"tiny-minicpm\"\nmodels_dir = {models:?}\n\
         [[model.adapter]]\nname = \"own\"\nfile = {adapter:?}\n"
    );
    let daemon = Daemon::start(folder.path(), &targets);
    // Hours apart: what begins at the same time is one incident.
    for (fingerprint, began, target) in [("f1", BEGAN, "shop"), ("f2", BEGAN, "other"), ("f3", "2026-01-01T17:05:00Z", "shop")] {
        let id = incident(&daemon.post(ALERTS, &alerts(&[(fingerprint, began, target)])).1);
        daemon.until("reported", || daemon.state(id) == "reported");
        let report = daemon.call("incidents.report", json!({"id": id, "format": "json"}));
        assert!(report["model_note"].is_null() && report["model"].as_str().is_some(), "{report}");
    }
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let named =
        |line: &str| line.split("adapter=").nth(1).map(|rest| rest.trim_matches('"').split(['"', ' ']).next().unwrap_or("").to_owned());
    let changes: Vec<String> = log.lines().filter(|line| line.contains("diagnoses with this adapter")).filter_map(named).collect();
    assert_eq!(changes, ["own", "none", "own"], "{log}");
    let metrics = daemon.get("/metrics").1;
    assert!(metrics.lines().any(|l| l == "galen_llm_up 1"), "{metrics}");
    assert!(metrics.lines().any(|l| l == "galen_llm_restarts_total 0"), "nothing is loaded again for it\n{metrics}");
}
