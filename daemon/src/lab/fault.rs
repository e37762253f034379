//! Starting what belongs to the ordinary day, injecting a fault into it, and taking it out again.

use anyhow::Context;
use tokio_postgres::Client;

use super::busy::Busy;
use super::cluster::Cluster;
use super::load::{Load, LoadReport};
use super::network::{Bottleneck, Narrowed};
use super::process::Processes;
use super::scenario::{Fault, Scenario};
use super::script::{Parameters, Script};

/// The ordinary day: steady load and whatever else is usual. Dropping it ends all of it.
pub struct Steady {
    load: Load,
    _processes: Processes,
}

impl Scenario {
    /// Starts the steady load and everything else that is usual. The same seed gives the same order of statements.
    pub async fn start_steady(&self, cluster: &Cluster, parameters: &Parameters, seed: u64) -> anyhow::Result<Steady> {
        let script = self.fault.script(parameters)?;
        if !script.before.is_empty() {
            let admin = cluster.admin().await?;
            for sql in &script.before {
                admin
                    .batch_execute(sql)
                    .await
                    .with_context(|| format!("what should stand before {} failed at `{sql}`", self.fault.name))?;
            }
        }
        let specs: Vec<_> = self.schema.baseline.iter().chain(&script.usual).cloned().collect();
        let load = Load::start(&cluster.dsn_app(), &specs, seed)?;
        let _processes = Processes::start(cluster, &script.usual_processes)?;
        Ok(Steady { load, _processes })
    }
}

impl Steady {
    /// Counts so far.
    pub fn report(&self) -> LoadReport {
        self.load.report()
    }

    /// Stops everything and says what the clients did.
    pub async fn stop(self) -> LoadReport {
        self.load.stop().await
    }
}

/// A fault at work. Dropping it ends its clients and processes but leaves its changes to the schema.
pub struct RunningFault {
    admin: Client,
    script: Script,
    load: Load,
    busy: Busy,
    processes: Processes,
    network: Option<Narrowed>,
}

impl Fault {
    /// Runs the setup and starts the clients. Fails on unknown parameters or a setup that does not run.
    pub async fn inject(&self, cluster: &Cluster, parameters: &Parameters, seed: u64) -> anyhow::Result<RunningFault> {
        let script = self.script(parameters)?;
        // Kept until the end: a fault may leave no connection free for the teardown.
        let admin = cluster.admin().await?;
        for sql in &script.setup {
            admin.batch_execute(sql).await.with_context(|| format!("the setup of {} failed at `{sql}`", self.name))?;
        }
        on_standby(cluster, &script.setup_standby).await?;
        let busy = Busy::start(script.busy)?;
        let processes = Processes::start(cluster, &script.processes)?;
        // Other numbers than the steady load's.
        let load = Load::start(&cluster.dsn_app(), &script.clients, seed ^ 0x5eed_0fa0)?;
        // Last: the setup is not to be slow because of it.
        let network = script.network.as_ref().map(Bottleneck::begin).transpose()?;
        Ok(RunningFault { admin, script, load, busy, processes, network })
    }

    /// Runs the teardown of a fault that was not stopped, as far as the server lets it.
    pub async fn undo(&self, cluster: &Cluster, parameters: &Parameters) {
        let (Ok(script), Ok(admin)) = (self.script(parameters), cluster.admin().await) else { return };
        for sql in &script.teardown {
            if let Err(error) = admin.batch_execute(sql).await {
                tracing::warn!(%error, sql, "a statement of the teardown failed");
            }
        }
    }
}

impl RunningFault {
    /// Stops the clients, runs the whole teardown, and says what the clients did.
    ///
    /// # Errors
    /// The first statement of the teardown that failed; those after it ran all the same.
    pub async fn stop(self, cluster: &Cluster) -> anyhow::Result<LoadReport> {
        let (report, teardown) = self.take_out(cluster).await;
        teardown.map(|()| report)
    }

    /// As [`stop`](Self::stop), for whoever needs the report of a fault that could not be taken out as well.
    pub(super) async fn take_out(self, cluster: &Cluster) -> (LoadReport, anyhow::Result<()>) {
        // First: goodbyes and the teardown go through it as well.
        drop(self.network);
        let report = self.load.stop().await;
        drop((self.busy, self.processes));
        // A crash took the connection with it.
        let admin = if self.admin.is_closed() { cluster.admin().await } else { Ok(self.admin) };
        let here = each(admin, &self.script.teardown).await;
        let there = match self.script.teardown_standby.as_slice() {
            [] => Ok(()),
            statements => each(cluster.standby().await, statements).await,
        };
        (report, here.and(there))
    }
}

/// Runs all statements, also those after one that failed, whose error is returned.
async fn each(client: anyhow::Result<Client>, statements: &[String]) -> anyhow::Result<()> {
    let client = client?;
    let mut first = Ok(());
    for sql in statements {
        let done = client.batch_execute(sql).await.with_context(|| format!("the teardown failed at `{sql}`"));
        first = first.and(done);
    }
    first
}

async fn on_standby(cluster: &Cluster, statements: &[String]) -> anyhow::Result<()> {
    if statements.is_empty() {
        return Ok(());
    }
    let standby = cluster.standby().await?;
    for sql in statements {
        standby.batch_execute(sql).await.with_context(|| format!("the standby refused `{sql}`"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::ClusterOptions;

    #[tokio::test]
    async fn a_teardown_goes_on_after_a_statement_that_fails() {
        let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
        let text = "name = 'x'\ntitle = 't'\ncauses = ['deadlocks']\nsetup = ['CREATE TABLE leftover (n int)']
            teardown = ['DROP TABLE never_there', 'DROP TABLE leftover', 'DROP TABLE nor_this']";
        let fault = Fault::parse("shop", text).unwrap();
        let running = fault.inject(&cluster, &Parameters::new(), 1).await.unwrap();
        let error = running.stop(&cluster).await.unwrap_err().to_string();
        assert!(error.contains("never_there"), "the first failure is told: {error}");
        let left = cluster.admin().await.unwrap().query_one("SELECT to_regclass('leftover') IS NOT NULL", &[]).await.unwrap();
        assert!(!left.get::<_, bool>(0), "the statement after it ran");
        cluster.stop().await;
    }
}
