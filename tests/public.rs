//! Runs of the public benchmarks as files: their means are what is printed, and they are compared, verified and shown like others.
//! The recordings here are made up; `learn.rs` and `rds.rs` look at the published ones where they are at hand.

use std::path::{Path, PathBuf};

use galen_agents::evaluation::measured::{Measured, scores};
use galen_agents::evaluation::record::{MEASURED_FORMAT, Run};
use galen_tools::store::file;
use serde_json::{Value, json};

use crate::learn::recording;
use crate::rds::Incident;
use crate::support::{cramped, lines, repository, run};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Four recordings of each of three classes, and four of two classes at once.
fn recordings(folder: &Path) -> PathBuf {
    let root = folder.join("recordings");
    let rows: Vec<usize> = (50..80).collect();
    let mut cases = Vec::new();
    for (kind, class, first) in [
        ("single", "CPU Saturation", 0),
        ("single", "Workload Spike", 8),
        ("single", "Lock Contention", 16),
        ("compound", "Workload Spike + CPU Saturation", 4),
    ] {
        let place = format!("{kind}/{}", class.to_lowercase().replace([' ', '+'], "_"));
        std::fs::create_dir_all(root.join(&place)).unwrap();
        for number in 1..=4usize {
            let file = format!("{place}/{number:02}.csv");
            std::fs::write(root.join(&file), recording(number * 10 + first, first)).unwrap();
            cases.push(json!({"kind": kind, "class": class, "file": file, "abnormal_rows": rows}));
        }
    }
    std::fs::write(root.join("manifest.json"), json!({"period_seconds": 1, "cases": cases}).to_string()).unwrap();
    root
}

/// An incident of the CPU and a quiet one, with keys that the first passes and the second does not.
pub fn scenarios(folder: &Path) -> PathBuf {
    let root = folder.join("scenarios");
    let busy = Incident::new(4).metric("DBLoad", 0.9, 6.0).metric("CPUUtilization", 22.0, 96.0);
    let busy = busy.statement("SELECT pg_sleep($1), x FROM t WHERE y = $2", [4.8, 0.2, 0.0, 0.0, 0.0]);
    for (name, incident, key) in [
        ("busy", busy, "root_cause_category: resource_exhaustion\n"),
        ("quiet", Incident::new(20), "root_cause_category: healthy\nrequired_keywords:\n  - a word that nobody says\n"),
    ] {
        incident.write(&root.join(name));
        std::fs::write(root.join(name).join("answer.yml"), key).unwrap();
    }
    root
}

/// The example captures, labelled by their names; one twice as hard, with two labels.
fn labelled(folder: &Path) -> PathBuf {
    let root = folder.join("labelled");
    std::fs::create_dir(&root).unwrap();
    for (at, cause) in ["bulk_delete", "concurrent_inserts", "missing_index", "work_mem_spill"].iter().enumerate() {
        let mut capture = file::read(&repository("examples/captures").join(cause).with_extension("galen")).unwrap();
        capture.manifest.name = format!("{at}");
        capture.manifest.labels = vec![(*cause).to_owned()];
        if at == 3 {
            capture.manifest.labels.push("io_contention".into());
        }
        file::write(&capture, &root.join(format!("{at:04}.galen"))).unwrap();
    }
    root
}

/// Runs a benchmark into a file and returns the run and the figures that were printed.
fn bench(arguments: &[&str], out: &Path) -> (Run, Vec<Value>) {
    let (code, told, error) = run(&[&["bench"], arguments, &["--out", text(out), "--json"]].concat());
    assert_eq!(code, 0, "{error}");
    (Run::parse(&std::fs::read_to_string(out).unwrap()).unwrap(), lines(&told))
}

/// Asserts that the printed scores are the means over the lines, to the last bit, and that each line is in one; returns how many
/// scores there are.
pub fn printed_are_means(run: &Run, printed: &[Value]) -> usize {
    let scores: Vec<&Value> = printed.iter().filter(|row| row["task"].is_string()).collect();
    let mut seen = 0;
    for row in &scores {
        let of =
            |line: &&Measured| row["capability"] == line.capability.word() && row["task"] == line.task && row["dataset"] == line.dataset;
        let lines: Vec<&Measured> = run.measured.iter().filter(of).collect();
        let mean = |value: &dyn Fn(&Measured) -> f64| lines.iter().map(|line| value(line)).sum::<f64>() / lines.len() as f64;
        assert_eq!(row["value"].as_f64(), Some(mean(&|line| line.value)), "{row}");
        assert_eq!(row["baseline"].as_f64(), Some(mean(&|line| line.baseline)), "{row}");
        let placebo = lines.iter().any(|line| line.placebo.is_some()).then(|| mean(&|line| line.placebo.unwrap()));
        assert_eq!(row["placebo"].as_f64(), placebo, "{row}");
        assert_eq!(row["cases"].as_u64(), Some(lines.iter().map(|line| line.cases as u64).sum()), "{row}");
        seen += lines.len();
    }
    assert_eq!(seen, run.measured.len());
    scores.len()
}

#[test]
fn the_printed_scores_are_the_means_of_the_lines_and_are_measured_again() {
    let folder = tempfile::tempdir().unwrap();
    let (dbsherlock, rds, dbot) = (recordings(folder.path()), scenarios(folder.path()), labelled(folder.path()));
    for (arguments, figures, half) in
        [(["dbsherlock", text(&dbsherlock)], 23, "by data set"), (["rds", text(&rds)], 2, "all"), (["dbot", text(&dbot)], 4, "all")]
    {
        let out = folder.path().join(format!("{}.jsonl", arguments[0]));
        let (run, printed) = bench(&arguments, &out);
        assert_eq!(printed_are_means(&run, &printed), figures, "{arguments:?}: {printed:#?}");
        assert_eq!(scores(&run.measured).len(), figures);
        let pins = &run.header.pins;
        assert_eq!((run.header.format, pins.suite.as_str(), pins.half.as_str()), (MEASURED_FORMAT, arguments[0], half));
        for pin in [&pins.suite_sha256, &pins.catalog_sha256, &pins.signals_sha256, &pins.knowledge_sha256, &pins.signatures_sha256] {
            assert_eq!(pin.len(), 64);
        }
        assert!(pins.options.as_ref().is_some_and(|options| options.replay) && run.case_count() == run.header.cases);
        let (code, out, error) = self::run(&["bench", "verify", text(&out)]);
        let lines = run.measured.len();
        assert_eq!((code, out.trim()), (0, format!("{lines} of {lines} figures are the same").as_str()), "{error}");
    }
}

#[test]
fn two_runs_are_compared_case_by_case() {
    let folder = tempfile::tempdir().unwrap();
    let dir = recordings(folder.path());
    let (six, one) = (folder.path().join("six.jsonl"), folder.path().join("one.jsonl"));
    let (before, _) = bench(&["dbsherlock", text(&dir)], &six);
    let (after, _) = bench(&["dbsherlock", text(&dir), "--k", "1"], &one);
    let compare = |a: &Path, b: &Path| {
        let (code, out, error) = run(&["bench", "compare", text(a), text(b), "--json"]);
        assert_eq!(code, 0, "{error}");
        lines(&out).remove(0)
    };
    let told = compare(&six, &one);
    assert_eq!((told["cases"].as_u64(), &told["left_out"], &told["pins"]), (Some(16), &json!([]), &json!(["parameters.k: \"6\" / \"1\""])));
    // What differs is what differs between the lines, case by case.
    let mut moved: Vec<&str> = before
        .measured
        .iter()
        .zip(&after.measured)
        .filter(|(a, b)| a.value != b.value && !a.aside)
        .filter_map(|(a, b)| a.case.as_deref().filter(|case| b.case.as_deref() == Some(case)))
        .collect();
    moved.sort_unstable();
    moved.dedup();
    let mut named: Vec<&str> = told["moved"].as_array().unwrap().iter().map(|m| m["case"].as_str().unwrap()).collect();
    named.sort_unstable();
    assert_eq!(named, moved);
    let task = |name: &str| {
        let found = |t: &&Value| t["task"] == name && t["dataset"] == "dbsherlock_single/leave_one_out";
        told["tasks"].as_array().unwrap().iter().find(found).unwrap().clone()
    };
    assert_eq!(task("top1")["cases"], 12);
    let whole: Vec<&Value> = told["whole"].as_array().unwrap().iter().collect();
    assert!(whole.len() == 2 && whole.iter().all(|w| w["task"] == "novelty_auroc"), "{whole:?}");
    let same = compare(&six, &six);
    assert!(same["moved"] == json!([]) && same["tasks"].as_array().unwrap().iter().all(|t| t["significant"] == false), "{same}");
    // A recording that was changed is another case, and a run is told from one that has it.
    std::fs::write(dir.join("single/cpu_saturation/02.csv"), recording(99, 0)).unwrap();
    let changed = folder.path().join("changed.jsonl");
    bench(&["dbsherlock", text(&dir)], &changed);
    let told = compare(&six, &changed);
    assert_eq!(told["cases"], 15);
    let left_out: Vec<&str> = told["left_out"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    assert!(left_out.contains(&"single/cpu_saturation/02: another recording of this name, or another answer"), "{left_out:?}");
    let (code, out, error) = run(&["bench", "verify", text(&six)]);
    assert!(code == 5 && out.contains("pin differs: suite_sha256: "), "{out} {error}");
    assert!(
        out.contains("top1 of dbsherlock_single/leave_one_out, single/cpu_saturation/02: what it was measured on was changed"),
        "{out}"
    );
    std::fs::remove_dir_all(&dir).unwrap();
    let (code, _, error) = run(&["bench", "verify", text(&six)]);
    assert!(code == 5 && error.lines().count() == 1 && error.contains("manifest.json"), "{error}");
}

#[test]
fn runs_of_one_release_stand_side_by_side_on_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    bench(&["dbsherlock", text(&recordings(folder.path()))], &path("dbsherlock.jsonl"));
    bench(&["rds", text(&scenarios(folder.path()))], &path("rds.jsonl"));
    let captures = labelled(folder.path());
    assert_eq!(run(&["bench", "run", text(&captures), "--out", text(&path("own.jsonl"))]).0, 0);
    let page = |runs: &[&str]| {
        let runs: Vec<String> = runs.iter().map(|name| text(&path(name)).to_owned()).collect();
        let arguments: Vec<&str> = runs.iter().map(String::as_str).collect();
        let out = path("page.html");
        let (code, told, error) = run(&[&["bench", "report", "--out", text(&out), "--json"], arguments.as_slice()].concat());
        assert_eq!(code, 0, "{error}");
        (std::fs::read_to_string(&out).unwrap().replace("&#x2f;", "/"), lines(&told))
    };
    let (html, told) = page(&["own.jsonl", "dbsherlock.jsonl", "rds.jsonl"]);
    for part in [
        concat!("Galen ", env!("CARGO_PKG_VERSION"), ": own, dbsherlock, rds"),
        "Covers labelled/all",
        "Covers dbsherlock/all, dbsherlock/all_but_poor_physical_design, dbsherlock_compound/leave_one_out",
        "Covers rds (2 figures)",
        ", placebo ",
        "The public benchmark dbsherlock, 16 cases.",
    ] {
        assert!(html.contains(part), "{part} is not in {html}");
    }
    assert!(!html.contains("figures that every column has"), "there is one column");
    let names = |run: &Value| {
        run["hierarchy"]["parts"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&told[2]), ["root_cause", "abstention"]);
    // Only public runs: there is nothing to calibrate and nothing to time.
    let (html, _) = page(&["dbsherlock.jsonl", "rds.jsonl"]);
    assert!(
        html.contains(concat!("Galen ", env!("CARGO_PKG_VERSION"), ": dbsherlock, rds")) && html.matches("<svg").count() == 1,
        "{html}"
    );
    // The same figures twice are two columns, and what only one column has is said.
    std::fs::copy(path("rds.jsonl"), path("again.jsonl")).unwrap();
    let (html, _) = page(&["rds.jsonl", "again.jsonl", "dbsherlock.jsonl"]);
    assert!(!html.contains(concat!("Galen ", env!("CARGO_PKG_VERSION"), ": ")) && html.contains("2 of 19 figures, "), "{html}");
    assert_eq!(html.matches("Covers rds (2 figures)").count(), 1);
}

#[test]
fn a_file_of_another_run_is_kept_and_a_disk_that_is_full_leaves_no_half_file() {
    use nix::fcntl::{Flock, FlockArg};
    let folder = tempfile::tempdir().unwrap();
    let dir = scenarios(folder.path());
    let out = folder.path().join("run.jsonl");
    let bench = |more: &[&str]| run(&[&["bench", "rds", text(&dir), "--out", text(&out)], more].concat());
    let held = Flock::lock(std::fs::File::create(&out).unwrap(), FlockArg::LockExclusive).unwrap();
    let (code, told, error) = bench(&[]);
    assert!(code == 2 && error.contains("being written by another run"), "{code} {error}");
    assert_eq!(told, "", "nothing is measured for a file that somebody else writes");
    drop(held);
    // A disk with room for two blocks takes half of the header.
    let (code, told, error) = cramped(2, &["bench", "rds", text(&dir), "--out", text(&out)]);
    assert!(
        code == 70 && error.contains("cannot write") && error.contains("the file is as it was") && told.contains("1 of 2 pass"),
        "{error}"
    );
    assert_eq!(std::fs::metadata(&out).unwrap().len(), 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no draft is left");
    let (code, _, error) = run(&["bench", "compare", text(&out), text(&out)]);
    assert!(code == 5 && error.contains("it holds no whole line"), "{error}");
    assert_eq!(bench(&[]).0, 0);
    let whole = std::fs::read_to_string(&out).unwrap();
    assert_eq!((bench(&[]).0, std::fs::read_to_string(&out).unwrap() == whole), (0, true), "the same run gives the same file");
    std::fs::write(dir.join("busy/answer.yml"), "root_cause_category: healthy\n").unwrap();
    let (code, _, error) = bench(&[]);
    assert!(code == 2 && error.contains("belongs to another run (suite_sha256: "), "{error}");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), whole);
    // Half of a file is no file, wherever it was cut.
    let (first, last) = (whole.find('\n').unwrap() + 1, whole.rfind("{\"line\":\"measured\"").unwrap());
    for cut in [first, last, whole.len() - 20] {
        std::fs::write(&out, &whole[..cut]).unwrap();
        let (code, _, error) = run(&["bench", "report", text(&out), "--out", text(&folder.path().join("page.html"))]);
        assert!(code == 5 && error.contains("of its 2 figures: it was cut off or altered"), "{error}");
    }
    let newer = whole.replacen("\"format\":2", "\"format\":3", 1);
    std::fs::write(&out, newer).unwrap();
    let (code, _, error) = run(&["bench", "verify", text(&out)]);
    assert!(code == 5 && error.contains("written in format 3, this Galen reads up to 2"), "{error}");
}

#[test]
fn what_cannot_be_read_is_in_the_file_and_a_run_of_captures_stays_readable_by_older_releases() {
    let folder = tempfile::tempdir().unwrap();
    let dir = recordings(folder.path());
    std::fs::write(dir.join("single/lock_contention/03.csv"), "Epoch,x\n1,one\n").unwrap();
    let out = folder.path().join("run.jsonl");
    let (code, _, error) = run(&["bench", "dbsherlock", text(&dir), "--out", text(&out)]);
    assert_eq!(code, 5, "{error}");
    let told = Run::parse(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!((told.header.cases, told.case_count()), (16, 15));
    assert_eq!(told.failed.iter().map(|f| f.case.as_str()).collect::<Vec<_>>(), ["single/lock_contention/03.csv"]);
    assert_eq!(run(&["bench", "verify", text(&out)]).0, 0);
    // Of nothing there is no run.
    let (captures, none) = (repository("examples/captures"), folder.path().join("none.jsonl"));
    assert_eq!(run(&["bench", "dbot", text(&captures), "--out", text(&none)]).0, 5);
    assert!(!none.exists());
    assert_eq!(run(&["bench", "dbsherlock", text(&dir), "--cases", "--out", text(&none)]).0, 2);
    let own = folder.path().join("own.jsonl");
    assert_eq!(run(&["bench", "run", text(&labelled(folder.path())), "--out", text(&own)]).0, 0);
    let header = &lines(&std::fs::read_to_string(&own).unwrap())[0];
    assert_eq!((&header["format"], header.get("figures"), header["pins"].get("parameters")), (&json!(1), None, None));
}
