//! Files that lie, shown to the real engine: what our own check lets pass must not end the engine's process often, and
//! never the caller's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use galen_agents::llm::{gguf, registry};

use super::support::{model, number, tiny};

/// Bytes of data in the tiny adapter: two halves of 2 x 64 floats.
const ADAPTER_DATA: usize = 2 * 2 * 64 * 4;

/// A generator of one's own, so that a run can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }
}

/// Changes a header in one place, seldom in up to four: bits, whole numbers, numbers that are extreme, pieces of other places.
fn mutate(header: &mut [u8], random: &mut Random) {
    let places = if random.below(4) == 0 { 1 + random.below(4) } else { 1 };
    for _ in 0..places {
        let at = random.below(header.len() - 8);
        match random.below(6) {
            0 => header[at] ^= 1 << random.below(8),
            1 => header[at] = u8::try_from(random.below(256)).unwrap(),
            2 => {
                let extreme = [0_u32, 1, 2, 3, 7, u32::MAX, 1 << 31, 1 << 16, 255][random.below(9)];
                header[at..at + 4].copy_from_slice(&extreme.to_le_bytes());
            }
            3 => {
                let extreme = [0_u64, 1, u64::MAX, 1 << 63, 1 << 32, 1 << 20, 64][random.below(7)];
                header[at..at + 8].copy_from_slice(&extreme.to_le_bytes());
            }
            4 => header[at..at + 8].rotate_left(1),
            _ => {
                let from = random.below(header.len() - 8);
                header.copy_within(from..from + 8, at);
            }
        }
    }
}

/// What came of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Our check refused it.
    Refused,
    /// llama.cpp refused it and said so.
    Failed,
    /// It was loaded and answered.
    Worked,
    /// The process was ended by this signal.
    Killed(i32),
    /// Not done in time.
    Hung,
    /// It ended in another way.
    Other(i32),
}

/// Starts the engine's process on a model, changed by an adapter if there is one, asks it for one score, and sees how it ends.
fn fate(base: &Path, adapter: Option<&Path>) -> (Fate, String) {
    let checked = match adapter {
        None => gguf::check(base),
        Some(adapter) => gguf::read(base).and_then(|header| gguf::check_adapter(adapter, header.architecture())),
    };
    if let Err(e) = checked {
        return (Fate::Refused, e.to_string());
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_galen-llm-worker"));
    command.args(["--threads", "1", "--context", "256", "--memory-limit", &(6_u64 << 30).to_string(), "--model"]).arg(base);
    if let Some(adapter) = adapter {
        let mut named = OsString::from("changed:1:");
        named.push(adapter);
        command.arg("--adapter").arg(named).args(["--adapt", "changed"]);
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let ask = r#"{"ask":{"id":1,"task":{"score":{"agent":"t","prompt":{"shared":"the and other","own":"Which?"},"options":["A","B"]}}}}"#;
    let mut stdin = child.stdin.take().unwrap();
    let _ = std::io::Write::write_all(&mut stdin, format!("{ask}\n").as_bytes());
    let out = child.stdout.take().unwrap();
    let answers = std::thread::spawn(move || {
        let mut lines = Vec::new();
        for line in std::io::BufRead::lines(std::io::BufReader::new(out)).map_while(Result::ok) {
            let last = line.contains("answer") || line.contains("failed");
            lines.push(line);
            if last {
                break;
            }
        }
        lines
    });
    let err = child.stderr.take().unwrap();
    let said = std::thread::spawn(move || std::io::read_to_string(err).unwrap_or_default());
    let began = Instant::now();
    let mut done = false;
    let status = loop {
        if answers.is_finished() && !done {
            done = true;
        }
        if done {
            // Answered: what is left is to see whether it dies now.
            if let Ok(Some(status)) = child.try_wait() {
                break Some(status);
            }
            let _ = child.kill();
            break child.wait().ok();
        }
        if let Ok(Some(status)) = child.try_wait() {
            break Some(status);
        }
        if began.elapsed() > Duration::from_secs(20) {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    let (lines, said) = (answers.join().unwrap(), said.join().unwrap());
    let last = lines.last().cloned().unwrap_or_default();
    let fate = match status {
        None => Fate::Hung,
        Some(_) if last.contains("failed") => Fate::Failed,
        Some(_) if last.contains("answer") => Fate::Worked,
        Some(status) => status.signal().map_or_else(|| Fate::Other(status.code().unwrap_or(-1)), Fate::Killed),
    };
    let telling = [".cpp:", ".c:", "ASSERT", "what()"];
    let why = said.lines().find(|l| telling.iter().any(|t| l.contains(t)));
    (fate, why.map_or_else(|| said.lines().last().unwrap_or_default().to_owned(), str::to_owned))
}

/// Writes a changed header before the whole length of data: zeros, which the disk need not hold.
fn write(file: &Path, header: &[u8], data: &[u8], size: u64) {
    std::fs::write(file, header).unwrap();
    let mut out = std::fs::OpenOptions::new().append(true).open(file).unwrap();
    std::io::Write::write_all(&mut out, data).unwrap();
    out.set_len(size).unwrap();
}

/// Changes the header of a file again and again. `adapts` is the model that it is an adapter of; without, it is a model.
fn run(path: &Path, adapts: Option<&Path>, rounds: u64, seed: u64, shown: bool) -> BTreeMap<Fate, u64> {
    let whole = std::fs::read(path).unwrap();
    let end = match adapts {
        None => usize::try_from(gguf::read(path).unwrap().data).unwrap(),
        Some(_) => whole.len() - ADAPTER_DATA,
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    let small = whole.len() < 1 << 20;
    let mut fates: BTreeMap<Fate, u64> = BTreeMap::new();
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..rounds {
        let mut random = Random((seed + round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut header = whole[..end].to_vec();
        // Lists of tokens are most of a header and little of its meaning: half of the changes keep to the rest.
        let place = if round % 2 == 0 || small { 0..end } else { 0..2_048 };
        mutate(&mut header[place], &mut random);
        write(&file, &header, if small { &whole[end..] } else { &[] }, whole.len() as u64);
        let (fate, why) = match adapts {
            None => fate(&file, None),
            Some(base) => fate(base, Some(&file)),
        };
        if matches!(fate, Fate::Killed(_) | Fate::Hung | Fate::Other(_)) {
            *reasons.entry(format!("{fate:?}: {why}")).or_default() += 1;
            if shown {
                println!("seed {} round {round}: {fate:?} {why}", seed);
            }
        }
        *fates.entry(fate).or_default() += 1;
    }
    if shown {
        println!("{}: {fates:?}\n{reasons:#?}", path.display());
    }
    fates
}

fn crashes(fates: &BTreeMap<Fate, u64>) -> u64 {
    fates.iter().filter(|(fate, _)| matches!(fate, Fate::Killed(_) | Fate::Hung | Fate::Other(_))).map(|(_, n)| n).sum()
}

#[test]
fn headers_that_lie_reach_no_assertion_of_llama_cpp() {
    let Some(path) = tiny("tiny-moe") else { return };
    assert_eq!(fate(&path, None).0, Fate::Worked, "the file as it is");
    let fates = run(&path, None, 60, 1, false);
    assert!(fates.get(&Fate::Refused).is_some_and(|n| *n > 10), "{fates:?}");
    assert_eq!(crashes(&fates), 0, "{fates:?}");
}

#[test]
fn headers_of_adapters_that_lie_reach_none_either() {
    let (Some(base), Some(adapter)) = (tiny("tiny-minicpm"), tiny("tiny-minicpm-lora")) else { return };
    assert_eq!(fate(&base, Some(&adapter)).0, Fate::Worked, "the file as it is");
    // Most are refused here, which takes no time.
    let fates = run(&adapter, Some(&base), 100, 1, false);
    assert!(fates.get(&Fate::Refused).is_some_and(|n| *n > 50), "{fates:?}");
    assert_eq!(crashes(&fates), 0, "{fates:?}");
}

/// By hand: `GALEN_FUZZ_ROUNDS=2000 cargo test --release --locked --workspace a_long_run -- --ignored --nocapture`.
#[test]
#[ignore = "a long run, by hand"]
fn a_long_run_over_headers_that_lie() {
    let (rounds, seed) = (number("GALEN_FUZZ_ROUNDS", 500), number("GALEN_FUZZ_SEED", 1_000_000));
    let mut files: Vec<PathBuf> = ["tiny-moe", "tiny-minicpm"].into_iter().filter_map(tiny).collect();
    files.extend(model("smollm2-135m"));
    let gemma = registry::Registry::builtin().unwrap().find("gemma-3-270m").unwrap().path(&registry::default_models_dir());
    files.extend(Some(gemma).filter(|p| p.exists()));
    // All files are tried before one of them fails the run.
    let mut crashed: BTreeMap<PathBuf, u64> = BTreeMap::new();
    for path in files {
        let small = std::fs::metadata(&path).unwrap().len() < 1 << 20;
        let fates = run(&path, None, if small { rounds } else { rounds / 10 }, seed, true);
        crashed.insert(path, crashes(&fates));
    }
    if let (Some(base), Some(adapter)) = (tiny("tiny-minicpm"), tiny("tiny-minicpm-lora")) {
        let fates = run(&adapter, Some(&base), rounds, seed, true);
        crashed.insert(adapter, crashes(&fates));
    }
    assert!(crashed.values().all(|n| *n == 0), "{crashed:?}");
}
