//! `galen knowledge`: what Galen knows. One arm a subcommand; each has a file.

use clap::{Args, Subcommand};

use super::{Global, graph};
use crate::failure::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen knowledge graph --svg graph.svg")]
pub struct KnowledgeArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// How causes, signals, documents and remedies hang together
    Graph(graph::GraphArgs),
}

/// `galen knowledge`.
pub fn knowledge(global: &Global, args: &KnowledgeArgs) -> Result<(), Failure> {
    match &args.action {
        Action::Graph(args) => graph::graph(global, args),
    }
}
