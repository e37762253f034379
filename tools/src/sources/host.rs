//! The host of a local server, read from /proc: CPU, load, memory, disks, network, pressure. What cannot be read is absent.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::capture::Frame;

/// Clock ticks a second in /proc/stat; 100 on every Linux that Rust runs on.
const TICKS: f64 = 100.0;
/// Bytes of a sector in /proc/diskstats.
const SECTOR: f64 = 512.0;

/// Reads the host's counters and turns them into rates.
pub struct Host {
    proc: PathBuf,
    postmaster: Option<i32>,
    data_directory: Option<PathBuf>,
    last: HashMap<String, f64>,
    last_ms: i64,
}

impl Host {
    /// A reader. `postmaster` is the process whose children count as PostgreSQL.
    pub fn new(postmaster: Option<i32>, data_directory: Option<PathBuf>) -> Self {
        Self { proc: PathBuf::from("/proc"), postmaster, data_directory, last: HashMap::new(), last_ms: 0 }
    }

    /// Logical CPUs and memory in bytes: the host's, as its other signals are, whatever part of them this process may use.
    pub fn size(&self) -> (Option<u32>, Option<f64>) {
        let cpu = |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let cpus = self.text("stat").and_then(|text| u32::try_from(text.lines().filter(cpu).count()).ok()).filter(|cpus| *cpus > 0);
        let memory = self.text("meminfo").and_then(|t| meminfo(&t, "MemTotal"));
        (cpus, memory)
    }

    /// Adds the host's signals to a frame; rates need a call before.
    pub fn read(&mut self, now_ms: i64, frame: &mut Frame) {
        let seconds = (now_ms - self.last_ms) as f64 / 1000.0;
        let fresh = self.last_ms > 0 && seconds > 0.2 && seconds < 60.0;
        self.last_ms = now_ms;
        let mut put = |name: &str, unit: &'static str, value: Option<f64>| {
            if let Some(value) = value.filter(|v| v.is_finite()) {
                frame.values.push((name.to_owned(), unit, value));
            }
        };
        self.cpu(fresh, &mut put);
        if let Some(text) = self.text("loadavg") {
            put("node_load1", "processes", text.split_whitespace().next().and_then(|v| v.parse().ok()));
        }
        if let Some(text) = self.text("meminfo") {
            let share = meminfo(&text, "MemAvailable").zip(meminfo(&text, "MemTotal")).map(|(a, t)| a / t.max(1.0));
            put("node_memory_available_ratio", "ratio", share);
        }
        self.rates(fresh.then_some(seconds), &mut put);
        put("node_filesystem_avail_ratio", "ratio", self.data_directory.as_deref().and_then(free_share));
    }

    fn cpu(&mut self, fresh: bool, put: &mut impl FnMut(&str, &'static str, Option<f64>)) {
        let Some(text) = self.text("stat") else { return };
        let ticks = cpu_ticks(&text);
        let postgres = self.postgres_ticks();
        let [user, nice, system, idle, iowait, irq, softirq, steal] = ticks;
        let total: f64 = ticks.iter().sum();
        let d = |host: &mut Self, key: &str, value: f64| host.growth(key, value);
        let whole = d(self, "cpu_total", total).filter(|t| *t > 0.0);
        let busy = d(self, "cpu_busy", user + nice + system + irq + softirq + steal);
        let (waiting, stolen) = (d(self, "cpu_iowait", iowait), d(self, "cpu_steal", steal));
        let _ = idle;
        let ours = postgres.and_then(|p| d(self, "cpu_postgres", p));
        if fresh {
            let share = |part: Option<f64>| part.zip(whole).map(|(p, w)| (p / w).clamp(0.0, 1.0));
            put("node_cpu_busy_ratio", "ratio", share(busy));
            put("node_cpu_iowait_ratio", "ratio", share(waiting));
            put("node_cpu_steal_ratio", "ratio", share(stolen));
            put("postgres_cpu_ratio", "ratio", share(ours));
        }
        put("node_procs_running", "processes", field(&text, "procs_running"));
        put("node_procs_blocked", "processes", field(&text, "procs_blocked"));
    }

    /// CPU ticks of the postmaster and its children, ended ones included (they are in the postmaster's own count).
    fn postgres_ticks(&self) -> Option<f64> {
        let postmaster = self.postmaster?;
        let own = process(&std::fs::read_to_string(self.proc.join(format!("{postmaster}/stat"))).ok()?)?;
        let mut ticks = own.ticks + own.children_ticks;
        for entry in std::fs::read_dir(&self.proc).ok()?.filter_map(Result::ok) {
            if !entry.file_name().to_string_lossy().starts_with(|c: char| c.is_ascii_digit()) {
                continue;
            }
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok().and_then(|t| process(&t));
            ticks += stat.filter(|p| p.parent == postmaster).map_or(0.0, |p| p.ticks);
        }
        Some(ticks)
    }

    fn rates(&mut self, seconds: Option<f64>, put: &mut impl FnMut(&str, &'static str, Option<f64>)) {
        let disks = self.text("diskstats").map(|t| disks(&t)).unwrap_or_default();
        let read = self.growth("disk_read", disks.iter().map(|d| d.read_bytes).sum());
        let written = self.growth("disk_write", disks.iter().map(|d| d.write_bytes).sum());
        let busy: Vec<f64> = disks.iter().filter_map(|d| self.growth(&format!("disk_busy_{}", d.name), d.busy_ms)).collect();
        let swap =
            self.text("vmstat").and_then(|t| Some(field(&t, "pswpin")? + field(&t, "pswpout")?)).and_then(|v| self.growth("swap", v));
        let net = self.text("net/dev").map(|t| network(&t));
        let received = net.and_then(|n| self.growth("net_in", n.0));
        let sent = net.and_then(|n| self.growth("net_out", n.1));
        let again = self.text("net/snmp").and_then(|t| retransmits(&t)).and_then(|v| self.growth("retransmits", v));
        let stalled: Vec<(&str, Option<f64>)> = ["cpu", "io", "memory"]
            .into_iter()
            .map(|what| (what, self.text(&format!("pressure/{what}")).and_then(|t| stall_us(&t)).and_then(|v| self.growth(what, v))))
            .collect();
        let Some(seconds) = seconds else { return };
        let per_s = |growth: Option<f64>| growth.map(|g| g / seconds);
        if !disks.is_empty() {
            put("node_disk_read_bytes_rate", "bytes/s", per_s(read));
            put("node_disk_write_bytes_rate", "bytes/s", per_s(written));
            put("node_disk_util_ratio", "ratio", busy.into_iter().reduce(f64::max).map(|ms| (ms / 1000.0 / seconds).min(1.0)));
        }
        put("node_swap_io_rate", "pages/s", per_s(swap));
        put("node_network_receive_bytes_rate", "bytes/s", per_s(received));
        put("node_network_transmit_bytes_rate", "bytes/s", per_s(sent));
        put("node_network_retransmits_per_s", "1/s", per_s(again));
        for (what, growth) in stalled {
            put(&format!("node_pressure_{what}_ratio"), "ratio", growth.map(|us| (us / 1e6 / seconds).min(1.0)));
        }
    }

    /// Growth of a counter since the last call; none the first time and after a reset.
    fn growth(&mut self, key: &str, value: f64) -> Option<f64> {
        let before = self.last.insert(key.to_owned(), value)?;
        (value >= before).then_some(value - before)
    }

    fn text(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.proc.join(name)).ok()
    }
}

/// user, nice, system, idle, iowait, irq, softirq, steal.
fn cpu_ticks(stat: &str) -> [f64; 8] {
    let mut ticks = [0.0; 8];
    let line = stat.lines().find(|l| l.starts_with("cpu ")).unwrap_or_default();
    for (slot, value) in ticks.iter_mut().zip(line.split_whitespace().skip(1)) {
        *slot = value.parse().unwrap_or(0.0) / TICKS;
    }
    ticks
}

/// A `name value` line.
fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// A line of /proc/meminfo, bytes.
fn meminfo(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<f64>().ok().map(|kb| kb * 1024.0)
}

struct Process {
    parent: i32,
    ticks: f64,
    children_ticks: f64,
}

/// A line of /proc/PID/stat; the command in parentheses may hold anything.
fn process(stat: &str) -> Option<Process> {
    let rest: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    let number = |i: usize| rest.get(i).and_then(|v| v.parse::<f64>().ok());
    Some(Process {
        parent: rest.get(1)?.parse().ok()?,
        ticks: (number(11)? + number(12)?) / TICKS,
        children_ticks: (number(13)? + number(14)?) / TICKS,
    })
}

struct Disk {
    name: String,
    read_bytes: f64,
    write_bytes: f64,
    busy_ms: f64,
}

/// Whole disks: partitions, loop and RAM devices are left out.
fn disks(text: &str) -> Vec<Disk> {
    let whole = |name: &str| {
        let partition =
            name.ends_with(|c: char| c.is_ascii_digit()) && (name.starts_with("sd") || name.starts_with("vd") || name.starts_with("xvd"));
        let virtual_disk = name.starts_with("loop") || name.starts_with("ram");
        !(partition || virtual_disk || (name.starts_with("nvme") && name.contains('p')))
    };
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let number = |i: usize| fields.get(i).and_then(|v| v.parse::<f64>().ok());
            let name = (*fields.get(2)?).to_owned();
            whole(&name).then_some(())?;
            Some(Disk { read_bytes: number(5)? * SECTOR, write_bytes: number(9)? * SECTOR, busy_ms: number(12)?, name })
        })
        .collect()
}

/// Bytes received and sent on all interfaces; loopback counts too, since local clients use it.
fn network(text: &str) -> (f64, f64) {
    let mut sum = (0.0, 0.0);
    for line in text.lines().filter_map(|l| l.split_once(':')) {
        let fields: Vec<f64> = line.1.split_whitespace().filter_map(|v| v.parse().ok()).collect();
        sum.0 += fields.first().copied().unwrap_or(0.0);
        sum.1 += fields.get(8).copied().unwrap_or(0.0);
    }
    sum
}

fn retransmits(snmp: &str) -> Option<f64> {
    let mut lines = snmp.lines().filter(|l| l.starts_with("Tcp:"));
    let at = lines.next()?.split_whitespace().position(|name| name == "RetransSegs")?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

/// Microseconds in which some task was stalled.
fn stall_us(text: &str) -> Option<f64> {
    text.lines().find(|l| l.starts_with("some"))?.rsplit_once("total=")?.1.trim().parse().ok()
}

fn free_share(path: &Path) -> Option<f64> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    Some(stat.blocks_available() as f64 / (stat.blocks() as f64).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpu_ticks("cpu  100 0 200 300 50 0 0 10 0 0\ncpu0 1 1 1 1\n")[3], 3.0);
        assert_eq!(meminfo("MemTotal:       1000 kB\nMemAvailable:    250 kB\n", "MemAvailable"), Some(256_000.0));
        let p = process("42 (post (gres) x) S 7 42 42 0 -1 0 0 0 0 0 150 50 10 20 20 0 1").unwrap();
        assert_eq!((p.parent, p.ticks, p.children_ticks), (7, 2.0, 0.3));
        assert_eq!(stall_us("some avg10=5.82 avg60=1.83 avg300=0.42 total=4853118\nfull avg10=0 total=0\n"), Some(4_853_118.0));
        let d = disks("254 0 vda 10 0 2 0 20 0 4 0 0 5 6\n254 1 vda1 1 0 1 0 1 0 1 0 0 1 1\n7 0 loop0 1 0 1 0 1 0 1 0 0 1 1\n");
        assert_eq!((d.len(), d[0].read_bytes, d[0].busy_ms), (1, 1024.0, 5.0));
        assert_eq!(retransmits("Tcp: A RetransSegs\nTcp: 1 77\n"), Some(77.0));
    }

    #[test]
    fn the_second_look_gives_rates_of_this_very_host() {
        let mut host = Host::new(None, Some(PathBuf::from("/")));
        let mut frame = Frame::default();
        host.read(1_000, &mut frame);
        assert!(!frame.values.iter().any(|(n, _, _)| n == "node_cpu_busy_ratio"));
        std::thread::sleep(std::time::Duration::from_millis(300));
        host.read(1_300, &mut frame);
        let busy = frame.values.iter().find(|(n, _, _)| n == "node_cpu_busy_ratio").unwrap().2;
        assert!((0.0..=1.0).contains(&busy));
        assert!(frame.values.iter().any(|(n, _, _)| n == "node_filesystem_avail_ratio"));
    }
}
