//! What the integration tests share: the binary, its output, small HTTP and socket clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A target that cannot be reached.
pub const NOWHERE: &str = "[[target]]\nname = \"shop\"\ndsn = \"postgresql://galen:hunter2@127.0.0.1:1/shop\"\n";
/// Where Alertmanager posts to.
pub const ALERTS: &str = "/api/v1/alerts/alertmanager";
/// When the alerts of a test began.
pub const BEGAN: &str = "2026-01-01T14:05:00Z";

/// The real binary, without the caller's configuration.
pub fn galen() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_galen"));
    for name in ["GALEN_DSN", "NO_COLOR", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs and returns code, standard output and standard error.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = galen().args(arguments).output().unwrap();
    (status.code().unwrap_or(-1), String::from_utf8_lossy(&stdout).into(), String::from_utf8_lossy(&stderr).into())
}

/// As [`run`], with files that cannot grow beyond some blocks of 512 bytes: what a full disk does.
pub fn cramped(blocks: u32, arguments: &[&str]) -> (i32, String, String) {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")).arg(galen().get_program());
    let Output { status, stdout, stderr } = shell.args(arguments).stdin(Stdio::null()).output().unwrap();
    (status.code().unwrap_or(-1), String::from_utf8_lossy(&stdout).into(), String::from_utf8_lossy(&stderr).into())
}

/// JSON lines of standard output.
pub fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Fails unless each statement that a report's remedies offer parses. Lines for a shell, and those that leave a place for
/// the reader to fill in, are no statements.
pub fn remedies_can_be_run(report: &Value) {
    const BEGINS: [&str; 16] = [
        "ALTER", "ANALYZE", "COPY", "CREATE", "DELETE", "DROP", "EXPLAIN", "INSERT", "REINDEX", "ROLLBACK", "SELECT", "SET", "SHOW",
        "UPDATE", "VACUUM", "WITH",
    ];
    let remedies = report["root_causes"].as_array().unwrap().iter().flat_map(|cause| cause["remedies"].as_array().unwrap());
    for text in remedies.flat_map(|remedy| ["sql", "rollback", "verify"].map(|part| remedy[part].as_str().unwrap())) {
        let statement = text.split_whitespace().next().is_some_and(|word| BEGINS.contains(&word));
        if statement && !text.contains("# in a shell") && !text.contains("...") && !text.contains('<') {
            assert!(galen_tools::sql::statements(text).is_some_and(|count| count > 0), "{text}");
        }
    }
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The shared benchmark folder, if this machine has it.
pub fn bench(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("GALEN_BENCH_DIR").map_or_else(|| repository("../shared/bench"), PathBuf::from);
    let path = root.join(path);
    if !path.exists() {
        eprintln!("skipped: {} is not on this machine; set GALEN_BENCH_DIR", path.display());
        return None;
    }
    Some(path)
}

/// True, and said, where tests do without a model.
pub fn no_model() -> bool {
    let without = std::env::var_os("GALEN_NO_MODEL").is_some_and(|v| v == "1");
    if without {
        eprintln!("skipped: GALEN_NO_MODEL=1");
    }
    without
}

/// Writes a file. Returns its path, as an argument.
pub fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A daemon of its own, killed when dropped.
pub struct Daemon {
    pub child: Child,
    pub http: String,
    pub socket: PathBuf,
}

impl Daemon {
    /// Starts `galen serve` on a free port and waits until it answers.
    pub fn start(data_dir: &Path, targets: &str) -> Self {
        Self::launch(data_dir, targets, galen())
    }

    /// As [`Daemon::start`], with files that cannot grow beyond some blocks of 512 bytes: what a full disk does to it.
    pub fn start_cramped(data_dir: &Path, targets: &str, blocks: u32) -> Self {
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")).arg(galen().get_program());
        Self::launch(data_dir, targets, shell)
    }

    fn launch(data_dir: &Path, targets: &str, command: std::process::Command) -> Self {
        Self::launch_in(data_dir, data_dir, targets, command)
    }

    fn launch_in(folder: &Path, data_dir: &Path, targets: &str, mut command: std::process::Command) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let http = format!("127.0.0.1:{port}");
        let config = folder.join("galen.toml");
        let text =
            format!("data_dir = {:?}\n[http]\nlisten = {http:?}\n[incident]\nsettle_s = 1\n{targets}", data_dir.display().to_string());
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let child = command.arg("serve").arg("--config").arg(&config).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let daemon = Self { child, http, socket: data_dir.join("galen.sock") };
        daemon.until("ready", || daemon.get("/readyz").0 == 200);
        daemon
    }

    /// As [`Daemon::start`], with an environment variable.
    pub fn start_with(data_dir: &Path, targets: &str, (name, value): (&str, &str)) -> Self {
        let mut command = galen();
        command.env(name, value);
        Self::launch(data_dir, targets, command)
    }

    /// As [`Daemon::start`], with configuration and log in another folder than the data.
    pub fn start_in(folder: &Path, data_dir: &Path, targets: &str) -> Self {
        Self::launch_in(folder, data_dir, targets, galen())
    }

    /// Waits for a condition, at most 20 s.
    pub fn until(&self, what: &str, holds: impl FnMut() -> bool) {
        until(what, holds);
    }

    /// The state of an incident.
    pub fn state(&self, id: i64) -> String {
        self.call("incidents.show", json!({"id": id}))["state"].as_str().unwrap_or_default().to_owned()
    }

    /// GET: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.http(&format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.http), b"")
    }

    /// POST: status and body.
    pub fn post(&self, path: &str, body: &[u8]) -> (u16, String) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.http,
            body.len()
        );
        self.http(&head, body)
    }

    /// A raw request.
    pub fn http(&self, head: &str, body: &[u8]) -> (u16, String) {
        let Ok(mut stream) = TcpStream::connect(&self.http) else { return (0, String::new()) };
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        (status, answer.split_once("\r\n\r\n").map(|(_, b)| b.to_owned()).unwrap_or_default())
    }

    /// One line to the socket, one line back.
    pub fn line(&self, line: &str) -> Value {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// A JSON-RPC call: its result.
    pub fn call(&self, method: &str, params: Value) -> Value {
        self.line(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string())["result"].clone()
    }
}

/// Waits for a condition, at most 20 s.
pub fn until(what: &str, holds: impl FnMut() -> bool) {
    within(20, what, holds);
}

/// Waits for a condition, at most some seconds.
pub fn within(seconds: u64, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !holds() {
        assert!(Instant::now() < end, "not {what} within {seconds} s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Sends a signal to a process that a test started.
pub fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The incident that an answer to alerts names.
pub fn incident(body: &str) -> i64 {
    serde_json::from_str::<Value>(body).unwrap()["incident"].as_i64().unwrap()
}

/// An Alertmanager payload with one alert.
pub fn payload(fingerprint: &str, starts_at: &str) -> Vec<u8> {
    alerts(&[(fingerprint, starts_at, "")])
}

/// An Alertmanager payload: fingerprint, start and label `target` (none when empty) of each alert.
pub fn alerts(alerts: &[(&str, &str, &str)]) -> Vec<u8> {
    let alert = |(fingerprint, starts_at, target): &(&str, &str, &str)| {
        json!({"status": "firing", "labels": {"alertname": "PostgresSlow", "target": target}, "annotations": {"summary": "slow"},
               "startsAt": starts_at, "endsAt": "0001-01-01T00:00:00Z", "fingerprint": fingerprint})
    };
    let alerts: Vec<Value> = alerts.iter().map(alert).collect();
    json!({"version": "4", "status": "firing", "receiver": "galen", "groupKey": "x", "truncatedAlerts": 0, "alerts": alerts})
        .to_string()
        .into_bytes()
}
