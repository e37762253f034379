//! Keeps the model's process alive: all requests go to it at once and answers come in any order, a deadline for each, a
//! restart with growing pauses after a death, and an end to it after three failures in a row.

mod file;
mod pulse;
#[cfg(test)]
mod tests;
mod vitals;

use std::collections::BTreeMap;
use std::future::ready;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

pub use self::vitals::Vitals;

use self::file::ModelFile;
use self::pulse::Pulse;
use self::vitals::MOST_FAILURES;
use super::local::LocalConfig;
use super::process::Process;
use super::protocol::{Asker, FromWorker, Output, Task, Times, ToWorker};
use super::{LlmError, ModelIdentity, Usage};

/// Pause before the first restart; doubles with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Time for the process to take a message; after that it hangs.
const TAKE: Duration = Duration::from_secs(15);
/// Requests in the process at most.
const MOST_OPEN: usize = 1_024;
/// Messages heard in a row at most: more than a full pipe holds, so that all is heard that was said in time.
const MOST_HEARD: u32 = 4_096;
/// Time for a killed process to be reaped.
const REAP: Duration = Duration::from_secs(5);

/// A request and who waits for it.
#[derive(Debug)]
pub struct Job {
    /// Its number, unlike any other's.
    pub id: u64,
    /// The work.
    pub task: Task,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Output, LlmError>>,
    /// When it was asked.
    pub since: Instant,
}

/// A request that the process has.
#[derive(Debug)]
struct Open {
    asker: Asker,
    /// The adapter to change to: a new process begins with it.
    adapt: Option<Option<String>>,
    /// When the process got it.
    asked: Instant,
    /// How long it had waited for that.
    waited: Duration,
    /// None when nobody waits for the answer any more.
    reply: Option<oneshot::Sender<Result<Output, LlmError>>>,
    /// When it has taken too long; a dropped one, when the process has.
    deadline: Instant,
    began: bool,
}

/// Owns the process.
#[derive(Debug)]
pub struct Supervisor {
    config: LocalConfig,
    file: ModelFile,
    vitals: Arc<Vitals>,
    process: Option<Process>,
    open: BTreeMap<u64, Open>,
    pulse: Pulse,
    /// When something failed last. What was at work then and fails later failed with it.
    last_failure: Option<Instant>,
}

impl Supervisor {
    /// A supervisor without a process yet.
    pub fn new(config: LocalConfig, vitals: Arc<Vitals>) -> Self {
        Self {
            config,
            file: ModelFile::default(),
            vitals,
            process: None,
            open: BTreeMap::new(),
            pulse: Pulse::new(Instant::now()),
            last_failure: None,
        }
    }

    /// Works until the queue closes. `dropped` names requests that nobody waits for any more; `started` hears which
    /// model it is, or why there is none.
    pub fn run(
        mut self,
        queue: mpsc::Receiver<Job>,
        dropped: mpsc::UnboundedReceiver<u64>,
        started: oneshot::Sender<Result<ModelIdentity, LlmError>>,
    ) {
        let identity = match self.file.check(&self.config) {
            Ok(identity) => identity,
            Err(e) => return drop(started.send(Err(e))),
        };
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(self.serve(queue, dropped, identity, started)),
            Err(e) => drop(started.send(Err(LlmError::Unavailable(format!("no runtime for the model: {e}"))))),
        }
    }

    async fn serve(
        &mut self,
        mut queue: mpsc::Receiver<Job>,
        mut dropped: mpsc::UnboundedReceiver<u64>,
        identity: ModelIdentity,
        started: oneshot::Sender<Result<ModelIdentity, LlmError>>,
    ) {
        let launched = self.launch().await;
        let up = launched.is_ok();
        let mut heard = 0;
        if started.send(launched.map(|()| identity)).is_ok() && up {
            loop {
                // While a request is dropped nothing new goes to a process that may hang.
                let leaving = self.open.values().any(|o| o.reply.is_none());
                let deadline = self.open.values().map(|o| o.deadline).chain(self.hangs_at()).min();
                let due = deadline.unwrap_or_else(|| Instant::now() + TAKE);
                let process = &mut self.process;
                // Also while nothing is asked: a death is seen when it happens.
                let lives = process.is_some();
                self.vitals.metrics().open = self.open.len() as u64;
                let before = std::mem::take(&mut heard);
                tokio::select! {
                    // What it has said is heard before it is called silent. One that never stops talking keeps nobody waiting.
                    biased;
                    message = next(process), if lives && before < MOST_HEARD => {
                        heard = before + 1;
                        self.hear(message).await;
                    }
                    Some(id) = dropped.recv() => self.drop_request(id).await,
                    () = sleep_until(due), if deadline.is_some() => self.expire().await,
                    job = queue.recv(), if !leaving => match job {
                        Some(job) => self.take(job).await,
                        None => break,
                    },
                    () = ready(()), if before >= MOST_HEARD => {}
                }
            }
        }
        self.end().await;
    }

    /// Sends a request on its way.
    async fn take(&mut self, job: Job) {
        let Job { id, task, reply, since } = job;
        let asker = task.asker();
        if reply.is_closed() {
            self.vitals.metrics().dropped(&asker, micros(since.elapsed()));
            return;
        }
        if self.open.len() >= MOST_OPEN {
            self.refuse(&asker, LlmError::Busy { waiting: self.open.len() as u64 }, reply, since.elapsed());
            return;
        }
        if let Err(error) = self.ready().await {
            self.failed(&error, Instant::now());
            self.refuse(&asker, error, reply, since.elapsed());
            return;
        }
        let adapt = if let Task::Adapt(name) = &task { Some(name.clone()) } else { None };
        let asked = Instant::now();
        if self.open.is_empty() {
            self.pulse.begin(asked);
        }
        let waited = asked.duration_since(since);
        let deadline = asked + self.config.request_timeout;
        self.open.insert(id, Open { asker, adapt, asked, waited, reply: Some(reply), deadline, began: false });
        let sent = match &mut self.process {
            Some(process) => timeout(TAKE, process.send(&ToWorker::Ask { id, task: Box::new(task) })).await,
            None => return,
        };
        if !matches!(sent, Ok(Ok(()))) {
            self.died().await;
        }
    }

    /// Answers with an error that cost nothing but the time until the process got the request.
    fn refuse(&self, asker: &Asker, error: LlmError, reply: oneshot::Sender<Result<Output, LlmError>>, waited: Duration) {
        let times = Times { queued_us: micros(waited), ran_us: 0 };
        self.vitals.metrics().ended(asker, Some(&error), Usage::default(), times);
        let _ = reply.send(Err(error));
    }

    async fn hear(&mut self, message: std::io::Result<FromWorker>) {
        let now = Instant::now();
        if let (Ok(said), false) = (&message, self.open.is_empty()) {
            self.pulse.hear(now, matches!(said, FromWorker::Step { .. }));
        }
        match message {
            Ok(FromWorker::Step { counts }) => {
                self.alive(now, None);
                self.vitals.metrics().engine(counts);
            }
            Ok(FromWorker::Began { id }) => self.alive(now, Some(id)),
            Ok(FromWorker::Answer { id, result, usage, times, counts }) => {
                self.alive(now, None);
                if let Some(counts) = counts {
                    self.vitals.metrics().engine(counts);
                }
                let open = self.open.remove(&id);
                // Before the answer is told: whoever has it sees it gone.
                self.vitals.metrics().open = self.open.len() as u64;
                // Also when nobody waits for it any more: the process has changed.
                if let (Some(adapter), Ok(_)) = (open.as_ref().and_then(|o| o.adapt.clone()), &result) {
                    self.config.adapter = adapter;
                }
                if let Some(Open { asker, reply: None, .. }) = &open {
                    // Its end is booked, with its time until the process had it; what it took there is known now.
                    self.vitals.metrics().worked(asker, usage, times);
                }
                if let Some(Open { asker, asked, waited, reply: Some(reply), .. }) = open {
                    let times = Times { queued_us: times.queued_us.saturating_add(micros(waited)), ..times };
                    self.vitals.metrics().ended(&asker, result.as_ref().err(), usage, times);
                    // An answer that refuses is an answer: the process is well.
                    match &result {
                        Err(e @ (LlmError::Crashed(_) | LlmError::Unavailable(_) | LlmError::Timeout(_))) => {
                            self.failed(e, asked);
                        }
                        _ => self.vitals.failures.store(0, Ordering::Relaxed),
                    }
                    let _ = reply.send(result);
                }
                if self.given_up() {
                    self.end().await;
                }
            }
            Ok(FromWorker::Ready { .. } | FromWorker::Failed(_)) => tracing::debug!("the model's process says again how it loaded"),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                let said = self.put_down("says what is no message").await;
                self.lost(format!("the process sent {error} and was ended{said}")).await;
            }
            Err(_) => self.died().await,
        }
    }

    /// A sign of life: what waits inside the process goes on waiting, also what was dropped before it began. The time of a
    /// request counts from its beginning.
    fn alive(&mut self, now: Instant, began: Option<u64>) {
        let drop_time = self.drop_time();
        for (id, open) in self.open.iter_mut().filter(|(_, o)| !o.began) {
            open.deadline = now + if open.reply.is_some() { self.config.request_timeout } else { drop_time };
            open.began = Some(*id) == began;
        }
    }

    /// Most time until the process has to say that it dropped a request.
    fn drop_time(&self) -> Duration {
        self.config.drop_timeout.max(self.config.request_timeout)
    }

    /// When the process hangs unless it gives a sign of life before.
    fn hangs_at(&self) -> Option<Instant> {
        if self.open.is_empty() {
            return None;
        }
        self.pulse.due(self.config.drop_timeout, self.config.request_timeout)
    }

    async fn drop_request(&mut self, id: u64) {
        let drop_time = self.drop_time();
        let Some(open) = self.open.get_mut(&id).filter(|o| o.reply.is_some()) else { return };
        open.reply = None;
        open.deadline = Instant::now() + drop_time;
        self.vitals.metrics().dropped(&open.asker, micros(open.waited));
        if let Some(process) = &mut self.process
            && !matches!(timeout(TAKE, process.send(&ToWorker::Cancel { id })).await, Ok(Ok(())))
        {
            self.died().await;
        }
    }

    /// Requests out of time are answered so and dropped; a process that does not drop them, or that has been silent for too long, hangs
    /// and is ended.
    async fn expire(&mut self) {
        let now = Instant::now();
        if self.hangs_at().is_some_and(|due| due <= now) {
            // The latest: all that it has fails with this.
            let asked = self.open.values().map(|o| o.asked).max().unwrap_or(now);
            return self.hung(asked).await;
        }
        let late: Vec<u64> = self.open.iter().filter(|(_, o)| o.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            let Some(open) = self.open.get_mut(&id) else { continue };
            let (asker, asked, waited) = (open.asker.clone(), open.asked, open.waited);
            let Some(reply) = open.reply.take() else { return self.hung(asked).await };
            let error = LlmError::Timeout(u64::try_from(self.config.request_timeout.as_millis()).unwrap_or(u64::MAX));
            self.failed(&error, asked);
            if self.given_up() {
                self.end().await;
            } else if let Some(process) = &mut self.process {
                let _ = timeout(TAKE, process.send(&ToWorker::Cancel { id })).await;
            }
            let drop_time = self.drop_time();
            if let Some(open) = self.open.get_mut(&id) {
                open.deadline = now + drop_time;
            }
            self.refuse(&asker, error, reply, waited);
        }
    }

    /// Ends a process that hangs, seen by a request that was asked then.
    async fn hung(&mut self, asked: Instant) {
        self.put_down("hangs").await;
        let hung = LlmError::Crashed("the process hung and was ended".to_owned());
        self.failed(&hung, asked);
        self.fail_open(&hung);
        self.end().await;
    }

    /// Kills the process for what is wrong with it. Its last words.
    async fn put_down(&mut self, wrong: &str) -> String {
        match &mut self.process {
            Some(process) => process.put_down(wrong).await,
            None => String::new(),
        }
    }

    /// The process is gone: everything that it had fails.
    async fn died(&mut self) {
        let how = match &mut self.process {
            Some(process) => process.obituary().await,
            None => String::new(),
        };
        self.lost(format!("the process ended{how}")).await;
    }

    /// Ends what is left of the process: everything that it had fails.
    async fn lost(&mut self, why: String) {
        let error = LlmError::Crashed(why);
        if let Some(asked) = self.open.values().filter(|o| o.reply.is_some()).map(|o| o.asked).max() {
            self.failed(&error, asked);
        }
        self.fail_open(&error);
        self.end().await;
    }

    /// The process is gone or about to be: all that it had fails.
    fn fail_open(&mut self, error: &LlmError) {
        let all = std::mem::take(&mut self.open);
        // Before the errors are told: whoever has one sees the process gone.
        self.vitals.metrics().stopped();
        for (_, open) in all {
            if let Some(reply) = open.reply {
                self.refuse(&open.asker, error.clone(), reply, open.waited);
            }
        }
    }

    /// Counts the failure of what was asked then, unless it was at work when something failed before: one hang or one broken
    /// batch fails many, at different times.
    fn failed(&mut self, error: &LlmError, asked: Instant) {
        if self.last_failure.is_some_and(|last| asked <= last) {
            return;
        }
        self.last_failure = Some(Instant::now());
        let failures = self.vitals.failures.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::warn!(%error, failures, "model request failed");
    }

    fn given_up(&self) -> bool {
        self.vitals.given_up()
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
            self.died().await;
        }
        let failures = self.vitals.failures.load(Ordering::Relaxed);
        if failures > 0 {
            sleep(FIRST_PAUSE * 2_u32.pow(failures.min(8) - 1)).await;
        }
        // What answers after a death must be what answered before it.
        if self.file.was_checked() {
            self.file.check(&self.config)?;
        }
        self.launch().await?;
        self.vitals.metrics().restarted();
        Ok(())
    }

    async fn launch(&mut self) -> Result<(), LlmError> {
        let mut process = Process::spawn(&self.config)?;
        self.vitals.pid.store(process.child.id().unwrap_or(0), Ordering::Relaxed);
        let first = timeout(self.config.start_timeout, process.receive()).await;
        let failed = match first {
            Ok(Ok(FromWorker::Ready { load_ms, context })) => {
                tracing::debug!(load_ms, context, "model loaded");
                self.vitals.load_ms.store(load_ms, Ordering::Relaxed);
                self.pulse = Pulse::new(Instant::now());
                self.vitals.metrics().loaded();
                self.process = Some(process);
                return Ok(());
            }
            Ok(Ok(FromWorker::Failed(e))) => {
                // It ends after this; llama.cpp's own reason stands on its stderr.
                process.obituary().await;
                LlmError::Unavailable(format!("{}{}", reason(&e), process.tail.quote()))
            }
            Ok(Ok(FromWorker::Answer { .. } | FromWorker::Began { .. } | FromWorker::Step { .. })) => {
                LlmError::Unavailable("the model's process answers unasked".to_owned())
            }
            Ok(Err(e)) if e.kind() == ErrorKind::InvalidData => {
                let said = process.put_down("says what is no message").await;
                LlmError::Unavailable(format!("the model's process sent {e} while loading{said}"))
            }
            Ok(Err(_)) => LlmError::Unavailable(format!("the model's process ended while loading{}", process.obituary().await)),
            Err(_) => LlmError::Unavailable(format!("not loaded within {} ms", self.config.start_timeout.as_millis())),
        };
        self.process = Some(process);
        self.end().await;
        Err(failed)
    }

    async fn end(&mut self) {
        self.vitals.pid.store(0, Ordering::Relaxed);
        self.fail_open(&LlmError::Crashed("the process was ended".to_owned()));
        if let Some(mut process) = self.process.take() {
            let _ = process.child.start_kill();
            let _ = timeout(REAP, process.child.wait()).await;
        }
    }
}

async fn next(process: &mut Option<Process>) -> std::io::Result<FromWorker> {
    match process {
        Some(process) => process.receive().await,
        None => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn reason(error: &LlmError) -> String {
    match error {
        LlmError::Unavailable(why) => why.clone(),
        other => other.to_string(),
    }
}
