//! The cause graph as a picture: signals, causes, chunks and remedies in four columns, coloured by domain.
//!
//! Causes stand by domain; the other columns are ordered by the mean place of their causes, so that few lines cross.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use crate::chunk::KnowledgeChunk;
use crate::graph::{CauseGraph, Link, Node};

/// Pixels between two rows, and from the top to the first.
const ROW: f64 = 17.0;
const TOP: f64 = 64.0;
/// Left edge of each column, and the width of its boxes.
const COLUMNS: [(f64, f64, &str); 4] =
    [(20.0, 250.0, "signals"), (430.0, 220.0, "causes"), (830.0, 300.0, "knowledge"), (1290.0, 390.0, "remedies")];
const WIDTH: f64 = 1700.0;
/// Colours that are told apart in print and by most eyes.
const COLOURS: [&str; 8] = ["#0b6e8f", "#b4530a", "#2f7d32", "#8e3a9d", "#a61b3c", "#5b5b12", "#1f4fb0", "#6b4b3a"];

/// The picture as an SVG document.
pub fn draw(graph: &CauseGraph<'_>, chunks: &[KnowledgeChunk]) -> String {
    let columns = arrange(graph);
    let tallest = columns.iter().map(Vec::len).max().unwrap_or(0);
    let height = TOP + ROW * (tallest as f64 + 2.0);
    let mut places: HashMap<Node<'_>, (usize, f64)> = HashMap::new();
    for (at, column) in columns.iter().enumerate() {
        // Shorter columns are spread over the height of the tallest.
        let step = (tallest as f64 / column.len().max(1) as f64).min(3.0) * ROW;
        let start = TOP + (tallest as f64 * ROW - step * column.len() as f64) / 2.0;
        for (row, node) in column.iter().enumerate() {
            places.insert(*node, (at, start + step * (row as f64 + 0.5)));
        }
    }
    let domains = domains(graph);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"11\">\n<title>What Galen knows: signals, causes, knowledge, remedies</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    head(&mut svg, &domains);
    svg.push_str("<g fill=\"none\" stroke-width=\"1\">\n");
    for (from, to, link) in graph.edges() {
        line(&mut svg, &places, from, to, link, &colour(graph, &domains, from, to));
    }
    svg.push_str("</g>\n");
    let titles: HashMap<&str, &KnowledgeChunk> = chunks.iter().map(|c| (c.id.as_str(), c)).collect();
    for (at, column) in columns.iter().enumerate() {
        for node in column {
            label(&mut svg, graph, &domains, &titles, at, *node, places[node].1);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Nodes of each column from top to bottom.
fn arrange<'c>(graph: &CauseGraph<'c>) -> [Vec<Node<'c>>; 4] {
    let mut columns: [Vec<Node<'c>>; 4] = Default::default();
    let mut causes: Vec<_> = graph.catalog().iter().collect();
    causes.sort_by(|a, b| a.domain.cmp(&b.domain).then(a.id.cmp(&b.id)));
    let place: HashMap<&str, usize> = causes.iter().enumerate().map(|(at, c)| (c.id.as_str(), at)).collect();
    columns[1] = causes.iter().map(|c| Node::Cause(&c.id)).collect();
    let mut means: BTreeMap<Node<'c>, (usize, usize)> = BTreeMap::new();
    for (from, to, link) in graph.edges() {
        let (other, cause) = match (from, to, link) {
            (Node::Cause(cause), signal @ Node::Signal(_), _) => (signal, cause),
            (other, Node::Cause(cause), Link::About | Link::Ends) => (other, cause),
            _ => continue,
        };
        let mean = means.entry(other).or_default();
        mean.0 += place.get(cause).copied().unwrap_or(0);
        mean.1 += 1;
    }
    for node in graph.nodes() {
        match node {
            Node::Signal(_) => columns[0].push(node),
            Node::Chunk(_) => columns[2].push(node),
            Node::Remedy(..) => columns[3].push(node),
            Node::Cause(_) => {}
        }
    }
    for column in [0, 2, 3] {
        let mean = |node: &Node<'c>| means.get(node).map_or(f64::MAX, |(sum, count)| *sum as f64 / *count as f64);
        columns[column].sort_by(|a, b| mean(a).total_cmp(&mean(b)).then(a.cmp(b)));
    }
    columns
}

fn domains<'c>(graph: &CauseGraph<'c>) -> BTreeMap<&'c str, &'static str> {
    let mut found: BTreeMap<&str, &str> = graph.catalog().iter().map(|c| (c.domain.as_str(), "")).collect();
    for (colour, slot) in COLOURS.iter().cycle().zip(found.values_mut()) {
        *slot = colour;
    }
    found
}

/// The colour of the cause at either end.
fn colour(graph: &CauseGraph<'_>, domains: &BTreeMap<&str, &'static str>, from: Node<'_>, to: Node<'_>) -> String {
    let of = |node: Node<'_>| match node {
        Node::Cause(id) | Node::Remedy(id, _) => graph.catalog().get(id).and_then(|c| domains.get(c.domain.as_str())).copied(),
        _ => None,
    };
    of(from).or_else(|| of(to)).unwrap_or("#999").to_owned()
}

fn head(svg: &mut String, domains: &BTreeMap<&str, &'static str>) {
    for (left, _, title) in COLUMNS {
        let _ = writeln!(svg, "<text x=\"{left}\" y=\"26\" font-size=\"15\" font-weight=\"600\" fill=\"#222\">{title}</text>");
    }
    for (at, (domain, colour)) in domains.iter().enumerate() {
        let x = 20.0 + 130.0 * at as f64;
        let name = escaped(domain);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"38\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{}\" y=\"47\" fill=\"#444\">{name}</text>",
            x + 15.0
        );
    }
    let x = 20.0 + 130.0 * domains.len() as f64;
    let _ =
        writeln!(svg, "<text x=\"{x}\" y=\"47\" fill=\"#444\">dashed: one cause explains another; dotted: a text names a signal</text>");
}

fn line(svg: &mut String, places: &HashMap<Node<'_>, (usize, f64)>, from: Node<'_>, to: Node<'_>, link: Link, colour: &str) {
    let (Some((from_column, from_y)), Some((to_column, to_y))) = (places.get(&from), places.get(&to)) else { return };
    if link == Link::ConfusedWith {
        // Look-alikes stand in the reports; here they would hide the rest.
        return;
    }
    if link == Link::Explains {
        let (left, width, _) = COLUMNS[1];
        let x = left + width;
        let bulge = x + 25.0 + 0.12 * (from_y - to_y).abs();
        let _ = writeln!(
            svg,
            "<path d=\"M{x} {from_y:.1}C{bulge:.1} {from_y:.1} {bulge:.1} {to_y:.1} {x} {to_y:.1}\" stroke=\"{colour}\" opacity=\"0.25\" stroke-dasharray=\"4 3\"/>"
        );
        return;
    }
    let ((a, ay), (b, by)) =
        if from_column < to_column { ((*from_column, from_y), (*to_column, to_y)) } else { ((*to_column, to_y), (*from_column, from_y)) };
    // A remedy is joined past the column of chunks, which its line crosses behind the boxes.
    let (x1, x2) = (COLUMNS[a].0 + COLUMNS[a].1, COLUMNS[b].0);
    let middle = f64::midpoint(x1, x2);
    let (opacity, dash) = match link {
        Link::Names => ("0.18", " stroke-dasharray=\"1 3\""),
        Link::Ends => ("0.3", ""),
        _ => ("0.5", ""),
    };
    let _ = writeln!(
        svg,
        "<path d=\"M{x1} {ay:.1}C{middle:.1} {ay:.1} {middle:.1} {by:.1} {x2} {by:.1}\" stroke=\"{colour}\" opacity=\"{opacity}\"{dash}/>"
    );
}

fn label(
    svg: &mut String,
    graph: &CauseGraph<'_>,
    domains: &BTreeMap<&str, &'static str>,
    chunks: &HashMap<&str, &KnowledgeChunk>,
    column: usize,
    node: Node<'_>,
    y: f64,
) {
    let (left, width, _) = COLUMNS[column];
    let chunk = if let Node::Chunk(id) = node { chunks.get(id).copied() } else { None };
    let (text, more) = match node {
        Node::Signal(name) => (name.to_owned(), String::new()),
        Node::Cause(id) => (id.to_owned(), graph.catalog().get(id).map(|c| c.title.clone()).unwrap_or_default()),
        Node::Chunk(id) => (
            chunk.map_or_else(|| id.to_owned(), |c| c.title.clone()),
            chunk.map(|c| format!("{}, {}", c.source.file, c.source.section.join(" > "))).unwrap_or_default(),
        ),
        Node::Remedy(cause, title) => (title.to_owned(), format!("ends {cause}")),
    };
    let of_chunk = chunk.and_then(|c| c.causes.first()).map(|id| Node::Cause(id)).unwrap_or(node);
    let colour = colour(graph, domains, node, of_chunk);
    let bold = if matches!(node, Node::Cause(_)) { " font-weight=\"600\"" } else { "" };
    // About 6 pixels a character.
    let most = (width / 6.0) as usize - 1;
    let shown: String = if text.chars().count() > most { text.chars().take(most - 1).chain(['…']).collect() } else { text.clone() };
    let _ = writeln!(
        svg,
        "<g><title>{}</title><rect x=\"{left}\" y=\"{:.1}\" width=\"{width}\" height=\"15\" rx=\"3\" fill=\"#fff\" stroke=\"{colour}\"/>\
         <text x=\"{}\" y=\"{:.1}\" fill=\"#222\"{bold}>{}</text></g>",
        escaped(&format!("{text}{}{more}", if more.is_empty() { "" } else { ": " })),
        y - 7.5,
        left + 5.0,
        y + 4.0,
        escaped(&shown)
    );
}

/// Text for SVG: titles come from documents. Characters that XML does not allow are left out.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;

    #[test]
    fn every_cause_signal_chunk_and_remedy_is_drawn_once_and_hostile_titles_are_text() {
        let catalog = Catalog::builtin().unwrap();
        let chunks = [KnowledgeChunk {
            id: "k1".into(),
            title: "</text><script>alert(1)</script>\u{1}".into(),
            causes: vec!["deadlocks".into()],
            signals: vec!["tps".into()],
            ..KnowledgeChunk::default()
        }];
        let graph = CauseGraph::new(&catalog).with_knowledge(&chunks);
        let svg = draw(&graph, &chunks);
        assert_eq!(svg.matches("<g><title>").count(), graph.nodes().len());
        assert!(!svg.contains("<script") && svg.contains("&lt;script&gt;") && !svg.contains('\u{1}'));
        assert_eq!(svg, draw(&graph, &chunks));
        // Nothing lies on anything else of its column.
        let mut boxes: Vec<(String, f64)> = svg
            .split("<rect x=\"")
            .skip(1)
            .filter(|r| r.contains("rx=\"3\""))
            .filter_map(|r| Some((r.split('"').next()?.to_owned(), r.split("y=\"").nth(1)?.split('"').next()?.parse().ok()?)))
            .collect();
        boxes.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        assert!(boxes.windows(2).all(|w| w[0].0 != w[1].0 || w[1].1 - w[0].1 >= 15.5));
    }
}
