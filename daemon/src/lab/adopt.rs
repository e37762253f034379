//! The lab on a server that somebody handed over: a database and two roles of its own, removed afterwards.

use anyhow::{Context, bail, ensure};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::cluster::{Address, Cluster, ClusterOptions, connect};
use super::scenario::Scenario;
use super::script::Parameters;
use crate::output;

impl Scenario {
    /// Whether it may run on a server that somebody handed over.
    ///
    /// # Errors
    /// It needs a server of the lab's own, or does not have one of the parameters.
    pub fn may_be_adopted(&self, parameters: &Parameters) -> anyhow::Result<()> {
        match self.fault.script(parameters)?.needs_own_server() {
            Some(need) => bail!("{} needs {need}: it runs on a private server only, without --dsn", self.fault.name),
            None => Ok(()),
        }
    }
}

impl Cluster {
    /// Makes the scenario's database on the server of this connection string. Statements of the fault run there as the
    /// given superuser.
    ///
    /// # Errors
    /// The scenario needs a server of the lab's own, the role is no superuser, or a database or role of that name exists.
    pub async fn adopt(dsn: &str, scenario: &Scenario, parameters: &Parameters) -> anyhow::Result<Cluster> {
        scenario.may_be_adopted(parameters)?;
        let address = address(dsn)?;
        let options = ClusterOptions { database: scenario.schema.name.clone(), ..ClusterOptions::default() };
        let server = connect(dsn).await.context("cannot connect to the server that was handed over")?;
        let superuser: bool = server.query_one("SELECT rolsuper FROM pg_roles WHERE rolname = current_user", &[]).await?.get(0);
        ensure!(superuser, "the lab needs a superuser there, to make roles and a database and to take faults out again");
        let name = &options.database;
        let taken =
            "SELECT (SELECT count(*) FROM pg_database WHERE datname = $1) + (SELECT count(*) FROM pg_roles WHERE rolname IN ($1, $2))";
        let taken: i64 = server.query_one(taken, &[name, &address.collector]).await?.get(0);
        ensure!(taken == 0, "the server has a database or role `{name}` or `{}` already: the lab does not touch it", address.collector);
        let mut cluster = Cluster::at(address, name.clone())?;
        match cluster.furnish(&options).await {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.leave().await;
                Err(error)
            }
        }
    }

    /// Removes database and roles from a server that was handed over.
    pub(super) async fn leave(&self) {
        let name = self.database();
        let collector = self.collector();
        let Ok(server) = connect(&self.dsn_postgres()).await else {
            let what = format!("the database `{name}` and the roles `{name}` and `{collector}`");
            output::tell(&format!("galen: the server cannot be reached: remove {what} by hand"));
            return;
        };
        for sql in [
            format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"),
            format!("DROP ROLE IF EXISTS {name}"),
            format!("DROP ROLE IF EXISTS {collector}"),
        ] {
            if let Err(error) = server.batch_execute(&sql).await {
                output::tell(&format!("galen: `{sql}` failed: {error}; run it by hand"));
            }
        }
    }
}

/// Where the server is and who hands it over.
fn address(dsn: &str) -> anyhow::Result<Address> {
    let config: Config = dsn.parse().map_err(|_| anyhow::anyhow!("the connection string cannot be read"))?;
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "127.0.0.1".to_owned(),
    };
    let password = config.get_password().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default();
    Ok(Address {
        host,
        port: config.get_ports().first().copied().unwrap_or(5432),
        admin: config.get_user().unwrap_or("postgres").to_owned(),
        password,
        database: config.get_dbname().unwrap_or("postgres").to_owned(),
        collector: "lab_collector".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_how_many_scenarios_may_run_on_a_server_that_was_handed_over() {
        let all = Scenario::list().unwrap();
        let may = |name: &str| Scenario::load(name).unwrap().may_be_adopted(&Parameters::new()).is_ok();
        let some = all.iter().filter(|fault| may(&fault.name)).count();
        let page = include_str!("../../../docs/lab.md");
        assert!(page.contains(&format!("{some} of the {} scenarios may run there", all.len())), "{some} of {}", all.len());
    }
}
