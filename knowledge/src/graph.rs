//! The cause graph: causes, the signals they move, the chunks that explain them and the remedies that end them (petgraph).

use std::collections::{BTreeMap, BTreeSet};

use petgraph::Direction;
use petgraph::graphmap::DiGraphMap;

use crate::catalog::Catalog;
use crate::cause::Cause;
use crate::chunk::KnowledgeChunk;

/// What a node of the graph is, with its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node<'c> {
    /// A signal, by the name that the catalog uses.
    Signal(&'c str),
    /// A cause by id.
    Cause(&'c str),
    /// A chunk by id.
    Chunk(&'c str),
    /// A remedy: its cause and its title.
    Remedy(&'c str, &'c str),
}

/// What an edge of the cause graph means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The cause moves the signal.
    Moves,
    /// The cause explains the other cause.
    Explains,
    /// The causes look alike.
    ConfusedWith,
    /// The chunk speaks of the cause.
    About,
    /// The chunk names the signal.
    Names,
    /// The remedy ends the cause.
    Ends,
}

/// What belongs to some domains: the causes, the signals that move with them, the chunks that speak of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster<'c> {
    /// Ids of the causes.
    pub causes: BTreeSet<&'c str>,
    /// Names of the signals.
    pub signals: BTreeSet<&'c str>,
    /// Ids of the chunks.
    pub chunks: BTreeSet<&'c str>,
}

/// Causes and what belongs to them, linked.
pub struct CauseGraph<'c> {
    graph: DiGraphMap<Node<'c>, Link>,
    catalog: &'c Catalog,
    /// Causes by the signal that they move.
    movers: BTreeMap<&'c str, Vec<&'c str>>,
}

impl<'c> CauseGraph<'c> {
    /// Builds the graph of a catalog: causes and signals.
    pub fn new(catalog: &'c Catalog) -> Self {
        let mut graph = DiGraphMap::new();
        let mut movers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for cause in catalog.iter() {
            let node = graph.add_node(Node::Cause(&cause.id));
            for symptom in &cause.symptom {
                graph.add_edge(node, Node::Signal(&symptom.signal), Link::Moves);
                movers.entry(&symptom.signal).or_default().push(&cause.id);
            }
            for confusion in &cause.confused_with {
                graph.add_edge(node, Node::Cause(&confusion.cause), Link::ConfusedWith);
            }
            for follow in &cause.explains {
                graph.add_edge(node, Node::Cause(&follow.cause), Link::Explains);
            }
        }
        Self { graph, catalog, movers }
    }

    /// Adds remedies and chunks. A chunk that speaks of no cause is left out.
    pub fn with_knowledge(mut self, chunks: &'c [KnowledgeChunk]) -> Self {
        for cause in self.catalog.iter() {
            for remedy in &cause.remedy {
                self.graph.add_edge(Node::Remedy(&cause.id, &remedy.title), Node::Cause(&cause.id), Link::Ends);
            }
        }
        for chunk in chunks {
            for cause in chunk.causes.iter().filter(|id| self.catalog.get(id).is_some()) {
                self.graph.add_edge(Node::Chunk(&chunk.id), Node::Cause(cause), Link::About);
            }
            if self.graph.contains_node(Node::Chunk(&chunk.id)) {
                for signal in &chunk.signals {
                    self.graph.add_edge(Node::Chunk(&chunk.id), Node::Signal(signal), Link::Names);
                }
            }
        }
        self
    }

    /// Ids of the causes that move a signal; labels of the signal may be left out on either side.
    pub fn causes_of_signal(&self, signal: &str) -> Vec<&'c str> {
        let bare = signal.split('{').next().unwrap_or(signal);
        let mut causes: Vec<&'c str> = self.movers.get(signal).into_iter().flatten().copied().collect();
        if bare != signal {
            causes.extend(self.movers.get(bare).into_iter().flatten());
        }
        causes.sort_unstable();
        causes.dedup();
        causes
    }

    /// Causes by how well their symptoms fit the signals that moved (rendered name, true for up), the best first; those of
    /// which nothing moved are left out. The fit is the cosine of the two sets, each signal weighted by how few causes share
    /// it: a cause fits less whose other symptoms stayed where they were.
    pub fn fitting(&self, moved: &BTreeSet<(&str, bool)>) -> Vec<(&'c str, f64)> {
        let weight = |signal: &str| {
            let sharing = self.movers.get(signal).map_or(1, Vec::len);
            (1.0 + self.catalog.iter().count() as f64 / sharing as f64).ln().powi(2)
        };
        let fit = |cause: &'c Cause| {
            let (mut met, mut all) = (0.0, 0.0);
            for symptom in &cause.symptom {
                let weight = weight(&symptom.signal);
                all += weight;
                met += if moved.contains(&(symptom.signal.as_str(), symptom.direction == "up")) { weight } else { 0.0 };
            }
            (met > 0.0).then(|| (cause.id.as_str(), met / f64::sqrt(all)))
        };
        let mut fitting: Vec<(&str, f64)> = self.catalog.iter().filter_map(fit).collect();
        fitting.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        fitting
    }

    /// What belongs to the domains that `owned` says yes to.
    pub fn cluster(&self, owned: &dyn Fn(&str) -> bool) -> Cluster<'c> {
        let mut cluster = Cluster::default();
        for cause in self.catalog.iter().filter(|c| owned(&c.domain)) {
            let node = Node::Cause(&cause.id);
            cluster.causes.insert(&cause.id);
            cluster.signals.extend(self.graph.neighbors(node).filter_map(|n| if let Node::Signal(name) = n { Some(name) } else { None }));
            let about = self.graph.neighbors_directed(node, Direction::Incoming);
            cluster.chunks.extend(about.filter_map(|n| if let Node::Chunk(id) = n { Some(id) } else { None }));
        }
        cluster
    }

    /// All nodes in order.
    pub fn nodes(&self) -> BTreeSet<Node<'c>> {
        self.graph.nodes().collect()
    }

    /// All edges in order of their nodes.
    pub fn edges(&self) -> Vec<(Node<'c>, Node<'c>, Link)> {
        let mut edges: Vec<_> = self.graph.all_edges().map(|(a, b, link)| (a, b, *link)).collect();
        edges.sort_by_key(|(a, b, _)| (*a, *b));
        edges
    }

    /// The catalog that it was built of.
    pub fn catalog(&self) -> &'c Catalog {
        self.catalog
    }

    /// Number of nodes and edges.
    pub fn size(&self) -> (usize, usize) {
        (self.graph.node_count(), self.graph.edge_count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_labelled_signal_finds_its_causes() {
        let catalog = Catalog::builtin().unwrap();
        let graph = CauseGraph::new(&catalog);
        assert!(graph.causes_of_signal("blocked_sessions").contains(&"blocking_transaction"));
        assert!(graph.causes_of_signal("temp_bytes_rate").contains(&"work_mem_spill"));
        assert!(graph.causes_of_signal("no_such_signal").is_empty());
    }

    #[test]
    fn a_cause_fits_by_what_few_share_and_less_where_its_other_symptoms_stayed() {
        let catalog = Catalog::builtin().unwrap();
        let graph = CauseGraph::new(&catalog);
        let ranked = |moved: &[(&'static str, bool)]| graph.fitting(&moved.iter().copied().collect());
        let spill = ranked(&[("temp_bytes_rate", true), ("temp_files_per_s", true), ("postgres_cpu_ratio", true)]);
        assert_eq!(spill[0].0, "work_mem_spill", "{spill:?}");
        let of = |ranked: &[(&str, f64)], cause: &str| ranked.iter().find(|(id, _)| *id == cause).map_or(0.0, |(_, fit)| *fit);
        let half = ranked(&[("temp_bytes_rate", true)]);
        assert!(of(&half, "work_mem_spill") < of(&spill, "work_mem_spill"));
        assert!(ranked(&[("temp_bytes_rate", false), ("no_such_signal", true)]).is_empty(), "the other way is no symptom");
    }

    #[test]
    fn a_cluster_holds_what_belongs_to_its_domains_and_nothing_else() {
        let catalog = Catalog::builtin().unwrap();
        let chunk = |id: &str, cause: &str| KnowledgeChunk {
            id: id.into(),
            causes: vec![cause.into()],
            signals: vec!["tps".into()],
            ..KnowledgeChunk::default()
        };
        let chunks = [chunk("a", "deadlocks"), chunk("b", "work_mem_spill"), chunk("c", "no_such_cause")];
        let graph = CauseGraph::new(&catalog).with_knowledge(&chunks);
        let locks = graph.cluster(&|domain| domain == "locks");
        assert!(locks.causes.contains("deadlocks") && !locks.causes.contains("work_mem_spill"));
        assert!(locks.signals.contains("deadlocks_per_s") && !locks.signals.contains("temp_bytes_rate"));
        assert_eq!(locks.chunks.into_iter().collect::<Vec<_>>(), ["a"]);
        assert!(!graph.nodes().contains(&Node::Chunk("c")));
        assert!(graph.edges().contains(&(Node::Chunk("a"), Node::Signal("tps"), Link::Names)));
    }
}
