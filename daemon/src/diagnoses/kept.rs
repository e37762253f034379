//! How captures and diagnoses are kept: in the store and as files, with patience where only the disk keeps them from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use galen_agents::driver::Diagnosis;
use galen_agents::report::{html, markdown};
use galen_tools::capture::Capture;
use galen_tools::store::{self, NewDiagnosis, Store, StoreError, StoreErrorKind};

use crate::failure::Failure;
use crate::state::{State, lock};

/// Pause before what could not be written is tried again; it doubles ...
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// ... up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// True for failures that may pass by themselves: a full disk, a folder that cannot be written to.
fn may_pass(error: &StoreError) -> bool {
    use StoreErrorKind::{DiskFull, Io, Permission};
    matches!(error.kind, DiskFull | Io | Permission)
}

/// None, with a warning, for a failure that may pass; other failures stay failures.
pub fn passing<T>(id: i64, result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) if may_pass(&error) => {
            tracing::warn!(incident = id, %error, "the capture is not written yet");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Tries again, with growing pauses, what only the disk keeps from working; other failures stay failures.
pub async fn insist<T, F>(state: &State, id: i64, mut attempt: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt().await {
            Err(error) if may_pass(&error) => {
                tracing::warn!(incident = id, %error, again_in_s = pause.as_secs(), "what was found cannot be stored; it is tried again");
                lock(&state.troubles).insert(id, error.to_string());
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            done => {
                lock(&state.troubles).remove(&id);
                return done;
            }
        }
    }
}

/// Writes a capture, and the folder where somebody removed it.
pub async fn write_capture(capture: &Capture, path: &Path) -> Result<(), StoreError> {
    let (copy, path) = (capture.clone(), path.to_owned());
    let write = move || {
        // When it cannot be made, writing says why.
        let _ = path.parent().map(std::fs::create_dir_all);
        store::file::write(&copy, &path)
    };
    match tokio::task::spawn_blocking(write).await {
        Ok(written) => written,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// A diagnosis in the forms in which it is kept.
struct Forms {
    json: String,
    tree: String,
    text: String,
    html: String,
    headline: String,
    top: Option<(String, f64)>,
}

impl Forms {
    fn of(diagnosis: &Diagnosis) -> Result<Self, Failure> {
        let (report, fault) = (&diagnosis.report, |e: serde_json::Error| Failure::fault(e.to_string()));
        Ok(Self {
            json: serde_json::to_string(report).map_err(fault)?,
            tree: serde_json::to_string(&diagnosis.tree).map_err(fault)?,
            text: markdown::render(report),
            html: html::render(report, &diagnosis.tree),
            headline: report.headline.clone(),
            top: report.root_causes.first().map(|c| (c.cause.clone(), c.probability)),
        })
    }

    fn keep(&self, store: &Store, id: i64) -> Result<(), StoreError> {
        store.save_diagnosis(
            id,
            &NewDiagnosis {
                report_json: &self.json,
                tree_json: &self.tree,
                markdown: &self.text,
                html: &self.html,
                headline: &self.headline,
                top_cause: self.top.as_ref().map(|(cause, _)| cause.as_str()),
                probability: self.top.as_ref().map(|(_, probability)| *probability),
            },
        )
    }
}

/// Saves a diagnosis in the store and as files; returns the path of its page.
pub async fn save(state: &State, id: i64, diagnosis: Diagnosis) -> Result<PathBuf, Failure> {
    let forms = Arc::new(Forms::of(&diagnosis)?);
    let folder = state.config.data_dir.join("reports");
    // The files first: whoever sees the incident as reported finds them. The store has it all, so that a file that
    // cannot be written is a pity, not a failure.
    for (end, content) in [("json", &forms.json), ("md", &forms.text), ("html", &forms.html)] {
        let path = folder.join(format!("{id}.{end}"));
        if let Err(error) = std::fs::write(&path, content) {
            tracing::warn!(path = %path.display(), %error, "the report's file could not be written; it is in the store");
        }
    }
    insist(state, id, || {
        let forms = Arc::clone(&forms);
        state.with_store(move |store| forms.keep(store, id))
    })
    .await?;
    Ok(folder.join(format!("{id}.html")))
}
