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

/// Ends its whole group when the lab is gone, so that nothing outlives a killed lab: the pipe on standard input closes
/// then. (A signal to the parent would tell as much, but the parent may belong to another user.)
const WATCHED: &str = "exec 3<&0 </dev/null; (read -r _ <&3; kill -KILL 0) & exec 3<&-; ";

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
                command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::lab::ClusterOptions;

    #[tokio::test]
    async fn processes_reach_the_server_begin_again_and_end_with_their_children() {
        let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
        let folder = cluster.folder().to_owned();
        let run = r#"echo once >>"$LAB/log"; [ -f "$PGDATA/postmaster.pid" ] && initdb --version >>"$LAB/log"; sleep 600 & sleep 0.05"#;
        let specs = [ProcessSpec { run: run.into(), count: 1, again_after_ms: Some(20) }];
        let running = Processes::start(&cluster, &specs).unwrap();
        let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        let end = Instant::now() + Duration::from_secs(20);
        while log().matches("once").count() < 3 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(log().matches("once").count() >= 3 && log().contains("PostgreSQL"), "{}", log());
        let sleepers = || {
            let cwd = |entry: &std::fs::DirEntry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == folder);
            let name = |entry: &std::fs::DirEntry| std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name == "sleep\n");
            std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| cwd(entry) && name(entry)).count()
        };
        assert!(sleepers() > 0);
        drop(running);
        let end = Instant::now() + Duration::from_secs(5);
        while sleepers() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(sleepers(), 0);
        cluster.stop().await;
    }
}
