//! Detection on made series: it finds steps and bursts with their edges, and keeps quiet on healthy noise.

use crate::capture::{Capture, Frame};
use crate::model::Window;
use crate::signals::SignalTable;

use super::{DetectOptions, Detection, Direction, Stream, detect};

/// A small generator: deterministic, so that a failure can be seen again.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / (1u64 << 31) as f64
    }

    /// Roughly normal, mean 0, deviation 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

/// Healthy seconds: Poisson-like arrivals, a neighbour's CPU bursts, an autovacuum, single spikes.
fn healthy(seed: u64, second: i64) -> Vec<(String, &'static str, f64)> {
    let mut n = Noise(seed.wrapping_mul(7919).wrapping_add(second as u64 * 104_729 + 1));
    for _ in 0..3 {
        n.next();
    }
    let spike: f64 = if n.next() > 0.985 { 6.0 } else { 1.0 };
    let neighbour = if (second / 13 + seed as i64) % 5 == 0 { 0.35 } else { 0.0 };
    let vacuum = if (60..70).contains(&second) { 1.0 } else { 0.0 };
    let active = (0.4 + 0.5 * n.normal()).max(0.0).round() * spike.min(3.0);
    vec![
        ("active_sessions".into(), "sessions", active),
        ("active_sessions{wait_class=\"CPU\"}".into(), "sessions", active),
        ("tps".into(), "1/s", (110.0 + 11.0 * n.normal()).max(0.0)),
        ("tup_returned_per_s".into(), "1/s", (6_000.0 + 900.0 * n.normal()).max(0.0) * spike),
        ("tup_inserted_per_s".into(), "1/s", (30.0 + 6.0 * n.normal()).max(0.0)),
        ("wal_bytes_rate".into(), "bytes/s", (60_000.0 + 15_000.0 * n.normal()).max(0.0) * spike),
        ("node_cpu_busy_ratio".into(), "ratio", (0.15 + 0.03 * n.normal() + neighbour).clamp(0.0, 1.0)),
        ("vacuum_workers".into(), "sessions", vacuum),
        ("database_bytes".into(), "bytes", 6e8 + second as f64 * 20_000.0),
        ("blocked_sessions".into(), "sessions", 0.0),
    ]
}

/// Seconds of one run; inside the window the load of a bad statement is added.
fn frames(seed: u64, seconds: i64, bad: Option<(i64, i64)>) -> Vec<Frame> {
    (0..seconds)
        .map(|s| {
            let mut values = healthy(seed, s);
            if bad.is_some_and(|(from, to)| (from..to).contains(&s)) {
                for (name, _, value) in &mut values {
                    match name.as_str() {
                        name if name.starts_with("active_sessions") => *value += 5.0,
                        "tup_returned_per_s" => *value += 800_000.0,
                        "node_cpu_busy_ratio" => *value = 0.95,
                        _ => {}
                    }
                }
            }
            Frame { at: s * 1000, values, ..Frame::default() }
        })
        .collect()
}

fn run(seed: u64, seconds: i64, bad: Option<(i64, i64)>) -> Detection {
    let mut capture = Capture::default();
    capture.manifest.cpus = Some(2);
    for frame in frames(seed, seconds, bad) {
        capture.absorb(frame);
    }
    detect(&capture, &SignalTable::builtin(), &DetectOptions::default())
}

fn overlap(found: Window, (from, to): (i64, i64)) -> f64 {
    let (from, to) = (from * 1000, to * 1000);
    let shared = (found.end.min(to) - found.start.max(from)).max(0) as f64;
    shared / ((found.end.max(to) - found.start.min(from)) as f64)
}

#[test]
fn two_hundred_healthy_runs_raise_nothing() {
    for seed in 0..200 {
        let found = run(seed, 120, None);
        assert_eq!(found.window, None, "seed {seed}: {:?}", found.abnormal);
        assert!(found.quiet.is_some());
    }
}

#[test]
fn anomalies_are_found_with_their_edges_wherever_they_lie() {
    for (seed, window) in [(1, (60, 100)), (2, (40, 55)), (3, (90, 120)), (4, (36, 120)), (5, (20, 120)), (6, (0, 40))] {
        let found = run(seed, 120, Some(window));
        let iou = found.window.map_or(0.0, |w| overlap(w, window));
        assert!(iou >= 0.8, "{window:?}: {iou} {:?}", found.window);
        assert!(found.abnormal.iter().any(|a| a.signal == "tup_returned_per_s"));
    }
}

#[test]
fn what_moves_beside_a_calm_server_is_told_of_and_opens_nothing() {
    let told = |seconds: std::ops::Range<i64>| {
        let mut capture = Capture::default();
        for mut frame in frames(1, 120, None) {
            let neighbour = seconds.contains(&(frame.at / 1000));
            for (_, _, value) in frame.values.iter_mut().filter(|(name, ..)| name == "node_cpu_busy_ratio") {
                *value = if neighbour { 0.99 } else { 0.15 };
            }
            capture.absorb(frame);
        }
        detect(&capture, &SignalTable::builtin(), &DetectOptions::default())
    };
    let found = told(70..100);
    assert_eq!((found.window, found.abnormal.len(), found.beside.len()), (None, 0, 1), "{found:?}");
    let cpu = &found.beside[0];
    assert_eq!((cpu.signal.as_str(), cpu.observed, cpu.baseline, cpu.began), ("node_cpu_busy_ratio", 0.99, Some(0.15), 70_000));
    // A neighbour's burst is nobody's business, and what an incident shows stands in the incident.
    assert_eq!(told(70..75).beside, []);
    assert_eq!(run(1, 120, Some((60, 100))).beside, []);
}

#[test]
fn sessions_on_all_processors_are_a_second_witness_where_a_neighbour_takes_its_part_of_them() {
    let told = |postgres: f64, active: f64, cpus: Option<u32>| {
        let mut capture = Capture::default();
        capture.manifest.cpus = cpus;
        for mut frame in frames(1, 72, None) {
            let bad = (48..72).contains(&(frame.at / 1000));
            for (name, _, value) in &mut frame.values {
                match name.as_str() {
                    "node_cpu_busy_ratio" => *value = if bad { 1.0 } else { 0.15 },
                    name if name.starts_with("active_sessions") => *value = if bad { active } else { 0.0 },
                    _ => {}
                }
            }
            frame.values.push(("postgres_cpu_ratio".into(), "ratio", if bad { postgres } else { 0.05 }));
            capture.absorb(frame);
        }
        detect(&capture, &SignalTable::builtin(), &DetectOptions::default())
    };
    let window = told(0.45, 2.0, Some(2)).window.expect("both processors are wanted");
    assert!(overlap(window, (48, 72)) >= 0.8, "{window:?}");
    for cpus in [Some(8), Some(0), None] {
        let quiet = told(0.45, 2.0, cpus);
        assert_eq!(quiet.window, None, "{cpus:?}");
        // And nobody is told that it stayed as it was.
        assert!(quiet.beside.iter().any(|stray| stray.signal == "postgres_cpu_ratio"), "{quiet:?}");
    }
    // Sessions are one witness, however they are counted.
    let sessions = told(0.05, 5.0, Some(2));
    assert_eq!(sessions.window, None, "{:?}", sessions.abnormal);
    let strays: Vec<&str> = sessions.beside.iter().map(|stray| stray.signal.as_str()).collect();
    assert_eq!(strays, ["node_cpu_busy_ratio", "active_sessions"]);
}

#[test]
fn lost_throughput_is_not_read_backwards_as_a_wave_of_work() {
    // The second at which it is lost, sessions that are blocked and on a processor before, and retransmissions after.
    let told = |at: i64, blocked: f64, on_cpu: f64, retransmits: f64| {
        let mut capture = Capture::default();
        capture.manifest.cpus = Some(2);
        for mut frame in frames(1, 70, None) {
            let late = frame.at >= at * 1000;
            for (name, _, value) in &mut frame.values {
                match name.as_str() {
                    "tps" => *value = if late { 110.0 } else { 400.0 },
                    "tup_returned_per_s" => *value = if late { 17_000.0 } else { 120_000.0 },
                    "blocked_sessions" => *value = if late { 0.0 } else { blocked },
                    name if name.starts_with("active_sessions") => *value = if late { 0.0 } else { on_cpu },
                    _ => {}
                }
            }
            frame.values.push(("node_network_retransmits_per_s".into(), "1/s", if late { retransmits } else { 1.0 }));
            capture.absorb(frame);
        }
        detect(&capture, &SignalTable::builtin(), &DetectOptions::default())
    };
    // On either side of the middle.
    for at in [30, 45] {
        let quiet = told(at, 0.0, 0.0, 1.0);
        assert_eq!(quiet.window, None, "{at}: fewer asked, and nothing says why");
        let fell = quiet.beside.iter().find(|stray| stray.signal == "tps").expect("it is told of");
        assert_eq!((fell.direction, fell.baseline, fell.observed), (Direction::Down, Some(400.0), 110.0));
        let found = told(at, 0.0, 0.0, 800.0);
        assert!(found.window.is_some_and(|window| overlap(window, (at, 70)) >= 0.8), "{at}: {:?}", found.window);
        assert_eq!(found.abnormal[0].signal, "node_network_retransmits_per_s");
        // Whoever waits in the first part is ill there, and so is who wants all processors.
        for found in [told(at, 8.0, 0.0, 1.0), told(at, 0.0, 2.0, 1.0)] {
            assert!(found.window.is_some_and(|window| overlap(window, (0, at)) >= 0.8), "{at}: {:?}", found.window);
        }
    }
}

#[test]
fn a_capture_without_a_healthy_stretch_shows_by_limits_and_an_empty_one_is_quiet() {
    let mut capture = Capture::default();
    for s in 0..30 {
        capture.absorb(Frame { at: s * 1000, values: vec![("blocked_sessions".into(), "sessions", 7.0)], ..Frame::default() });
    }
    let found = detect(&capture, &SignalTable::builtin(), &DetectOptions::default());
    assert_eq!(found.abnormal[0].signal, "blocked_sessions");
    assert_eq!(found.baseline, None);
    assert!(detect(&Capture::default(), &SignalTable::builtin(), &DetectOptions::default()).quiet.is_some());
}

#[test]
fn the_stream_fires_once_within_five_seconds_and_clears_again() {
    let mut stream = Stream::new(SignalTable::builtin(), DetectOptions { warm_up_s: 20.0, ..DetectOptions::default() });
    let fired: Vec<i64> = frames(3, 160, Some((60, 100))).iter().filter_map(|f| stream.push(f)).map(|t| t.at / 1000).collect();
    assert_eq!(fired.len(), 1, "{fired:?}");
    assert!((60..=65).contains(&fired[0]), "{fired:?}");
    assert!(stream.cleared());
}

#[test]
fn the_stream_keeps_quiet_on_healthy_noise() {
    for seed in 0..40 {
        let mut stream = Stream::new(SignalTable::builtin(), DetectOptions::default());
        let fired = frames(seed, 180, None).iter().filter_map(|f| stream.push(f)).count();
        assert_eq!(fired, 0, "seed {seed}");
    }
}

/// A recording of signals that no table knows: noise, a counter, spikes; `moved` of them shift by three deviations inside.
fn strangers(seed: u64, moved: usize, window: (i64, i64)) -> Detection {
    let mut noise = Noise(seed.wrapping_mul(6_007).wrapping_add(17));
    let mut capture = Capture::default();
    for second in 0..130 {
        let inside = (window.0..window.1).contains(&second);
        let mut values: Vec<(String, &'static str, f64)> = (0..40)
            .map(|i| {
                let spike = if noise.next() > 0.98 { 40.0 } else { 0.0 };
                let shift = if inside && i < moved { 3.0 } else { 0.0 };
                (format!("attribute_{i}"), "", 100.0 + i as f64 + noise.normal() + shift + spike)
            })
            .collect();
        values.push(("counter".into(), "", second as f64 * 5.0 + noise.next()));
        values.push(("constant".into(), "", 16.0));
        capture.absorb(Frame { at: second * 1000, values, ..Frame::default() });
    }
    detect(&capture, &SignalTable::builtin(), &DetectOptions::default())
}

#[test]
fn signals_that_no_table_knows_show_a_shift_together() {
    for (seed, window) in [(1, (60, 95)), (2, (30, 45)), (3, (90, 130)), (4, (40, 85))] {
        let found = strangers(seed, 8, window);
        let iou = found.window.map_or(0.0, |w| overlap(w, window));
        assert!(iou >= 0.85, "{window:?}: {iou} {:?} {:?}", found.window, found.quiet);
        let named = found.abnormal.iter().filter(|a| a.direction == super::Direction::Up).count();
        assert!((6..=9).contains(&named), "{:?}", found.abnormal);
        assert!(found.baseline.is_some_and(|b| b.end <= found.window.unwrap().start));
    }
}

#[test]
fn noise_that_no_table_knows_and_one_odd_signal_are_no_incident() {
    for seed in 0..40 {
        let found = strangers(seed, usize::from(seed % 2 == 0), (60, 95));
        assert_eq!(found.window, None, "seed {seed}");
        assert!(found.quiet.is_some() && found.abnormal.is_empty());
    }
}

/// Two things go wrong at second 50, in signals of their own: one until second 70, the other until `end`, `left` of its signals.
fn two_troubles(seed: u64, end: i64, left: usize) -> Window {
    let mut noise = Noise(seed.wrapping_mul(6_007).wrapping_add(29));
    let mut capture = Capture::default();
    for second in 0..140 {
        let last = |i: usize| if i < 12 { 70 } else { end };
        let shifts = |i: usize| (50..last(i)).contains(&second) && i < 12 + left;
        let values = (0..40).map(|i| (format!("attribute_{i}"), "", noise.normal() + if shifts(i) { 4.0 } else { 0.0 }));
        capture.absorb(Frame { at: second * 1000, values: values.collect(), ..Frame::default() });
    }
    detect(&capture, &SignalTable::builtin(), &DetectOptions::default()).window.unwrap()
}

#[test]
fn an_incident_lasts_until_its_last_trouble_is_over() {
    for seed in 0..5 {
        // The stretch with both is the strongest; what goes on afterwards belongs to it.
        assert!(overlap(two_troubles(seed, 100, 6), (50, 100)) > 0.9, "{:?}", two_troubles(seed, 100, 6));
        // Two signals of forty that stay high for a while are what is left of it.
        assert!(overlap(two_troubles(seed, 100, 2), (50, 70)) > 0.8, "{:?}", two_troubles(seed, 100, 2));
        // A level that never comes back is a new usual.
        assert!(overlap(two_troubles(seed, 70, 6), (50, 70)) > 0.9);
    }
}

#[test]
fn an_incident_lasts_until_the_throughput_is_back() {
    let recording = |after: f64| {
        let mut noise = Noise(5);
        let mut capture = Capture::default();
        for second in 0..130i64 {
            let inside = (60..80).contains(&second);
            let mut values: Vec<(String, &'static str, f64)> =
                (0..20).map(|i| (format!("a{i}"), "", noise.normal() + if inside { 4.0 } else { 0.0 })).collect();
            let level = if second < 60 {
                100.0
            } else if inside {
                0.0
            } else {
                after
            };
            values.push(("tps".into(), "1/s", level + 5.0 * noise.normal()));
            capture.absorb(Frame { at: second * 1000, values, ..Frame::default() });
        }
        detect(&capture, &SignalTable::builtin(), &DetectOptions::default()).window.unwrap()
    };
    assert!(overlap(recording(100.0), (60, 80)) > 0.85);
    assert!(overlap(recording(60.0), (60, 130)) > 0.9);
}

/// Healthy seconds with the load of a bad statement from one second on, and blocked sessions inside a window.
fn shifted(seconds: i64, shift: i64, blocked: (i64, i64)) -> Vec<Frame> {
    let mut all = frames(3, seconds, Some((shift, seconds)));
    for (s, frame) in (0..).zip(&mut all) {
        let waiting = frame.values.iter_mut().find(|(name, _, _)| name == "blocked_sessions").unwrap();
        waiting.2 = if (blocked.0..blocked.1).contains(&s) { 8.0 } else { 0.0 };
    }
    all
}

#[test]
fn a_second_anomaly_is_noticed_while_the_first_one_lasts() {
    let mut stream = Stream::new(SignalTable::builtin(), DetectOptions { warm_up_s: 20.0, ..DetectOptions::default() });
    let fired: Vec<_> = shifted(200, 60, (120, 160)).iter().filter_map(|f| stream.push(f)).collect();
    let at: Vec<i64> = fired.iter().map(|t| t.at / 1000).collect();
    assert!(at.len() == 2 && (60..=65).contains(&at[0]) && (120..=125).contains(&at[1]), "{at:?}");
    assert!(fired[1].signals.iter().any(|a| a.signal == "blocked_sessions"), "{:?}", fired[1].signals);
    assert!(fired[1].signals.iter().all(|a| a.signal != "active_sessions"), "what the first one showed is not news");
}

#[test]
fn trouble_that_spreads_at_once_is_one_anomaly() {
    let mut stream = Stream::new(SignalTable::builtin(), DetectOptions { warm_up_s: 20.0, ..DetectOptions::default() });
    assert_eq!(shifted(160, 60, (75, 160)).iter().filter_map(|f| stream.push(f)).count(), 1);
}

#[test]
fn what_lasts_becomes_the_new_usual() {
    let mut stream = Stream::new(SignalTable::builtin(), DetectOptions { warm_up_s: 20.0, ..DetectOptions::default() });
    let fired: Vec<i64> = shifted(900, 60, (850, 880)).iter().filter_map(|f| stream.push(f)).map(|t| t.at / 1000).collect();
    assert!(fired.len() == 2 && (850..=855).contains(&fired[1]), "{fired:?}");
}

#[test]
fn bursts_that_a_median_passes_over_are_judged_from_where_they_began() {
    let mut capture = Capture::default();
    for s in 0..60 {
        let temp = if s >= 40 && s % 4 == 0 { 5e7 } else { 0.0 };
        let values = vec![("temp_bytes_rate".into(), "bytes/s", temp), ("active_sessions".into(), "sessions", 0.0)];
        capture.absorb(Frame { at: s * 1000, values, ..Frame::default() });
    }
    let (table, options) = (SignalTable::builtin(), DetectOptions::default());
    assert_eq!(detect(&capture, &table, &options).window, None);
    let found = super::detect_since(&capture, &table, &options, 40_000);
    assert_eq!((found.window.unwrap().start, found.baseline.unwrap()), (40_000, Window { start: 0, end: 37_000 }));
}

/// A healthy run in which `name` (a rate, read every three seconds) counts `counts` at those seconds.
fn with_counts(name: &str, counts: &[(i64, f64)]) -> Vec<Frame> {
    let mut frames = frames(3, 100, None);
    for frame in frames.iter_mut().filter(|f| f.at % 3_000 == 0) {
        let of = |second: i64| counts.iter().filter(|(at, _)| (second - 3..second).contains(at)).map(|(_, n)| n).sum::<f64>();
        frame.values.push((name.into(), "1/s", of(frame.at / 1000) / 3.0));
    }
    frames
}

#[test]
fn what_should_hardly_ever_happen_is_an_incident_however_short() {
    let table = SignalTable::builtin();
    let look = |frames: &[Frame]| {
        let mut capture = Capture::default();
        frames.iter().for_each(|f| capture.absorb(f.clone()));
        detect(&capture, &table, &DetectOptions::default())
    };
    let failing = with_counts("archive_failures_per_s", &[(70, 3.0), (90, 1.0)]);
    let found = look(&failing);
    let window = found.window.expect("failures of the archiver are noticed");
    assert!((66_000..72_000).contains(&window.start) && window.end >= 90_000, "{window}");
    assert_eq!(found.abnormal[0].signal, "archive_failures_per_s");
    assert_eq!(found.abnormal[0].began / 3_000, 23);
    assert_eq!(look(&with_counts("archive_failures_per_s", &[(70, 1.0)])).window, None, "one failure is tried again");
    let storm = [(60, 1.0), (66, 1.0), (72, 1.0), (78, 1.0), (84, 1.0)];
    assert!(look(&with_counts("checkpoints_requested_per_s", &storm)).window.is_some());
    assert_eq!(look(&with_counts("checkpoints_requested_per_s", &storm[..2])).window, None, "a backup asks for a checkpoint or two");
    // The live detector says the same.
    let fires = |frames: &[Frame]| {
        let mut stream = Stream::new(SignalTable::builtin(), DetectOptions::default());
        frames.iter().filter_map(|f| stream.push(f)).map(|t| t.at / 1000).next()
    };
    assert!(fires(&with_counts("checkpoints_requested_per_s", &storm)).is_some_and(|at| (75..90).contains(&at)));
    assert_eq!(fires(&with_counts("checkpoints_requested_per_s", &storm[..2])), None);
}

#[test]
fn what_was_usual_ends_before_the_incident_showed() {
    for seed in 1..6 {
        let detection = run(seed, 180, Some((90, 140)));
        let (window, baseline) = (detection.window.unwrap(), detection.baseline.unwrap());
        assert!(baseline.end <= 90_000 && baseline.end + 3_000 <= window.start, "{baseline:?} {window:?}");
    }
    // A baseline that is hardly long enough is not cut.
    let detection = run(7, 60, Some((12, 50)));
    assert!(detection.baseline.unwrap().seconds() >= 9.0, "{detection:?}");
}

#[test]
fn a_signal_that_strayed_before_the_others_tells_when_it_began_and_ends_what_was_usual() {
    let table = SignalTable::builtin();
    let (name, level) = ("tup_returned_per_s", 6_000.0);
    let spec = table.lookup(name);
    // Out of line, and yet not enough to open an incident at once.
    let stray = level + (4.6 * spec.floor.max(spec.relative_floor * level).max(900.0)).max(1.1 * spec.min_effect);
    let mut capture = Capture::default();
    for mut frame in frames(3, 180, Some((100, 140))) {
        for (_, _, value) in frame.values.iter_mut().filter(|(n, _, _)| n == name) {
            match frame.at / 1000 {
                0..88 => *value = level,
                88..100 => *value = stray,
                _ => {}
            }
        }
        capture.absorb(frame);
    }
    let found = detect(&capture, &table, &DetectOptions::default());
    let (window, baseline) = (found.window.unwrap(), found.baseline.unwrap());
    let of = |name: &str| found.abnormal.iter().find(|a| a.signal == name).unwrap().began;
    assert_eq!(of(name), 88_000, "{window:?}");
    assert!(window.start > 88_000 && of("active_sessions") >= 98_000, "{found:?}");
    assert_eq!(baseline.end, 85_000, "{baseline:?}");
}
