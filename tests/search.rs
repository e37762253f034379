//! `galen search` and `galen knowledge graph`, as people and programs use them.

use serde_json::Value;

use crate::support::{galen, run};

#[test]
fn a_search_finds_the_runbook_and_marks_what_matched() {
    let data = tempfile::tempdir().unwrap();
    let dir = data.path().to_str().unwrap();
    let (code, out, err) = run(&["--data-dir", dir, "search", "sorts", "exceed", "work_mem", "--json", "--limit", "3"]);
    assert_eq!(code, 0, "{err}");
    let hits: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!((1..=3).contains(&hits.len()));
    assert!(hits[0]["causes"].as_array().unwrap().contains(&"work_mem_spill".into()), "{}", hits[0]);
    let passage = hits[0]["passage"].as_str().unwrap();
    let marks = hits[0]["marks"].as_array().unwrap();
    let marked: Vec<&str> = marks.iter().map(|m| &passage[m[0].as_u64().unwrap() as usize..m[1].as_u64().unwrap() as usize]).collect();
    assert!(marked.contains(&"work_mem"), "{marked:?} of {passage}");
    for key in ["id", "score", "ranks", "title", "signals", "language", "source"] {
        assert!(!hits[0][key].is_null(), "{key} is missing");
    }
    // Not a terminal: no colours.
    let (_, text, _) = run(&["--data-dir", dir, "search", "work_mem"]);
    assert!(text.contains("work_mem") && !text.contains('\u{1b}'));
}

#[test]
fn without_embeddings_it_searches_and_says_so() {
    let empty = tempfile::tempdir().unwrap();
    let told = galen().args(["search", "deadlocks"]).env("GALEN_MODELS_DIR", empty.path()).env("HOME", empty.path()).output().unwrap();
    assert!(told.status.success());
    assert!(String::from_utf8_lossy(&told.stdout).contains("deadlocks"));
    let err = String::from_utf8_lossy(&told.stderr);
    assert!(err.contains("make embedding") && err.contains("meaning is not"), "{err}");
}

#[test]
fn a_search_for_nothing_is_refused_in_one_line() {
    let (code, out, err) = run(&["search", "the of, and?"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.lines().last().unwrap().contains("nothing to search for"), "{err}");
}

#[test]
fn the_graph_is_counted_by_expert_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("graph.svg");
    let (code, out, err) = run(&["knowledge", "graph", "--svg", file.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("lock_expert") && out.contains("drawn to"), "{out}");
    let svg = std::fs::read_to_string(&file).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains("blocking_transaction") && svg.contains("blocked_sessions"));
}
