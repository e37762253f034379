//! Recording many scenarios, several at a time within what the machine has, each on a server of its own.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};

use super::binaries;
use super::cluster::{Cluster, ClusterOptions};
use super::folder::Folder;
use super::room::is_full;
use super::run::{Phase, Recorded, Run, record};
use super::scenario::Scenario;

/// One case to record.
#[derive(Debug, Clone)]
pub struct Case {
    /// Stem of its files.
    pub name: String,
    /// What goes wrong, and where.
    pub scenario: Scenario,
    /// Parameters, phases, seed.
    pub run: Run,
}

/// What a batch reports as it goes.
#[derive(Debug)]
pub enum Step<'a> {
    /// The case was recorded earlier.
    Kept(&'a str),
    /// A phase of a case began.
    Phase(&'a str, Phase),
    /// The case is written.
    Saved(&'a str, Duration),
    /// The case could not be recorded; the others go on.
    Failed(&'a str, String),
}

/// What became of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Recorded now.
    pub recorded: usize,
    /// Were there already.
    pub kept: usize,
    /// Could not be recorded.
    pub failed: usize,
}

/// Memory that a cluster under load takes, in bytes: shared buffers, backends, the page cache of a few hundred megabytes.
const CLUSTER_BYTES: f64 = 1.0e9;

/// Starts a cluster as the case needs it, records, and removes the cluster again.
///
/// # Errors
/// No server, or anything that `record` fails with.
pub async fn fresh(scenario: &Scenario, run: &Run, bin_dir: Option<PathBuf>, on_phase: impl Fn(Phase)) -> anyhow::Result<Recorded> {
    on_phase(Phase::Start);
    let options = ClusterOptions { bin_dir, ..scenario.options(&run.parameters)? };
    let cluster = Cluster::start(options).await?;
    for note in cluster.notes() {
        tracing::info!(note, "the lab's server");
    }
    let recorded = record(&cluster, scenario, run, on_phase).await.map_err(|error| cluster.blamed(error));
    cluster.stop().await;
    recorded
}

/// Records every case that is not finished yet, at most `jobs` at a time; those that narrow the network come last, one by one.
/// Dropping the future stops all servers.
///
/// # Errors
/// [`Otherwise`](super::folder::Otherwise) where a finished case was recorded with something else; nothing is recorded then. A
/// disk that is full, of the folder or under a server, ends the batch; finished cases stay. A case that fails for another
/// reason is a [`Step::Failed`].
pub async fn run(
    folder: &Folder,
    cases: &[Case],
    jobs: usize,
    bin_dir: Option<PathBuf>,
    tell: &dyn Fn(Step<'_>),
) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let (kept, open) = finished(folder, cases, bin_dir.as_deref())?;
    for name in kept {
        outcome.kept += 1;
        tell(Step::Kept(name));
    }
    // All servers share one loopback: while it is narrow there may be no other.
    let (alone, beside): (Vec<&Case>, Vec<&Case>) = open.into_iter().partition(|case| case.narrows_network());
    let beside = stream::iter(beside).map(|case| attempt(case, bin_dir.clone(), tell)).buffer_unordered(jobs.max(1));
    let alone = stream::iter(alone).map(|case| attempt(case, bin_dir.clone(), tell)).buffer_unordered(1);
    let mut work = beside.chain(alone);
    while let Some((case, began, recorded)) = work.next().await {
        match recorded.and_then(|it| folder.save(&case.name, &it.capture, &it.answer)) {
            Ok(_) => {
                outcome.recorded += 1;
                tell(Step::Saved(&case.name, began.elapsed()));
            }
            Err(error) if is_full(&error) => {
                return Err(error).with_context(|| {
                    let done = outcome.recorded + outcome.kept;
                    format!(
                        "the disk is full: {done} finished cases stay in {}; make room and run the same command again",
                        folder.path().display()
                    )
                });
            }
            Err(error) => {
                outcome.failed += 1;
                tell(Step::Failed(&case.name, format!("{error:#}")));
            }
        }
    }
    Ok(outcome)
}

/// Records a case; returns it with when that began and what became of it.
async fn attempt<'c>(case: &'c Case, bin_dir: Option<PathBuf>, tell: &dyn Fn(Step<'_>)) -> (&'c Case, Instant, anyhow::Result<Recorded>) {
    let began = Instant::now();
    let recorded = fresh(&case.scenario, &case.run, bin_dir, |phase| tell(Step::Phase(&case.name, phase))).await;
    (case, began, recorded)
}

/// True when a case that narrows the network is still to be recorded.
pub fn narrows_network(folder: &Folder, cases: &[Case]) -> bool {
    cases.iter().any(|case| case.narrows_network() && folder.finished(&case.name).is_none())
}

/// `server_version_num` of the server that a batch would run on; none where there is no server, or it does not say.
///
/// # Errors
/// There is no server in the folder, or of the major version, that was asked for.
pub fn server(bin_dir: Option<&Path>) -> anyhow::Result<Option<i32>> {
    match binaries::find_bin_dir(bin_dir) {
        Err(error) if bin_dir.is_some() => Err(error),
        found => Ok(found.ok().and_then(|dir| binaries::version_num(&dir))),
    }
}

/// Names of the cases that are finished, and the others.
fn finished<'c>(folder: &Folder, cases: &'c [Case], bin_dir: Option<&Path>) -> anyhow::Result<(Vec<&'c str>, Vec<&'c Case>)> {
    let version = OnceCell::new();
    let version = || *version.get_or_init(|| server(bin_dir).ok().flatten());
    let (mut kept, mut open) = (Vec::new(), Vec::new());
    for case in cases {
        match folder.finished(&case.name) {
            Some(answer) => {
                folder.agrees(&case.name, &answer, &case.asked(version()))?;
                kept.push(case.name.as_str());
            }
            None => open.push(case),
        }
    }
    Ok((kept, open))
}

impl Case {
    /// True when its network has to be one of its own.
    pub fn narrows_network(&self) -> bool {
        self.scenario.narrows_network(&self.run.parameters)
    }

    /// What the answer of this case says when it is recorded now; what is not known of the server is left out.
    fn asked(&self, version: Option<i32>) -> Value {
        let (fault, mut parameters) = (&self.scenario.fault, self.scenario.fault.parameters.clone());
        parameters.extend(self.run.parameters.iter().map(|(key, value)| (key.clone(), *value)));
        let mut asked = json!({
            "scenario": fault.name, "schema": fault.schema, "causes": fault.causes, "parameters": parameters,
            "phases": self.run.phases, "seed": self.run.seed, "galen_version": env!("CARGO_PKG_VERSION"),
            "culprits": fault.culprits, "scenario_sha256": self.scenario.sha256(),
        });
        if let Some(version) = version {
            asked["server_version_num"] = version.into();
        }
        asked
    }
}

/// How many clusters this machine carries at a time: one for two CPUs, and for each gigabyte that is available.
pub fn most_jobs() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = available_bytes().map_or(usize::MAX, |bytes| (bytes / CLUSTER_BYTES) as usize);
    (cpus / 2).min(memory).max(1)
}

fn available_bytes() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? * 1024.0)
}

#[cfg(test)]
mod tests {
    use galen_tools::capture::{Capture, FORMAT};

    use super::*;
    use crate::lab::answer::Answer;
    use crate::lab::{Fault, Otherwise, Parameters, Schema};

    fn case(fault: &str) -> Case {
        let scenario = Scenario { schema: Schema::load("shop").unwrap(), fault: Fault::parse("shop", fault).unwrap() };
        let run = Run { parameters: Parameters::new(), seed: 1, ..Run::default() };
        Case { name: run.case(&scenario.fault.name), scenario, run }
    }

    const FAULT: &str = "name = 'mine'\ntitle = 't'\ncauses = ['missing_index']\nincludes = ['missing_index']\nsetup = ['SELECT 1']";

    #[test]
    fn only_a_case_that_is_still_to_record_asks_for_a_network() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        let cases = [case(&FAULT.replace("'mine'", "'wide'")), case(&format!("{FAULT}\n[network]\nrate_kbit = 8000"))];
        let mut capture = Capture::default();
        capture.manifest.format = FORMAT;
        for (case, asks) in cases.iter().zip([true, false]) {
            assert!(narrows_network(&folder, &cases));
            let answer = Answer::new(&case.scenario, &case.run, None, 150_000, Default::default());
            folder.save(&case.name, &capture, &answer).unwrap();
            assert_eq!(narrows_network(&folder, &cases), asks, "{}", case.name);
        }
    }

    #[test]
    fn a_finished_case_is_kept_of_the_same_scenario_alone() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        let recorded = case(FAULT);
        let version = server(None).unwrap().unwrap_or(150_000);
        let answer = Answer::new(&recorded.scenario, &recorded.run, None, version, Default::default());
        let mut capture = Capture::default();
        capture.manifest.format = FORMAT;
        folder.save(&recorded.name, &capture, &answer).unwrap();
        let kept = |case: Case| match finished(&folder, &[case], None) {
            Ok((kept, open)) => {
                assert_eq!((kept.len(), open.len()), (1, 0));
                String::new()
            }
            Err(error) => {
                assert!(error.is::<Otherwise>() && error.to_string().contains("mine-1.galen"), "{error:#}");
                error.to_string()
            }
        };
        assert_eq!(kept(recorded.clone()), "");
        assert_eq!(kept(case(&format!("# for whoever reads it\n{}", FAULT.replace("'t'", "'Another title'")))), "");

        let differs = |text: &str| text.contains(&format!("scenario_sha256: \"{}\" / ", answer.scenario_sha256));
        let edited = kept(case(&FAULT.replace("SELECT 1", "SELECT 2")));
        assert!(differs(&edited), "{edited}");
        let included = kept(case(&FAULT.replace("includes = ['missing_index']", "includes = ['deadlocks']")));
        assert!(differs(&included), "{included}");
        let mut tables = recorded.clone();
        tables.scenario.schema.sql.push_str("CREATE INDEX one_more ON orders (id);");
        let mut steady = recorded.clone();
        steady.scenario.schema.baseline[0].count += 1;
        for other in [tables, steady] {
            let told = kept(other);
            assert!(differs(&told) && told.matches(" / ").count() == 2, "nothing but the digest differs: {told}");
        }
        let wanted = kept(case(&format!("{FAULT}\nculprits = [{{ kind = 'table', pattern = 'carts' }}]")));
        assert!(wanted.contains("culprits: "), "{wanted}");

        // What was recorded before answers said so may be of any scenario of that name.
        let sidecar = Answer::path(&folder.capture(&recorded.name));
        let mut older = serde_json::to_value(&answer).unwrap();
        older.as_object_mut().unwrap().remove("scenario_sha256").unwrap();
        std::fs::write(&sidecar, older.to_string()).unwrap();
        let told = kept(recorded);
        assert!(told.contains("scenario_sha256: null / "), "{told}");
        assert_eq!(serde_json::from_value::<Answer>(older).unwrap().scenario_sha256, "", "and it is read all the same");
    }
}
