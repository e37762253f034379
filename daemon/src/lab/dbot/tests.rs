//! Tests of reading, scaling, choosing and planning, and one short real run.

use std::collections::BTreeMap;
use std::time::Duration;

use galen_agents::driver::{Options, diagnose};
use galen_tools::probe::Recorded;
use galen_tools::store::file;

use super::choose::{strata, stratified};
use super::plan::{KINDS, Plan, Step, plan};
use super::scale::scale;
use super::spec::{Size, Spec, read};
use super::stage::{Phases, Stage};
use super::suite::{Outcome, Request, name_of, record, twice};
use crate::lab::load::Work;
use crate::lab::{Folder, Otherwise};

/// A line of a kind with sizes that every sized kind takes.
fn line(id: u32, workload: &str, label: &str) -> String {
    let params = serde_json::json!({"threads": 53, "columns": 60, "rows": 2_000_000, "column_size": 46, "indexes": 6});
    serde_json::json!({"id": id, "labels": [label], "workload": workload, "params": params, "description": "prose"}).to_string()
}

fn every_kind() -> Vec<Spec> {
    let lines: Vec<String> = KINDS.iter().zip(1..).map(|((kind, _), id)| line(id, kind, "missing indexes")).collect();
    let (specs, problems) = read(&lines.join("\n")).unwrap();
    assert_eq!(problems, Vec::<String>::new());
    specs
}

#[test]
fn good_lines_are_used_and_each_bad_one_is_named() {
    let good = line(7, "missing_index", "missing indexes");
    let lines = [
        good.clone(),
        good[..good.len() / 2].to_owned(),
        good.clone(),
        line(8, "no_such_kind", "missing indexes"),
        line(9, "vacuum", "no such label"),
        r#"{"id": 10, "labels": ["highly deletes"], "workload": "vacuum", "params": {"threads": 5}}"#.to_owned(),
        r#"{"id": 11, "labels": ["highly deletes"], "workload": "vacuum", "params": {"thraeds": 5}}"#.to_owned(),
        r#"{"id": 12, "labels": [], "workload": "job_joins"}"#.to_owned(),
        String::new(),
        r#"{"id": 3, "labels": ["POOR JOIN PERFORMANCE", "CPU CONTENTION"], "workload": "job_joins"}"#.to_owned(),
    ];
    let (specs, problems) = read(&lines.join("\n")).unwrap();
    assert_eq!(specs.iter().map(|s| s.id).collect::<Vec<_>>(), [3, 7]);
    assert_eq!(specs[0].causes, ["poor_join", "cpu_contention"]);
    let told = [
        (2, "EOF"),
        (3, "id 7 was there before"),
        (4, "no_such_kind"),
        (5, "no such label"),
        (6, "columns is missing"),
        (7, "thraeds"),
        (8, "no label"),
    ];
    assert_eq!(problems.len(), told.len(), "{problems:?}");
    for ((number, what), problem) in told.iter().zip(&problems) {
        assert!(problem.starts_with(&format!("line {number}: ")) && problem.contains(what), "{problem}");
    }
}

#[test]
fn sizes_are_scaled_by_the_stated_rule() {
    let size = |threads, columns, rows, indexes| Size {
        threads: Some(threads),
        columns: Some(columns),
        rows: Some(rows),
        column_size: Some(50),
        indexes: Some(indexes),
    };
    let small = scale(size(9, 20, 300, 0), 2).unwrap();
    assert_eq!((small.threads, small.rows, small.columns, small.indexes, small.value_size), (9, 300, 20, 0, 32));
    let large = scale(size(120, 10, 2_000_000, 6), 2).unwrap();
    assert_eq!((large.threads, large.rows, large.indexes), (30, 100_000, 6));
    assert_eq!(scale(size(200, 10, 300, 0), 2).unwrap().threads, 32);
    assert_eq!(scale(size(20, 10, 300, 0), 2).unwrap().threads, 10);
    // A hundred columns of 32 characters make 3344 bytes a row: 128 MB hold fewer than a twentieth of a million.
    assert_eq!(scale(size(5, 100, 999_999, 6), 2).unwrap().rows, 40_136);
    assert!(scale(size(0, 10, 300, 0), 2).unwrap_err().to_string().contains("threads is 0"));
}

#[test]
fn a_part_is_proportional_with_two_of_each_and_the_same_each_time() {
    let mut lines: Vec<String> = (0..90).map(|id| line(id, "missing_index", "missing indexes")).collect();
    lines.extend((90..99).map(|id| line(id, "vacuum", "highly deletes")));
    lines.push(line(99, "redundant_index", "too many indexes"));
    let (specs, _) = read(&lines.join("\n")).unwrap();
    let ids = stratified(&specs, 20);
    assert_eq!(ids, stratified(&specs, 20));
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for spec in specs.iter().filter(|spec| ids.contains(&spec.id)) {
        *counts.entry(&spec.workload).or_default() += 1;
    }
    assert_eq!((counts["missing_index"], counts["vacuum"], counts["redundant_index"]), (17, 2, 1));
    assert_eq!(strata(&specs).len(), 3);
    assert_eq!(stratified(&[], 20), Vec::<u32>::new());
}

/// Everything of a plan that reaches the server.
fn shown(plan: &Plan) -> Vec<String> {
    let clients = || plan.steady.iter().chain(&plan.clients);
    let mut all: Vec<String> = plan.setup.iter().chain(&plan.teardown).filter(|sql| !sql.starts_with("VACUUM ANALYZE")).cloned().collect();
    all.extend(plan.acts.iter().map(|act| act.sql.clone()));
    all.extend(clients().map(|c| c.name.clone()));
    all.extend(clients().flat_map(|c| c.work.iter().flat_map(|w| w.sql.clone())));
    all
}

#[test]
fn every_kind_has_a_plan_and_nothing_a_database_shows_names_its_cause() {
    let words = [
        "missing",
        "redundant",
        "too many",
        "concurrent",
        "contention",
        "bulk",
        "poor",
        "correlated",
        "large_",
        "vacuum_",
        "highly",
        "anomaly",
        "dbot",
        "d-bot",
        "galen",
        "cause",
    ];
    let specs = every_kind();
    assert_eq!(specs.len(), KINDS.len());
    for spec in specs {
        let plan = plan(&spec, 2).unwrap();
        assert!(!plan.acts.is_empty() || !plan.clients.is_empty(), "{}: nothing happens", spec.workload);
        for text in shown(&plan) {
            assert!(!text.contains("${") && !text.contains("--") && !text.contains("/*"), "{text}");
            let text = text.to_lowercase();
            for word in words.iter().copied().chain([spec.workload.as_str()]) {
                assert!(!text.contains(word), "{}: `{word}` is in `{text}`", spec.workload);
            }
        }
    }
}

#[test]
fn a_plan_follows_the_sizes_and_the_number_of_its_specification() {
    let specs = every_kind();
    let of = |kind: &str| plan(specs.iter().find(|s| s.workload == kind).unwrap(), 2).unwrap();
    let indexes = of("redundant_index").acts;
    assert_eq!((indexes.len(), indexes[35].sql.as_str()), (36, "CREATE INDEX customers_name35_idx ON customers (name35)"));
    assert_eq!(of("vacuum").acts.len(), 40);
    assert_eq!(of("lock_contention").clients[0].work.len(), 20);
    assert_eq!((of("insert_large_data").clients[0].count, of("job_joins").clients[0].work.len()), (13, 4));
    let draws = |id: u32| {
        let spec = Spec { id, workload: "job_joins".into(), causes: vec!["poor_join".into()], size: Size::default() };
        format!("{:?}", plan(&spec, 2).unwrap().clients)
    };
    assert_eq!(draws(6), draws(6));
    assert!((7..20).any(|id| draws(id) != draws(6)), "the number draws what a kind without sizes does");
}

async fn the_diagnosis_does_not_see_the_labels(path: &std::path::Path) {
    let home = tempfile::tempdir().unwrap();
    let config = crate::config::Config { data_dir: home.path().to_owned(), ..Default::default() };
    let library = crate::engine::library(&config).unwrap();
    let mut told = Vec::new();
    for labels in [vec![], vec!["concurrent_updates".to_owned()], vec!["wraparound_risk".to_owned(), "healthy".to_owned()]] {
        let mut capture = file::read(path).unwrap();
        capture.manifest.labels = labels;
        let options = Options { replay: true, ..Options::default() };
        told.push(serde_json::to_string(&diagnose(&capture, &library, &Recorded(&capture), None, &options, &|_| {}).await).unwrap());
    }
    assert!(told[0] == told[1] && told[0] == told[2], "{told:?}");
}

/// Specifications of these kinds, of a size that is made at once.
fn small(kinds: &[&str]) -> Vec<Spec> {
    let mut small = every_kind();
    small.retain(|spec| kinds.contains(&spec.workload.as_str()));
    for spec in &mut small {
        spec.size = Size { threads: Some(4), columns: Some(5), rows: Some(300), column_size: Some(20), indexes: None };
    }
    small
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incident_that_did_not_happen_and_a_load_that_failed_make_no_case() {
    let stage = Stage::open().await.unwrap();
    let second = Duration::from_secs(1);
    let phases = Phases { warmup: second / 5, calm: second, incident: 2 * second };
    let mut plan = plan(&small(&["lock_contention"])[0], 2).unwrap();
    plan.acts = vec![Step { sql: "SELECT pg_sleep(60)".to_owned(), pause_ms: 0 }];
    let error = stage.play(&plan, phases).await.err().unwrap().to_string();
    assert!(error.contains("never started: 0 of 1"), "{error}");
    // Its tables are there by now.
    plan.setup.clear();
    plan.acts.clear();
    for clients in &mut plan.clients {
        clients.work = vec![Work { weight: 1, sql: vec!["SELECT 1 / 0".to_owned()] }];
    }
    let error = stage.play(&plan, phases).await.err().unwrap().to_string();
    assert!(error.contains("statements of the incident failed") && error.contains("22012"), "{error}");
    for clients in &mut plan.steady {
        clients.work = vec![Work { weight: 1, sql: vec!["SELECT 1 / 0".to_owned()] }];
    }
    let error = stage.play(&plan, phases).await.err().unwrap().to_string();
    assert!(error.contains("steady load failed") && error.contains("22012"), "{error}");
    stage.close().await;
}

#[tokio::test]
async fn what_failed_is_tried_once_more_but_not_on_a_full_disk() {
    for (kind, wanted) in [(std::io::ErrorKind::StorageFull, 1), (std::io::ErrorKind::TimedOut, 2)] {
        let mut tries = 0;
        let outcome = twice(async || -> anyhow::Result<()> {
            tries += 1;
            Err(std::io::Error::from(kind).into())
        });
        assert!(outcome.await.is_err());
        assert_eq!(tries, wanted, "{kind}");
    }
}

/// A few seconds of two kinds on one real server: what an interrupted suite leaves is kept, labels are for scoring alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cases_are_recorded_on_one_server_and_kept() {
    let small = small(&["lock_contention", "vacuum"]);
    let folder = tempfile::tempdir().unwrap();
    let second = Duration::from_secs(1);
    let phases = Phases { warmup: second / 2, calm: 3 * second, incident: 4 * second };
    let mut request = Request { specs: small, jobs: 1, phases, cpus: 2 };
    let open = Folder::open(folder.path()).unwrap();
    let seen = std::sync::Mutex::new(Vec::new());
    let tell = |spec: &Spec, outcome: &Outcome| seen.lock().unwrap().push((spec.workload.clone(), outcome.clone()));
    let path_of = |spec: &Spec| folder.path().join(name_of(spec)).with_extension("galen");
    std::fs::write(path_of(&request.specs[0]), "a run was killed while it wrote this").unwrap();
    record(&request, &open, tell).await.unwrap();
    let first = std::mem::take(&mut *seen.lock().unwrap());
    assert!(first.len() == 2 && first.iter().all(|(_, o)| matches!(o, Outcome::Recorded(..))), "{first:?}");
    for spec in &request.specs {
        let capture = file::read(&path_of(spec)).unwrap();
        assert_eq!(capture.manifest.labels, spec.causes);
        assert!(capture.series["tps"].values.len() >= 5 && !capture.statements.is_empty());
        let answer = open.finished(&name_of(spec)).unwrap();
        for clients in ["steady", "fault"] {
            assert!(answer[clients]["sent"].as_u64().unwrap() > 0 && answer[clients]["errors"] == 0, "{answer}");
        }
        let texts = capture.texts.values().cloned().collect::<String>();
        let (own, other) = if spec.workload == "vacuum" { ("stock_items", "tickets") } else { ("tickets", "stock_items") };
        assert!(texts.contains(own) && !texts.contains(other), "the server still counts the case before: {texts}");
    }
    the_diagnosis_does_not_see_the_labels(&path_of(&request.specs[0])).await;
    request.jobs = 2;
    record(&request, &open, tell).await.unwrap();
    let again = std::mem::take(&mut *seen.lock().unwrap());
    assert!(again.len() == 2 && again.iter().all(|(_, o)| matches!(o, Outcome::Kept(_))), "{again:?}");

    let before: Vec<_> = request.specs.iter().map(|spec| std::fs::read(path_of(spec)).unwrap()).collect();
    let (mut longer, mut larger, mut relabelled) = (request.clone(), request.clone(), request.clone());
    longer.phases.incident = 5 * second;
    larger.specs[1].size.rows = Some(400);
    relabelled.specs[1].causes = vec!["disk_full".into()];
    for (other, what) in [(longer, "phases.incident.secs: 4 / 5"), (larger, "size.rows: 300 / 400"), (relabelled, "causes: ")] {
        let error = record(&other, &open, tell).await.unwrap_err();
        assert!(error.is::<Otherwise>() && error.to_string().contains(what), "{error:#}");
    }
    let sidecar = path_of(&request.specs[1]).with_extension("answer.json");
    std::fs::rename(&sidecar, sidecar.with_extension("away")).unwrap();
    let error = record(&request, &open, tell).await.unwrap_err();
    assert!(error.is::<Otherwise>() && error.to_string().contains("nothing beside it says how"), "{error:#}");
    let after: Vec<_> = request.specs.iter().map(|spec| std::fs::read(path_of(spec)).unwrap()).collect();
    assert!(before == after && seen.lock().unwrap().is_empty(), "what was refused is neither lost nor recorded again");
}
