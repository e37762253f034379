//! `galen lab`: private servers with known faults.

use clap::{Args, Subcommand};

use super::Global;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Run D-Bot's anomaly specifications for real, and record them
    Dbot(super::dbot::DbotArgs),
}

/// `galen lab`.
pub async fn lab(global: &Global, args: LabArgs) -> Result<(), Failure> {
    match args.command {
        LabCommand::Dbot(args) => super::dbot::record(global, args).await,
    }
}
