//! A small volume of its own for a data directory, so that a disk can be filled without harm to the machine.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::binaries::ServerUser;

/// Waits for the end of this process, then for that of the server, and unmounts: what `kill -9` would leave behind.
const REAPER: &str = "exec >/dev/null 2>&1; read -r _; n=0; while [ -e \"$0/postmaster.pid\" ] && [ $n -lt 150 ]; do sleep 0.1; n=$((n+1)); done; umount -l \"$0\"; sleep 1; rm -rf -- \"$1\"";

/// A mounted volume. Dropping it unmounts it; its content is gone then.
pub struct Volume {
    place: PathBuf,
    reaper: Child,
    pipe: Option<ChildStdin>,
}

impl Volume {
    /// Mounts a tmpfs of so many mebibytes at `place`, a folder to be made, and hands it to the server's user.
    pub fn mount(place: &Path, mebibytes: u32, user: Option<&ServerUser>) -> anyhow::Result<Volume> {
        let Some(user) = user else {
            bail!("a volume of its own needs root, to mount it: run this scenario as root");
        };
        std::fs::create_dir(place).with_context(|| format!("cannot make {}", place.display()))?;
        let options = format!("size={mebibytes}m,mode=0700,uid={},gid={}", user.uid, user.gid);
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("lab"), place, Some("tmpfs"), flags, Some(options.as_str())).context("cannot mount a volume for the lab's server")?;
        let folder = place.parent().unwrap_or(place);
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(REAPER).arg(place).arg(folder).current_dir("/");
        let started = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        match started {
            Ok(mut reaper) => Ok(Volume { place: place.to_owned(), pipe: reaper.stdin.take(), reaper }),
            Err(error) => {
                let _ = umount2(place, MntFlags::MNT_DETACH);
                Err(error).context("cannot start /bin/sh for the lab's volume")
            }
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = umount2(&self.place, MntFlags::MNT_DETACH);
        let _ = self.reaper.kill();
        let _ = self.reaper.wait();
        drop(self.pipe.take());
    }
}
