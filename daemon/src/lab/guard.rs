//! The server's guard: a shell beside the server that stops it and removes its folder when this process is gone.
//!
//! A death signal on the parent would not do: it fires when the *thread* that started the child ends, and it cannot
//! remove files. A pipe that closes with this process covers return, panic, Ctrl-C and `kill -9` alike.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::binaries::ServerUser;
use super::volume::Volume;

const SCRIPT: &str = include_str!("guard.sh");
/// Longer than the guard's own escalation from fast shutdown to SIGKILL.
const GRACE: Duration = Duration::from_secs(12);

/// A running guard. Dropping it stops the server, removes the folder, and waits for both.
pub struct Guard {
    child: Child,
    pipe: Option<ChildStdin>,
    volume: Option<Volume>,
    folder: TempDir,
}

impl Guard {
    /// Starts initdb and then the server in `folder`, which must hold `password` and `settings.conf`, and `standby.conf`
    /// where there is to be a standby. A volume mounted at `data` goes with the guard.
    pub fn start(folder: TempDir, bin_dir: &Path, user: Option<&ServerUser>, volume: Option<Volume>) -> anyhow::Result<Guard> {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(SCRIPT).arg("galen-lab").arg(folder.path()).arg(bin_dir);
        command.current_dir(folder.path()).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.env("LC_ALL", "C");
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
        let mut child = command.spawn().context("cannot start /bin/sh for the lab's server")?;
        let pipe = child.stdin.take();
        Ok(Guard { child, pipe, volume, folder })
    }

    /// The lab's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// False once initdb has failed or the server has ended by itself.
    pub fn is_running(&self) -> bool {
        self.folder.path().exists() && !self.folder.path().join("ended").exists()
    }

    fn shut(&mut self) {
        drop(self.pipe.take());
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(self.volume.take());
        if self.folder.path().exists() {
            self.force();
        }
    }

    /// The guard was killed or hangs: do its work from here.
    fn force(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in ["data", "standby"].iter().filter_map(|name| postmaster(&self.folder.path().join(name))) {
            // SIGQUIT lets the server give back its shared memory; SIGKILL would not.
            let _ = kill(pid, Signal::SIGQUIT);
            std::thread::sleep(Duration::from_secs(2));
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = std::fs::remove_dir_all(self.folder.path());
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shut();
    }
}

/// The server of this data folder, if it is alive. Its working directory is the proof that the id was not reused.
fn postmaster(data: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    let cwd: PathBuf = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (pid > 1 && cwd == data).then(|| Pid::from_raw(pid))
}
