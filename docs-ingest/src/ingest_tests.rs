//! Taking in a folder: what changed, what went, what failed, and that an interruption loses nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use galen_knowledge::catalog::Catalog;

use crate::extract::Rules;
use crate::ingest::{Event, Options, Outcome, ingest};
use crate::read::Reading;
use crate::store::Store;

struct Place {
    _keep: tempfile::TempDir,
    root: PathBuf,
    store: Store,
    rules: Rules,
}

impl Place {
    fn new() -> Self {
        let keep = tempfile::tempdir().unwrap();
        let root = keep.path().canonicalize().unwrap().join("docs");
        fs::create_dir(&root).unwrap();
        let store = Store::open(&keep.path().join("data")).unwrap();
        Self { root, store, rules: Rules::new(&Catalog::builtin().unwrap(), &[]), _keep: keep }
    }

    /// Writes a file that is old enough for its time to be trusted.
    fn write(&self, name: &str, text: &str) {
        let path = self.root.join(name);
        fs::write(&path, text).unwrap();
        let then = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        fs::File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
    }

    fn run(&self) -> (Outcome, Vec<Event>) {
        self.run_until(&AtomicBool::new(false), |_| {})
    }

    fn run_until(&self, stop: &AtomicBool, see: impl Fn(&Event)) -> (Outcome, Vec<Event>) {
        let options = Options { roots: vec![self.root.clone()], except: PathBuf::from("/nowhere"), jobs: 2, reading: Reading::default() };
        let mut events = Vec::new();
        let outcome = ingest(&self.store, &self.rules, &options, stop, &mut |event| {
            see(event);
            events.push(event.clone());
        });
        (outcome.unwrap(), events)
    }

    fn titles(&self) -> Vec<String> {
        self.store.chunks().unwrap().into_iter().map(|s| s.chunk.title).collect()
    }
}

#[test]
fn only_what_changed_is_read_and_what_is_gone_is_forgotten() {
    let place = Place::new();
    place.write("a.md", "# A\n\nText of a.\n");
    place.write("b.md", "# B\n\nText of b.\n");
    let (first, _) = place.run();
    assert_eq!((first.files, first.read, first.chunks, first.failed), (2, 2, 2, 0));
    let (again, _) = place.run();
    assert_eq!((again.read, again.unchanged, again.revision), (0, 2, first.revision), "nothing was written");
    // Touched, but the same; changed within the same size; new; gone.
    fs::File::options().write(true).open(place.root.join("a.md")).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    let (touched, events) = place.run();
    assert_eq!((touched.read, touched.unchanged), (0, 2));
    assert!(events.iter().any(|e| matches!(e, Event::Same { .. })));
    place.write("b.md", "# C\n\nText of c.\n");
    fs::remove_file(place.root.join("a.md")).unwrap();
    let (changed, _) = place.run();
    // Times that are an hour back are the same to the nanosecond only by accident: the content decides.
    assert_eq!((changed.read, changed.removed), (1, 1));
    assert_eq!(place.titles(), ["C"]);
    fs::remove_dir_all(&place.root).unwrap();
    let (gone, _) = place.run();
    assert_eq!((gone.removed, gone.failed), (1, 0), "a root that is gone is a deletion");
    assert_eq!(place.run().0.failed, 1, "and then a mistake");
}

#[test]
fn a_bad_file_costs_one_line_and_its_last_good_version_stays() {
    let place = Place::new();
    place.write("good.md", "# Good\n\nText.\n");
    place.write("turns.md", "# Was good\n\nText of it.\n");
    place.run();
    place.write("turns.md", "\u{0}\u{1}\u{2}");
    let (outcome, events) = place.run();
    assert_eq!((outcome.failed, outcome.unchanged), (1, 1));
    let failures: Vec<&Event> = events.iter().filter(|e| matches!(e, Event::Failed { .. })).collect();
    assert!(
        matches!(failures.as_slice(), [Event::Failed { path, why, kept: 1, .. }] if path.ends_with("turns.md") && why.contains("binary")),
        "{failures:?}"
    );
    assert_eq!(place.titles(), ["Good", "Was good"]);
    assert_eq!(place.run().0.failed, 1, "it is still told, without being read again");
    place.write("turns.md", "# Good again\n\nText of it.\n");
    assert_eq!(place.run().0.failed, 0);
    assert_eq!(place.titles(), ["Good", "Good again"]);
}

#[test]
fn an_interruption_keeps_what_was_read_and_removes_nothing() {
    let place = Place::new();
    place.write("old.md", "# Old\n\nText.\n");
    place.run();
    fs::remove_file(place.root.join("old.md")).unwrap();
    for n in 0..200 {
        place.write(&format!("{n:03}.md"), &format!("# T{n}\n\nText number {n}.\n"));
    }
    let stop = AtomicBool::new(false);
    let (outcome, _) = place.run_until(&stop, |event| {
        if matches!(event, Event::Read { .. }) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert!(outcome.stopped && outcome.read > 0 && outcome.read < 200, "{outcome:?}");
    assert_eq!(place.titles().len(), outcome.read + 1, "the old one is still there");
    let (rest, _) = place.run();
    assert_eq!((rest.read, rest.removed), (200 - outcome.read, 1));
}

#[test]
fn copies_in_other_files_are_merged_and_named() {
    let place = Place::new();
    let text = "# Vacuum\n\nA long transaction keeps vacuum from removing dead rows of every table, whether it touches them or not.\n";
    place.write("a.md", text);
    place.write("b.md", text);
    let (outcome, _) = place.run();
    assert_eq!((outcome.chunks, outcome.merged), (2, 1));
    let stored = place.store.chunks().unwrap();
    assert!(stored.len() == 1 && stored[0].also.len() == 1, "{stored:?}");
    fs::remove_file(place.root.join(Path::new(&stored[0].document).file_name().unwrap())).unwrap();
    place.run();
    assert_eq!(place.titles(), ["Vacuum"]);
}

#[test]
fn a_file_that_goes_while_it_is_read_is_told_and_not_kept() {
    let place = Place::new();
    for n in 0..20 {
        place.write(&format!("{n:02}.md"), &format!("# T{n}\n\nText number {n}.\n"));
    }
    let root = place.root.clone();
    let stop = AtomicBool::new(false);
    let (outcome, events) = place.run_until(&stop, |event| {
        if matches!(event, Event::Planned { .. }) {
            (10..20).for_each(|n| fs::remove_file(root.join(format!("{n:02}.md"))).unwrap());
        }
    });
    assert_eq!((outcome.read, outcome.failed), (10, 10));
    assert!(events.iter().any(|e| matches!(e, Event::Failed { why, .. } if why.contains("went away"))));
    assert_eq!(place.store.documents().unwrap().len(), 10);
}

/// The manual as Debian has it, or where `PG_MANUAL` says.
fn manual() -> Option<PathBuf> {
    let path = std::env::var_os("PG_MANUAL").map_or_else(|| PathBuf::from("/usr/share/doc/postgresql-doc-15/html"), PathBuf::from);
    if !path.join("index.html").exists() {
        eprintln!("skipped: PostgreSQL's manual is not in {}; `make manual` installs it", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn the_manual_is_taken_in_whole_without_its_navigation() {
    let Some(manual) = manual() else { return };
    let place = Place { root: manual.clone(), ..Place::new() };
    let (outcome, events) = place.run();
    assert!(outcome.failed == 0, "{:?}", events.iter().find(|e| matches!(e, Event::Failed { .. })));
    assert!(outcome.read > 1_150 && outcome.chunks > 4_000, "{outcome:?}");
    let stored = place.store.chunks().unwrap();
    for chunk in stored.iter().map(|s| &s.chunk) {
        assert!(crate::section::tokens(&chunk.content) <= crate::section::MOST_TOKENS);
        assert!(!chunk.content.contains("Prev Up"), "{chunk:?}");
        // Every chunk leads back to its place in the file.
        let bytes = fs::metadata(&chunk.source.file).unwrap().len();
        assert!((chunk.source.offset as u64) < bytes, "{:?}", chunk.source);
    }
    let about = |name: &str| stored.iter().find(|s| s.chunk.title.starts_with(name)).unwrap_or_else(|| panic!("no section on {name}"));
    let work_mem = &about("work_mem (integer)").chunk;
    assert!(work_mem.causes.contains(&"work_mem_spill".to_owned()), "{:?}", work_mem.causes);
    assert_eq!(work_mem.source.section[..2], ["20.4. Resource Consumption", "20.4.1. Memory"]);
    let text = fs::read_to_string(&work_mem.source.file).unwrap();
    assert!(text[work_mem.source.offset..].trim_start().starts_with("Sets the base maximum amount"));
    let (again, _) = place.run();
    assert_eq!((again.read, again.unchanged), (0, outcome.files));
}
