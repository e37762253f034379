//! The cause graph: which causes follow from which, which signals belong to which (petgraph).

use std::collections::BTreeMap;

use petgraph::graphmap::DiGraphMap;

use crate::catalog::Catalog;

/// What an edge of the cause graph means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The cause moves the signal.
    Moves,
    /// The cause explains the other cause.
    Explains,
    /// The causes look alike.
    ConfusedWith,
}

/// Causes and signals by name, linked.
pub struct CauseGraph<'c> {
    graph: DiGraphMap<&'c str, Link>,
    /// Causes by the signal that they move.
    movers: BTreeMap<&'c str, Vec<&'c str>>,
}

impl<'c> CauseGraph<'c> {
    /// Builds the graph of a catalog.
    pub fn new(catalog: &'c Catalog) -> Self {
        let mut graph = DiGraphMap::new();
        let mut movers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for cause in catalog.iter() {
            for symptom in &cause.symptom {
                graph.add_edge(cause.id.as_str(), symptom.signal.as_str(), Link::Moves);
                movers.entry(&symptom.signal).or_default().push(&cause.id);
            }
            for confusion in &cause.confused_with {
                graph.add_edge(cause.id.as_str(), confusion.cause.as_str(), Link::ConfusedWith);
            }
            for follow in &cause.explains {
                graph.add_edge(cause.id.as_str(), follow.cause.as_str(), Link::Explains);
            }
        }
        Self { graph, movers }
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
}
