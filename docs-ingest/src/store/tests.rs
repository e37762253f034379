//! The store: revisions, merges and what comes of deletions.

use galen_knowledge::chunk::{KnowledgeChunk, Source};

use super::*;

const LONG: &str = "A long transaction keeps vacuum from removing dead rows of every table in the database, whether it touches that table or \
    not, since it may still look at them; find it by its age, ask its owner, and end it when nobody needs it any more.";

fn chunk(id: &str, file: &str, content: &str) -> KnowledgeChunk {
    KnowledgeChunk {
        id: id.to_owned(),
        causes: vec!["table_bloat".to_owned()],
        content: content.to_owned(),
        source: Source { file: file.to_owned(), ..Source::default() },
        ..KnowledgeChunk::default()
    }
}

fn read(path: &str, chunks: &[KnowledgeChunk]) -> Change {
    Change::Read {
        path: path.to_owned(),
        title: path.to_owned(),
        size: 1,
        mtime: 1,
        hash: String::new(),
        extractor: "test".to_owned(),
        chunks: chunks.iter().cloned().map(Fresh::new).collect(),
    }
}

fn ids(stored: &[Stored]) -> Vec<&str> {
    stored.iter().map(|s| s.chunk.id.as_str()).collect()
}

#[test]
fn an_index_follows_by_revisions() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.changes_since(0).unwrap(), Changes::default());
    let one = store.apply(&[read("a", &[chunk("a1", "a", "first text"), chunk("a2", "a", "second text")])]).unwrap();
    let changes = store.changes_since(0).unwrap();
    assert_eq!((changes.revision, ids(&changes.shown), changes.all), (one.revision, vec!["a1", "a2"], false));
    let two = store.apply(&[read("a", &[chunk("a1", "a", "first text"), chunk("a3", "a", "third text")])]).unwrap();
    let changes = store.changes_since(one.revision).unwrap();
    assert_eq!((ids(&changes.shown), changes.gone, two.revision), (vec!["a3"], vec!["a2".to_owned()], one.revision + 1));
    assert!(store.changes_since(99).unwrap().all, "a revision that this store never had");
    // A chunk that comes back is no longer gone.
    store.apply(&[read("a", &[chunk("a2", "a", "second text")])]).unwrap();
    let changes = store.changes_since(one.revision).unwrap();
    assert_eq!((ids(&changes.shown), changes.gone), (vec!["a2"], vec!["a1".to_owned(), "a3".to_owned()]));
}

#[test]
fn whoever_is_far_behind_follows_a_page_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let many: Vec<KnowledgeChunk> = (0..5).map(|n| chunk(&format!("c{n}"), "a", &format!("text number {n}"))).collect();
    let one = store.apply(&[read("a", &many)]).unwrap();
    let told = |since: i64, known: &[&str]| {
        let known: Vec<String> = known.iter().map(|id| (*id).to_owned()).collect();
        let mut steps = Vec::new();
        store
            .follow::<StoreError>(since, &known, 2, &mut |step| {
                steps.push(match step {
                    Step::Shown(chunks) => chunks.iter().map(|c| c.id.clone()).collect::<Vec<_>>().join(" "),
                    Step::Gone(gone, revision) => format!("-{} @{revision}", gone.join(" ")),
                });
                Ok(())
            })
            .unwrap();
        steps
    };
    assert_eq!(told(0, &[]), ["c0 c1", "c2 c3", "c4", &format!("- @{}", one.revision)]);
    assert!(told(one.revision, &[]).is_empty());
    let two = store.apply(&[read("a", &many[1..])]).unwrap();
    assert_eq!(told(one.revision, &["c0", "c1"]), [format!("-c0 @{}", two.revision)]);
    // From a revision that this store never had, what is not in it is gone.
    assert_eq!(told(99, &["c0", "c1", "x"]).last(), Some(&format!("-c0 x @{}", two.revision)));
    let other = tempfile::tempdir().unwrap();
    assert_ne!(Store::open(other.path()).unwrap().identity().unwrap(), store.identity().unwrap());
}

#[test]
fn copies_are_merged_with_their_sources_and_come_forward_when_the_first_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let near = LONG.replace("ask its owner", "ask the owner");
    let first = store.apply(&[read("a", &[chunk("a1", "a", LONG)])]).unwrap();
    let merged = store.apply(&[read("b", &[chunk("b1", "b", &near)]), read("c", &[chunk("c1", "c", LONG)])]).unwrap();
    assert_eq!((merged.added, merged.merged), (2, 2));
    let shown = store.chunks().unwrap();
    let also: Vec<&str> = shown[0].also.iter().map(|s| s.file.as_str()).collect();
    assert_eq!((ids(&shown), also), (vec!["a1"], vec!["b", "c"]));
    assert_eq!(store.of_document("b").unwrap().len(), 1, "a document has all of its own");
    store.apply(&[Change::Removed { path: "a".to_owned() }]).unwrap();
    let changes = store.changes_since(first.revision).unwrap();
    assert_eq!((ids(&changes.shown), changes.gone), (vec!["b1"], vec!["a1".to_owned()]));
    assert_eq!(changes.shown[0].also.len(), 1);
    assert_eq!(changes.shown[0].chunk.content, near, "nothing was overwritten");
    // All of them at once leave nothing behind.
    store.apply(&[Change::Removed { path: "b".to_owned() }, Change::Removed { path: "c".to_owned() }]).unwrap();
    assert!(store.chunks().unwrap().is_empty() && store.documents().unwrap().is_empty());
    assert_eq!(store.apply(&[read("d", &[chunk("d1", "d", LONG)])]).unwrap().merged, 0, "what is gone is no original");
}

#[test]
fn a_new_version_is_no_copy_of_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.apply(&[read("a", &[chunk("a1", "a", LONG), chunk("a2", "a", &LONG.replace("rows", "row versions"))])]).unwrap();
    let edited = LONG.replace("ask its owner", "ask the owner");
    let done = store.apply(&[read("a", &[chunk("a9", "a", &edited)])]).unwrap();
    assert_eq!((done.merged, ids(&store.chunks().unwrap())), (0, vec!["a9"]));
}

#[test]
fn a_version_that_cannot_be_read_leaves_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.apply(&[read("a", &[chunk("a1", "a", LONG)])]).unwrap();
    let failed = Change::Failed {
        path: "a".to_owned(),
        size: 2,
        mtime: 2,
        hash: "h".to_owned(),
        extractor: "test".to_owned(),
        error: "damaged".to_owned(),
    };
    store.apply(&[failed]).unwrap();
    let document = &store.documents().unwrap()[0];
    assert_eq!((document.title.as_str(), document.error.as_deref(), document.chunks), ("a", Some("damaged"), 1));
    assert_eq!(ids(&store.linked().unwrap()), ["a1"]);
}

#[test]
fn two_processes_see_each_other_and_foreign_databases_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Store::open(dir.path()).unwrap(), Store::open(dir.path()).unwrap());
    one.apply(&[read("a", &[chunk("a1", "a", LONG)])]).unwrap();
    // The other one's fingerprints are of an older revision.
    two.apply(&[read("x", &[])]).unwrap();
    one.apply(&[read("y", &[])]).unwrap();
    assert_eq!(two.apply(&[read("b", &[chunk("b1", "b", LONG)])]).unwrap().merged, 1);
    assert_eq!(one.revision().unwrap(), two.revision().unwrap());
    let other = tempfile::tempdir().unwrap();
    assert!(Store::open_existing(other.path()).unwrap().is_none());
    fs::write(other.path().join(FILE), "no database at all, only a text that is long enough".repeat(9)).unwrap();
    let error = Store::open(other.path()).err().unwrap();
    assert!(error.kind == StoreErrorKind::Damaged && error.message.contains(FILE), "{error}");
    fs::remove_file(other.path().join(FILE)).unwrap();
    Connection::open(other.path().join(FILE)).unwrap().execute_batch("PRAGMA user_version=99").unwrap();
    assert_eq!(Store::open(other.path()).err().unwrap().kind, StoreErrorKind::TooNew);
}

#[test]
fn forgotten_deletions_make_an_index_begin_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.apply(&[read("a", &[chunk("a1", "a", LONG)])]).unwrap();
    store
        .connection()
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200002)
             INSERT INTO gone SELECT 'g' || i, i FROM n; UPDATE about SET revision = 200010;",
        )
        .unwrap();
    store.apply(&[Change::Removed { path: "a".to_owned() }]).unwrap();
    assert!(store.changes_since(5).unwrap().all);
    let late = store.changes_since(200_000).unwrap();
    assert!(!late.all && late.gone.len() < 10 && late.gone.contains(&"a1".to_owned()), "{}", late.gone.len());
}
