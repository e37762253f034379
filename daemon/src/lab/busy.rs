//! Busy processes outside the database: what a backup, a build or a neighbour does to the CPUs of its host.

use std::process::{Child, Command, Stdio};

use anyhow::Context;

/// Looks after its parent now and then, so that it does not outlive a killed lab.
const LOOP: &str = "while :; do i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; kill -0 $PPID || exit; done";

/// Busy processes, ended on drop.
pub struct Busy(Vec<Child>);

impl Busy {
    /// Starts so many processes, each of which keeps one CPU busy.
    pub fn start(count: u32) -> anyhow::Result<Busy> {
        let mut busy = Busy(Vec::new());
        for _ in 0..count {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", LOOP]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            busy.0.push(command.spawn().context("cannot start /bin/sh")?);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
