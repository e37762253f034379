//! What a fault file says is to be done: its statements, clients and processes, with parameters filled in.

use std::collections::BTreeMap;

use anyhow::bail;
use serde::Deserialize;

use super::load::ClientSpec;
use super::network::Bottleneck;
use super::process::ProcessSpec;

/// Values of a fault's parameters by name.
pub type Parameters = BTreeMap<String, i64>;

/// What a fault does, its parameters filled in. Lists of several faults are simply joined.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// What the server must be from the beginning.
    pub server: Server,
    /// What the collector may not see.
    pub without: Vec<Without>,
    /// Statements as superuser before anything runs: part of the ordinary day, not of the fault.
    pub before: Vec<String>,
    /// Clients that belong to the ordinary day, beside the baseline.
    pub usual: Vec<ClientSpec>,
    /// Host processes that belong to the ordinary day.
    pub usual_processes: Vec<ProcessSpec>,
    /// Statements as superuser before the clients start.
    pub setup: Vec<String>,
    /// The same on the standby.
    pub setup_standby: Vec<String>,
    /// Clients that run beside the baseline.
    pub clients: Vec<ClientSpec>,
    /// Busy processes outside the database.
    pub busy: u32,
    /// Other processes on the host, with the server's user and environment.
    pub processes: Vec<ProcessSpec>,
    /// A narrow network (needs root: server, clients and collector get one of their own).
    pub network: Option<Bottleneck>,
    /// Statements as superuser after the clients have stopped.
    pub teardown: Vec<String>,
    /// The same on the standby.
    pub teardown_standby: Vec<String>,
}

/// What a fault needs of its server before it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Settings as in `postgresql.conf`.
    pub settings: BTreeMap<String, String>,
    /// A streaming standby beside it.
    pub standby: bool,
    /// Mebibytes of a volume of its own for the data directory (needs root: it is a tmpfs).
    pub volume_mb: u32,
    /// Transaction id that the server begins with; 0 for a new server's. All that is in it from the beginning is as old.
    pub next_xid: u32,
}

/// Something that a collector often may not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Without {
    /// The extension is not there.
    PgStatStatements,
    /// The collector's role is no member.
    PgMonitor,
}

impl Script {
    /// Reads a script after putting parameters in the place of `${name}`.
    pub fn read(body: &toml::Table, parameters: &Parameters) -> anyhow::Result<Script> {
        let mut body = toml::Value::Table(body.clone());
        fill(&mut body, parameters)?;
        let script: Script = body.try_into()?;
        script.network.as_ref().map_or(Ok(()), Bottleneck::check)?;
        Ok(script)
    }

    /// Adds what another script does. Both setups run before any client; later settings and networks win.
    pub fn join(&mut self, other: Script) {
        self.server.settings.extend(other.server.settings);
        self.server.standby |= other.server.standby;
        self.server.next_xid = self.server.next_xid.max(other.server.next_xid);
        self.server.volume_mb = self.server.volume_mb.max(other.server.volume_mb);
        self.without.extend(other.without);
        self.before.extend(other.before);
        self.usual.extend(other.usual);
        self.usual_processes.extend(other.usual_processes);
        self.setup.extend(other.setup);
        self.setup_standby.extend(other.setup_standby);
        self.clients.extend(other.clients);
        self.busy += other.busy;
        self.processes.extend(other.processes);
        self.network = other.network.or(self.network);
        self.teardown.extend(other.teardown);
        self.teardown_standby.extend(other.teardown_standby);
    }

    /// What only a server of the lab's own can offer, in words; none when any server will do.
    pub fn needs_own_server(&self) -> Option<&'static str> {
        match self {
            script if script.server != Server::default() => Some("settings, a volume or a standby from the beginning"),
            script if !script.processes.is_empty() || !script.usual_processes.is_empty() => Some("processes on the server's host"),
            script if !script.without.is_empty() => Some("a collector that may see less"),
            script if script.network.is_some() => Some("a network of its own"),
            script if script.busy > 0 => Some("busy processes on the server's host"),
            script if script.alters_system() => Some("settings of the whole server (ALTER SYSTEM), where the owner's own would be lost"),
            _ => None,
        }
    }

    /// True when a statement that runs as superuser changes `postgresql.auto.conf`. Its teardown can only reset a setting: what
    /// stood there before is gone.
    fn alters_system(&self) -> bool {
        let all = [&self.before, &self.setup, &self.setup_standby, &self.teardown, &self.teardown_standby];
        let plain = |sql: &String| sql.split_whitespace().collect::<Vec<_>>().join(" ").to_uppercase();
        all.into_iter().flatten().any(|sql| plain(sql).contains("ALTER SYSTEM"))
    }
}

/// Puts parameters in the place of `${name}`; a text that is nothing else becomes a number.
fn fill(value: &mut toml::Value, parameters: &Parameters) -> anyhow::Result<()> {
    match value {
        toml::Value::Array(items) => items.iter_mut().try_for_each(|item| fill(item, parameters)),
        toml::Value::Table(table) => table.iter_mut().try_for_each(|(_, item)| fill(item, parameters)),
        toml::Value::String(text) => {
            let alone = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
            if let Some(number) = alone.and_then(|name| parameters.get(name)) {
                *value = toml::Value::Integer(*number);
                return Ok(());
            }
            for (name, number) in parameters {
                *text = text.replace(&format!("${{{name}}}"), &number.to_string());
            }
            match text.contains("${") {
                true => bail!("`{text}` uses a parameter that the file does not declare"),
                false => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> anyhow::Result<Script> {
        Script::read(&toml::from_str(text).unwrap(), &BTreeMap::from([("n".to_owned(), 7)]))
    }

    #[test]
    fn parameters_are_filled_in_as_numbers_and_as_text() {
        let read = script("busy = '${n}'\nsetup = ['SELECT ${n} + ${n}']").unwrap();
        assert_eq!((read.busy, read.setup[0].as_str()), (7, "SELECT 7 + 7"));
        assert!(script("setup = ['SELECT ${m}']").unwrap_err().to_string().contains("${m}"));
    }

    #[test]
    fn scripts_join_and_unknown_keys_are_refused() {
        let mut one = script("busy = 1\nsetup = ['a']\n[server]\nsettings = { jit = 'on' }").unwrap();
        one.join(script("busy = 2\nsetup = ['b']\nwithout = ['pg_monitor']").unwrap());
        assert_eq!((one.busy, one.setup.join("")), (3, "ab".to_owned()));
        assert_eq!(one.without, [Without::PgMonitor]);
        assert!(one.needs_own_server().is_some());
        assert!(script("setpu = ['a']").is_err());
    }

    #[test]
    fn a_network_is_read_with_parameters_joined_and_needs_a_server_of_ones_own() {
        let mut one = script("[network]\nrate_kbit = '${n}'\nqueue_bytes = 9000").unwrap();
        assert_eq!(one.network.map(|it| (it.rate_kbit, it.burst_bytes, it.queue_bytes)), Some((7, 5_000, 9_000)));
        assert!(one.needs_own_server().unwrap().contains("network"));
        one.join(script("busy = 1").unwrap());
        assert_eq!(one.network.map(|it| it.rate_kbit), Some(7));
        one.join(script("[network]\nrate_kbit = 8").unwrap());
        assert_eq!(one.network.map(|it| it.rate_kbit), Some(8));
        assert!(script("[network]\nrate_kbit = 0").unwrap_err().to_string().contains("rate_kbit = 0"));
    }

    #[test]
    fn what_burns_cpus_here_or_changes_the_whole_server_needs_a_server_of_its_own() {
        let need = |text: &str| script(text).unwrap().needs_own_server();
        assert!(need("busy = 1").unwrap().contains("busy processes"));
        for key in ["before", "setup", "teardown"] {
            let need = need(&format!("{key} = ['SELECT 1', 'alter  system\tRESET work_mem']"));
            assert!(need.unwrap().contains("ALTER SYSTEM"), "{key}");
        }
        assert_eq!(need("setup = ['DROP INDEX a']\nteardown = ['CREATE INDEX a ON b (c)']"), None);
    }
}
