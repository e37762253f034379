//! Processes on the server's host: a dump, a neighbour that writes to the disk, a hand that kills a backend.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;

use super::cluster::Cluster;

/// A shell command with the server's user and environment: `PATH` begins with the server's programs, `PGHOST`, `PGPORT`,
/// `PGUSER`, `PGPASSWORD` and `PGDATABASE` lead to it, `PGDATA` is its data directory and `LAB` a folder to write to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// The command.
    pub run: String,
    /// How many of them.
    #[serde(default = "one")]
    pub count: u32,
    /// Begins again this many milliseconds after it has ended; once only without.
    #[serde(default)]
    pub again_after_ms: Option<u32>,
}

fn one() -> u32 {
    1
}

/// Ends its whole group when the lab is gone, so that nothing outlives a killed lab.
const WATCHED: &str = "(while kill -0 $PPID 2>/dev/null; do sleep 0.5; done; kill -KILL 0) & ";

/// Running processes, ended with all their children on drop.
pub struct Processes(Vec<Child>);

impl Processes {
    /// Starts them beside the server of this cluster. Fails where the server is not the lab's own.
    pub fn start(cluster: &Cluster, specs: &[ProcessSpec]) -> anyhow::Result<Processes> {
        let mut running = Processes(Vec::new());
        for spec in specs {
            for _ in 0..spec.count {
                let mut command = Command::new("/bin/sh");
                command.arg("-c").arg(line(spec)).process_group(0);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                cluster.dress(&mut command)?;
                running.0.push(command.spawn().context("cannot start /bin/sh")?);
            }
        }
        Ok(running)
    }
}

fn line(spec: &ProcessSpec) -> String {
    match spec.again_after_ms {
        Some(pause) => format!("{WATCHED}while :; do {}\nsleep {}.{:03}; done", spec.run, pause / 1000, pause % 1000),
        None => format!("{WATCHED}{}\nwait", spec.run),
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            if let Ok(id) = i32::try_from(child.id()) {
                let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
            }
            let _ = child.wait();
        }
    }
}
