//! The summary tree of a document: a node for each section, its summary made of those below it.

use std::collections::HashMap;
use std::fmt::Write as _;

use galen_knowledge::chunk::KnowledgeChunk;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{Dfs, DfsPostOrder};

use crate::document::is_han;
use crate::section::tokens;

/// Most tokens of a summary.
const MOST_TOKENS: usize = 60;
/// Sentences that a node passes up.
const PASSED_UP: usize = 4;
/// Share of the best sentence's score below which no other is taken.
const FAR_BEHIND: f64 = 0.4;
/// Longest sentence taken into a summary, in characters.
const MOST_SENTENCE: usize = 320;

/// A section, or the document itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// Its heading.
    pub title: String,
    /// What it says, in its own sentences: those nearest to all the others below it.
    pub summary: String,
    /// Ids of the chunks that stand right under its heading.
    pub chunks: Vec<String>,
    /// Tokens below it.
    pub tokens: usize,
}

/// The tree.
pub struct SummaryTree {
    graph: DiGraph<Node, ()>,
    root: NodeIndex,
}

impl SummaryTree {
    /// Builds the tree of one document's chunks, given in its order, from the leaves up.
    pub fn new(title: &str, chunks: &[KnowledgeChunk]) -> Self {
        let mut graph = DiGraph::new();
        let root = graph.add_node(Node { title: title.to_owned(), ..Node::default() });
        let mut texts: HashMap<NodeIndex, Vec<&str>> = HashMap::new();
        let mut places: HashMap<(NodeIndex, &str), NodeIndex> = HashMap::new();
        for chunk in chunks {
            let mut at = root;
            for heading in &chunk.source.section {
                at = *places.entry((at, heading)).or_insert_with(|| {
                    let child = graph.add_node(Node { title: heading.clone(), ..Node::default() });
                    graph.add_edge(at, child, ());
                    child
                });
            }
            if let Some(node) = graph.node_weight_mut(at) {
                node.chunks.push(chunk.id.clone());
                node.tokens += tokens(&chunk.content);
            }
            texts.entry(at).or_default().push(&chunk.content);
        }
        let mut tree = Self { graph, root };
        tree.summarise(&texts);
        tree
    }

    fn summarise(&mut self, texts: &HashMap<NodeIndex, Vec<&str>>) {
        let mut passed: HashMap<NodeIndex, Vec<String>> = HashMap::new();
        let mut order = DfsPostOrder::new(&self.graph, self.root);
        while let Some(at) = order.next(&self.graph) {
            let mut sentences: Vec<String> = texts.get(&at).into_iter().flatten().flat_map(|text| sentences(text)).collect();
            let mut below = 0;
            for child in self.children(at) {
                below += self.graph[child].tokens;
                sentences.extend(passed.remove(&child).unwrap_or_default());
            }
            let best = central(sentences);
            if let Some(node) = self.graph.node_weight_mut(at) {
                node.tokens += below;
                node.summary = within(&best);
            }
            passed.insert(at, best.into_iter().take(PASSED_UP).collect());
        }
    }

    /// The document's node.
    pub fn root(&self) -> NodeIndex {
        self.root
    }

    /// A node.
    pub fn node(&self, at: NodeIndex) -> Option<&Node> {
        self.graph.node_weight(at)
    }

    /// Sections right below a node, in the order of the document.
    pub fn children(&self, at: NodeIndex) -> Vec<NodeIndex> {
        // Neighbours come latest first.
        let mut children: Vec<NodeIndex> = self.graph.neighbors(at).collect();
        children.reverse();
        children
    }

    /// Visits all nodes from the top, each with its depth.
    pub fn walk(&self, mut visit: impl FnMut(usize, &Node)) {
        let mut depth: HashMap<NodeIndex, usize> = HashMap::from([(self.root, 0)]);
        let mut order = Dfs::new(&self.graph, self.root);
        while let Some(at) = order.next(&self.graph) {
            let here = depth.get(&at).copied().unwrap_or(0);
            for child in self.graph.neighbors(at) {
                depth.insert(child, here + 1);
            }
            visit(here, &self.graph[at]);
        }
    }

    /// The tree as text: headings with their tokens, and what each section says.
    pub fn print(&self) -> String {
        let mut out = String::new();
        self.walk(|depth, node| {
            let indent = "  ".repeat(depth);
            let _ = writeln!(out, "{indent}{} ({} tokens)", node.title, node.tokens);
            if !node.summary.is_empty() {
                let _ = writeln!(out, "{indent}  {}", node.summary);
            }
        });
        out
    }
}

/// Sentences of running text; tables, code and lists have none.
fn sentences(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    for paragraph in text.split("\n\n").filter(|p| !p.contains('\n') && !p.starts_with("- ")) {
        let mut start = 0;
        let marks = paragraph.char_indices().filter(|(at, c)| {
            let next = paragraph[at + c.len_utf8()..].chars().next();
            matches!(c, '。' | '！' | '？') || matches!(c, '.' | '!' | '?') && next.is_none_or(char::is_whitespace)
        });
        for (at, mark) in marks {
            let end = at + mark.len_utf8();
            let sentence = paragraph[start..end].trim();
            start = end;
            if (12..=MOST_SENTENCE).contains(&sentence.chars().count()) {
                out.push(sentence.to_owned());
            }
        }
    }
    out.truncate(400);
    out
}

/// Words of a sentence; of a Chinese one, its characters.
fn terms(sentence: &str) -> Vec<String> {
    let mut terms: Vec<String> = sentence
        .split(|c: char| !(c.is_alphanumeric() || c == '_') || is_han(c))
        .filter(|word| word.len() > 3)
        .map(str::to_lowercase)
        .collect();
    terms.extend(sentence.chars().filter(|c| is_han(*c)).map(String::from));
    terms.sort_unstable();
    terms.dedup();
    terms
}

/// Sentences by how much they share with the others, those that say the same left out; the first sentences of a text
/// come first among equals.
fn central(sentences: Vec<String>) -> Vec<String> {
    let terms: Vec<Vec<String>> = sentences.iter().map(|s| terms(s)).collect();
    let mut often: HashMap<&str, usize> = HashMap::new();
    for term in terms.iter().flatten() {
        *often.entry(term).or_default() += 1;
    }
    let all = sentences.len().max(1) as f64;
    // What stands in half of all sentences or in one alone tells nothing of the whole.
    let weight = |term: &str| match often.get(term).copied().unwrap_or(0) as f64 {
        n if n < 2.0 => 0.0,
        n => n.ln() * (all / n).ln().max(0.0),
    };
    let score = |at: usize| {
        let sum: f64 = terms[at].iter().map(|term| weight(term)).sum();
        sum / (terms[at].len() as f64 + 6.0) + 0.1 / (1.0 + at as f64)
    };
    let mut order: Vec<(usize, f64)> = (0..sentences.len()).map(|at| (at, score(at))).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let best = order.first().map_or(0.0, |(_, score)| *score);
    let mut chosen: Vec<usize> = Vec::new();
    for (at, score) in order {
        // What stands far behind the best says little of the whole.
        if score < best * FAR_BEHIND {
            break;
        }
        let same = |other: &usize| {
            let shared = terms[at].iter().filter(|t| terms[*other].binary_search(t).is_ok()).count();
            shared * 2 > terms[at].len().min(terms[*other].len()).max(1)
        };
        if !chosen.iter().any(same) {
            chosen.push(at);
        }
        if chosen.len() == PASSED_UP {
            break;
        }
    }
    chosen.into_iter().map(|at| sentences[at].clone()).collect()
}

fn within(sentences: &[String]) -> String {
    let mut out = String::new();
    let mut size = 0;
    for sentence in sentences {
        size += tokens(sentence);
        if !out.is_empty() && size > MOST_TOKENS {
            break;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(sentence);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use galen_knowledge::chunk::Source;

    fn chunk(section: &[&str], content: &str) -> KnowledgeChunk {
        let section = section.iter().map(|s| (*s).to_owned()).collect();
        KnowledgeChunk {
            id: content.len().to_string(),
            content: content.into(),
            source: Source { section, ..Source::default() },
            ..Default::default()
        }
    }

    #[test]
    fn summaries_come_from_below_and_the_walk_is_in_order() {
        let chunks = [
            chunk(&["Locks"], "Sessions wait for locks of other sessions. The weather was fine."),
            chunk(&["Locks", "Deadlocks"], "A deadlock is a cycle of sessions that wait for locks."),
            chunk(&["Locks", "Timeouts"], "The setting lock_timeout ends the wait of sessions for locks."),
            chunk(&["Vacuum"], "Vacuum removes dead rows from tables."),
        ];
        let tree = SummaryTree::new("Guide", &chunks);
        let mut seen = Vec::new();
        tree.walk(|depth, node| seen.push((depth, node.title.clone())));
        let expected = [(0, "Guide"), (1, "Locks"), (2, "Deadlocks"), (2, "Timeouts"), (1, "Vacuum")];
        assert_eq!(seen, expected.map(|(d, t)| (d, t.to_owned())));
        let locks = tree.children(tree.root())[0];
        let node = tree.node(locks).unwrap();
        assert!(node.summary.contains("wait") && !node.summary.contains("weather"), "{}", node.summary);
        assert_eq!(tree.node(tree.root()).unwrap().tokens, chunks.iter().map(|c| tokens(&c.content)).sum::<usize>());
        assert!(!tree.node(tree.root()).unwrap().summary.is_empty());
    }

    #[test]
    fn summaries_are_short_in_any_language() {
        let text = "长事务阻止清理死元组。".repeat(30) + &"表膨胀使扫描变慢，需要检查长事务与清理进程。".repeat(3);
        let tree = SummaryTree::new("指南", &[chunk(&["膨胀"], &text)]);
        tree.walk(|_, node| assert!(!node.summary.is_empty() && tokens(&node.summary) <= MOST_TOKENS, "{}", node.summary));
        assert!(tree.print().contains("膨胀"));
    }
}
