//! The model's process: started with few variables of its surroundings, spoken to in lines of JSON, its last words kept.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::LlmError;
use super::local::LocalConfig;
use super::protocol::{FromWorker, LONGEST_MESSAGE, ToWorker};

/// Time for a process that is about to end, and for what it wrote.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Lines of the process's stderr that an error quotes at most.
const TAIL_LINES: usize = 8;
/// Characters kept of each such line.
const TAIL_WIDTH: usize = 200;
/// Bytes of a line of stderr that are read at once, and kept before it is cut to that.
const LINE_BYTES: u64 = 64 << 10;
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

/// A process that runs.
#[derive(Debug)]
pub struct Process {
    /// It.
    pub child: Child,
    /// What it says beside messages.
    pub tail: Tail,
    stdin: ChildStdin,
    messages: Messages<ChildStdout>,
    following: JoinHandle<()>,
}

/// Messages as they come, a line each. A model's file may have taken the process over: no line takes memory without end.
#[derive(Debug)]
struct Messages<R> {
    reader: BufReader<R>,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
}

/// The last lines of stderr.
#[derive(Debug, Clone, Default)]
pub struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when it cannot be started.
    pub fn spawn(config: &LocalConfig) -> Result<Self, LlmError> {
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
            // Waiting threads spin for some microseconds, then give the processor back. Spinning for long is some ten times
            // slower beside a busy server (137-231 s instead of 17-21 s beside six busy processes on 2 cores); not at all costs
            // a sleep at every step of every layer: 37 tokens a second instead of 152, and 15 instead of 31 beside four.
            .env("OMP_WAIT_POLICY", "passive")
            .env("GOMP_SPINCOUNT", "1000")
            .envs(std::env::vars_os().filter(|(name, _)| harmless(&name.to_string_lossy())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            // A group of its own: Ctrl-C in the terminal is the daemon's to handle.
            .process_group(0);
        if config.exact {
            command.arg("--exact");
        }
        for adapter in &config.adapters {
            command.arg("--adapter").arg(adapter.argument());
        }
        if let Some(name) = &config.adapter {
            command.args(["--adapt", name]);
        }
        if let Some(limit) = config.memory_limit {
            command.args(["--memory-limit", &limit.to_string()]);
        }
        let mut child = command.spawn().map_err(|e| refuse(&e))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(refuse(&"its streams are missing"));
        };
        let tail = Tail::default();
        let following = tokio::spawn(tail.clone().follow(stderr));
        Ok(Self { child, stdin, messages: Messages::new(stdout), tail, following })
    }

    /// Tells it something.
    ///
    /// # Errors
    /// It is gone.
    pub async fn send(&mut self, message: &ToWorker) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.stdin.write_all(&line).await?;
        self.stdin.flush().await
    }

    /// What it says next; cancel-safe.
    ///
    /// # Errors
    /// It is gone; of the kind [`ErrorKind::InvalidData`] when it says what is no message, or too long a one.
    pub async fn receive(&mut self) -> std::io::Result<FromWorker> {
        self.messages.next().await
    }

    /// How it ended and its last words, which go to the log too.
    pub async fn obituary(&mut self) -> String {
        let status = timeout(LAST_WORDS, self.child.wait()).await;
        let how = match status {
            Ok(Ok(status)) => describe(status),
            _ => "its pipe is closed".to_owned(),
        };
        let said = self.last_words(&how).await;
        format!(": {how}{said}")
    }

    /// Kills it for what is wrong with it. Its last words, which go to the log too.
    pub async fn put_down(&mut self, wrong: &str) -> String {
        let _ = self.child.start_kill();
        self.last_words(wrong).await
    }

    /// The last lines of its stderr, which go to the log too, for those who find it dead.
    async fn last_words(&mut self, how: &str) -> String {
        // What it wrote may not have been read yet.
        let _ = timeout(LAST_WORDS, &mut self.following).await;
        let said = self.tail.quote();
        tracing::warn!(target: "galen_agents::llm::worker", how, stderr = said.trim(), "the end of the model's process");
        said
    }
}

impl<R: AsyncRead + Unpin> Messages<R> {
    fn new(reader: R) -> Self {
        Self { reader: BufReader::new(reader), line: Vec::new() }
    }

    /// Cancel-safe: whenever it waits, all that was taken from the reader is in `line`. Too long a line stays an error.
    async fn next(&mut self) -> std::io::Result<FromWorker> {
        loop {
            let piece = match self.reader.fill_buf().await {
                Ok([]) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(piece) => piece,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let end = piece.iter().position(|b| *b == b'\n');
            let part = piece.get(..end.unwrap_or(piece.len())).unwrap_or_default();
            if self.line.len() + part.len() > LONGEST_MESSAGE {
                return Err(Error::new(ErrorKind::InvalidData, format!("a message of more than {LONGEST_MESSAGE} bytes")));
            }
            self.line.extend_from_slice(part);
            let taken = part.len() + usize::from(end.is_some());
            self.reader.consume(taken);
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                // What serde says of it may quote it, at any length.
                let message = serde_json::from_slice(&line).map(FromWorker::brief);
                return message.map_err(|_| Error::new(ErrorKind::InvalidData, "what is no message"));
            }
        }
    }
}

impl Tail {
    async fn follow(self, stderr: impl AsyncRead + Unpin) {
        let (mut stderr, mut line) = (BufReader::new(stderr), Vec::new());
        while next_line(&mut stderr, &mut line).await {
            let line: String = String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).take(TAIL_WIDTH).collect();
            tracing::debug!(target: "galen_agents::llm::worker", "{line}");
            let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(line);
        }
    }

    /// The last lines in brackets; nothing where there are none.
    pub fn quote(&self) -> String {
        let tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = tail.iter().filter(|l| l.chars().any(char::is_alphanumeric)).cloned().collect::<Vec<_>>().join(" | ");
        if text.is_empty() { text } else { format!(" ({text})") }
    }
}

/// Reads the next line and keeps its first [`LINE_BYTES`]; what is longer is read past. False at the end.
async fn next_line(stderr: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> bool {
    line.clear();
    let mut piece = Vec::new();
    loop {
        piece.clear();
        match (&mut *stderr).take(LINE_BYTES).read_until(b'\n', &mut piece).await {
            Ok(0) | Err(_) => return !line.is_empty(),
            Ok(_) => {}
        }
        let ended = piece.ends_with(b"\n");
        if line.is_empty() {
            std::mem::swap(line, &mut piece);
        }
        if ended {
            return true;
        }
    }
}

pub(super) fn harmless(name: &str) -> bool {
    ENVIRONMENT.iter().any(|prefix| name.starts_with(prefix))
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
    use super::super::protocol::LONGEST_WHY;
    use super::*;

    #[test]
    fn secrets_in_the_environment_stay_with_the_daemon() {
        for name in ["PGPASSWORD", "DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "GALEN_TOKEN"] {
            assert!(!harmless(name), "{name}");
        }
        assert!(harmless("LD_LIBRARY_PATH") && harmless("CUDA_VISIBLE_DEVICES"));
    }

    #[tokio::test]
    async fn a_message_without_end_is_an_error_and_takes_no_memory_without_end() {
        let mut messages = Messages::new(tokio::io::repeat(b'x'));
        for _ in 0..2 {
            let error = messages.next().await.unwrap_err();
            assert_eq!((error.kind(), error.to_string()), (ErrorKind::InvalidData, "a message of more than 67108864 bytes".to_owned()));
            assert!(messages.line.capacity() <= 2 * LONGEST_MESSAGE, "{} bytes", messages.line.capacity());
        }
    }

    #[tokio::test]
    async fn a_message_in_pieces_arrives_whole_though_reads_of_it_are_cancelled() {
        let (mut process, stdout) = tokio::io::duplex(1 << 10);
        let mut messages = Messages::new(stdout);
        let (first, rest) = r#"{"ready":{"load_ms":7,"context":64}}"#.split_at(10);
        let (second, third) = rest.split_at(10);
        for piece in [first, second] {
            process.write_all(piece.as_bytes()).await.unwrap();
            let read = timeout(Duration::from_millis(20), messages.next()).await;
            assert!(read.is_err(), "{read:?}");
        }
        assert_eq!(messages.line.len(), 20, "what was read stays");
        process.write_all(format!("{third}\n{{\"began\":{{\"id\":3}}}}\nnonsense\n{{\"be").as_bytes()).await.unwrap();
        drop(process);
        assert_eq!(messages.next().await.unwrap(), FromWorker::Ready { load_ms: 7, context: 64 });
        assert_eq!(messages.next().await.unwrap(), FromWorker::Began { id: 3 });
        assert_eq!(messages.next().await.unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(messages.next().await.unwrap_err().kind(), ErrorKind::UnexpectedEof, "half a message is none");
    }

    #[tokio::test]
    async fn an_error_of_any_length_is_taken_in_short_and_on_one_line() {
        let error = LlmError::Invalid(format!("no\n{}", "ä".repeat(1 << 20)));
        let line = format!("{}\n", serde_json::to_string(&FromWorker::Failed(error)).unwrap());
        let said = Messages::new(line.as_bytes()).next().await.unwrap();
        let FromWorker::Failed(LlmError::Invalid(why)) = said else { panic!("{said:?}") };
        assert!(why.starts_with("no ä") && why.chars().count() == LONGEST_WHY, "{} characters", why.chars().count());
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

    #[tokio::test]
    async fn a_line_without_end_takes_no_memory_without_end() {
        let text = format!("{}\nlast\n\nrest", "x".repeat(1 << 20));
        let (mut stderr, mut line) = (text.as_bytes(), Vec::new());
        let mut lengths = Vec::new();
        while next_line(&mut stderr, &mut line).await {
            lengths.push(line.len());
            assert!(line.capacity() <= 4 * usize::try_from(LINE_BYTES).unwrap(), "{} bytes", line.capacity());
        }
        assert_eq!(lengths, [64 << 10, 5, 1, 4]);
        let tail = Tail::default();
        tail.clone().follow(text.as_bytes()).await;
        assert!(tail.quote().ends_with("x | last | rest)"), "{}", tail.quote());
    }
}
