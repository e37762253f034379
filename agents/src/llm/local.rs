//! The embedded model: a provider whose requests go to one supervised process, all at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::adapters::AdapterFile;
use super::protocol::{Output, Task};
use super::schema;
use super::supervisor::{Job, Supervisor, Vitals};
use super::{
    Asking, EmbedRequest, Embeddings, EngineMetrics, GenerateRequest, Generated, LlmError, ModelIdentity, Provider, ScoreRequest, Scores,
};

/// Requests that may wait before callers have to.
const QUEUE: usize = 256;

/// How to run a model.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalConfig {
    /// Program that runs the model.
    pub exe: PathBuf,
    /// Arguments before `--model`, such as the daemon's subcommand.
    pub exe_arguments: Vec<String>,
    /// The GGUF file.
    pub model_path: PathBuf,
    /// Threads.
    pub threads: u16,
    /// Tokens of the context; cut to what the model was trained for.
    pub context: u32,
    /// One request at a time, with answers that are the same to the bit each time; otherwise all at once, several times
    /// faster, and with log-probabilities that depend a little on what else is asked.
    pub exact: bool,
    /// Most time for one request, counted from when the process begins to work on it.
    pub request_timeout: Duration,
    /// Most time until the process has to say that it dropped a request, where `request_timeout` is not longer, and least time without
    /// a sign of life from a process that gives them; after that it hangs and is ended.
    pub drop_timeout: Duration,
    /// Most time for loading.
    pub start_timeout: Duration,
    /// Adapters of its weights that can be changed to.
    pub adapters: Vec<AdapterFile>,
    /// Name of the adapter to begin with; none is the model as it is.
    pub adapter: Option<String>,
    /// Most bytes of address space that the process may take; the mapped file counts.
    pub memory_limit: Option<u64>,
}

impl LocalConfig {
    /// The usual: this program's `llm-worker` subcommand, all cores up to eight, 4,096 tokens, exact, one minute a request.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when this program's own path is not known.
    pub fn new(model_path: PathBuf) -> Result<Self, LlmError> {
        let exe = std::env::current_exe().map_err(|e| LlmError::Unavailable(format!("this program's own path is not known: {e}")))?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            exe,
            exe_arguments: vec!["llm-worker".to_owned()],
            model_path,
            threads: u16::try_from(cores.min(8)).unwrap_or(1),
            context: 4_096,
            exact: true,
            request_timeout: Duration::from_secs(60),
            drop_timeout: Duration::from_secs(15),
            start_timeout: Duration::from_secs(60),
            adapters: Vec::new(),
            adapter: None,
            memory_limit: None,
        })
    }
}

/// A model in a process of its own. Cheap to share behind an `Arc`; the process ends when the provider is dropped.
#[derive(Debug)]
pub struct LocalProvider {
    identity: ModelIdentity,
    jobs: mpsc::Sender<Job>,
    dropped: mpsc::UnboundedSender<u64>,
    next_id: AtomicU64,
    vitals: Arc<Vitals>,
}

impl LocalProvider {
    /// Checks the file, starts the process and waits until the model is loaded.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when the file is missing, damaged or does not load in time.
    pub async fn start(config: LocalConfig) -> Result<Self, LlmError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (dropped, dropping) = mpsc::unbounded_channel();
        let (started, starting) = oneshot::channel();
        let vitals = Arc::new(Vitals::default());
        let supervisor = Supervisor::new(config, Arc::clone(&vitals));
        // A thread of its own: the process is told to die with the thread that started it, and a runtime's threads
        // come and go.
        std::thread::Builder::new()
            .name("galen-llm".to_owned())
            .spawn(move || supervisor.run(queue, dropping, started))
            .map_err(|e| LlmError::Unavailable(format!("no thread for the model: {e}")))?;
        let identity = starting.await.map_err(|_| gone())??;
        Ok(Self { identity, jobs, dropped, next_id: AtomicU64::new(1), vitals })
    }

    /// Process id while the process lives.
    pub fn pid(&self) -> Option<u32> {
        Some(self.vitals.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Milliseconds that the last start took to load the model.
    pub fn load_ms(&self) -> u64 {
        self.vitals.load_ms.load(Ordering::Relaxed)
    }

    async fn ask(&self, task: Task) -> Result<Output, LlmError> {
        let (reply, answer) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut waiting = Waiting { id, dropped: &self.dropped, answered: false };
        self.jobs.send(Job { id, task, reply, since: Instant::now() }).await.map_err(|_| gone())?;
        let result = answer.await;
        waiting.answered = true;
        result.map_err(|_| gone())?
    }
}

/// Tells the supervisor when the one who asked has gone away.
struct Waiting<'a> {
    id: u64,
    dropped: &'a mpsc::UnboundedSender<u64>,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            let _ = self.dropped.send(self.id);
        }
    }
}

impl Provider for LocalProvider {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn score(&self, request: ScoreRequest) -> Asking<'_, Scores> {
        Box::pin(async {
            match self.ask(Task::Score(request)).await? {
                Output::Scores(scores) => Ok(scores),
                _ => Err(mixed_up()),
            }
        })
    }

    fn generate(&self, request: GenerateRequest) -> Asking<'_, Generated> {
        Box::pin(async {
            // What the process could not even read would end it, with all that it has.
            request.schema.as_ref().map_or(Ok(()), schema::check)?;
            match self.ask(Task::Generate(request)).await? {
                Output::Generated(generated) => Ok(generated),
                _ => Err(mixed_up()),
            }
        })
    }

    fn embed(&self, request: EmbedRequest) -> Asking<'_, Embeddings> {
        Box::pin(async {
            match self.ask(Task::Embed(request)).await? {
                Output::Embeddings(embeddings) => Ok(embeddings),
                _ => Err(mixed_up()),
            }
        })
    }

    fn adapt<'p>(&'p self, name: Option<&'p str>) -> Asking<'p, ()> {
        Box::pin(async move { self.ask(Task::Adapt(name.map(str::to_owned))).await.map(drop) })
    }

    /// Three failures in a row make the model unavailable until this.
    fn reset(&self) {
        self.vitals.failures.store(0, Ordering::Relaxed);
    }

    fn metrics(&self) -> Option<EngineMetrics> {
        let mut metrics = self.vitals.metrics().clone();
        metrics.given_up = self.vitals.given_up();
        Some(metrics)
    }
}

fn gone() -> LlmError {
    LlmError::Unavailable("the model's supervisor has ended".to_owned())
}

fn mixed_up() -> LlmError {
    LlmError::Crashed("the model's process answered another question".to_owned())
}
