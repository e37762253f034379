//! The model's own process: requests as JSON lines on stdin, answers on what was stdout. llama.cpp may abort the
//! process, print, or run for minutes; here it can do so without harm to the daemon.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, dup, dup2_stdout, getppid};

use super::adapters::{AdapterFile, Adapters};
use super::desk::Desk;
use super::embedder::Embedder;
use super::engine::Engine;
use super::offload::Offload;
use super::others::{Embedding, Others};
use super::prefault::ahead;
use super::protocol::{FromWorker, LONGEST_MESSAGE, Output, Task, Times, ToWorker};
use super::{LlmError, Usage};

/// How long a piece of work may still run when nobody is left to answer to.
const GRACE: Duration = Duration::from_secs(2);
/// Least time between two signs of life.
const BEAT: Duration = Duration::from_secs(1);
/// How far apart the numbers of requests may be that come in another order than they were numbered: those that wait to be sent.
const APART: u64 = 4_096;

/// Runs until stdin closes. Arguments: `--model PATH --threads N --context N [--exact]`, and from the supervisor
/// `--memory-limit BYTES --parent PID --adapter NAME:SCALE:PATH... --adapt NAME` and what [`Offload::arguments`] gives. `--devices` alone lists devices
/// instead. Returns the exit code: 0, 2 for bad arguments, 6 when the model does not load.
pub fn worker_main(arguments: &[String]) -> i32 {
    if arguments == ["--devices"] {
        return super::devices::print();
    }
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("llm-worker: {why}");
            return 2;
        }
    };
    match run(&options) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("llm-worker: {e}");
            70
        }
    }
}

#[derive(Debug, Default, PartialEq)]
struct Options {
    model: PathBuf,
    threads: u16,
    context: u32,
    memory_limit: Option<u64>,
    parent: Option<i32>,
    exact: bool,
    offload: Offload,
    adapters: Vec<AdapterFile>,
    /// Name of the one to begin with.
    adapter: Option<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { threads: 2, context: 4_096, ..Self::default() };
        let mut rest = arguments.iter();
        while let Some(flag) = rest.next() {
            if flag == "--exact" {
                options.exact = true;
                continue;
            }
            let value = rest.next().ok_or_else(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--model" => options.model = PathBuf::from(value),
                "--threads" => options.threads = number(flag, value)?,
                "--context" => options.context = number(flag, value)?,
                "--memory-limit" => options.memory_limit = Some(number(flag, value)?),
                "--adapter" => {
                    options.adapters.push(AdapterFile::parse(value).ok_or_else(|| format!("{flag} {value}: not name:scale:path"))?)
                }
                "--adapt" => options.adapter = Some(value.clone()),
                "--parent" => options.parent = Some(number(flag, value)?),
                _ if options.offload.read(flag, value)? => {}
                _ => return Err(format!("unknown argument {flag}")),
            }
        }
        if options.model.as_os_str().is_empty() {
            return Err("--model PATH is missing".to_owned());
        }
        Ok(options)
    }
}

fn number<N: std::str::FromStr>(flag: &str, value: &str) -> Result<N, String> {
    value.parse().map_err(|_| format!("{flag} {value}: not a number that fits"))
}

fn run(options: &Options) -> io::Result<i32> {
    // llama.cpp may print to stdout: answers get a descriptor of their own.
    let mut answers = File::from(dup(io::stdout())?);
    dup2_stdout(io::stderr())?;
    if let Some(limit) = options.memory_limit {
        setrlimit(Resource::RLIMIT_AS, limit, limit)?;
    }
    if let Some(parent) = options.parent {
        #[cfg(target_os = "linux")]
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the line above.
        if getppid() != Pid::from_raw(parent) {
            return Ok(0);
        }
    }
    let began = Instant::now();
    // A refused model is an answer too: the parent reads it.
    let failed = |answers: &mut File, e: LlmError| say(answers, &FromWorker::Failed(e)).map(|()| 6);
    let (backend, model, mut adapters) = match load(options) {
        Ok(loaded) => loaded,
        Err(e) => return failed(&mut answers, e),
    };
    let threads = i32::from(options.threads.max(1));
    let load_ms = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut others = Others { embedder: Embedder::new(&backend, &model, threads), adapters: &mut adapters, active: None };
    let first = options.adapter.as_deref();
    if options.exact {
        let mut engine = match Engine::new(&backend, &model, options.context, threads, options.offload) {
            Ok(engine) => engine,
            Err(e) => return failed(&mut answers, e),
        };
        if let Err(e) = others.adapt(first, |adapters| engine.adapt(adapters, first)) {
            return failed(&mut answers, e);
        }
        say(&mut answers, &FromWorker::Ready { load_ms: load_ms(), context: engine.limit() as u64 })?;
        return one_by_one(&mut engine, &mut others, &Inbox::open(), &mut answers);
    }
    let mut desk = match Desk::new(&backend, &model, options.context, threads, options.offload) {
        Ok(desk) => desk,
        Err(e) => return failed(&mut answers, e),
    };
    if let Err(e) = others.adapt(first, |adapters| desk.adapt(adapters, first)) {
        return failed(&mut answers, e);
    }
    say(&mut answers, &FromWorker::Ready { load_ms: load_ms(), context: desk.limit() as u64 })?;
    together(&mut desk, &mut others, &Inbox::open(), &mut answers)
}

/// The exact way: each request alone, in the order they came.
fn one_by_one(engine: &mut Engine<'_>, others: &mut Others<'_>, inbox: &Inbox, answers: &mut File) -> io::Result<i32> {
    while let Ok(Asked { id, task, since }) = inbox.work.recv() {
        say(answers, &FromWorker::Began { id })?;
        let (queued_us, began) = (micros(since.elapsed()), Instant::now());
        let mut usage = Usage::default();
        let stop = || inbox.stopped(id);
        let result = if stop() { Err(cancelled()) } else { work(engine, others, &task, &mut usage, &stop) };
        inbox.forget(id);
        let times = Times { queued_us, ran_us: micros(began.elapsed()) };
        say(answers, &FromWorker::Answer { id, result, usage, times, counts: None })?;
    }
    Ok(0)
}

/// All requests at once, a batch at a time, and a text to embed between two. A change of adapters waits for those before it,
/// and those after it wait for it.
fn together(desk: &mut Desk<'_>, others: &mut Others<'_>, inbox: &Inbox, answers: &mut File) -> io::Result<i32> {
    let mut later: VecDeque<Asked> = VecDeque::new();
    let mut embeddings: VecDeque<Embedding> = VecDeque::new();
    let mut beat = Beat::default();
    loop {
        if desk.idle() && later.is_empty() && embeddings.is_empty() {
            let Ok(first) = inbox.work.recv() else { return Ok(0) };
            later.push_back(first);
        }
        // Taken before the requests are: what is cancelled has come already.
        let gone = inbox.cancellations();
        later.extend(inbox.work.try_iter());
        for id in gone {
            if let Some(Asked { since, .. }) = take_out(&mut later, |asked| asked.id == id) {
                say_other(answers, (id, since, Instant::now()), Err(cancelled()), Usage::default(), desk)?;
            } else if let Some(one) = take_out(&mut embeddings, |one| one.id == id) {
                say_other(answers, (id, one.since, one.began), Err(cancelled()), one.usage, desk)?;
            } else {
                desk.cancel(id);
            }
        }
        while let Some(Asked { id, task, since }) = later.pop_front() {
            match task {
                Task::Adapt(name) if !desk.idle() || !embeddings.is_empty() => {
                    later.push_front(Asked { id, task: Task::Adapt(name), since });
                    break;
                }
                Task::Adapt(name) => {
                    let (began, name) = (Instant::now(), name.as_deref());
                    let result = others.adapt(name, |adapters| desk.adapt(adapters, name)).map(|()| Output::Adapted);
                    say_other(answers, (id, since, began), result, Usage::default(), desk)?;
                }
                Task::Embed(request) => {
                    say(answers, &FromWorker::Began { id })?;
                    embeddings.push_back(Embedding::new(id, since, request));
                }
                task => desk.take(id, &task, since),
            }
        }
        if let Some(mut one) = embeddings.pop_front() {
            let ended = others.embed_next(&mut one);
            beat.step(answers, desk)?;
            match ended {
                Some(result) => say_other(answers, (one.id, one.since, one.began), result, one.usage, desk)?,
                None => embeddings.push_back(one),
            }
        }
        let mut said = Ok(());
        let done = desk.step(&mut |id| said = say(answers, &FromWorker::Began { id }));
        said?;
        // Before the answers: the sign that comes first tells how long the step was.
        beat.step(answers, desk)?;
        for (id, result, usage, times) in done {
            say(answers, &FromWorker::Answer { id, result, usage, times, counts: Some(desk.counts()) })?;
        }
    }
}

/// When a sign of life was given last.
#[derive(Default)]
struct Beat(Option<Instant>);

impl Beat {
    /// Gives one where it is time, as soon as it is known how long the longest steps are.
    fn step(&mut self, answers: &mut File, desk: &Desk<'_>) -> io::Result<()> {
        if desk.tried() && self.due(Instant::now()) { say(answers, &FromWorker::Step { counts: desk.counts() }) } else { Ok(()) }
    }

    fn due(&mut self, now: Instant) -> bool {
        let due = self.0.is_none_or(|last| now.duration_since(last) >= BEAT);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

fn take_out<T>(list: &mut VecDeque<T>, is: impl Fn(&T) -> bool) -> Option<T> {
    list.iter().position(is).and_then(|place| list.remove(place))
}

/// The answer to what is not part of a batch: its number, when it came, and when it began.
fn say_other(
    answers: &mut File,
    (id, since, began): (u64, Instant, Instant),
    result: Result<Output, LlmError>,
    usage: Usage,
    desk: &Desk<'_>,
) -> io::Result<()> {
    let times = Times { queued_us: micros(began.duration_since(since)), ran_us: micros(began.elapsed()) };
    say(answers, &FromWorker::Answer { id, result, usage, times, counts: Some(desk.counts()) })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn cancelled() -> LlmError {
    LlmError::Invalid("cancelled".to_owned())
}

fn load(options: &Options) -> Result<(LlamaBackend, LlamaModel, Adapters), LlmError> {
    super::gguf::check(&options.model)?;
    let refuse = |e: &dyn std::fmt::Display| LlmError::Unavailable(format!("{} does not load: {e}", options.model.display()));
    let backend = LlamaBackend::init().map_err(|e| refuse(&e))?;
    let mut model = ahead(|| options.offload.load(&backend, &options.model)).map_err(|e| refuse(&e))?;
    let adapters = Adapters::load(&mut model, &options.adapters)?;
    Ok((backend, model, adapters))
}

fn work(
    engine: &mut Engine<'_>,
    others: &mut Others<'_>,
    task: &Task,
    usage: &mut Usage,
    stop: &dyn Fn() -> bool,
) -> Result<Output, LlmError> {
    match task {
        Task::Embed(request) => others.embed(request, usage, stop).map(Output::Embeddings),
        Task::Adapt(name) => others.adapt(name.as_deref(), |adapters| engine.adapt(adapters, name.as_deref())).map(|()| Output::Adapted),
        Task::Score(request) => engine.score(request, usage, stop).map(Output::Scores),
        Task::Generate(request) => engine.generate(request, usage, stop).map(Output::Generated),
    }
}

fn say(answers: &mut File, message: &FromWorker) -> io::Result<()> {
    answers.write_all(&line_of(message)?)
}

/// A message as a line. An answer that is longer than is read is refused here: it would end the process, with all that it has.
fn line_of(message: &FromWorker) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    if let FromWorker::Answer { id, usage, times, counts, .. } = message
        && line.len() > LONGEST_MESSAGE
    {
        let result = Err(LlmError::Invalid(format!("the answer takes {} bytes; at most {LONGEST_MESSAGE} are read", line.len())));
        line = serde_json::to_vec(&FromWorker::Answer { id: *id, result, usage: *usage, times: *times, counts: *counts })?;
    }
    line.push(b'\n');
    Ok(line)
}

/// A request that came.
struct Asked {
    id: u64,
    task: Task,
    since: Instant,
}

/// Reads requests on a thread, so that a cancellation or the end of the parent is seen while the model works.
struct Inbox {
    work: Receiver<Asked>,
    /// Requests that nobody waits for.
    cancelled: Arc<Mutex<BTreeSet<u64>>>,
    closed: Arc<AtomicBool>,
}

impl Inbox {
    fn open() -> Self {
        let (sender, work) = channel();
        let inbox = Self { work, cancelled: Arc::default(), closed: Arc::default() };
        let (cancelled, closed) = (Arc::clone(&inbox.cancelled), Arc::clone(&inbox.closed));
        std::thread::spawn(move || {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                match serde_json::from_str(&line) {
                    Ok(ToWorker::Ask { id, task }) => {
                        if sender.send(Asked { id, task: *task, since: Instant::now() }).is_err() {
                            break;
                        }
                    }
                    Ok(ToWorker::Cancel { id }) => {
                        lock(&cancelled).insert(id);
                    }
                    Err(e) => {
                        eprintln!("llm-worker: a request does not parse: {e}");
                        break;
                    }
                }
            }
            closed.store(true, Ordering::Relaxed);
            drop(sender);
            std::thread::sleep(GRACE);
            // Unwinding C++ statics under a running decode is worse than a hard end.
            let _ = kill(Pid::this(), Signal::SIGKILL);
        });
        inbox
    }

    fn stopped(&self, id: u64) -> bool {
        self.closed.load(Ordering::Relaxed) || lock(&self.cancelled).contains(&id)
    }

    /// A request that is answered cannot be cancelled any more.
    fn forget(&self, id: u64) {
        forget(&mut lock(&self.cancelled), id);
    }

    fn cancellations(&self) -> BTreeSet<u64> {
        std::mem::take(&mut *lock(&self.cancelled))
    }
}

/// Takes out the number of a request that is answered, and those of long ago: what is cancelled while its answer is on its way is
/// answered for good. Requests of about the same time may come in another order than they were numbered.
fn forget(cancelled: &mut BTreeSet<u64>, id: u64) {
    cancelled.retain(|other| *other != id && other.saturating_add(APART) > id);
}

fn lock(set: &Mutex<BTreeSet<u64>>) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::Generated;
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_are_read() {
        let options = parse("--model m.gguf --threads 3 --context 512 --memory-limit 9 --parent 7").unwrap();
        assert_eq!((options.threads, options.context), (3, 512));
        assert_eq!((options.memory_limit, options.parent), (Some(9), Some(7)));
    }

    #[test]
    fn bad_arguments_give_one_clear_line() {
        for (line, word) in [("", "--model"), ("--model", "needs a value"), ("--model m --threads x", "--threads x"), ("--foo 1", "--foo")]
        {
            let why = parse(line).unwrap_err();
            assert!(why.contains(word) && !why.contains('\n'), "{why}");
        }
    }

    #[test]
    fn an_answer_that_is_longer_than_is_read_is_a_refusal() {
        let answer = |length| FromWorker::Answer {
            id: 7,
            result: Ok(Output::Generated(Generated { text: "x".repeat(length), ..Generated::default() })),
            usage: Usage { generated_tokens: 3, ..Usage::default() },
            times: Times::default(),
            counts: None,
        };
        let said = |message: &FromWorker| serde_json::from_slice::<FromWorker>(&line_of(message).unwrap()).unwrap();
        assert_eq!(said(&answer(9)), answer(9));
        let FromWorker::Answer { id: 7, result, usage, .. } = said(&answer(LONGEST_MESSAGE)) else { panic!() };
        assert!(matches!(&result, Err(LlmError::Invalid(why)) if why.contains("at most 67108864")), "{result:?}");
        assert_eq!(usage.generated_tokens, 3, "it cost what it cost");
    }

    #[test]
    fn an_answer_takes_back_its_own_cancellation_alone() {
        // The second of two callers was first, and the first has left since.
        let mut cancelled = BTreeSet::from([3, 5, 9]);
        forget(&mut cancelled, 5);
        assert_eq!(cancelled, BTreeSet::from([3, 9]));
        // Cancelled when they were answered already.
        for id in 0..100_000 {
            cancelled.insert(id);
            forget(&mut cancelled, id + 1);
        }
        assert!(cancelled.len() as u64 <= APART, "{}", cancelled.len());
    }

    #[test]
    fn signs_of_life_are_a_second_apart() {
        let (mut beat, start) = (Beat::default(), Instant::now());
        let given: Vec<u64> = (0..30).filter(|tenths| beat.due(start + Duration::from_millis(100 * tenths))).collect();
        assert_eq!(given, [0, 10, 20]);
    }
}
