//! The driver of a diagnosis: performs the I/O that the search decides on, and assembles the report.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use galen_knowledge::catalog::Catalog;
use galen_knowledge::cause::{Cause, Test, Verdict};
use galen_knowledge::chunk::KnowledgeChunk;
use galen_knowledge::index::Index;
use galen_tools::capture::Capture;
use galen_tools::detect::{self, Abnormal, DetectOptions, Detection, Direction};
use galen_tools::model::Window;
use galen_tools::observe::{self, Observation, Scene};
use galen_tools::probe::Prober;
use galen_tools::signals::SignalTable;

use crate::assemble;
use crate::evidence::Board;
use crate::experts::{self, Invited};
use crate::llm::Provider;
use crate::llm::skill::Skills;
use crate::panel;
use crate::report::Report;
use crate::search::{Outcome, Search, Step};
use crate::signature::{self, Signatures};

/// Most signals told of that moved beside a calm server.
pub(crate) const MOST_BESIDE: usize = 3;

/// Most chunks that a library indexes in memory by itself: what ships, and some documents of one's own. For more, an index
/// is put there.
pub const MOST_IN_MEMORY: usize = 2_000;

/// How to diagnose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Seed for every choice that breaks ties.
    pub seed: u64,
    /// Cite knowledge chunks.
    pub knowledge: bool,
    /// Most tests to run.
    pub max_tests: u32,
    /// Budget of probe milliseconds on the target.
    pub max_probe_ms: f64,
    /// True when replaying: the bill then is that of the recording.
    pub replay: bool,
    /// How the anomaly is found.
    pub detect: DetectOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 7, knowledge: true, max_tests: 200, max_probe_ms: 2_000.0, replay: false, detect: DetectOptions::default() }
    }
}

/// What a diagnosis says while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Progress {
    Detected { window: String, signals: Vec<String> },
    ExpertsChosen { experts: Vec<String> },
    Tested { expert: String, cause: String, test: String, verdict: String, probability: f64 },
    Finding { cause: String, probability: f64, summary: String },
    Reviewing { cause: String },
    Writing,
}

/// A report and the tree it came from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// The report.
    pub report: Report,
    /// Every node of the search, pruned ones with their reason.
    pub tree: Vec<TreeNode>,
    /// What the model was asked to choose between, and what it chose: calibration compares it with labels.
    #[serde(default)]
    pub ballot: Option<Ballot>,
}

/// A vote of the model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Ballot {
    pub candidates: Vec<String>,
    pub choice: String,
}

/// A node of the search tree, as stored and shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TreeNode {
    pub id: u64,
    pub parent: Option<u64>,
    /// `root`, `hypothesis`, `test` or `culprit`.
    pub kind: Cow<'static, str>,
    pub label: String,
    pub expert: String,
    pub visits: u64,
    /// Mean backed-up value.
    pub value: f64,
    /// Probability of the hypothesis after the node.
    pub probability: Option<f64>,
    /// `open`, `supported`, `refuted`, `inconclusive` or `pruned`.
    pub state: Cow<'static, str>,
    pub reason: String,
    pub evidence: Vec<String>,
}

/// What a diagnosis knows before it looks: causes, documents, signals. Load once, use for every diagnosis.
#[derive(Debug, Clone, Default)]
pub struct Library {
    /// Root causes.
    pub catalog: Catalog,
    /// Knowledge chunks by cause.
    pub chunks: Vec<KnowledgeChunk>,
    /// Canonical signals.
    pub signals: SignalTable,
    /// Measured skill of models.
    pub skill: Skills,
    /// Learnt signatures; `signature::extend` gives the catalog the tests that ask for them.
    pub signatures: Signatures,
    /// Index of the chunks; made in memory when it is first asked for, unless one was put here.
    pub index: Shelf,
}

/// The index of a library's chunks, shared by its clones.
pub type Shelf = Arc<OnceLock<Option<Index>>>;

impl Library {
    /// The index of the chunks; none where there are no chunks, or too many to index them in memory.
    pub fn index(&self) -> Option<&Index> {
        let build = || {
            let few = !self.chunks.is_empty() && self.chunks.len() <= MOST_IN_MEMORY;
            few.then(|| Index::in_memory(&self.chunks, &self.catalog, None).ok()).flatten()
        };
        self.index.get_or_init(build).as_ref()
    }

    /// A chunk by id.
    pub fn chunk(&self, id: &str) -> Option<&KnowledgeChunk> {
        self.chunks.iter().find(|chunk| chunk.id == id)
    }
}

/// Diagnoses a capture. The same call serves a live target (its prober asks the server) and a replay
/// (its prober reads the capture). Never fails: what cannot be seen is said in the report.
pub async fn diagnose(
    capture: &Capture,
    library: &Library,
    prober: &dyn Prober,
    provider: Option<Arc<dyn Provider>>,
    options: &Options,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Diagnosis {
    let mut detection = detect::detect(capture, &library.signals, &options.detect);
    // The live detector watched for longer than the capture reaches back, and saw bursts that a median passes over.
    let noticed = capture.alerts.iter().filter(|a| a.source == "detector").map(|a| a.starts_at).min();
    if let Some(began) = noticed.filter(|_| detection.window.is_none()) {
        let since = detect::detect_since(capture, &library.signals, &options.detect, began);
        // Why the whole kept quiet is no matter where this stretch did not.
        let (quiet, beside) = if since.abnormal.is_empty() { (detection.quiet, detection.beside) } else { Default::default() };
        detection = Detection { quiet, beside, ..since };
    }
    // Whoever raised the alert, Galen's own detector included, is owed a search.
    // A crash may be over so fast that no signal shows it.
    let restarted = capture.events.iter().any(|e| e.kind == "restart" || e.kind.starts_with("role_changed"));
    let asked = !capture.alerts.is_empty() || restarted || capture.manifest.origin != "live";
    let worth_a_search = detection.window.is_some() || asked;
    if detection.window.is_none() && worth_a_search {
        detection.window = capture.span();
        detection.baseline = None;
    }
    progress(Progress::Detected {
        window: detection.window.map(|w| assemble::span_text(w).start).unwrap_or_default(),
        signals: detection.abnormal.iter().take(5).map(|a| a.signal.clone()).collect(),
    });
    let mut case = Case::new(capture, library, &detection, prober, options, progress);
    if worth_a_search {
        case.search_tree().await;
    } else {
        case.look_around().await;
    }
    let opinion = match &provider {
        Some(provider) if worth_a_search => panel::consult(&mut case, provider.as_ref()).await,
        _ => panel::Opinion::default(),
    };
    progress(Progress::Writing);
    let report = assemble::report(&mut case, &opinion, provider.as_deref()).await;
    let ballot = opinion.choice.map(|choice| Ballot { candidates: opinion.candidates, choice });
    Diagnosis { report, tree: case.search.into_nodes(), ballot }
}

/// A diagnosis in progress.
pub struct Case<'a> {
    /// The capture.
    pub capture: &'a Capture,
    /// Causes and documents.
    pub library: &'a Library,
    /// What the detector found.
    pub detection: &'a Detection,
    /// Options.
    pub options: &'a Options,
    /// Observations so far.
    pub board: Board,
    /// Hypotheses and tests so far.
    pub search: Search<'a>,
    /// Experts that took part, with the number of tests each ran.
    pub panel: Vec<(Invited, u64)>,
    prober: &'a dyn Prober,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
    probe_ms: f64,
}

impl<'a> Case<'a> {
    fn new(
        capture: &'a Capture,
        library: &'a Library,
        detection: &'a Detection,
        prober: &'a dyn Prober,
        options: &'a Options,
        progress: &'a (dyn Fn(Progress) + Send + Sync),
    ) -> Self {
        let mut board = Board::default();
        board.publish(detector_observation(detection));
        Self {
            capture,
            library,
            detection,
            options,
            board,
            search: Search::new(&library.catalog, &capture.manifest.name),
            panel: Vec::new(),
            prober,
            progress,
            probe_ms: 0.0,
        }
    }

    /// Says what is going on.
    pub fn tell(&self, step: Progress) {
        (self.progress)(step);
    }

    /// Renders a sentence of the catalog; none when a fact it needs is missing.
    pub fn say(&self, template: &str, tool: Option<&str>) -> Option<String> {
        let text = self.library.catalog.prepared().sentences().render_value(template, self.board.context_for(tool)).ok()?;
        Some(text.trim().to_owned()).filter(|t| !t.is_empty())
    }

    /// Renders a statement of a remedy, with every value quoted as its place demands.
    pub fn say_sql(&self, template: &str) -> Option<String> {
        // What was set before the remedy is asked for by few of them.
        let settings = ["undo.", "before."].iter().any(|name| template.contains(name)).then_some(&self.capture.settings);
        let text = self.library.catalog.prepared().statements().render(template, self.board.context_with(settings)).ok()?;
        Some(text.trim().to_owned()).filter(|t| !t.is_empty())
    }

    /// Judges a condition over all facts, namespaced by tool.
    pub fn holds(&self, condition: &str) -> Option<bool> {
        self.library.catalog.prepared().holds(condition, &self.board)
    }

    /// Milliseconds that probes of this diagnosis cost the target.
    pub fn probe_ms(&self) -> f64 {
        self.probe_ms
    }

    /// A healthy target: a look at load, locks, errors and traffic, so that the report shows what was checked.
    async fn look_around(&mut self) {
        for tool in ["load_profile", "blocking", "errors", "traffic", "host"] {
            self.observe(&[tool]).await;
        }
    }

    /// Invites the experts that the abnormal signals concern; when they find nothing, those on call too.
    async fn search_tree(&mut self) {
        let (invited, on_call) = experts::choose(&self.detection.abnormal, &self.library.catalog);
        self.convene(invited).await;
        if self.leading().is_none_or(|(_, p)| p < 0.8) || self.capture.manifest.origin != "live" {
            self.convene(on_call).await;
        }
        // Always worth knowing: what the incident costs.
        self.observe(&["load_profile"]).await;
    }

    /// Lets a panel of experts search, round by round: each picks its next test, all tools run concurrently,
    /// and verdicts are recorded in a fixed order, so that a replay takes the same path.
    async fn convene(&mut self, experts: Vec<Invited>) {
        if experts.is_empty() {
            return;
        }
        self.tell(Progress::ExpertsChosen { experts: experts.iter().map(|i| i.expert.id.clone()).collect() });
        let first = self.panel.len();
        let abnormal = directions(self.detection);
        let bare = |name: &'a String| [name.as_str(), name.split('{').next().unwrap_or_default()];
        let followed: BTreeSet<&str> = self.capture.series.keys().flat_map(bare).collect();
        for invited in experts {
            for cause in self.library.catalog.iter().filter(|c| invited.expert.owns(&c.domain)) {
                self.search.open(&invited.expert.id, &cause.id, symptoms(cause, &abnormal, &followed));
            }
            self.panel.push((invited, 0));
        }
        while self.search.tests() < u64::from(self.options.max_tests) {
            let experts = self.panel.iter().enumerate().skip(first);
            let steps: Vec<(usize, Step<'a>)> =
                experts.filter_map(|(i, (invited, _))| Some((i, self.search.next_step(&invited.expert.id)?))).collect();
            if steps.is_empty() {
                return;
            }
            let tools: Vec<&str> = steps.iter().flat_map(|(_, step)| tools_of(step.test())).collect();
            self.observe(&tools).await;
            for (expert, step) in steps {
                self.judge(expert, &step);
            }
        }
    }

    /// Calls the tools that nobody has called yet, concurrently, and publishes what they return.
    async fn observe(&mut self, tools: &[&str]) {
        let wanted: BTreeSet<&str> = tools.iter().copied().filter(|t| !self.board.has(t)).collect();
        if wanted.is_empty() {
            return;
        }
        let scene = Scene { capture: self.capture, detection: self.detection, prober: self.prober };
        let affordable = self.probe_ms < self.options.max_probe_ms;
        let (table, learnt) = (&self.library.signals, &self.library.signatures);
        let calls = wanted.iter().map(|tool| async {
            match *tool {
                signature::TOOL => signature::observe(scene.capture, scene.detection, learnt, table),
                tool if affordable => observe::observe(tool, &scene).await,
                tool => refused(tool),
            }
        });
        for observation in join_all(calls).await {
            self.probe_ms += observation.cost_ms;
            self.board.publish(observation);
        }
    }

    fn judge(&mut self, expert: usize, step: &Step<'a>) {
        let test = step.test();
        let facts = self.board.facts_for(&test.tool);
        let prepared = self.library.catalog.prepared();
        let holds = |condition: &str| prepared.holds(condition, &facts) == Some(true);
        let verdict = if holds(&test.supports) {
            Verdict::Supported
        } else if test.refutes.as_deref().is_some_and(holds) {
            Verdict::Refuted
        } else {
            Verdict::Inconclusive
        };
        let outcome = Outcome {
            verdict,
            reason: self.reason(test, verdict),
            evidence: tools_of(test).filter_map(|t| self.board.id_of(t)).collect(),
            cost_ms: self.board.of_tool(&test.tool).map_or(0.0, |e| e.observation.cost_ms),
        };
        self.search.record(step, outcome);
        self.panel[expert].1 += 1;
        let probability = self.search.hypotheses().get(&step.cause.id).map_or(0.0, |h| h.belief.probability());
        self.tell(Progress::Tested {
            expert: self.panel[expert].0.expert.id.clone(),
            cause: step.cause.id.clone(),
            test: test.id.clone(),
            verdict: verdict.word().to_owned(),
            probability,
        });
        if verdict == Verdict::Supported && test.essential && probability >= 0.5 {
            let summary = self.summary_of(step.cause).unwrap_or_default();
            self.tell(Progress::Finding { cause: step.cause.id.clone(), probability, summary });
        }
    }

    /// The sentence of a verdict; where there is none or a fact of it is missing, where to look.
    fn reason(&self, test: &Test, verdict: Verdict) -> String {
        let template = match verdict {
            Verdict::Supported => Some(test.says.as_str()),
            Verdict::Refuted => test.denies.as_deref(),
            Verdict::Inconclusive => None,
        };
        template.and_then(|t| self.say(t, Some(&test.tool))).unwrap_or_else(|| {
            let seen = self.board.of_tool(&test.tool).map(|e| e.lines.join("; ")).unwrap_or_default();
            match verdict {
                _ if seen.is_empty() => format!("{} does not decide it.", test.tool),
                Verdict::Inconclusive => [&test.tool, " does not decide it: ", &seen].concat(),
                // Its figures stand in the evidence: without a sentence, a list of them here would explain nothing.
                Verdict::Supported => format!("What {} shows speaks for it.", test.tool),
                Verdict::Refuted => format!("What {} shows speaks against it.", test.tool),
            }
        })
    }

    /// The first summary sentence of a cause whose facts are all there.
    pub fn summary_of(&self, cause: &Cause) -> Option<String> {
        cause.summary.iter().find_map(|template| self.say(template, None))
    }

    /// The most probable established hypothesis.
    pub fn leading(&self) -> Option<(&str, f64)> {
        self.search
            .hypotheses()
            .iter()
            .filter(|(_, h)| h.established())
            .map(|(id, h)| (id.as_str(), h.belief.probability()))
            .max_by(|a, b| a.1.total_cmp(&b.1))
    }
}

fn tools_of(test: &Test) -> impl Iterator<Item = &str> {
    std::iter::once(test.tool.as_str()).chain(test.with.iter().map(String::as_str))
}

fn refused(tool: &str) -> Observation {
    Observation {
        tool: tool.to_owned(),
        invocation: tool.to_owned(),
        no_data: Some("the probe budget is spent".into()),
        ..Observation::default()
    }
}

/// Abnormal signals, with and without their labels, and whether they rose.
fn directions(detection: &Detection) -> BTreeSet<(&str, bool)> {
    let rose = |a: &Abnormal| a.direction == Direction::Up;
    let names = detection.abnormal.iter().flat_map(|a| {
        let bare = a.signal.split('{').next().unwrap_or_default();
        [(a.signal.as_str(), rose(a)), (bare, rose(a))]
    });
    names.collect()
}

/// Likelihood ratio of the symptoms: what a cause predicts and is abnormal speaks for it, mildly. Where none of them was
/// followed, they say nothing.
fn symptoms(cause: &Cause, abnormal: &BTreeSet<(&str, bool)>, followed: &BTreeSet<&str>) -> f64 {
    if abnormal.is_empty() || !cause.symptom.iter().any(|s| followed.contains(s.signal.as_str())) {
        return 1.0;
    }
    let matches = |signal: &str, direction: &str| abnormal.contains(&(signal, direction == "up"));
    match cause.symptom.iter().filter(|s| matches(&s.signal, &s.direction)).count() {
        0 => 0.5,
        1 => 1.4,
        2 => 1.8,
        _ => 2.2,
    }
}

/// What the detector found, as an observation like any other.
fn detector_observation(detection: &Detection) -> Observation {
    let mut observation = Observation {
        tool: "detector".into(),
        // Not the capture's name: whoever called the file so may have known what was wrong.
        invocation: "detector".into(),
        window: detection.window,
        signals: detection.abnormal.iter().take(4).map(|a| a.signal.clone()).collect(),
        ..Observation::default()
    };
    observation.facts.insert("abnormal_signals".into(), detection.abnormal.len().into());
    if let Some(Window { start, end }) = detection.window {
        observation.facts.insert("window_s".into(), ((end - start) / 1000).into());
    }
    let lines: Vec<serde_json::Value> = detection.abnormal.iter().take(8).map(|a| describe(a).into()).collect();
    if !lines.is_empty() {
        observation.facts.insert("signals".into(), lines.into());
    }
    let beside: Vec<serde_json::Value> = detection.beside.iter().take(MOST_BESIDE).map(|a| describe(a).into()).collect();
    if !beside.is_empty() {
        observation.facts.insert("beside".into(), beside.into());
    }
    if let Some(quiet) = &detection.quiet {
        observation.facts.insert("quiet".into(), quiet.clone().into());
    }
    observation
}

/// One line for an abnormal signal: `tps fell from 95.2 to 12.1 1/s`.
pub fn describe(abnormal: &Abnormal) -> String {
    let verb = if abnormal.direction == Direction::Up { "rose" } else { "fell" };
    let quantity = |value: f64| match abnormal.unit.as_str() {
        "bytes" => galen_knowledge::template::bytes(value),
        "bytes/s" => format!("{}/s", galen_knowledge::template::bytes(value)),
        "ratio" => format!("{} %", galen_knowledge::template::number(value * 100.0)),
        "1/s" => format!("{}/s", galen_knowledge::template::number(value)),
        unit => format!("{} {unit}", galen_knowledge::template::number(value)).trim().to_owned(),
    };
    let now = quantity(abnormal.observed);
    match abnormal.baseline.map(quantity).filter(|before| *before != now) {
        Some(before) => format!("{} {verb} from {before} to {now}", abnormal.signal),
        None => format!("{} is at {now}", abnormal.signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symptom_that_nobody_followed_speaks_against_nothing() {
        let catalog = Catalog::builtin().unwrap();
        let cause = catalog.get("network_congestion").unwrap();
        let own = cause.symptom[0].signal.as_str();
        let rest = BTreeSet::from([("tps", false)]);
        assert!(symptoms(cause, &rest, &BTreeSet::from(["tps"])).total_cmp(&1.0).is_eq());
        assert!(symptoms(cause, &rest, &BTreeSet::from(["tps", own])) < 1.0, "followed, and it did not move");
        assert!(symptoms(cause, &BTreeSet::from([(own, true)]), &BTreeSet::from([own])) > 1.0);
    }
}
