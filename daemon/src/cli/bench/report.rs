//! `galen bench report`: runs as a leaderboard on one page.

use std::path::{Path, PathBuf};

use clap::Args;

use galen_agents::evaluation::leaderboard;
use galen_agents::evaluation::record::Run;
use galen_agents::evaluation::score::{hierarchy, scores};

use super::run::read;
use crate::cli::Global;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Runs to show
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Run that the others are set in relation to, instead of trivial methods
    #[arg(long, value_name = "RUN")]
    reference: Option<PathBuf>,
    /// Page to write
    #[arg(long, value_name = "FILE.html")]
    out: PathBuf,
}

/// Writes the page.
pub fn report(global: &Global, args: &ReportArgs) -> Result<(), Failure> {
    let mut paths = args.runs.clone();
    if let Some(reference) = args.reference.as_ref().filter(|r| !paths.contains(r)) {
        paths.push(reference.clone());
    }
    let runs: Vec<(String, Run)> = paths.iter().map(|p| Ok((name(p), read(p)?))).collect::<Result<_, Failure>>()?;
    let at = args.reference.as_ref().and_then(|r| paths.iter().position(|p| p == r));
    let page = leaderboard::render(&runs, at).map_err(Failure::fault)?;
    output::replace(&args.out, page.as_bytes())?;
    for (name, run) in &runs {
        let tree = hierarchy(&scores(run), None);
        output::line(&if global.json {
            serde_json::json!({"run": name, "gain": tree.gain, "hierarchy": tree, "page": args.out}).to_string()
        } else {
            format!("{name}: gain {:.1} over trivial methods, {} cases", tree.gain, run.case_count())
        });
    }
    if !global.json {
        output::line(&format!("written to {}", args.out.display()));
    }
    Ok(())
}

fn name(path: &Path) -> String {
    path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}
