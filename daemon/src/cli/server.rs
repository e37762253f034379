//! `galen serve`.

use clap::Args;

use super::Global;
use crate::failure::Failure;
use crate::signals::Signals;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen config example > galen.toml        every key, with its default
  galen serve --config galen.toml

Alertmanager: webhook_configs: [{url: \"http://127.0.0.1:9877/api/v1/alerts/alertmanager\"}]")]
pub struct ServeArgs {
    /// Form of the log lines on standard error
    #[arg(long, value_parser = ["text", "json"], default_value = "text")]
    log_format: String,
}

impl ServeArgs {
    /// True for JSON log lines.
    pub fn json_log(&self) -> bool {
        self.log_format == "json"
    }
}

/// Runs the daemon until SIGINT, SIGTERM or SIGHUP.
pub async fn serve(global: &Global, _args: ServeArgs) -> Result<(), Failure> {
    let config = global.load()?;
    if config.targets.is_empty() {
        tracing::warn!("no [[target]] is configured: nothing is watched, alerts are refused");
    }
    let mut signals = Signals::listen()?;
    let shutdown = async move {
        signals.next().await;
    };
    crate::serve::run(config, shutdown, |_| {}).await
}
