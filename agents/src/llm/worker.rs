//! The model's own process: requests as JSON lines on stdin, answers on what was stdout. llama.cpp may abort the
//! process, print, or run for minutes; here it can do so without harm to the daemon.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, dup, dup2_stdout, getppid};

use super::LlmError;
use super::engine::Engine;
use super::offload::Offload;
use super::protocol::{FromWorker, Output, Task, ToWorker};

/// How long a piece of work may still run when nobody is left to answer to.
const GRACE: Duration = Duration::from_secs(2);

/// Runs until stdin closes. Arguments: `--model PATH --threads N --context N`, and from the supervisor
/// `--memory-limit BYTES --parent PID` and what [`Offload::arguments`] gives. `--devices` alone lists devices instead. Returns the exit code: 0, 2 for bad arguments, 6 when the model does not load.
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

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    model: PathBuf,
    threads: u16,
    context: u32,
    memory_limit: Option<u64>,
    parent: Option<i32>,
    offload: Offload,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { threads: 2, context: 4_096, ..Self::default() };
        let mut rest = arguments.iter();
        while let Some(flag) = rest.next() {
            let value = rest.next().ok_or_else(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--model" => options.model = PathBuf::from(value),
                "--threads" => options.threads = number(flag, value)?,
                "--context" => options.context = number(flag, value)?,
                "--memory-limit" => options.memory_limit = Some(number(flag, value)?),
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
    let (backend, model) = match load(options) {
        Ok(loaded) => loaded,
        Err(e) => return failed(&mut answers, e),
    };
    let threads = i32::from(options.threads.max(1));
    let mut engine = match Engine::new(&backend, &model, options.context, threads, options.offload) {
        Ok(engine) => engine,
        Err(e) => return failed(&mut answers, e),
    };
    let load_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    say(&mut answers, &FromWorker::Ready { load_ms, context: engine.limit() as u64 })?;
    let inbox = Inbox::open();
    while let Ok((id, task)) = inbox.work.recv() {
        let result = work(&mut engine, &task, &|| inbox.stopped(id));
        say(&mut answers, &FromWorker::Answer { id, result })?;
    }
    Ok(0)
}

fn load(options: &Options) -> Result<(LlamaBackend, LlamaModel), LlmError> {
    super::gguf::check(&options.model)?;
    let refuse = |e: &dyn std::fmt::Display| LlmError::Unavailable(format!("{} does not load: {e}", options.model.display()));
    let backend = LlamaBackend::init().map_err(|e| refuse(&e))?;
    let model = options.offload.load(&backend, &options.model).map_err(|e| refuse(&e))?;
    Ok((backend, model))
}

fn work(engine: &mut Engine<'_>, task: &Task, stop: &dyn Fn() -> bool) -> Result<Output, LlmError> {
    match task {
        Task::Score(request) => engine.score(request, stop).map(Output::Scores),
        Task::Generate(request) => engine.generate(request, stop).map(Output::Generated),
    }
}

fn say(answers: &mut File, message: &FromWorker) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    answers.write_all(&line)
}

/// Reads requests on a thread, so that a cancellation or the end of the parent is seen while the model works.
struct Inbox {
    work: Receiver<(u64, Task)>,
    /// Requests up to this number are not waited for: the parent sends one at a time.
    cancelled: Arc<AtomicU64>,
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
                        if sender.send((id, task)).is_err() {
                            break;
                        }
                    }
                    Ok(ToWorker::Cancel { id }) => {
                        cancelled.fetch_max(id, Ordering::Relaxed);
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
        self.closed.load(Ordering::Relaxed) || self.cancelled.load(Ordering::Relaxed) >= id
    }
}

#[cfg(test)]
mod tests {
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
}
