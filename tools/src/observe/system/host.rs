//! The host: CPU inside and outside PostgreSQL, memory, disks, network, pressure.

use crate::model::CulpritKind;
use crate::observe::facts::{FactSheet, mean, middle, peak};
use crate::observe::{Observation, Scene};

/// A volume that loses a smaller share of itself over the window is not filling.
const LEAST_FALL: f64 = 0.01;

/// `host`: everything the host's counters say.
pub fn host(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let window = Some(crate::observe::facts::window(scene));
    let base = scene.detection.baseline;
    let mut sheet = FactSheet::new("host", scene);
    let pairs = [
        ("cpu_busy", "node_cpu_busy_ratio", None),
        ("cpu_iowait", "node_cpu_iowait_ratio", None),
        ("load1", "node_load1", None),
        ("run_queue", "node_procs_running", None),
        ("blocked_processes", "node_procs_blocked", None),
        ("disk_util", "node_disk_util_ratio", None),
        ("disk_read_bytes_per_s", "node_disk_read_bytes_rate", Some(1e6)),
        ("disk_write_bytes_per_s", "node_disk_write_bytes_rate", Some(1e6)),
        ("psi_cpu", "node_pressure_cpu_ratio", None),
        ("psi_io", "node_pressure_io_ratio", None),
        ("network_transmit_bytes_per_s", "node_network_transmit_bytes_rate", Some(1e5)),
        ("network_receive_bytes_per_s", "node_network_receive_bytes_rate", Some(1e5)),
    ];
    // One burst is no congestion, however large.
    let retransmits = |window| middle(capture, "node_network_retransmits_per_s", window);
    sheet.put_pair("retransmits_per_s", retransmits(window), retransmits(base), None);
    for (fact, signal, floor) in pairs {
        sheet.put_pair(fact, mean(capture, signal, window), mean(capture, signal, base), floor);
    }
    sheet.put("cpu_steal", mean(capture, "node_cpu_steal_ratio", window));
    sheet.put("run_queue_peak", peak(capture, "node_procs_running", window));
    if let Some(cpus) = capture.manifest.cpus.filter(|c| *c > 0).map(f64::from) {
        sheet.put("cpus", cpus);
        sheet.put("load_per_cpu", mean(capture, "node_load1", window).map(|l| l / cpus));
        sheet.put("run_queue_per_cpu", mean(capture, "node_procs_running", window).map(|r| r / cpus));
    }
    let outside = |w| mean(capture, "node_cpu_busy_ratio", w).zip(mean(capture, "postgres_cpu_ratio", w)).map(|(b, p)| (b - p).max(0.0));
    sheet.put("postgres_cpu", mean(capture, "postgres_cpu_ratio", window));
    let busy = mean(capture, "node_cpu_busy_ratio", window);
    sheet.put("postgres_cpu_of_busy", mean(capture, "postgres_cpu_ratio", window).zip(busy).map(|(p, b)| (p / b.max(0.01)).min(1.0)));
    sheet.put_pair("outside_cpu", outside(window), outside(base), None);
    sheet.put("memory_available_share", middle(capture, "node_memory_available_ratio", window));
    sheet.put("swap_pages_per_s", mean(capture, "node_swap_io_rate", window));
    sheet.put("psi_memory", mean(capture, "node_pressure_memory_ratio", window));
    // A volume is judged by its worst moment: one that fills has had room for most of the time.
    let volume = window.zip(capture.series.get("node_filesystem_avail_ratio"));
    let free = volume.map_or(&[] as &[f64], |(window, series)| series.within(window));
    sheet.put("filesystem_avail_share", free.iter().copied().reduce(f64::min));
    let fall = free.first().zip(free.last()).map(|(first, last)| first - last).filter(|fall| *fall > LEAST_FALL);
    let full_in = fall.zip(free.last()).zip(window).map(|((fall, last), window)| last / fall * window.seconds());
    sheet.put("filesystem_full_in_s", full_in);
    managed(scene, &mut sheet);
    sheet.signals(&[
        "instance_cpu_ratio",
        "disk_queue_depth",
        "node_cpu_busy_ratio",
        "node_procs_running",
        "node_load1",
        "node_disk_util_ratio",
    ]);
    sheet.culprit(
        CulpritKind::Host,
        if capture.manifest.target.is_empty() { "host" } else { &capture.manifest.target },
        "the database host",
    );
    sheet.finish("the host was not observed (the server is not local, or /proc cannot be read)")
}

/// A managed instance: it runs nothing but the database, so its CPU and its disks are the database's.
fn managed(scene: &Scene<'_>, sheet: &mut FactSheet<'_>) {
    let capture = scene.capture;
    let (window, base) = (Some(crate::observe::facts::window(scene)), scene.detection.baseline);
    let cpu = mean(capture, "instance_cpu_ratio", window);
    sheet.put_pair("instance_cpu", cpu, mean(capture, "instance_cpu_ratio", base), None);
    sheet.put("instance_cpu_peak", peak(capture, "instance_cpu_ratio", window));
    for (fact, signal, floor) in [
        ("disk_queue", "disk_queue_depth", 1.0),
        ("read_iops_per_s", "disk_read_iops", 100.0),
        ("write_iops_per_s", "disk_write_iops", 100.0),
        ("read_latency_s", "disk_read_latency_s", 0.002),
        ("write_latency_s", "disk_write_latency_s", 0.002),
    ] {
        sheet.put_pair(fact, mean(capture, signal, window), mean(capture, signal, base), Some(floor));
    }
    sheet.put("memory_free_bytes", middle(capture, "memory_free_bytes", window));
    sheet.put("memory_free_bytes_base", middle(capture, "memory_free_bytes", base));
    sheet.put("swap_used_bytes", middle(capture, "swap_used_bytes", window));
    if cpu.is_some() && capture.manifest.origin == "rds" {
        sheet.put("source", "CloudWatch");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Capture, Frame};
    use crate::detect::Detection;
    use crate::model::Window;
    use crate::probe::Recorded;

    /// Facts of a minute in which this share of the volume is free.
    fn volume(free: impl Fn(i64) -> f64) -> serde_json::Map<String, serde_json::Value> {
        let mut capture = Capture::default();
        for s in 0..60 {
            let values = vec![("node_filesystem_avail_ratio".into(), "ratio", free(s))];
            capture.absorb(Frame { at: s * 1000, values, ..Frame::default() });
        }
        let detection = Detection { window: Some(Window { start: 40_000, end: 60_000 }), ..Detection::default() };
        host(&Scene { capture: &capture, detection: &detection, prober: &Recorded(&capture) }).facts.into_iter().collect()
    }

    #[test]
    fn a_volume_is_judged_by_its_worst_moment_and_by_how_fast_it_fills() {
        let number = |facts: &serde_json::Map<String, serde_json::Value>, name: &str| facts.get(name).and_then(|v| v.as_f64());
        // Full for the last three seconds only; half of the time there was room.
        let filled = volume(|s| if s < 40 { 0.6 } else { (0.6 - 0.035 * (s - 40) as f64).max(0.0) });
        assert_eq!((number(&filled, "filesystem_avail_share"), number(&filled, "filesystem_full_in_s")), (Some(0.0), Some(0.0)));
        let filling = volume(|s| 0.5 - 0.005 * s as f64);
        let in_s = number(&filling, "filesystem_full_in_s").unwrap();
        assert!((38.0..46.0).contains(&in_s), "0.205 are left, and half a percent goes each second: {in_s}");
        let steady = volume(|s| 0.3 + 0.001 * (s % 2) as f64);
        assert_eq!((number(&steady, "filesystem_avail_share"), number(&steady, "filesystem_full_in_s")), (Some(0.3), None));
    }
}
