//! `galen knowledge graph`: how causes, signals, documents and remedies hang together, counted or drawn.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use galen_agents::experts::Expert;
use galen_knowledge::graph::CauseGraph;
use galen_knowledge::graph_svg;

use super::Global;
use crate::failure::Failure;
use crate::{engine, output};

#[derive(Debug, Args)]
pub struct GraphArgs {
    /// Draw the graph into this file
    #[arg(long, value_name = "FILE.svg")]
    svg: Option<PathBuf>,
}

/// Prints each expert's part of the graph; draws it all where asked to.
pub fn graph(global: &Global, args: &GraphArgs) -> Result<(), Failure> {
    let library = engine::library(&global.load()?)?;
    let graph = CauseGraph::new(&library.catalog).with_knowledge(&library.chunks);
    let (nodes, edges) = graph.size();
    for expert in Expert::all() {
        let cluster = graph.cluster(&|domain| expert.owns(domain));
        output::line(&if global.json {
            json!({"expert": expert.id, "causes": cluster.causes, "signals": cluster.signals, "chunks": cluster.chunks}).to_string()
        } else {
            let counts = (cluster.causes.len(), cluster.signals.len(), cluster.chunks.len());
            format!("{:<18} {:>3} causes, {:>3} signals, {:>4} chunks", expert.id, counts.0, counts.1, counts.2)
        });
    }
    if let Some(file) = &args.svg {
        output::writable(file)?;
        let drawn = graph_svg::draw(&graph, &library.chunks);
        std::fs::write(file, drawn).map_err(|e| Failure::fault(format!("cannot write {}: {e}", file.display())))?;
    }
    let told =
        format!("{nodes} nodes, {edges} links{}", args.svg.as_ref().map(|f| format!(", drawn to {}", f.display())).unwrap_or_default());
    if global.json {
        output::tell(&told)
    } else {
        output::line(&told)
    }
    Ok(())
}
