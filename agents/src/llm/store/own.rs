//! Models of a user's own: a GGUF file is copied into the folder and listed with what its header says of it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use super::super::registry::{self, Kind, Model, OWN_FILE, Registry, Thinking};
use super::super::{gguf, kept};
use super::claim::Claim;
use super::partial::{self, AppendError, Partial};
use super::{Progress, PullError, disk};

/// What was added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Its entry, pinned to this very file.
    pub model: Model,
}

/// A copy that is not whole. It goes when this is dropped: nobody goes on with it.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        partial::discard(&self.0);
    }
}

/// Copies `file` into the folder and lists it as `name`, or by what the file is called. Dropping the future ends it, and nothing
/// of the copy is left.
///
/// # Errors
/// [`PullError::Usage`] for a name that is taken, is none or whose file would be another model's, [`PullError::Busy`] while the
/// same name is being added, [`PullError::Store`] for a file that is no usable model, [`PullError::Input`], [`PullError::Disk`].
pub async fn add(file: &Path, name: Option<&str>, folder: &Path, progress: &dyn Progress) -> Result<Added, PullError> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = name.map_or(stem, str::to_owned);
    // The locks of the folder's lists are called by names in .toml.
    if !plain(&name) || name.ends_with(".toml") {
        let why = "a name has letters, digits, `.`, `_` and `-`, and does not end in .toml; choose one with --name";
        return Err(PullError::Usage(format!("{name}: {why}")));
    }
    free(&name, file, folder)?;
    let input = |error| PullError::Input { path: file.to_owned(), error };
    let mut from = File::open(file).map_err(input)?;
    let header = gguf::read(file)?;
    fs::create_dir_all(folder).map_err(|e| disk(folder, e))?;
    let busy = || PullError::Busy(format!("a model '{name}' is being added already; choose another name with --name"));
    let _claim = Claim::take(folder, &name)?.ok_or_else(busy)?;
    // Whoever had the claim before may have taken the name.
    free(&name, file, folder)?;
    let target = folder.join(format!("{name}.gguf"));
    let was_there = same(file, &target);
    let (bytes, sha256) = if was_there {
        let (bytes, path) = (from.metadata().map_err(input)?.len(), target.clone());
        let read = tokio::task::spawn_blocking(move || registry::digest(&path)).await;
        (bytes, read.map_err(|e| input(std::io::Error::other(e)))??)
    } else {
        copy(&mut from, file, &target, &name, progress).await?
    };
    let model = Model {
        family: header.text("general.architecture").unwrap_or("unknown").to_owned(),
        kind: Kind::Chat,
        parameters: header.parameters(),
        quantisation: header.quantisation(),
        file: format!("{name}.gguf"),
        bytes: Some(bytes),
        sha256: Some(sha256.clone()),
        licence: header.text("general.license").unwrap_or("not stated").chars().filter(|c| !c.is_control()).take(80).collect(),
        context: u32::try_from(header.architecture_number("context_length").unwrap_or(0)).unwrap_or(u32::MAX),
        memory_mb: None,
        template: None,
        thinking: Thinking::None,
        publisher: file.display().to_string(),
        url: None,
        parts: Vec::new(),
        beside: Vec::new(),
        name,
    };
    if let Err(error) = enlist(&model, folder) {
        // A copy that no list knows would be in the way of the next attempt.
        if !was_there {
            let _ = fs::remove_file(&target);
        }
        return Err(error);
    }
    registry::remember(&target, &sha256);
    Ok(Added { model })
}

/// Copies an open file into its place by way of a draft. Returns its bytes and its digest.
async fn copy(from: &mut File, file: &Path, target: &Path, name: &str, progress: &dyn Progress) -> Result<(u64, String), PullError> {
    let input = |error| PullError::Input { path: file.to_owned(), error };
    let place = target.with_file_name(format!(".{name}.partial"));
    let _draft = Draft(place.clone());
    let mut partial = Partial::open(&place, "", false).await.map_err(|e| disk(&place, e))?;
    partial.restart(None)?;
    let total = from.metadata().map_err(input)?.len();
    partial.room(total)?;
    partial.append(from, |done| progress.at(done, Some(total))).await.map_err(|e| match e {
        AppendError::Read(error) => input(error),
        AppendError::Write(error) => disk(&place, error),
    })?;
    let sealed = partial.seal().await.map_err(|e| disk(&place, e))?;
    fs::rename(&place, target).map_err(|e| disk(target, e))?;
    Ok((sealed.bytes, sealed.sha256))
}

/// Refuses a name that is taken, and one whose file is there or is another model's.
fn free(name: &str, file: &Path, folder: &Path) -> Result<(), PullError> {
    let of_name = format!("{name}.gguf");
    let models = Registry::load(folder)?.models;
    if models.iter().any(|m| m.name == name) {
        return Err(PullError::Usage(format!("there is a model '{name}' already; choose another name with --name")));
    }
    if let Some(Model { name: other, .. }) = models.iter().find(|m| m.files().iter().any(|f| f.file == of_name)) {
        let way = format!("bring it with `galen model pull {other} --from FILE`, or choose another name with --name");
        return Err(PullError::Usage(format!("{of_name} is the file of the model '{other}'; {way}")));
    }
    let target = folder.join(of_name);
    if fs::symlink_metadata(&target).is_ok() && !same(file, &target) {
        let way = "and no list knows it; remove it, or choose another name with --name";
        return Err(PullError::Usage(format!("{} is there already, {way}", target.display())));
    }
    Ok(())
}

/// Whether both are one file: one that lies in its place already is only put on the list.
fn same(a: &Path, b: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    identity(a).is_some_and(|of_a| identity(b) == Some(of_a))
}

/// Puts `model` on the list, which is read only now: the copy took its time, and others may have been added meanwhile.
fn enlist(model: &Model, folder: &Path) -> Result<(), PullError> {
    let _lock = lock(folder)?;
    let mut list = Registry::own(folder)?;
    list.models.retain(|m| m.name != model.name);
    list.models.push(model.clone());
    write(folder, &list)
}

/// Takes `name` off the list of a user's own. Returns whether it was there.
///
/// # Errors
/// When the list cannot be read or written.
pub fn drop_own(name: &str, folder: &Path) -> Result<bool, PullError> {
    let listed = |list: &Registry| list.models.iter().any(|m| m.name == name);
    // Where there is no list there need be no folder to lock.
    if !listed(&Registry::own(folder)?) {
        return Ok(false);
    }
    let _lock = lock(folder)?;
    let mut list = Registry::own(folder)?;
    list.models.retain(|m| m.name != name);
    write(folder, &list)?;
    Ok(true)
}

fn lock(folder: &Path) -> Result<Option<Flock<File>>, PullError> {
    kept::lock(folder, OWN_FILE).map_err(|e| disk(&folder.join(OWN_FILE), e))
}

fn write(folder: &Path, list: &Registry) -> Result<(), PullError> {
    let path = folder.join(OWN_FILE);
    let text = toml::to_string(list).map_err(|e| disk(&path, std::io::Error::other(e)))?;
    kept::replace(folder, OWN_FILE, &text).map_err(|e| disk(&path, e))
}

fn plain(name: &str) -> bool {
    registry::plain_name(name) && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Deaf;

    impl Progress for Deaf {
        fn at(&self, _: u64, _: Option<u64>) {}
        fn say(&self, _: &str) {}
    }

    #[tokio::test]
    async fn a_file_that_is_another_models_or_is_there_already_is_not_written_over() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let taken = "qwen2.5-coder-1.5b-instruct-q4_k_m";
        fs::write(dir.path().join("mine.gguf"), "somebody's").unwrap();
        for (name, word) in [(taken, "galen model pull qwen2.5-coder-1.5b --from"), ("mine", "there already"), ("own.toml", ".toml")] {
            let file = elsewhere.path().join(format!("{name}.gguf"));
            fs::write(&file, "GGUF").unwrap();
            let added = add(&file, None, dir.path(), &Deaf).await;
            let Err(PullError::Usage(why)) = added else { panic!("{added:?}") };
            assert!(why.contains(word), "{why}");
        }
        assert_eq!(fs::read_to_string(dir.path().join("mine.gguf")).unwrap(), "somebody's");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was begun");
    }

    #[test]
    fn models_taken_off_at_once_are_all_off_the_list() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        assert!(!drop_own("none", &folder.join("none")).unwrap());
        let entry = |i: usize| {
            format!(
                "[[model]]\nname = \"m{i}\"\nfamily = \"x\"\nparameters = 1\nquantisation = \"F16\"\nfile = \"m{i}.gguf\"\nlicence = \"?\"\ncontext = 1\npublisher = \"\"\n"
            )
        };
        fs::write(folder.join(OWN_FILE), (0..65).map(entry).collect::<String>()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || (0..8).for_each(|i| assert!(drop_own(&format!("m{}", thread * 8 + i), folder).unwrap())));
            }
        });
        let left: Vec<String> = Registry::own(folder).unwrap().models.into_iter().map(|m| m.name).collect();
        assert_eq!(left, ["m64"]);
        let drafts = fs::read_dir(folder).unwrap().filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "new"));
        assert_eq!(drafts.count(), 0);
    }
}
