//! Which model the file holds: checked at the start, and again when the file is another.

use std::path::Path;

use super::super::local::LocalConfig;
use super::super::registry::{Registry, digest, stamp};
use super::super::{LlmError, ModelIdentity, gguf};

/// What is known of the file.
#[derive(Debug, Default)]
pub struct ModelFile {
    /// The model that was checked, and the size and time of its file then.
    checked: Option<(ModelIdentity, String)>,
    /// Size and time of a file that was refused since, and why: it is not read again for each request.
    refused: Option<(String, LlmError)>,
}

impl ModelFile {
    /// Whether it was found good once.
    pub fn was_checked(&self) -> bool {
        self.checked.is_some()
    }

    /// Which model lies there: looked at again when the file is another than the one that was checked.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when it is missing, damaged, or another model than before.
    pub fn check(&mut self, config: &LocalConfig) -> Result<ModelIdentity, LlmError> {
        let path = &config.model_path;
        let now = stamp(path).map_err(|e| LlmError::Unavailable(format!("{}: {e}", path.display())))?;
        match (&self.checked, &self.refused) {
            (Some((identity, then)), _) if *then == now => return Ok(identity.clone()),
            (_, Some((then, why))) if *then == now => return Err(why.clone()),
            _ => {}
        }
        let identity = identify(path)?;
        if self.checked.as_ref().is_some_and(|(before, _)| *before != identity) {
            let why = format!("{} holds another model than when Galen started with it; start Galen again", path.display());
            let why = LlmError::Unavailable(why);
            self.refused = Some((now, why.clone()));
            return Err(why);
        }
        self.checked = Some((identity.clone(), now));
        Ok(identity)
    }
}

/// Which model the file holds. A file that carries a registered name must be the registered file.
fn identify(path: &Path) -> Result<ModelIdentity, LlmError> {
    let registry = Registry::load(path.parent().unwrap_or(Path::new(".")))?;
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(model) = registry.models.iter().find(|m| m.file == file) {
        let sha256 = model.verify(path)?;
        return Ok(ModelIdentity { name: model.name.clone(), sha256 });
    }
    gguf::check(path)?;
    let sha256 = digest(path)?;
    let known = registry.models.iter().find(|m| m.sha256.as_ref() == Some(&sha256)).map(|m| m.name.clone());
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(ModelIdentity { name: known.unwrap_or(stem), sha256 })
}
