//! `galen demo`: a private PostgreSQL under load, a real daemon beside it, a fault, and the report it leads to.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use galen_agents::report::{Report, terminal};
use galen_tools::store;

use crate::failure::Failure;
use crate::lab::{Cluster, Scenario};
use crate::signals::Signals;
use crate::{output, rpc};

/// Calm before the fault: the detector's warm-up and a baseline.
const CALM: Duration = Duration::from_secs(32);
/// A healthy demo watches this long and expects nothing.
const HEALTHY: Duration = Duration::from_secs(40);
/// Seed of the load's random numbers: every demo throws the same dice.
const SEED: u64 = 1;
/// The daemon must notice a fault within this time, and report within the second.
const NOTICE: Duration = Duration::from_secs(60);
const REPORT: Duration = Duration::from_secs(180);

/// What to demonstrate.
#[derive(Debug, Clone)]
pub struct Args {
    /// Name of the fault.
    pub fault: String,
    /// Model to use, none without one.
    pub model: Option<String>,
    /// Folder of model files.
    pub models_dir: PathBuf,
    /// Folder for report, capture and JSON.
    pub out: Option<PathBuf>,
    /// Watch at the daemon's default intervals.
    pub as_shipped: bool,
    /// Print the report object last.
    pub json: bool,
}

/// Runs the demo. Ctrl-C, SIGTERM and SIGHUP stop server, load and daemon and leave nothing behind.
///
/// # Errors
/// No server binaries, a model that is not there or damaged, a daemon that does not report in time; and, once everything
/// is shown, a report that does not name the fault first.
pub async fn run(args: Args) -> Result<(), Failure> {
    let scenario = Scenario::load(&args.fault).map_err(|e| Failure::usage(format!("{e:#}; `galen demo --list` names the faults")))?;
    if let Some(name) = &args.model {
        // Demanded by name: better to say so now than after a minute.
        let folder = &args.models_dir;
        let registry = galen_agents::llm::registry::Registry::load(folder).map_err(|e| Failure::model(e.to_string()))?;
        let model = registry.chat(name).map_err(|e| Failure::model(e.to_string()))?;
        let path = model.path(folder);
        model.verify(&path).map_err(|e| Failure::model(format!("{e}, or use --no-model")))?;
    }
    let mut signals = Signals::listen()?;
    let played = tokio::select! {
        done = play(&args, &scenario) => Ok(done),
        ending = signals.next() => Err(ending),
    };
    // By now server, load and daemon are gone.
    played.unwrap_or_else(|ending| Err(ending.failure("; the private server was stopped and removed")))
}

async fn play(args: &Args, scenario: &Scenario) -> Result<(), Failure> {
    let stage = Stage::new();
    let folder =
        tempfile::Builder::new().prefix("galen-demo-").tempdir().map_err(|e| Failure::fault(format!("no temporary folder: {e}")))?;
    stage.says(&match &args.model {
        Some(model) => format!("model {model}, in a process of its own"),
        None => "without a model: causes, evidence and remedies do not need one".to_owned(),
    });
    stage.says("starting a private PostgreSQL");
    let parameters = Default::default();
    let cluster = Cluster::start(scenario.options(&parameters).map_err(lab_failure)?).await.map_err(lab_failure)?;
    for note in cluster.notes() {
        stage.says(note);
    }
    stage.says("making a shop: customers, products, orders, events");
    scenario.prepare(&cluster).await.map_err(lab_failure)?;
    let steady = scenario.start_steady(&cluster, &parameters, SEED).await.map_err(lab_failure)?;
    stage.says(&format!("steady load on port {}; starting galen serve", cluster.port()));
    let mut daemon = Daemon::start(folder.path(), &cluster.dsn_galen(), args).await?;
    stage.waits("learning what is usual", CALM).await;
    let healthy = args.fault == "healthy";
    let incident = if healthy {
        stage.waits("nothing is injected; the daemon must stay silent", HEALTHY).await;
        if let Some(id) = daemon.latest().await? {
            stage.says("the daemon raised an incident although nothing is wrong");
            id
        } else {
            stage.says("silent, as it should be; an alert from outside now asks for a look");
            daemon.alert().await?
        }
    } else {
        stage.says(&format!("injecting: {}", scenario.fault.title));
        let injected = Instant::now();
        let fault = scenario.fault.inject(&cluster, &parameters, SEED).await.map_err(lab_failure)?;
        let id = daemon.notice(&stage).await?;
        stage.says(&format!("noticed by itself {:.0} s after the injection began (incident {id})", injected.elapsed().as_secs_f64()));
        let reported = daemon.report(&stage, id).await;
        fault.stop(&cluster).await.map_err(lab_failure)?;
        reported?;
        id
    };
    let status = daemon.report(&stage, incident).await?;
    let files = daemon.collect(incident, &args.fault, &scenario.fault.causes, args.out.as_deref()).await?;
    let memory = daemon.peak_memory_mb();
    steady.stop().await;
    daemon.stop().await;
    cluster.stop().await;
    stage.done();
    let named = show(args, scenario, &status, &files);
    if let Some(mb) = memory {
        eprintln!("daemon:  {mb:.0} MB of memory at the most, the model's process apart");
    }
    if named { Ok(()) } else { Err(Failure::fault("the demo failed: its report does not name the fault first")) }
}

fn lab_failure(error: anyhow::Error) -> Failure {
    Failure::target(format!("{error:#}"))
}

/// Paths of what the demo leaves, and the report itself.
struct Files {
    html: PathBuf,
    capture: PathBuf,
    report: Report,
    json: String,
}

/// Prints the report and says whether the fault was named first.
fn show(args: &Args, scenario: &Scenario, status: &Value, files: &Files) -> bool {
    let first = files.report.root_causes.first().map(|c| (c.cause.as_str(), c.probability));
    let expected = &scenario.fault.causes;
    let named = first.is_some_and(|(cause, _)| expected.iter().any(|e| e == cause));
    if args.json {
        output::line(&files.json);
    } else {
        output::text(&terminal::render(&files.report, output::colours(), output::width()));
    }
    let seconds = |key: &str| status[key].as_f64().map(|s| format!("{s:.1} s")).unwrap_or_else(|| "-".into());
    let verdict = match first {
        Some((cause, p)) if named => format!("named first: {cause} ({:.0} %)", p * 100.0),
        Some((cause, p)) => format!("NOT named first: {} was injected, {cause} ({:.0} %) was named", expected.join(", "), p * 100.0),
        None => format!("NOT named: {} was injected, the report names no cause", expected.join(", ")),
    };
    eprintln!("{verdict}; first finding {} and report {} after the alert", seconds("first_finding_s"), seconds("report_s"));
    eprintln!("capture: {}", files.capture.display());
    eprintln!("report:  {}", files.html.display());
    named
}

/// The daemon under demonstration: a child process, spoken to through its doors.
struct Daemon {
    child: Child,
    socket: PathBuf,
    folder: PathBuf,
    http: String,
}

impl Daemon {
    async fn start(folder: &Path, dsn: &str, args: &Args) -> Result<Self, Failure> {
        let io = |e: std::io::Error| Failure::fault(format!("cannot start the daemon: {e}"));
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(io)?.port();
        let http = format!("127.0.0.1:{port}");
        let config = json!({
            "data_dir": folder,
            "http": {"listen": http},
            "target": [{"name": "shop", "dsn": dsn, "brisk": !args.as_shipped}],
            "model": {"name": args.model.as_deref().unwrap_or("none")},
        });
        let path = folder.join("galen.toml");
        let text = toml::to_string(&config).map_err(|e| Failure::fault(e.to_string()))?;
        std::fs::write(&path, text).map_err(io)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(io)?;
        let log = std::fs::File::create(folder.join("galen.log")).map_err(io)?;
        let child = Command::new(std::env::current_exe().map_err(io)?)
            .arg("serve")
            .arg("--config")
            .arg(&path)
            .env("GALEN_MODELS_DIR", &args.models_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(io)?;
        let daemon = Self { child, socket: folder.join("galen.sock"), folder: folder.to_owned(), http };
        daemon.ready().await?;
        Ok(daemon)
    }

    /// Most memory the daemon's process ever held (`VmHWM`), megabytes.
    fn peak_memory_mb(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kb| kb * 1024.0 / 1e6)
    }

    async fn ready(&self) -> Result<(), Failure> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match rpc::call(&self.socket, "status", json!({})).await {
                Ok(_) => return Ok(()),
                Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(failure) => return Err(self.explain(&failure)),
            }
        }
    }

    fn explain(&self, failure: &Failure) -> Failure {
        let log = std::fs::read_to_string(self.folder.join("galen.log")).unwrap_or_default();
        let last = log.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(" | ");
        Failure::fault(format!("{failure}; the daemon's log ends with: {last}"))
    }

    /// The newest incident, if there is one.
    async fn latest(&self) -> Result<Option<i64>, Failure> {
        let list = rpc::call(&self.socket, "incidents.list", json!({"limit": 1})).await.map_err(|f| self.explain(&f))?;
        Ok(list.as_array().and_then(|l| l.first()).and_then(|i| i["id"].as_i64()))
    }

    async fn notice(&self, stage: &Stage) -> Result<i64, Failure> {
        let until = Instant::now() + NOTICE;
        while Instant::now() < until {
            if let Some(id) = self.latest().await? {
                return Ok(id);
            }
            stage.spins("the daemon watches").await;
        }
        Err(self.explain(&Failure::fault(format!("the daemon did not notice the fault within {} s", NOTICE.as_secs()))))
    }

    /// Waits for the report; returns what the daemon says of the incident.
    async fn report(&self, stage: &Stage, id: i64) -> Result<Value, Failure> {
        let until = Instant::now() + REPORT;
        while Instant::now() < until {
            let incident = rpc::call(&self.socket, "incidents.show", json!({"id": id})).await.map_err(|f| self.explain(&f))?;
            let state = incident["state"].as_str().unwrap_or_default().to_owned();
            match state.as_str() {
                "reported" | "resolved" => return Ok(incident),
                "failed" => return Err(self.explain(&Failure::fault(format!("the diagnosis failed: {}", incident["error"])))),
                _ => {}
            }
            let found = incident["first_finding"]["cause"].as_str().map(|c| format!(", first finding: {c}")).unwrap_or_default();
            stage.spins(&format!("{state}{found}")).await;
        }
        Err(self.explain(&Failure::fault(format!("no report within {} s", REPORT.as_secs()))))
    }

    /// An alert through the webhook, as Alertmanager sends it.
    async fn alert(&self) -> Result<i64, Failure> {
        let now = jiff::Timestamp::now();
        let payload = json!({
            "version": "4", "status": "firing", "receiver": "galen",
            "alerts": [{"status": "firing", "labels": {"alertname": "DemoLook", "target": "shop"}, "annotations": {"summary": "is anything wrong?"},
                        "startsAt": now.to_string(), "endsAt": "0001-01-01T00:00:00Z", "fingerprint": "demo-look"}],
        });
        let answer =
            post(&self.http, "/api/v1/alerts/alertmanager", &payload).await.map_err(|e| self.explain(&Failure::fault(e.to_string())))?;
        answer["incident"].as_i64().ok_or_else(|| self.explain(&Failure::fault(format!("the webhook answered {answer}"))))
    }

    /// Copies report, JSON and capture to where they stay.
    async fn collect(&self, id: i64, fault: &str, causes: &[String], out: Option<&Path>) -> Result<Files, Failure> {
        let out = out.map_or_else(|| std::env::temp_dir().join("galen-demo-reports"), Path::to_path_buf);
        let io = |e: std::io::Error| Failure::fault(format!("cannot write to {}: {e}; choose a folder with --out", out.display()));
        std::fs::create_dir_all(&out).map_err(io)?;
        let to = |end: &str| out.join(format!("{fault}.{end}"));
        for end in ["html", "md", "json"] {
            std::fs::copy(self.folder.join("reports").join(format!("{id}.{end}")), to(end)).map_err(io)?;
        }
        // Whoever injected the fault knows the truth: the copy is labelled with it, for calibration and benchmarks.
        let mut capture = store::file::read(&self.folder.join("captures").join(format!("{id}.galen")))?;
        capture.manifest.labels = causes.to_vec();
        store::file::write(&capture, &to("galen"))?;
        let json = std::fs::read_to_string(to("json")).map_err(io)?;
        let report = serde_json::from_str(&json).map_err(|e| Failure::fault(e.to_string()))?;
        Ok(Files { html: to("html"), capture: to("galen"), report, json })
    }

    async fn stop(&mut self) {
        if let Some(pid) = self.child.id() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGTERM);
        }
        if tokio::time::timeout(Duration::from_secs(6), self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// One small HTTP POST to the daemon on loopback.
async fn post(address: &str, path: &str, body: &Value) -> std::io::Result<Value> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer).await?;
    let json = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    serde_json::from_str(json)
        .map_err(|_| std::io::Error::other(format!("unexpected answer: {}", answer.lines().next().unwrap_or_default())))
}

/// The progress display: a spinner on a terminal, plain lines elsewhere; always on standard error.
struct Stage {
    bar: ProgressBar,
    started: Instant,
}

impl Stage {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        Self { bar, started: Instant::now() }
    }

    fn says(&self, text: &str) {
        let line = format!("[{:>3} s] {text}", self.started.elapsed().as_secs());
        if self.bar.is_hidden() { output::tell(&line) } else { self.bar.println(line) }
    }

    async fn waits(&self, text: &str, time: Duration) {
        self.says(&format!("{text} ({} s)", time.as_secs()));
        let until = Instant::now() + time;
        while Instant::now() < until {
            let left = until.duration_since(Instant::now()).as_secs();
            self.bar.set_message(format!("{text}: {left} s left"));
            self.bar.tick();
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    async fn spins(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        self.bar.tick();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }

    fn done(&self) {
        self.bar.finish_and_clear();
    }
}
