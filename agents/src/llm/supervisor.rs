//! Keeps the model's process alive: one request at a time in the order they came, a deadline for each, a restart with
//! growing pauses after a death, and an end to it after three failures in a row.

use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::local::LocalConfig;
use super::protocol::{FromWorker, Output, Task, ToWorker};
use super::registry::{Registry, digest};
use super::{LlmError, ModelIdentity, gguf};

/// Failures in a row after which the model is given up until a reset.
const MOST_FAILURES: u32 = 3;
/// Pause before the first restart; doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Lines of the process's stderr that an error quotes at most.
const TAIL_LINES: usize = 8;
/// Characters kept of each such line.
const TAIL_WIDTH: usize = 200;
/// Time for a killed process to be reaped.
const REAP: Duration = Duration::from_secs(5);
/// Variables that the process gets, by prefix: what the libraries need, and none of the daemon's secrets.
const ENVIRONMENT: [&str; 17] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "GGML_",
    "LLAMA_",
    "OMP_",
    "GOMP_",
    "CUDA_",
    "NVIDIA_",
    "VK_",
    "HIP_",
    "ROCR_",
    "HSA_",
    "XDG_",
];

/// A request and who waits for it.
#[derive(Debug)]
pub struct Job {
    /// The work.
    pub task: Task,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Output, LlmError>>,
}

/// What the provider may look at from outside.
#[derive(Debug, Default)]
pub struct Vitals {
    /// Process id, 0 when there is none.
    pub pid: AtomicU32,
    /// Failures in a row.
    pub failures: AtomicU32,
    /// Milliseconds of the last load.
    pub load_ms: AtomicU64,
}

/// Owns the process.
#[derive(Debug)]
pub struct Supervisor {
    config: LocalConfig,
    vitals: Arc<Vitals>,
    process: Option<Process>,
    next_id: u64,
}

#[derive(Debug)]
struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    tail: Tail,
}

/// The last lines of stderr.
#[derive(Debug, Clone, Default)]
struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Supervisor {
    /// A supervisor without a process yet.
    pub fn new(config: LocalConfig, vitals: Arc<Vitals>) -> Self {
        Self { config, vitals, process: None, next_id: 1 }
    }

    /// Works until the queue closes. `started` hears which model it is, or why there is none.
    pub fn run(mut self, queue: mpsc::Receiver<Job>, started: oneshot::Sender<Result<ModelIdentity, LlmError>>) {
        let identity = match identify(&self.config) {
            Ok(identity) => identity,
            Err(e) => return drop(started.send(Err(e))),
        };
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(self.serve(queue, identity, started)),
            Err(e) => drop(started.send(Err(LlmError::Unavailable(format!("no runtime for the model: {e}"))))),
        }
    }

    async fn serve(
        &mut self,
        mut queue: mpsc::Receiver<Job>,
        identity: ModelIdentity,
        started: oneshot::Sender<Result<ModelIdentity, LlmError>>,
    ) {
        let launched = self.launch().await;
        let up = launched.is_ok();
        if started.send(launched.map(|()| identity)).is_ok() && up {
            while let Some(Job { task, mut reply }) = queue.recv().await {
                if !reply.is_closed() {
                    let result = self.answer(task, &mut reply).await;
                    let _ = reply.send(result);
                }
            }
        }
        self.end().await;
    }

    async fn answer(&mut self, task: Task, reply: &mut oneshot::Sender<Result<Output, LlmError>>) -> Result<Output, LlmError> {
        let result = match self.ready().await {
            Ok(()) => self.exchange(task, reply).await,
            Err(e) => Err(e),
        };
        match &result {
            // An answer that refuses is an answer: the process is well.
            Ok(_) | Err(LlmError::Invalid(_) | LlmError::TooLong { .. }) => {
                self.vitals.failures.store(0, Ordering::Relaxed);
            }
            Err(e) => {
                self.end().await;
                let failures = self.vitals.failures.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::warn!(error = %e, failures, "model request failed");
            }
        }
        result
    }

    /// Makes sure that there is a process.
    async fn ready(&mut self) -> Result<(), LlmError> {
        let failures = self.vitals.failures.load(Ordering::Relaxed);
        if failures >= MOST_FAILURES {
            return Err(LlmError::Unavailable(format!("given up after {failures} failures in a row")));
        }
        if let Some(process) = &mut self.process {
            if !matches!(process.child.try_wait(), Ok(Some(_))) {
                return Ok(());
            }
            tracing::warn!("the model's process died while idle");
            self.end().await;
        }
        if failures > 0 {
            sleep(FIRST_PAUSE * 2_u32.pow(failures.min(8) - 1)).await;
        }
        self.launch().await
    }

    async fn launch(&mut self) -> Result<(), LlmError> {
        let mut process = Process::spawn(&self.config)?;
        self.vitals.pid.store(process.child.id().unwrap_or(0), Ordering::Relaxed);
        let first = timeout(self.config.start_timeout, process.receive()).await;
        let failed = match first {
            Ok(Ok(FromWorker::Ready { load_ms, context })) => {
                tracing::debug!(load_ms, context, "model loaded");
                self.vitals.load_ms.store(load_ms, Ordering::Relaxed);
                self.process = Some(process);
                return Ok(());
            }
            Ok(Ok(FromWorker::Failed(e))) => LlmError::Unavailable(format!("{}{}", reason(&e), process.tail.quote())),
            Ok(Ok(FromWorker::Answer { .. })) => LlmError::Unavailable("the model's process answers unasked".to_owned()),
            Ok(Err(_)) => LlmError::Unavailable(format!("the model's process ended while loading{}", process.obituary().await)),
            Err(_) => LlmError::Unavailable(format!("not loaded within {} ms", self.config.start_timeout.as_millis())),
        };
        self.process = Some(process);
        self.end().await;
        Err(failed)
    }

    async fn exchange(&mut self, task: Task, reply: &mut oneshot::Sender<Result<Output, LlmError>>) -> Result<Output, LlmError> {
        let id = self.next_id;
        self.next_id += 1;
        let Some(process) = &mut self.process else {
            return Err(LlmError::Unavailable("the model has no process".to_owned()));
        };
        let deadline = Instant::now() + self.config.request_timeout;
        let answered = timeout_at(deadline, process.converse(id, task, reply)).await;
        match answered {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(LlmError::Crashed(format!("the process ended{}", process.obituary().await))),
            Err(_) => Err(LlmError::Timeout(u64::try_from(self.config.request_timeout.as_millis()).unwrap_or(u64::MAX))),
        }
    }

    async fn end(&mut self) {
        self.vitals.pid.store(0, Ordering::Relaxed);
        if let Some(mut process) = self.process.take() {
            let _ = process.child.start_kill();
            let _ = timeout(REAP, process.child.wait()).await;
        }
    }
}

impl Process {
    fn spawn(config: &LocalConfig) -> Result<Self, LlmError> {
        let refuse = |e: &dyn std::fmt::Display| LlmError::Unavailable(format!("{} does not start: {e}", config.exe.display()));
        let mut command = Command::new(&config.exe);
        command
            .args(&config.exe_arguments)
            .arg("--model")
            .arg(&config.model_path)
            .args(["--threads", &config.threads.to_string()])
            .args(["--context", &config.context.to_string()])
            .args(["--parent", &std::process::id().to_string()])
            .env_clear()
            // Waiting threads give the processor back instead of spinning on it: beside a busy server the model is some
            // ten times faster so (17-21 s instead of 137-231 s beside six busy processes on 2 cores).
            .env("OMP_WAIT_POLICY", "passive")
            .envs(std::env::vars_os().filter(|(name, _)| harmless(&name.to_string_lossy())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            // A group of its own: Ctrl-C in the terminal is the daemon's to handle.
            .process_group(0);
        if let Some(limit) = config.memory_limit {
            command.args(["--memory-limit", &limit.to_string()]);
        }
        let mut child = command.spawn().map_err(|e| refuse(&e))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(refuse(&"its streams are missing"));
        };
        let tail = Tail::default();
        tokio::spawn(tail.clone().follow(stderr));
        Ok(Self { child, stdin, lines: BufReader::new(stdout).lines(), tail })
    }

    /// Asks and waits for the answer; tells the process when nobody waits any more. Fails when the process is gone.
    async fn converse(
        &mut self,
        id: u64,
        task: Task,
        reply: &mut oneshot::Sender<Result<Output, LlmError>>,
    ) -> std::io::Result<Result<Output, LlmError>> {
        self.send(&ToWorker::Ask { id, task }).await?;
        let mut abandoned = false;
        loop {
            let message = tokio::select! {
                message = receive(&mut self.lines) => message?,
                () = reply.closed(), if !abandoned => {
                    abandoned = true;
                    self.send(&ToWorker::Cancel { id }).await?;
                    continue;
                }
            };
            match message {
                FromWorker::Answer { id: answered, result } if answered == id => return Ok(result),
                other => {
                    tracing::debug!(message = ?other, "unexpected message of the model's process")
                }
            }
        }
    }

    async fn send(&mut self, message: &ToWorker) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.stdin.write_all(&line).await?;
        self.stdin.flush().await
    }

    async fn receive(&mut self) -> std::io::Result<FromWorker> {
        receive(&mut self.lines).await
    }

    /// How it ended and its last words.
    async fn obituary(&mut self) -> String {
        let status = timeout(Duration::from_millis(500), self.child.wait()).await;
        let how = match status {
            Ok(Ok(status)) => describe(status),
            _ => "its pipe is closed".to_owned(),
        };
        format!(": {how}{}", self.tail.quote())
    }
}

/// Cancel-safe: a line that is half read stays with the reader.
async fn receive(lines: &mut Lines<BufReader<ChildStdout>>) -> std::io::Result<FromWorker> {
    let line = lines.next_line().await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok(serde_json::from_str(&line)?)
}

impl Tail {
    async fn follow(self, stderr: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(stderr).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let line: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).take(TAIL_WIDTH).collect();
            tracing::debug!(target: "galen_agents::llm::worker", "{line}");
            let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(line);
        }
    }

    fn quote(&self) -> String {
        let tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = tail.iter().filter(|l| l.chars().any(char::is_alphanumeric)).cloned().collect::<Vec<_>>().join(" | ");
        if text.is_empty() { text } else { format!(" ({text})") }
    }
}

/// Which model the file holds. A file that carries a registered name must be the registered file.
fn identify(config: &LocalConfig) -> Result<ModelIdentity, LlmError> {
    let path = &config.model_path;
    let registry = Registry::load(path.parent().unwrap_or(std::path::Path::new(".")))?;
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

fn harmless(name: &str) -> bool {
    ENVIRONMENT.iter().any(|prefix| name.starts_with(prefix))
}

fn reason(error: &LlmError) -> String {
    match error {
        LlmError::Unavailable(why) => why.clone(),
        other => other.to_string(),
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_the_environment_stay_with_the_daemon() {
        for name in ["PGPASSWORD", "DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "GALEN_TOKEN"] {
            assert!(!harmless(name), "{name}");
        }
        assert!(harmless("LD_LIBRARY_PATH") && harmless("CUDA_VISIBLE_DEVICES"));
    }

    #[tokio::test]
    async fn the_tail_keeps_the_last_lines_short_and_printable() {
        let tail = Tail::default();
        let text: String = (0..50).map(|i| format!("line {i} \u{1b}[31m{}\n", "x".repeat(500))).collect();
        tail.clone().follow(text.as_bytes()).await;
        let quote = tail.quote();
        assert!(quote.contains("line 49") && !quote.contains("line 41 ") && !quote.contains('\u{1b}'));
        assert!(quote.chars().count() < TAIL_LINES * (TAIL_WIDTH + 5));
    }
}
