//! A narrow network: a namespace of its own, whose loopback loses what a short queue cannot hold, so that segments are sent
//! again without harm to the machine's own connections.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::geteuid;
use serde::Deserialize;

/// Names this process and the network namespace that it left. Not GALEN_..: the configuration reads those.
const LEFT: &str = "LAB_LEFT_NETWORK";
/// Loopback as a server finds it that is to be narrowed: its usual packets, 65536 bytes long, would never fit a short queue.
const SHORT_PACKETS: &str = "link set lo mtu 1500";
/// Undoes what [`Bottleneck::line`] does.
const WIDEN: &str = "qdisc del dev lo root";
/// A packet of 1500 bytes has to fit with its header, and what the kernel rounds off; else nothing gets through at all.
const LEAST_BYTES: u32 = 2_000;

/// How narrow the network is while the fault is at work: a token bucket on loopback, both directions together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bottleneck {
    /// What gets through, kilobits a second.
    pub rate_kbit: u32,
    /// Bytes that may pass at once.
    #[serde(default = "burst")]
    pub burst_bytes: u32,
    /// Bytes that may wait; what comes beyond is lost.
    #[serde(default = "queue")]
    pub queue_bytes: u32,
}

fn burst() -> u32 {
    5_000
}

fn queue() -> u32 {
    30_000
}

/// The network is narrow. Dropping it makes it wide again.
pub struct Narrowed(());

impl Bottleneck {
    /// Fails where no packet could ever pass.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(self.rate_kbit > 0, "`rate_kbit = 0` lets nothing through");
        for (key, bytes) in [("burst_bytes", self.burst_bytes), ("queue_bytes", self.queue_bytes)] {
            ensure!(bytes >= LEAST_BYTES, "`{key} = {bytes}` holds no whole packet: use {LEAST_BYTES} or more");
        }
        Ok(())
    }

    /// Narrows the loopback of this process's own namespace.
    ///
    /// # Errors
    /// The process is not in one, or `tc` refuses, as where the kernel has no token buckets (`sch_tbf`).
    pub fn begin(&self) -> anyhow::Result<Narrowed> {
        ensure!(entered(), "{}", why_not());
        run("tc", &self.line())?;
        Ok(Narrowed(()))
    }

    /// What `tc` is told.
    fn line(&self) -> String {
        let Bottleneck { rate_kbit, burst_bytes, queue_bytes } = self;
        format!("qdisc add dev lo root tbf rate {rate_kbit}kbit burst {burst_bytes} limit {queue_bytes}")
    }
}

impl Drop for Narrowed {
    fn drop(&mut self) {
        if let Err(error) = run("tc", WIDEN) {
            tracing::warn!(%error, "the lab's network stays narrow until this process ends");
        }
    }
}

/// Moves this whole process into a network namespace of its own, with loopback up: the program begins anew there with the same
/// arguments, so this does not return before it has. To be called before there is a server; what is locked is let go, and locked
/// again by the program that begins anew. Returns at once where the process is in one already, and where it may not have one:
/// [`prepare`] then refuses the servers that need it, and only those.
///
/// # Errors
/// The program cannot be started again, or loopback does not come up.
pub fn enter() -> anyhow::Result<()> {
    if entered() {
        return Ok(());
    }
    if obstacle().is_some() {
        return Ok(());
    }
    let left = mark(std::process::id(), &namespace().context("cannot read /proc/self/ns/net")?);
    let outside = std::fs::File::open("/proc/self/ns/net").context("cannot open /proc/self/ns/net")?;
    // Only this thread moves; beginning anew leaves no other.
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        tracing::debug!(%error, "no network namespace");
        return Ok(());
    }
    // Where this may not be configured (CAP_NET_ADMIN) it is no use, and the other cases of a batch go on outside.
    if let Err(error) = run("ip", "link set lo up") {
        tracing::debug!(%error, "a network namespace without loopback");
        return setns(outside, CloneFlags::CLONE_NEWNET).context("cannot go back to the machine's network");
    }
    let mut arguments = std::env::args_os();
    let mut again = Command::new(itself());
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    let error = again.args(arguments).env(LEFT, left).exec();
    Err(error).context("cannot start this program again in a network namespace of its own")
}

/// The file of this program, after which the kernel names the process that is started from it. Where it was replaced since, the
/// kernel's link to it, which makes that name `exe`.
fn itself() -> PathBuf {
    const LINK: &str = "/proc/self/exe";
    std::fs::read_link(LINK).ok().filter(|file| file.is_file()).unwrap_or_else(|| PathBuf::from(LINK))
}

/// True when [`enter`] has put this process into a namespace of its own.
pub fn entered() -> bool {
    let here = namespace().ok();
    std::env::var(LEFT).ok().zip(here).is_some_and(|(left, here)| has_left(&left, std::process::id(), &here))
}

/// Makes loopback ready for a server whose network will be narrowed.
///
/// # Errors
/// The process has no network of its own: one line that says what to do.
pub(super) fn prepare() -> anyhow::Result<()> {
    if !entered() {
        bail!(why_not());
    }
    run("ip", SHORT_PACKETS)
}

/// The namespace of this process, such as `net:[4026531840]`.
fn namespace() -> std::io::Result<PathBuf> {
    std::fs::read_link("/proc/self/ns/net")
}

fn mark(process: u32, namespace: &Path) -> String {
    format!("{process} {}", namespace.display())
}

/// True when the mark is of this very process, which keeps its id as it begins anew, and of another namespace than this. A mark
/// that was inherited or left over says nothing: the machine's own loopback is never to be narrowed.
fn has_left(mark: &str, process: u32, here: &Path) -> bool {
    mark.split_once(' ').is_some_and(|(whose, left)| whose == process.to_string() && Path::new(left) != here)
}

/// What keeps this process from a network of its own, and what to do; none where it may be tried.
fn obstacle() -> Option<String> {
    if !geteuid().is_root() {
        return Some("a network of its own needs root, to make it: run this scenario as root".to_owned());
    }
    let absent = ["ip", "tc"].into_iter().find(|name| program(name).is_none())?;
    Some(format!("a network of its own needs `{absent}`, which is not here: install the package iproute2"))
}

fn why_not() -> String {
    let general = "a network of its own is made by `galen lab run` and `galen lab record` alone, where root has CAP_SYS_ADMIN";
    obstacle().unwrap_or_else(|| general.to_owned())
}

/// A program on the PATH, or where the system's own for root are, which not every PATH names.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|place| place.is_file())
}

/// Runs one of them with these words. Fails with what it complains of.
fn run(name: &str, words: &str) -> anyhow::Result<()> {
    let place = program(name).with_context(|| format!("`{name}` is not here: install the package iproute2"))?;
    let mut command = Command::new(place);
    command.args(words.split_whitespace()).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot start `{name}`"))?;
    let said = String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(output.status.success(), "`{name} {words}` failed: {said}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NARROW: Bottleneck = Bottleneck { rate_kbit: 8_000, burst_bytes: 5_000, queue_bytes: 30_000 };

    #[test]
    fn a_bottleneck_is_read_with_defaults_and_becomes_a_line_of_tc() {
        let read: Bottleneck = toml::from_str("rate_kbit = 8000").unwrap();
        assert_eq!(read, NARROW);
        assert_eq!(read.line(), "qdisc add dev lo root tbf rate 8000kbit burst 5000 limit 30000");
        assert!(toml::from_str::<Bottleneck>("burst_bytes = 5000").is_err(), "a rate is asked for");
        assert!(toml::from_str::<Bottleneck>("rate_kbit = 8000\ndelay_ms = 5").is_err());
    }

    #[test]
    fn what_no_packet_would_pass_is_refused_with_its_value() {
        NARROW.check().unwrap();
        for (narrow, why) in [
            (Bottleneck { rate_kbit: 0, ..NARROW }, "rate_kbit = 0"),
            (Bottleneck { burst_bytes: 1_500, ..NARROW }, "burst_bytes = 1500"),
            (Bottleneck { queue_bytes: 9, ..NARROW }, "queue_bytes = 9"),
        ] {
            let error = narrow.check().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn only_this_process_in_another_namespace_has_left() {
        let (outside, inside) = (Path::new("net:[1]"), Path::new("net:[2]"));
        let left = mark(7, outside);
        assert!(has_left(&left, 7, inside));
        assert!(!has_left(&left, 7, outside), "it did not move");
        assert!(!has_left(&left, 8, inside), "another process's");
        assert!(!has_left("1", 1, inside) && !has_left("", 7, inside));
    }

    #[test]
    fn the_program_begins_anew_under_its_own_name() {
        assert_eq!(itself(), std::env::current_exe().unwrap());
    }

    #[test]
    fn the_machines_own_loopback_is_not_touched() {
        for refused in [prepare(), NARROW.begin().map(drop)] {
            let error = refused.unwrap_err().to_string();
            assert!(error.starts_with("a network of its own ") && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn the_programs_take_these_lines() {
        if let Some(why) = obstacle() {
            return eprintln!("skipped: {why}");
        }
        let inside = |script: &str| Command::new("unshare").args(["-n", "sh", "-ec", script]).output();
        let up = format!("{} link set lo up", program("ip").unwrap().display());
        if !inside(&up).is_ok_and(|output| output.status.success()) {
            return eprintln!("skipped: this machine lets nobody have a network namespace");
        }
        let (ip, tc) = (program("ip").unwrap(), program("tc").unwrap());
        let (ip, tc, narrow) = (ip.display(), tc.display(), NARROW.line());
        let script = format!("{ip} link set lo up; {ip} {SHORT_PACKETS}; {tc} {narrow}; {tc} qdisc show dev lo; {tc} {WIDEN}");
        let output = inside(&script).unwrap();
        let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if error.contains("qdisc kind is unknown") {
            return eprintln!("skipped: this kernel has no token buckets (sch_tbf)");
        }
        assert!(output.status.success() && said.contains("tbf") && said.contains("rate 8Mbit"), "{said}{error}");
    }
}
