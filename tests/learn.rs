//! Learning from labelled captures through the real binary: held-back captures are refused, and what was learnt is used.

use galen_agents::evaluation::split::{Half, half_of};

use crate::support::{bench, lines, run};

/// A recording of 24 attributes; four of them, from `first` on, rise between second 50 and 80.
fn recording(seed: usize, first: usize) -> String {
    let head: String = (0..24).map(|i| format!(",attribute {i}")).collect();
    let cell = |second: usize, i: usize| {
        let noise = (seed * 7_919 + second * 104_729 + i * 1_299_709) % 1_000;
        let level = if (50..80).contains(&second) && (first..first + 4).contains(&i) { 5_000 } else { 0 };
        format!(",{}", 10_000 + level + noise)
    };
    let rows: String = (0..120).map(|s| format!("{}{}\n", s + 1, (0..24).map(|i| cell(s, i)).collect::<String>())).collect();
    format!("Epoch{head}\n{rows}")
}

#[test]
fn what_is_held_back_is_never_learnt_from_and_what_was_learnt_names_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("in")).unwrap();
    let mut labels = String::new();
    for case in 1..=60usize {
        let (first, class) = [(0, "cpu_contention"), (8, "Nightly Export"), (16, "error_storm")][case % 3];
        std::fs::write(path(&format!("in/{case:02}.csv")), recording(case, first)).unwrap();
        labels.push_str(&format!("case-{case:05} = {class:?}\n"));
    }
    std::fs::write(path("labels.toml"), labels).unwrap();
    assert_eq!(run(&["import", "dbsherlock", &path("in"), "-o", &path("cases")]).0, 0);
    let name = |case: usize| format!("case-{case:05}");
    let held: Vec<usize> = (1..=60usize).filter(|c| half_of("dbsherlock", &name(*c)) == Half::Test).collect();
    assert!(held.len() > 15 && held.len() < 45, "{held:?}");

    let (code, out, error) = run(&["learn", &path("cases"), "--labels", &path("labels.toml"), "-o", &path("s.toml"), "--json"]);
    let learnt: u64 = lines(&out).iter().map(|l| l["cases"].as_u64().unwrap()).sum();
    assert_eq!((code, learnt), (0, 60 - held.len() as u64), "{error}");
    assert!(error.contains(&format!("{} held back", held.len())), "{error}");
    let refused = path(&format!("cases/{}.galen", name(held[0])));
    let (code, _, error) = run(&["learn", &refused, "--labels", &path("labels.toml"), "-o", &path("x.toml")]);
    assert_eq!((code, error.lines().count(), error.contains("test half")), (2, 1, true), "{error}");
    assert!(!folder.path().join("x.toml").exists());
    let (code, _, error) = run(&["learn", &path("cases"), "-o", &path("x.toml")]);
    assert_eq!((code, error.contains("no single label")), (5, true), "without labels there is nothing to learn: {error}");

    let ours = held.iter().find(|c| *c % 3 == 1).copied().unwrap();
    let capture = path(&format!("cases/{}.galen", name(ours)));
    let replayed = |extra: &[&str]| lines(&run(&[&["replay", "--json", &capture], extra].concat()).1).remove(0);
    let report = replayed(&["--signatures", &path("s.toml")]);
    let cause = &report["root_causes"][0];
    assert_eq!(cause["cause"], "nightly_export", "{}", report["root_causes"]);
    let evidence = cause["evidence"][0].as_str().unwrap();
    let seen = report["evidence"].as_array().unwrap().iter().find(|e| e["id"] == evidence).unwrap();
    assert_eq!((seen["tool"].as_str(), seen["facts"]["best"].as_str()), (Some("signatures"), Some("Nightly Export")));
    assert!(!replayed(&[]).to_string().contains("signatures"), "without a file nothing changes");
    assert_eq!(report, replayed(&["--signatures", &path("s.toml")]));
    std::fs::write(path("s.toml"), "format = 1\nnonsense = 2\n").unwrap();
    let (code, _, error) = run(&["replay", &capture, "--signatures", &path("s.toml")]);
    assert_eq!((code, error.lines().count()), (3, 1), "{error}");
}

#[test]
fn the_dbsherlock_benchmark_prints_each_figure_beside_its_controls() {
    let Some(dir) = bench("dbsherlock") else { return };
    let (code, out, error) = run(&["bench", "dbsherlock", dir.to_str().unwrap(), "--json"]);
    let rows = lines(&out);
    assert_eq!(code, 0, "{error}");
    let value = |task: &str, dataset: &str, field: &str| {
        let row = rows.iter().find(|r| r["task"] == task && r["dataset"] == dataset);
        row.unwrap_or_else(|| panic!("no row {task} {dataset}"))[field].as_f64().unwrap()
    };
    // Task, data set, the least that must be reached, and how far above the placebo. One case of the test half is 0.03, of the
    // compound ones 0.07.
    for (task, dataset, least, above_placebo) in [
        ("iou", "dbsherlock_single/test", 0.82, 0.4),
        ("iou", "dbsherlock_compound/test", 0.72, 0.3),
        ("iou", "dbsherlock/all", 0.81, 0.4),
        ("top1", "dbsherlock_single/test", 0.95, 0.2),
        ("top1", "dbsherlock_single/leave_one_out", 0.95, 0.2),
        ("top1_5s_own_onset", "dbsherlock_single/test", 0.93, 0.2),
        ("top1_5s_own_onset", "dbsherlock_single/leave_one_out", 0.94, 0.2),
        ("novelty_auroc", "dbsherlock_single/test", 0.9, 0.1),
        ("novelty_auroc", "dbsherlock_single/leave_one_out", 0.9, 0.1),
        ("recall_at_3", "dbsherlock_compound/test", 0.78, 0.1),
        ("recall_at_3", "dbsherlock_compound/leave_one_out", 0.83, 0.1),
        ("report_top1", "dbsherlock_single/test", 0.78, 0.5),
        ("report_top1", "dbsherlock_single/leave_one_out", 0.88, 0.5),
    ] {
        let (reached, placebo) = (value(task, dataset, "value"), value(task, dataset, "placebo"));
        assert!(reached >= least, "{task} {dataset}: {reached}");
        assert!(reached >= placebo + above_placebo, "{task} {dataset}: {reached}, placebo {placebo}");
        let simple = value(task, dataset, "baseline");
        assert!((0.3..=1.0).contains(&simple), "{task} {dataset}: the simple method is one that works ({simple})");
    }
    let all_but = "dbsherlock/all_but_poor_physical_design";
    assert!(value("iou", all_but, "value") > value("iou", all_but, "baseline"));
    assert!(value("quiet_before_anomaly", "dbsherlock/all", "value") >= 0.9);
}
