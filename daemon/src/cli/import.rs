//! `galen import`: incidents recorded by other tools.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use galen_tools::sources::dbot;
use galen_tools::store::file;

use super::Global;
use crate::failure::Failure;
use crate::output;

/// Largest file read, bytes.
const MOST_BYTES: u64 = 64 << 20;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen import dbot testing_cases_1.json -o case.galen
  galen import dbot testing_cases_*.json -o cases/")]
pub struct ImportArgs {
    /// Format of the input
    format: ImportFormat,
    /// Files to read
    #[arg(required = true, value_name = "IN")]
    inputs: Vec<PathBuf>,
    /// Capture to write; a folder for several inputs
    #[arg(short, long, value_name = "OUT")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ImportFormat {
    /// A recorded case of D-Bot: alert, metrics, slow queries, workload
    Dbot,
}

/// Imports each input; one that cannot be read costs a line and the exit code.
pub fn import(global: &Global, args: &ImportArgs) -> Result<(), Failure> {
    let many = args.inputs.len() > 1 || args.out.is_dir();
    if many {
        std::fs::create_dir_all(&args.out).map_err(|e| Failure::fault(format!("cannot create {}: {e}", args.out.display())))?;
    }
    let mut failed = 0;
    for input in &args.inputs {
        let out = if many { args.out.join(input.with_extension("galen").file_name().unwrap_or_default()) } else { args.out.clone() };
        match one(args.format, input, &out) {
            Ok(signals) if global.json => output::line(&json!({"in": input, "out": out, "signals": signals}).to_string()),
            Ok(signals) => output::line(&format!("{}: {signals} signals", out.display())),
            Err(failure) if args.inputs.len() == 1 => return Err(failure),
            Err(failure) => {
                failed += 1;
                eprintln!("galen: {failure}");
            }
        }
    }
    if failed > 0 { Err(Failure::input(format!("{failed} of {} inputs could not be imported", args.inputs.len()))) } else { Ok(()) }
}

fn one(format: ImportFormat, input: &Path, out: &Path) -> Result<usize, Failure> {
    let fail = |e: &dyn std::fmt::Display| Failure::input(format!("{}: {e}", input.display()));
    let size = std::fs::metadata(input).map_err(|e| fail(&e))?.len();
    if size > MOST_BYTES {
        return Err(fail(&format!("{size} bytes is more than the {MOST_BYTES} that an import reads")));
    }
    let text = std::fs::read_to_string(input).map_err(|e| fail(&e))?;
    let name = out.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let capture = match format {
        ImportFormat::Dbot => dbot::import(&text, &name).map_err(|e| fail(&e))?,
    };
    file::write(&capture, out)?;
    Ok(capture.series.len())
}
