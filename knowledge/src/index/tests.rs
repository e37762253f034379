//! Tests of the index as its users see it.

use tantivy::IndexWriter;

use super::update::WRITER_BYTES;
use super::*;
use crate::chunk::{Language, Source};

fn chunk(id: &str, title: &str, content: &str) -> KnowledgeChunk {
    KnowledgeChunk {
        id: id.into(),
        title: title.into(),
        content: content.into(),
        language: Language::of(content),
        source: Source { file: format!("{id}.md"), section: vec![title.into()], ..Source::default() },
        ..KnowledgeChunk::default()
    }
}

fn library() -> Vec<KnowledgeChunk> {
    vec![
        chunk("spill", "Sorts on disk", "Sorting more than work_mem holds writes temporary files."),
        chunk("lock", "Waiting for a lock", "A transaction waits while another holds AccessExclusiveLock; SQLSTATE 55P03."),
        chunk("zh", "长事务", "长时间运行的事务持有锁，阻塞其他会话。请检查 pg_stat_activity。"),
        KnowledgeChunk { causes: vec!["deadlocks".into()], ..chunk("dead", "A circle", "Two sessions take rows in opposite order.") },
    ]
}

fn catalog() -> Catalog {
    Catalog::builtin().unwrap()
}

fn first(index: &Index, text: &str) -> String {
    index.search(&Query::of(text), 3).first().map(|h| h.id.clone()).unwrap_or_default()
}

/// Everything a search must do, on disk and in memory alike.
fn finds_what_it_should(index: &Index) {
    assert_eq!(index.len(), 4);
    assert_eq!(first(index, "why are my sorts spilling to temporary files?"), "spill");
    assert_eq!(first(index, "55P03"), "lock");
    assert_eq!(first(index, "事务阻塞了会话"), "zh");
    assert_eq!(first(index, "deadlocks_per_s"), "dead", "a chunk is found by the signals of its cause");
    assert!(index.search(&Query::of("zebra crossing"), 3).is_empty());
    assert!(index.search(&Query::of(""), 3).is_empty() && index.search(&Query::of("sort"), 0).is_empty());
    let hits = index.search(&Query::of("work_mem"), 3);
    assert_eq!((hits[0].ranks.words, hits[0].ranks.names, hits[0].ranks.meaning), (Some(1), Some(1), None));
}

#[test]
fn an_index_in_memory_and_one_on_disk_find_the_same() {
    finds_what_it_should(&Index::in_memory(&library(), &catalog(), None).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), &catalog(), None, "").unwrap();
    assert_eq!((index.len(), index.revision()), (0, 0));
    index.update(3, &[], &library()).unwrap();
    finds_what_it_should(&index);
    drop(index);
    let again = Index::open(folder.path(), &catalog(), None, "").unwrap();
    assert_eq!(again.revision(), 3);
    finds_what_it_should(&again);
}

#[test]
fn updates_remove_change_and_add() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), &catalog(), None, "").unwrap();
    index.update(1, &[], &library()).unwrap();
    let changed = chunk("spill", "Hash joins", "A hash join partitions its input.");
    index.update(2, &["lock".into(), "never there".into()], &[changed, chunk("new", "New", "Autovacuum falls behind.")]).unwrap();
    assert_eq!((index.len(), index.revision()), (4, 2));
    assert_eq!(first(&index, "autovacuum"), "new");
    assert_eq!(first(&index, "join partitions"), "spill");
    assert!(index.search(&Query::of("temporary files 55P03"), 3).is_empty(), "what is gone is not found");
}

#[test]
fn a_search_sees_the_former_state_until_the_update_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), &catalog(), None, "").unwrap();
    index.update(1, &[], &library()).unwrap();
    let before = index.seen();
    std::thread::scope(|scope| {
        let update = scope.spawn(|| {
            for revision in 2..12 {
                let many: Vec<_> = (0..50).map(|n| chunk(&format!("{revision}-{n}"), "Filler", "filler text")).collect();
                index.update(revision, &["spill".into()], &many).unwrap();
            }
        });
        let mut searched = 0;
        while !update.is_finished() || searched == 0 {
            // Rows and documents always belong together.
            for hit in index.search(&Query::of("filler transaction lock"), 60) {
                assert!(hit.id == "lock" || hit.id.contains('-'), "{}", hit.id);
            }
            searched += 1;
        }
    });
    assert_eq!(before.rows.len(), 4, "a search that began before sees what it saw");
    assert_eq!(index.len(), 3 + 500);
}

#[test]
fn a_search_does_not_wait_for_an_update() {
    let folder = tempfile::tempdir().unwrap();
    let index = std::sync::Arc::new(Index::open(folder.path(), &catalog(), None, "").unwrap());
    index.update(1, &[], &library()).unwrap();
    // An update that never ends: it holds what updates hold, in this process and on the disk, and has written half of its work.
    let _updating = index.updating.lock().unwrap();
    let mut writer: IndexWriter = index.index.writer_with_num_threads(1, WRITER_BYTES).unwrap();
    writer.delete_term(Term::from_field_text(index.fields.id, "spill"));
    let _commit = writer.prepare_commit().unwrap();
    let (send, searched) = std::sync::mpsc::channel();
    let ours = std::sync::Arc::clone(&index);
    let elsewhere = folder.path().to_owned();
    std::thread::spawn(move || {
        finds_what_it_should(&ours);
        finds_what_it_should(&Index::open(&elsewhere, &catalog(), None, "").unwrap());
        send.send(()).unwrap();
    });
    searched.recv_timeout(std::time::Duration::from_secs(30)).expect("a search waits for the update, or failed");
}

#[test]
fn what_was_not_committed_is_as_if_it_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    Index::open(folder.path(), &catalog(), None, "").unwrap().update(1, &[], &library()).unwrap();
    {
        let index = Index::open(folder.path(), &catalog(), None, "").unwrap();
        let mut writer: IndexWriter = index.index.writer_with_num_threads(1, WRITER_BYTES).unwrap();
        writer.delete_term(Term::from_field_text(index.fields.id, "spill"));
        writer.add_document(document(index.fields, &chunk("x", "X", "sorts"), 99, &index.symptoms)).unwrap();
        let commit = writer.prepare_commit().unwrap();
        std::fs::write(folder.path().join(format!("rows-{}-1", commit.opstamp())), b"half").unwrap();
        // Neither commit nor tidying up, as when the process is killed.
        std::mem::forget(commit);
    }
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let index = Index::open(copy.path(), &catalog(), None, "").unwrap();
    assert_eq!(index.revision(), 1);
    finds_what_it_should(&index);
    index.update(2, &["zh".into()], &[]).unwrap();
    assert_eq!(index.len(), 3);
}

#[test]
fn a_damaged_index_is_built_anew() {
    let folder = tempfile::tempdir().unwrap();
    for victim in ["meta.json", "rows-"] {
        let index = Index::open(folder.path(), &catalog(), None, "").unwrap();
        index.update(1, &[], &library()).unwrap();
        drop(index);
        for entry in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
            if entry.file_name().to_str().unwrap().starts_with(victim) {
                std::fs::write(entry.path(), b"{").unwrap();
            }
        }
        let index = Index::open(folder.path(), &catalog(), None, "").unwrap();
        assert_eq!((index.len(), index.revision()), (0, 0), "{victim}");
        index.update(1, &[], &library()).unwrap();
        finds_what_it_should(&index);
    }
}

#[test]
fn an_index_over_something_else_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    Index::open(folder.path(), &catalog(), None, "one store").unwrap().update(4, &[], &library()).unwrap();
    assert_eq!(Index::open(folder.path(), &catalog(), None, "one store").unwrap().revision(), 4);
    let other = Index::open(folder.path(), &catalog(), None, "another store").unwrap();
    assert_eq!((other.len(), other.revision()), (0, 0), "its revisions count something else");
}

#[test]
fn a_second_process_is_told_to_wait() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), &catalog(), None, "").unwrap();
    let other = Index::open(folder.path(), &catalog(), None, "").unwrap();
    let writer: IndexWriter = other.index.writer_with_num_threads(1, WRITER_BYTES).unwrap();
    assert_eq!(index.update(1, &[], &library()).unwrap_err().kind, Kind::Busy);
    drop(writer);
    index.update(1, &[], &library()).unwrap();
    assert!(other.is_empty() && other.reload().unwrap());
    finds_what_it_should(&other);
}

/// Not a test: what the next one starts and kills. Each update replaces all chunks by those of the next revision.
#[test]
#[ignore = "started by a_killed_update_leaves_a_whole_state"]
fn child_that_updates_for_ever() {
    let Some(folder) = std::env::var_os("GALEN_TEST_INDEX") else { return };
    let index = Index::open(Path::new(&folder), &catalog(), None, "").unwrap();
    loop {
        let next = index.revision() + 1;
        let added: Vec<_> = (0..40).map(|n| chunk(&format!("{next}-{n}"), "Filler", &format!("filler text {n} of {next}"))).collect();
        index.update(next, &index.ids(), &added).unwrap();
    }
}

#[test]
fn a_killed_update_leaves_a_whole_state() {
    let folder = tempfile::tempdir().unwrap();
    let mut revision = 0;
    for round in 0..6u64 {
        let reader = Index::open(folder.path(), &catalog(), None, "").unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "index::tests::child_that_updates_for_ever", "--ignored", "--nocapture"])
            .env("GALEN_TEST_INDEX", folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // At some moment of some update, another one in each round.
        let patience = std::time::Instant::now();
        while (reader.reload().is_err() || reader.revision() <= revision) && patience.elapsed().as_secs() < 60 {
            assert_eq!(child.try_wait().unwrap(), None, "round {round}: the update failed, see above");
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        std::thread::sleep(std::time::Duration::from_millis(round * 7));
        child.kill().unwrap();
        child.wait().unwrap();
        let index = Index::open(folder.path(), &catalog(), None, "").unwrap();
        assert!(index.revision() > revision, "round {round}: stayed at {revision}");
        revision = index.revision();
        assert_eq!(index.len(), 40);
        assert!(index.ids().iter().all(|id| id.starts_with(&format!("{revision}-"))));
        assert_eq!(index.search(&Query::of("filler"), 100).len(), 40);
    }
    // What the killed processes left behind goes with the next update.
    let index = Index::open(folder.path(), &catalog(), None, "").unwrap();
    index.update(revision + 1, &index.ids(), &library()).unwrap();
    finds_what_it_should(&index);
    let left = std::fs::read_dir(folder.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().starts_with("rows-"))
        .count();
    assert_eq!(left, 1);
}

/// Readers of bytes and texts that anybody may have written: `make fuzz` runs them for longer.
mod any_bytes {
    use super::*;
    use crate::index::distil::TokenVectors;
    use crate::index::questions::Question;
    use crate::index::rows::Rows;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::default())]

        #[test]
        fn terms_and_passages_lie_within_their_text(text in "([a-zA-Z_é锁事务中0-9]{0,12}[ .,;\\n`_\\-]{0,3}){0,40}", question in "\\PC{0,60}") {
            for token in analysis::tokens(&text) {
                prop_assert!(token.from < token.to && text.get(token.from..token.to).is_some(), "{token:?}");
            }
            let weight = |_: &str| 1.0;
            let found = passage(&text, &Query::of(&question).terms(), &weight);
            prop_assert!(found.marks.iter().all(|(from, to)| found.text.get(*from..*to).is_some()), "{found:?}");
            let _ = Question::parse(&question);
        }

        #[test]
        fn damaged_files_are_errors_and_no_panics(at in 0usize..400, byte: u8, cut in 0usize..400) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("rows");
            let mut rows = Rows::new(0);
            ["one", "two", "锁"].iter().for_each(|id| { rows.push(id, None); });
            rows.save(&path).unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            let length = bytes.len();
            bytes[at % length] = byte;
            bytes.truncate((cut + length / 2).min(length));
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(rows) = Rows::load(&path) {
                prop_assert_eq!(rows.ids().count(), rows.len());
            }
            prop_assert!(TokenVectors::load(&path).is_err());
        }
    }
}
