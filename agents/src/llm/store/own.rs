//! Models of a user's own: a GGUF file is copied into the folder and listed with what its header says of it.

use std::fs::{self, File};
use std::path::Path;

use super::super::gguf;
use super::super::registry::{self, Kind, Model, OWN_FILE, Registry, Thinking};
use super::partial::{AppendError, Partial};
use super::{Progress, PullError, disk};

/// What was added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Its entry, pinned to this very file.
    pub model: Model,
}

/// Copies `file` into the folder and lists it as `name`, or by what the file is called.
///
/// # Errors
/// [`PullError::Usage`] for a name that is taken or is none, [`PullError::Store`] for a file that is no usable model,
/// [`PullError::Input`], [`PullError::Disk`].
pub fn add(file: &Path, name: Option<&str>, folder: &Path, progress: &dyn Progress) -> Result<Added, PullError> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = name.map_or(stem, str::to_owned);
    if !plain(&name) {
        return Err(PullError::Usage(format!("{name}: a name has letters, digits, `.`, `_` and `-`; choose one with --name")));
    }
    let mut list = Registry::own(folder)?;
    if Registry::load(folder)?.models.iter().any(|m| m.name == name) {
        return Err(PullError::Usage(format!("there is a model '{name}' already; choose another name with --name")));
    }
    let input = |error| PullError::Input { path: file.to_owned(), error };
    let mut from = File::open(file).map_err(input)?;
    let header = gguf::read(file)?;
    fs::create_dir_all(folder).map_err(|e| disk(folder, e))?;
    let place = folder.join(format!(".{name}.partial"));
    let mut partial = Partial::open(&place, "", false).map_err(|e| disk(&place, e))?;
    partial.restart(None)?;
    let total = from.metadata().map_err(input)?.len();
    let copied = partial.append(&mut from, |done| progress.at(done, Some(total)));
    if let Err(error) = copied {
        let _ = partial.seal().map(|left| left.discard());
        return Err(match error {
            AppendError::Read(error) => input(error),
            AppendError::Write(error) => disk(&place, error),
        });
    }
    let sealed = partial.seal().map_err(|e| disk(&place, e))?;
    let model = Model {
        family: header.text("general.architecture").unwrap_or("unknown").to_owned(),
        kind: Kind::Chat,
        parameters: header.parameters(),
        quantisation: header.quantisation(),
        file: format!("{name}.gguf"),
        bytes: Some(sealed.bytes),
        sha256: Some(sealed.sha256.clone()),
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
    let target = model.path(folder);
    fs::rename(&place, &target).map_err(|e| disk(&target, e))?;
    sealed.discard();
    registry::remember(&target, &sealed.sha256);
    list.models.push(model.clone());
    write(folder, &list)?;
    Ok(Added { model })
}

/// Takes `name` off the list of a user's own. Returns whether it was there.
///
/// # Errors
/// When the list cannot be read or written.
pub fn drop_own(name: &str, folder: &Path) -> Result<bool, PullError> {
    let mut list = Registry::own(folder)?;
    let before = list.models.len();
    list.models.retain(|m| m.name != name);
    if list.models.len() == before {
        return Ok(false);
    }
    write(folder, &list)?;
    Ok(true)
}

fn write(folder: &Path, list: &Registry) -> Result<(), PullError> {
    let path = folder.join(OWN_FILE);
    let draft = folder.join(format!(".{OWN_FILE}.new"));
    let text = toml::to_string(list).map_err(|e| disk(&path, std::io::Error::other(e)))?;
    fs::write(&draft, text).and_then(|()| fs::rename(&draft, &path)).map_err(|e| disk(&path, e))
}

fn plain(name: &str) -> bool {
    registry::plain_name(name) && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}
