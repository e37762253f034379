//! Small commands: config, init-role, completions, version.

use clap::{Args, CommandFactory, Subcommand};
use serde_json::json;

use super::{Cli, Global};
use crate::config::Config;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    action: ConfigAction,
}

#[derive(Debug, Subcommand)]
enum ConfigAction {
    /// Read the configuration and say what is wrong with it
    Check {
        /// File to check, where --config names none
        #[arg(value_name = "FILE")]
        file: Option<std::path::PathBuf>,
    },
    /// Print a configuration with every key and its default
    Example,
}

/// `galen config`.
pub fn config(global: &Global, args: &ConfigArgs) -> Result<(), Failure> {
    match &args.action {
        ConfigAction::Example if global.json => output::line(&serde_json::to_string(&Config::default()).unwrap_or_default()),
        ConfigAction::Example => output::text(&Config::example()),
        ConfigAction::Check { file } => {
            let config = Config::load(file.as_deref().or(global.config.as_deref()))?;
            let names: Vec<&str> = config.targets.iter().map(|t| t.name.as_str()).collect();
            if global.json {
                output::line(&json!({"ok": true, "targets": names, "data_dir": config.data_dir, "listen": config.http.listen}).to_string());
            } else {
                let targets = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                output::line(&format!("ok; targets: {targets}; data in {}; http on {}", config.data_dir.display(), config.http.listen));
            }
        }
    }
    Ok(())
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  galen init-role | psql -d shop        then set a password: \\password galen")]
pub struct InitRoleArgs {
    /// Name of the role
    #[arg(long, default_value = "galen")]
    name: String,
}

/// `galen init-role`.
pub fn init_role(global: &Global, args: &InitRoleArgs) -> Result<(), Failure> {
    let plain = args.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && args.name.starts_with(|c: char| c.is_ascii_lowercase());
    if !plain || args.name.len() > 63 {
        return Err(Failure::usage(format!("`{}` is not a plain role name: lower-case letters, digits and `_`", args.name)));
    }
    let n = &args.name;
    let sql = format!(
        "-- A role for Galen: it sees statistics and settings, and writes nothing.\n\
         CREATE ROLE {n} LOGIN CONNECTION LIMIT 4;\n\
         ALTER ROLE {n} SET default_transaction_read_only = on;\n\
         GRANT pg_monitor TO {n};\n\
         -- For plans and hypothetical indexes (PostgreSQL 14 and later); leave it out and reports go without them.\n\
         GRANT pg_read_all_data TO {n};\n\
         -- In each database, by a superuser; the first needs shared_preload_libraries = 'pg_stat_statements'.\n\
         CREATE EXTENSION IF NOT EXISTS pg_stat_statements;\n\
         -- Where the package is installed: CREATE EXTENSION IF NOT EXISTS hypopg;\n\
         -- Set the password in psql, where it is not logged: \\password {n}\n"
    );
    if global.json {
        output::line(&json!({"role": n, "sql": sql}).to_string())
    } else {
        output::text(&sql)
    }
    Ok(())
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  galen completions bash > /etc/bash_completion.d/galen")]
pub struct CompletionsArgs {
    /// Shell to complete for
    shell: clap_complete::Shell,
}

/// `galen completions`.
pub fn completions(args: &CompletionsArgs) {
    let mut script = Vec::new();
    // Some shells would offer hidden commands too: they are left out beforehand.
    let all = Cli::command();
    let offered = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut shown = clap::Command::new("galen").version(env!("CARGO_PKG_VERSION")).args(all.get_arguments().cloned()).subcommands(offered);
    clap_complete::generate(args.shell, &mut shown, "galen", &mut script);
    output::text(&String::from_utf8_lossy(&script));
}

/// `galen version`.
pub fn version(global: &Global) {
    let version = env!("CARGO_PKG_VERSION");
    output::line(&if global.json {
        json!({"version": version, "sources": env!("SOURCES_DIGEST"), "capture_format": galen_tools::capture::FORMAT}).to_string()
    } else {
        format!("galen {version} (sources {})", env!("SOURCES_DIGEST"))
    });
}
