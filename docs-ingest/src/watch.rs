//! Watching folders: many events become one signal, given when it has been quiet for a moment.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use notify::{ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

/// Quiet that ends a flurry of events.
const QUIET: Duration = Duration::from_millis(400);
/// A flurry that does not end is taken in all the same.
const MOST_WAIT: Duration = Duration::from_secs(5);

/// Watches files and folders while it exists.
pub struct Watcher {
    _inner: RecommendedWatcher,
    events: Receiver<()>,
}

impl Watcher {
    /// Begins to watch; changes in `except` are not told. A file is watched through its folder, since editors put a new
    /// file in its place.
    ///
    /// # Errors
    /// One line that says what cannot be watched and why.
    pub fn new(roots: &[PathBuf], except: &Path) -> Result<Self, String> {
        // One place is enough: what matters is that something happened.
        let (send, events) = sync_channel(1);
        let except = except.canonicalize().unwrap_or_else(|_| except.to_owned());
        let tell = move |event: notify::Result<Event>| {
            let ours = |event: &Event| !event.paths.is_empty() && event.paths.iter().all(|path| path.starts_with(&except));
            let matters = event.as_ref().map_or(true, |event| !matches!(event.kind, EventKind::Access(_)) && !ours(event));
            if matters {
                let _ = send.try_send(());
            }
        };
        let mut inner = notify::recommended_watcher(tell).map_err(|e| e.to_string())?;
        for root in roots {
            let root = root.canonicalize().map_err(|e| format!("{}: {e}", root.display()))?;
            let (at, mode) = match root.parent() {
                Some(folder) if root.is_file() => (folder, RecursiveMode::NonRecursive),
                _ => (root.as_path(), RecursiveMode::Recursive),
            };
            inner.watch(at, mode).map_err(|error| match error.kind {
                ErrorKind::MaxFilesWatch => format!("{}: too many folders to watch; raise fs.inotify.max_user_watches", at.display()),
                _ => format!("{}: {error}", at.display()),
            })?;
        }
        Ok(Self { _inner: inner, events })
    }

    /// Waits until something changed and it has been quiet since; false when `stop` said so first.
    pub fn wait(&self, stop: impl Fn() -> bool) -> bool {
        let mut first: Option<Instant> = None;
        loop {
            if stop() {
                return false;
            }
            let patience = if first.is_some() { QUIET } else { Duration::from_millis(200) };
            match self.events.recv_timeout(patience) {
                Ok(()) => {
                    if first.get_or_insert_with(Instant::now).elapsed() >= MOST_WAIT {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Timeout) if first.is_some() => return true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flurry_is_one_signal_and_ones_own_changes_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        std::fs::create_dir(&own).unwrap();
        let watcher = Watcher::new(&[folder.path().to_owned()], &own).unwrap();
        let quiet = |for_ms: u64| {
            let until = Instant::now() + Duration::from_millis(for_ms);
            move || Instant::now() > until
        };
        for n in 0..20 {
            std::fs::write(folder.path().join(format!("{n}.md")), "x").unwrap();
        }
        assert!(watcher.wait(quiet(5_000)));
        std::fs::write(own.join("knowledge.db"), "x").unwrap();
        assert!(!watcher.wait(quiet(1_000)));
    }
}
