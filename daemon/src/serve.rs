//! The daemon: starts and ends the tasks that watch targets, take alerts in, diagnose, and answer at its doors.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use galen_tools::store::Store;

use crate::config::Config;
use crate::diagnoses::{Worker, diagnoses};
use crate::failure::Failure;
use crate::living::Living;
use crate::state::State;
use crate::target::watch;
use crate::{http, private, rpc};

/// Runs until `shutdown`. `ready` is called with the address of the HTTP door once everything listens.
///
/// # Errors
/// Configuration, a store that cannot be opened, an address in use.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(Option<std::net::SocketAddr>),
) -> Result<(), Failure> {
    private::close_to_others();
    let data_dir = config.data_dir.clone();
    for folder in [data_dir.clone(), data_dir.join("captures"), data_dir.join("reports")] {
        std::fs::create_dir_all(&folder)
            .map_err(|e| Failure::config(format!("cannot create {}: {e}; set data_dir to a folder galen may write", folder.display())))?;
    }
    let store = Store::open(&data_dir)?;
    private::tighten(&data_dir);
    let recovered = store.recover_interrupted()?;
    let state = Arc::new(State::new(config, store));
    let library = Arc::new(Living::open(state.config.clone())?);
    let mut tasks = JoinSet::new();
    let mut address = None;
    let listener = match state.config.http.enabled {
        true => Some(
            tokio::net::TcpListener::bind(&state.config.http.listen)
                .await
                .map_err(|e| Failure::config(format!("cannot listen on {}: {e}; change http.listen", state.config.http.listen)))?,
        ),
        false => None,
    };
    // Before the http door answers: who hears there that the daemon is ready may call.
    let socket = rpc::bind(&state.config.socket_path()).await?;
    if let Some(listener) = listener {
        address = listener.local_addr().ok();
        let router = http::router(Arc::clone(&state));
        tasks.spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the http door closed");
            }
        });
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut socket = rpc_task(&state, socket, stopped);
    for target in state.config.targets.clone() {
        let state = Arc::clone(&state);
        tasks.spawn(supervised(format!("target {}", target.name), move || watch(Arc::clone(&state), target.clone())));
    }
    {
        let state = Arc::clone(&state);
        let worker = Arc::new(Worker::new(library, &state.config));
        tasks.spawn(supervised("diagnoses".to_owned(), move || diagnoses(Arc::clone(&state), Arc::clone(&worker))));
    }
    if recovered > 0 {
        tracing::info!(incidents = recovered, "picking up incidents that a crash left unfinished");
    }
    state.wake.notify_one();
    tracing::info!(targets = state.config.targets.len(), http = ?address, socket = %state.config.socket_path().display(), "ready");
    ready(address);
    let outcome = tokio::select! {
        () = shutdown => Ok(()),
        ended = &mut socket => ended.map_err(|e| Failure::fault(e.to_string())),
    };
    tracing::info!("stopping");
    let _ = stop.send(true);
    if !socket.is_finished() {
        let _ = tokio::time::timeout(Duration::from_secs(2), socket).await;
    }
    tasks.shutdown().await;
    outcome
}

fn rpc_task(
    state: &Arc<State>,
    listener: tokio::net::UnixListener,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) -> tokio::task::JoinHandle<()> {
    let state = Arc::clone(state);
    let path = state.config.socket_path();
    tokio::spawn(async move {
        let stop = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        rpc::serve(state, listener, &path, stop).await;
    })
}

/// Runs a task again when it panics, with a growing pause.
async fn supervised<F: Future<Output = ()> + Send + 'static>(name: String, mut start: impl FnMut() -> F + Send + 'static) {
    let mut pause = Duration::from_secs(1);
    loop {
        let mut one = JoinSet::new();
        one.spawn(start());
        match one.join_next().await {
            Some(Err(error)) if error.is_panic() => tracing::error!(task = name, "a task failed and is started again"),
            _ => return,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(60));
    }
}
