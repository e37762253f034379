//! Injecting a fault into a running cluster, and taking it out again.

use std::collections::BTreeMap;

use anyhow::Context;
use tokio_postgres::Client;

use super::busy::Busy;
use super::cluster::Cluster;
use super::load::{Load, LoadReport};
use super::scenario::Fault;

/// Values of a fault's parameters by name.
pub type Parameters = BTreeMap<String, i64>;

/// A fault at work. Dropping it ends its clients and processes but leaves its changes to the schema.
pub struct RunningFault {
    admin: Client,
    teardown: Vec<String>,
    load: Load,
    _busy: Busy,
}

impl Fault {
    /// Runs the setup and starts the clients. Fails on unknown parameters or a setup that does not run.
    pub async fn inject(&self, cluster: &Cluster, parameters: &Parameters) -> anyhow::Result<RunningFault> {
        let script = self.script(parameters)?;
        // Kept until the end: a fault may leave no connection free for the teardown.
        let admin = cluster.admin().await?;
        for sql in &script.setup {
            admin.batch_execute(sql).await.with_context(|| format!("the setup of {} failed at `{sql}`", self.name))?;
        }
        let busy = Busy::start(script.busy)?;
        let load = Load::start(&cluster.dsn_shop(), &script.clients)?;
        Ok(RunningFault { admin, teardown: script.teardown, load, _busy: busy })
    }
}

impl RunningFault {
    /// Stops the clients, runs the teardown, and says what the clients did.
    pub async fn stop(self) -> anyhow::Result<LoadReport> {
        let report = self.load.stop().await;
        drop(self._busy);
        for sql in &self.teardown {
            self.admin.batch_execute(sql).await.with_context(|| format!("the teardown failed at `{sql}`"))?;
        }
        Ok(report)
    }
}
