//! The tree search: UCT over hypotheses and tests. It decides and never performs I/O: `next_step` says which test
//! an expert should run, `record` takes the verdict, and every node, pruned ones included, stays to be shown.
//!
//! Selection is UCB1 (Kocsis and Szepesvari, 2006) with a bias towards what is believed already:
//! `value + C sqrt(ln N / n) + p / (1 + n)`; a node's value is the mean entropy reduction per cost below it.

use std::collections::BTreeMap;

use petgraph::graph::{DiGraph, NodeIndex};

use galen_knowledge::catalog::Catalog;
use galen_knowledge::cause::{Cause, Test, Verdict};
use galen_tools::model::Culprit;

use crate::belief::{Belief, entropy, expected_gain, ratio_of};
use crate::driver::TreeNode;

/// Weight of exploration in UCB1, scaled to values in bits.
const EXPLORATION: f64 = 0.35;
/// A hypothesis less probable than this is not worth further tests.
const NEGLIGIBLE: f64 = 0.004;

/// A test that an expert should run.
#[derive(Debug, Clone, Copy)]
pub struct Step<'c> {
    /// Hypothesis under test.
    pub cause: &'c Cause,
    /// Index of the test in the cause.
    test: usize,
}

impl<'c> Step<'c> {
    /// The test itself.
    pub fn test(&self) -> &'c Test {
        &self.cause.test[self.test]
    }
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Verdict on the facts.
    pub verdict: Verdict,
    /// Sentence for people.
    pub reason: String,
    /// Evidence it rests on.
    pub evidence: Vec<String>,
    /// Milliseconds it cost the target.
    pub cost_ms: f64,
}

/// A test that was run, with its verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Tested {
    /// Index of the test in the cause.
    pub test: usize,
    /// What came of it.
    pub outcome: Outcome,
}

/// A hypothesis: a cause under test.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis<'c> {
    /// The cause.
    pub cause: &'c Cause,
    /// Expert that owns it.
    pub expert: String,
    /// Current belief.
    pub belief: Belief,
    /// Tests run so far.
    pub tested: Vec<Tested>,
    node: NodeIndex,
    closed: bool,
}

impl Hypothesis<'_> {
    /// True when one of the cause's essential tests supports it.
    pub fn established(&self) -> bool {
        self.with_verdict(Verdict::Supported).any(|t| self.cause.test[t.test].essential)
    }

    /// Tests with a verdict.
    pub fn with_verdict(&self, verdict: Verdict) -> impl Iterator<Item = &Tested> {
        self.tested.iter().filter(move |t| t.outcome.verdict == verdict)
    }

    /// The nodes of its tests follow its own.
    fn node_of(&self, test: usize) -> NodeIndex {
        NodeIndex::new(self.node.index() + 1 + test)
    }
}

/// The search of one diagnosis.
pub struct Search<'c> {
    catalog: &'c Catalog,
    graph: DiGraph<TreeNode, ()>,
    root: NodeIndex,
    hypotheses: BTreeMap<String, Hypothesis<'c>>,
    tests: u64,
}

impl<'c> Search<'c> {
    /// An empty search: only the root.
    pub fn new(catalog: &'c Catalog, label: &str) -> Self {
        let mut graph = DiGraph::new();
        let root = graph.add_node(TreeNode { kind: "root".into(), label: label.to_owned(), state: "open".into(), ..TreeNode::default() });
        Self { catalog, graph, root, hypotheses: BTreeMap::new(), tests: 0 }
    }

    /// Opens a hypothesis for an expert. `nudge` is a likelihood ratio from the symptoms seen.
    pub fn open(&mut self, expert: &str, cause: &str, nudge: f64) {
        let Some(entry) = self.catalog.get(cause) else { return };
        let belief = Belief::prior(entry.prior).update(nudge);
        let node = self.child(self.root, "hypothesis", cause.to_owned(), expert);
        self.graph[node].probability = Some(round(belief.probability()));
        for test in &entry.test {
            self.child(node, "test", [&test.id, ": ", &test.tool].concat(), expert);
        }
        let hypothesis = Hypothesis { cause: entry, expert: expert.to_owned(), belief, tested: Vec::new(), node, closed: false };
        self.hypotheses.insert(cause.to_owned(), hypothesis);
    }

    /// The test this expert should run next; none when its hypotheses are decided.
    /// The choice counts as a visit, so that two choices in one round differ.
    pub fn next_step(&mut self, expert: &str) -> Option<Step<'c>> {
        let total = self.graph[self.root].visits.max(1) as f64;
        let own = self.hypotheses.values().filter(|h| !h.closed && h.expert == expert);
        let (_, hypothesis) = own.map(|h| (self.ucb(h, total), h)).max_by(|a, b| a.0.total_cmp(&b.0))?;
        let cause = hypothesis.cause;
        let p = hypothesis.belief.probability();
        // An essential test decides whether the hypothesis can be named at all.
        let worth = |test: &Test| expected_gain(p, test) + if test.essential { 1.0 } else { 0.0 };
        let (_, test) = self
            .open_tests(hypothesis)
            .map(|test| (worth(&cause.test[test]), test))
            .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))?;
        for visited in [hypothesis.node_of(test), hypothesis.node, self.root] {
            self.graph[visited].visits += 1;
        }
        Some(Step { cause, test })
    }

    /// Records what came of a step: updates belief, backs up the value, reflects on failure, prunes.
    pub fn record(&mut self, step: &Step<'c>, outcome: Outcome) {
        let Some(hypothesis) = self.hypotheses.get_mut(&step.cause.id) else { return };
        self.tests += 1;
        let before = hypothesis.belief.probability();
        hypothesis.belief = hypothesis.belief.update(ratio_of(step.test(), outcome.verdict));
        let after = hypothesis.belief.probability();
        let value = (entropy(before) - entropy(after)).abs() / (1.0 + outcome.cost_ms / 50.0);
        let node = hypothesis.node;
        {
            let shown = &mut self.graph[hypothesis.node_of(step.test)];
            shown.state = outcome.verdict.word().into();
            shown.reason.clone_from(&outcome.reason);
            shown.evidence.clone_from(&outcome.evidence);
            shown.probability = Some(round(after));
            shown.value = round(value);
        }
        if outcome.verdict == Verdict::Refuted {
            // Reflection: the parent says why this branch failed.
            self.graph[node].reason.clone_from(&outcome.reason);
        }
        hypothesis.tested.push(Tested { test: step.test, outcome });
        self.back_up(node, value);
        self.graph[node].probability = Some(round(after));
        self.settle(&step.cause.id);
    }

    /// Refines a supported hypothesis into its culprits.
    pub fn refine(&mut self, cause: &str, culprits: &[Culprit], evidence: &[String]) {
        let Some((node, expert, p)) = self.hypotheses.get(cause).map(|h| (h.node, h.expert.clone(), h.belief.probability())) else {
            return;
        };
        for culprit in culprits {
            let label = format!("{:?} {}", culprit.kind, culprit.id).to_lowercase();
            let child = self.child(node, "culprit", label, &expert);
            let shown = &mut self.graph[child];
            shown.state = "supported".into();
            shown.reason.clone_from(&culprit.text);
            shown.evidence = evidence.to_vec();
            shown.probability = Some(round(p));
        }
    }

    /// Multiplies the odds of a hypothesis, as a review or a model's vote asks; the reason is kept on the node.
    pub fn weigh(&mut self, cause: &str, ratio: f64, reason: &str) {
        let Some(hypothesis) = self.hypotheses.get_mut(cause) else { return };
        hypothesis.belief = hypothesis.belief.update(ratio);
        let node = &mut self.graph[hypothesis.node];
        node.probability = Some(round(hypothesis.belief.probability()));
        if !node.reason.is_empty() {
            node.reason.push_str("; ");
        }
        node.reason.push_str(reason);
    }

    /// All hypotheses by cause id.
    pub fn hypotheses(&self) -> &BTreeMap<String, Hypothesis<'c>> {
        &self.hypotheses
    }

    /// Tests run so far.
    pub fn tests(&self) -> u64 {
        self.tests
    }

    /// How many nodes the tree has.
    pub fn size(&self) -> usize {
        self.graph.node_count()
    }

    /// Every node with its parent, in order of creation.
    pub fn into_nodes(self) -> Vec<TreeNode> {
        let (nodes, edges) = self.graph.into_nodes_edges();
        let mut tree: Vec<TreeNode> = nodes.into_iter().enumerate().map(|(id, node)| TreeNode { id: id as u64, ..node.weight }).collect();
        for edge in edges {
            if let Some(child) = tree.get_mut(edge.target().index()) {
                child.parent = Some(edge.source().index() as u64);
            }
        }
        tree
    }

    fn child(&mut self, parent: NodeIndex, kind: &'static str, label: String, expert: &str) -> NodeIndex {
        let node = self.graph.add_node(TreeNode {
            kind: kind.into(),
            label,
            expert: expert.to_owned(),
            state: "open".into(),
            ..TreeNode::default()
        });
        self.graph.add_edge(parent, node, ());
        node
    }

    /// Tests of a hypothesis that nobody has chosen yet, in order.
    fn open_tests(&self, hypothesis: &Hypothesis<'c>) -> impl Iterator<Item = usize> {
        (0..hypothesis.cause.test.len()).filter(|test| self.graph[hypothesis.node_of(*test)].visits == 0)
    }

    fn ucb(&self, hypothesis: &Hypothesis<'c>, total: f64) -> f64 {
        let node = &self.graph[hypothesis.node];
        let n = node.visits as f64;
        let p = hypothesis.belief.probability();
        if n == 0.0 {
            return 10.0 + p;
        }
        node.value + EXPLORATION * (total.ln() / n).sqrt() + p / (1.0 + n)
    }

    fn back_up(&mut self, from: NodeIndex, value: f64) {
        for node in [from, self.root] {
            let shown = &mut self.graph[node];
            let n = shown.visits.max(1) as f64;
            shown.value = round(shown.value + (value - shown.value) / n);
        }
    }

    /// Closes a hypothesis that is decided and prunes its open tests, with the reason.
    fn settle(&mut self, cause: &str) {
        let Some(hypothesis) = self.hypotheses.get(cause) else { return };
        let p = hypothesis.belief.probability();
        let tests = &hypothesis.cause.test;
        let essentials = tests.iter().filter(|t| t.essential).count();
        let refuted = hypothesis.with_verdict(Verdict::Refuted).filter(|t| tests[t.test].essential).count();
        let open: Vec<NodeIndex> = self.open_tests(hypothesis).map(|test| hypothesis.node_of(test)).collect();
        let verdict = if essentials > 0 && refuted == essentials {
            Some(("refuted", "its essential test was refuted"))
        } else if p < NEGLIGIBLE {
            Some(("refuted", "its probability became negligible"))
        } else if open.is_empty() {
            let state = if hypothesis.established() && p >= 0.5 {
                "supported"
            } else if p < 0.1 {
                "refuted"
            } else {
                "inconclusive"
            };
            Some((state, "all its tests were run"))
        } else {
            None
        };
        let Some((state, why)) = verdict else { return };
        let node = hypothesis.node;
        self.graph[node].state = state.into();
        for pruned in open {
            let shown = &mut self.graph[pruned];
            shown.state = "pruned".into();
            shown.reason = ["not run: the hypothesis was closed, ", why].concat();
        }
        if let Some(hypothesis) = self.hypotheses.get_mut(cause) {
            hypothesis.closed = true;
        }
    }
}

/// Three decimals: what a report shows, and what stays equal between machines.
pub fn round(value: f64) -> f64 {
    // An empty sum is -0: plus 0 it is 0.
    (value * 1000.0).round() / 1000.0 + 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(verdict: Verdict) -> Outcome {
        Outcome { verdict, reason: "because".into(), evidence: vec!["E1".into()], cost_ms: 0.0 }
    }

    fn run(search: &mut Search<'_>, truth: &str) {
        while let Some(step) = search.next_step("x") {
            let verdict = if step.cause.id == truth { Verdict::Supported } else { Verdict::Refuted };
            search.record(&step, outcome(verdict));
        }
    }

    #[test]
    fn the_true_cause_wins_and_refuted_branches_are_pruned_with_reasons() {
        let catalog = Catalog::builtin().unwrap();
        let mut search = Search::new(&catalog, "t");
        for cause in catalog.iter() {
            search.open("x", &cause.id, 1.0);
        }
        run(&mut search, "missing_index");
        let best = search.hypotheses().iter().max_by(|a, b| a.1.belief.probability().total_cmp(&b.1.belief.probability())).unwrap();
        assert_eq!(best.0, "missing_index");
        assert!(best.1.belief.probability() > 0.9 && best.1.established());
        let tests = search.tests();
        let nodes = search.into_nodes();
        assert!(nodes.iter().all(|n| n.state != "open" || n.kind == "root"));
        assert!(nodes.iter().filter(|n| n.state == "pruned").all(|n| n.reason.starts_with("not run")));
        assert!(nodes.iter().any(|n| n.state == "pruned"), "refuting an essential test saves the others");
        assert!(tests < catalog.iter().map(|c| c.test.len() as u64).sum());
    }

    #[test]
    fn no_test_is_chosen_twice_and_an_inconclusive_search_names_nobody() {
        let catalog = Catalog::builtin().unwrap();
        let mut search = Search::new(&catalog, "t");
        search.open("x", "missing_index", 1.0);
        let mut seen = std::collections::BTreeSet::new();
        while let Some(step) = search.next_step("x") {
            assert!(seen.insert(step.test));
            search.record(&step, outcome(Verdict::Inconclusive));
        }
        let hypothesis = &search.hypotheses()["missing_index"];
        assert!(!hypothesis.established());
    }
}
