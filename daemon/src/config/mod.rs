//! Configuration: one documented struct. Defaults, then a TOML file, then environment variables; unknown keys fail.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use galen_agents::llm::registry::default_models_dir;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

mod model;

pub use model::{Adapter, Model, ModelProvider};

/// Everything that can be set. `example` documents each key; a test keeps the two together.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder of the store, captures and reports.
    pub data_dir: PathBuf,
    /// The HTTP door.
    pub http: Http,
    /// The socket door.
    pub socket: Socket,
    /// What is monitored.
    #[serde(rename = "target", skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// The detector.
    pub detector: Detector,
    /// The language model.
    pub model: Model,
    /// Incidents.
    pub incident: Incident,
}

/// See [`Config`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Http {
    pub enabled: bool,
    pub listen: String,
}

/// See [`Config`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Socket {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// See [`Config`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Target {
    pub name: String,
    pub dsn: Dsn,
    #[serde(default)]
    pub allow_superuser: bool,
    #[serde(default)]
    pub brisk: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
}

/// See [`Config`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Detector {
    pub enabled: bool,
    pub warm_up_s: f64,
}

/// See [`Config`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Incident {
    pub group_window_s: u64,
    pub settle_s: u64,
    pub history_s: u64,
}

/// A connection string.
pub type Dsn = Secret;

/// A text with a secret in it; it is never printed.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The string with its secrets.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str("***")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: default_data_dir(),
            http: Http::default(),
            socket: Socket::default(),
            targets: Vec::new(),
            detector: Detector::default(),
            model: Model::default(),
            incident: Incident::default(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { enabled: true, listen: "127.0.0.1:9877".into() }
    }
}

impl Default for Detector {
    fn default() -> Self {
        Self { enabled: true, warm_up_s: 20.0 }
    }
}

impl Default for Incident {
    fn default() -> Self {
        Self { group_window_s: 300, settle_s: 12, history_s: 600 }
    }
}

fn default_data_dir() -> PathBuf {
    if nix::unistd::Uid::effective().is_root() {
        return PathBuf::from("/var/lib/galen");
    }
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/share"));
    std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(home).unwrap_or_else(|| PathBuf::from(".")).join("galen")
}

/// All keys, for suggestions.
const KEYS: &[&str] = &[
    "data_dir",
    "http",
    "socket",
    "target",
    "detector",
    "model",
    "incident",
    "enabled",
    "listen",
    "path",
    "name",
    "dsn",
    "allow_superuser",
    "brisk",
    "warm_up_s",
    "models_dir",
    "threads",
    "timeout_s",
    "provider",
    "vram",
    "kv_type",
    "flash_attention",
    "memory_limit",
    "adapter",
    "file",
    "scale",
    "base_url",
    "allow_remote",
    "dialect",
    "api_key",
    "api_key_file",
    "group_window_s",
    "settle_s",
    "history_s",
];

impl Config {
    /// Defaults, then the file, then `GALEN_*` variables (`GALEN_HTTP__LISTEN`).
    ///
    /// # Errors
    /// Code 3, with the key that is wrong and the nearest known one.
    pub fn load(file: Option<&Path>) -> Result<Self, Failure> {
        let config = Self::of_any_model(file)?;
        config.model.known().map_err(|why| Failure::config(format!("{}: {why}", place(file))))?;
        Ok(config)
    }

    /// As [`load`](Self::load), for what comes before models: the one that it names need not be known.
    ///
    /// # Errors
    /// As there.
    pub fn of_any_model(file: Option<&Path>) -> Result<Self, Failure> {
        let (figment, place) = sources(file)?;
        let config: Self = figment.extract().map_err(|error| Failure::config(format!("{place}: {}", explain(&error))))?;
        config.check().map_err(|why| Failure::config(format!("{place}: {why}")))?;
        Ok(config)
    }

    /// The folder of model files, for commands that need nothing else of the configuration. They bring and remove models, so that the
    /// one that it names need not be known; and without a file nothing but this key of the environment can be wrong.
    ///
    /// # Errors
    /// Code 3, as [`load`](Self::load).
    pub fn models_dir(file: Option<&Path>) -> Result<PathBuf, Failure> {
        const KEY: &str = "model.models_dir";
        let (figment, place) = sources(file)?;
        if file.is_none() {
            if !figment.contains(KEY) {
                return Ok(default_models_dir());
            }
            return figment.extract_inner(KEY).map_err(|error| Failure::config(format!("{place}: {}", explain(&error))));
        }
        Ok(Self::of_any_model(file)?.model.folder())
    }

    /// Path of the socket.
    pub fn socket_path(&self) -> PathBuf {
        self.socket.path.clone().unwrap_or_else(|| self.data_dir.join("galen.sock"))
    }

    fn check(&self) -> Result<(), String> {
        let address: SocketAddr =
            self.http.listen.parse().map_err(|_| format!("http.listen `{}` is not ADDRESS:PORT", self.http.listen))?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "http.listen {address} is not loopback: this door has neither TLS nor tokens; put a proxy in front of 127.0.0.1"
            ));
        }
        let mut names = std::collections::BTreeSet::new();
        for target in &self.targets {
            let plain = !target.name.is_empty() && target.name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
            if !plain {
                return Err(format!("target name `{}`: use letters, digits, `_`, `.` and `-`", target.name));
            }
            if !names.insert(&target.name) {
                return Err(format!("target `{}` is there twice", target.name));
            }
        }
        for target in &self.targets {
            // The driver's own message may quote the string, which holds the password.
            let read = target.dsn.expose().parse::<tokio_postgres::Config>();
            if !read.is_ok_and(|dsn| !dsn.get_hosts().is_empty() || !dsn.get_hostaddrs().is_empty()) {
                return Err(format!(
                    "the dsn of target `{}` names no server; write postgresql://user:password@host:5432/database or host=.. user=.. dbname=..",
                    target.name
                ));
            }
        }
        self.model.check()?;
        let known = |name: &String| self.model.adapters.iter().any(|adapter| adapter.name == *name);
        if let Some((target, name)) = self.targets.iter().find_map(|t| t.adapter.as_ref().filter(|a| !known(a)).map(|a| (&t.name, a))) {
            return Err(format!("target `{target}` wants the adapter `{name}`, which no [[model.adapter]] defines"));
        }
        self.check_ranges()
    }

    fn check_ranges(&self) -> Result<(), String> {
        let warm_up = self.detector.warm_up_s;
        if !(0.0..=3_600.0).contains(&warm_up) {
            return Err(format!("detector.warm_up_s {warm_up} must lie between 0 and 3600"));
        }
        let whole = [
            ("model.threads", u64::from(self.model.threads), 1, 256),
            ("model.timeout_s", self.model.timeout_s, 1, 3_600),
            ("incident.group_window_s", self.incident.group_window_s, 0, 86_400),
            ("incident.settle_s", self.incident.settle_s, 1, 60),
            ("incident.history_s", self.incident.history_s, 60, 86_400),
        ];
        match whole.into_iter().find(|(_, value, least, most)| value < least || value > most) {
            Some((key, value, least, most)) => Err(format!("{key} {value} must lie between {least} and {most}")),
            None => Ok(()),
        }
    }

    /// A configuration with every key, its default and what it is for.
    pub fn example() -> String {
        let d = Self::default();
        format!(
            "# Galen's configuration. Every key is optional; these are the defaults. GALEN_HTTP__LISTEN and so on override it.\n\n\
             # Folder of the store, captures and reports.\ndata_dir = {:?}\n\n\
             [http]\n# Webhook, reports and metrics.\nenabled = {}\n# Loopback only: this door has neither TLS nor tokens.\nlisten = {:?}\n\n\
             [socket]\n# Unix socket of `galen incidents` and `galen ask`; galen.sock in data_dir when absent.\n# path = \"/run/galen/galen.sock\"\n\n\
             # One block for each monitored database. `galen init-role` prints the SQL of the role.\n# [[target]]\n# name = \"shop\"\n\
             # dsn = \"postgresql://galen:password@db.internal:5432/shop\"\n# Work as a superuser when the role is one.\n# allow_superuser = false\n\
             # Sample statements and tables every 3 s instead of 10 s.\n# brisk = false\n\n\
             [detector]\n# Raise incidents without being asked.\nenabled = {}\n# Seconds of samples before anything counts as unusual, 0 to 3600.\nwarm_up_s = {:?}\n\n\
             [model]\n# Who runs it: \"local\", the embedded engine, or \"openai\", a server that speaks OpenAI's chat completions.\nprovider = \"local\"\n\
             # A name of `galen model list`, or what the server calls its model; \"none\" goes without.\nname = {:?}\n# Folder of model files; GALEN_MODELS_DIR, else ~/.cache/galen/models, when absent.\n\
             # models_dir = \"/var/lib/galen/models\"\n# Threads of the model's process, 1 to 256.\nthreads = {}\n# Seconds until a request to the model is given up, 1 to 3600.\ntimeout_s = {}\n\
             # Memory of a GPU that the embedded engine may use (a build with one): layers are placed to fit. `galen model plan` shows how.\n# What is free when it starts, when absent.\n# vram = \"8GiB\"\n\
             # Type of the cache of keys and values: \"f16\", \"q8_0\" (half the memory, answers change a little) or \"f32\"; as planned when absent.\n# kv_type = \"f16\"\n\
             # Whether attention is computed without a matrix of all scores; with a GPU it is, else llama.cpp decides, when absent.\n# flash_attention = true\n\
             # Address space that the model's process may take, or \"none\"; twice the model's file and 4 GiB when absent (no limit with a GPU).\n# memory_limit = \"6GiB\"\n\
             # Low-rank adapters of the model's weights (GGUF), loaded with it and changed between incidents.\n# [[model.adapter]]\n# name = \"shop\"\n\
             # file = \"/var/lib/galen/models/shop-lora.gguf\"\n# scale = 1.0\n\
             # The server of provider \"openai\".\n# base_url = \"http://127.0.0.1:8000/v1\"\n\
             # A server on another machine is asked only with this: prompts hold statements and evidence of your databases.\nallow_remote = false\n\
             # How the server takes grammars: \"openai\", \"llama_cpp\", \"vllm\" or \"sglang\".\ndialect = \"openai\"\n\
             # Its key: in a file, or in the variable GALEN_MODEL__API_KEY (better than here).\n# api_key_file = \"/etc/galen/model.key\"\n# api_key = \"...\"\n\n\
             [incident]\n# Alerts of one target within this many seconds (0 to 86400) are one incident.\ngroup_window_s = {}\n\
             # Seconds of the anomaly to collect before the diagnosis, 1 to 60.\nsettle_s = {}\n# Seconds of history kept in memory for each target, 60 to 86400.\nhistory_s = {}\n",
            d.data_dir.display().to_string(),
            d.http.enabled,
            d.http.listen,
            d.detector.enabled,
            d.detector.warm_up_s,
            d.model.name,
            d.model.threads,
            d.model.timeout_s,
            d.incident.group_window_s,
            d.incident.settle_s,
            d.incident.history_s
        )
    }
}

/// Defaults, then the file, then the environment; and what to call them in an error.
fn sources(file: Option<&Path>) -> Result<(Figment, String), Failure> {
    let mut figment = Figment::from(Serialized::defaults(Config::default()));
    if let Some(file) = file {
        let text = std::fs::read_to_string(file)
            .map_err(|e| Failure::config(format!("{}: {e}; `galen config example` prints a configuration", file.display())))?;
        figment = figment.merge(Toml::string(&text));
    }
    // Variables of other purposes share the prefix.
    let others = ["dsn", "models_dir", "bench_dir", "no_model", "lab_trial"];
    let env = Env::prefixed("GALEN_").filter(move |key| !others.iter().any(|o| key == *o)).split("__");
    Ok((figment.merge(env), place(file)))
}

/// Where a wrong value stands.
fn place(file: Option<&Path>) -> String {
    file.map_or_else(|| "the environment".to_owned(), |f| f.display().to_string())
}

/// The library's error in one line, with the nearest known key for an unknown one.
fn explain(error: &figment::Error) -> String {
    let text = error.to_string().replace('\n', " ");
    if let figment::error::Kind::UnknownField(field, _) = &error.kind {
        let nearest = KEYS.iter().map(|key| (distance(field, key), *key)).min();
        let hint = nearest.filter(|(d, _)| *d <= 3).map(|(_, key)| format!("; did you mean `{key}`?")).unwrap_or_default();
        let path = error.path.join(".");
        let path = if path.is_empty() || path.ends_with(field.as_str()) { field.clone() } else { format!("{path}.{field}") };
        return format!("unknown key `{path}`{hint}");
    }
    text
}

/// Edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let best = (before + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            before = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn load(text: &str) -> Result<Config, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()))
    }

    #[test]
    fn the_example_parses_back_to_the_defaults_and_names_every_key() {
        let example = Config::example();
        let read = load(&example).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", Config::default()));
        for key in KEYS {
            assert!(example.contains(key), "{key} is not in the example");
        }
    }

    #[test]
    fn values_that_cannot_work_are_refused_with_their_range() {
        for (text, expected) in [
            ("[incident]\nsettle_s = 100000", "incident.settle_s 100000 must lie between 1 and 60"),
            ("[incident]\nsettle_s = 0", "between 1 and 60"),
            ("[incident]\nhistory_s = 5", "between 60 and 86400"),
            ("[incident]\ngroup_window_s = 100000", "between 0 and 86400"),
            ("[model]\nthreads = 0", "model.threads 0 must lie between 1 and 256"),
            ("[model]\ntimeout_s = 0", "between 1 and 3600"),
            ("[model]\nname = \"nope\"", "no model 'nope' is known; there are: smollm2-135m"),
            ("[detector]\nwarm_up_s = nan", "detector.warm_up_s NaN must lie between 0 and 3600"),
            ("[detector]\nwarm_up_s = -1.0", "between 0 and 3600"),
            ("[[target]]\nname = \"a\"\ndsn = \"garbage-hunter2\"", "the dsn of target `a` names no server"),
            ("[[target]]\nname = \"a\"\ndsn = \"user=hunter2\"", "the dsn of target `a` names no server"),
        ] {
            let failure = load(text).unwrap_err();
            assert!(failure.code == 3 && failure.message.contains(expected), "{text}: {failure}");
            assert!(!failure.message.contains("hunter2") && failure.to_string().lines().count() == 1, "{failure}");
        }
        assert!(load("[model]\nname = \"smollm2-135m\"\n[incident]\nsettle_s = 60").is_ok());
    }

    #[test]
    fn the_folder_of_models_is_the_configured_one_for_models_that_are_yet_to_come_too() {
        let folder = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            Config::models_dir(Some(file.path()))
        };
        let configured = "[model]\nmodels_dir = \"/srv/models\"\n";
        assert_eq!(folder(configured).unwrap(), PathBuf::from("/srv/models"));
        assert_eq!(load(configured).unwrap().model.folder(), PathBuf::from("/srv/models"));
        let to_come = format!("{configured}name = \"mine\"\n");
        assert!(load(&to_come).unwrap_err().message.contains("mine"));
        assert_eq!(folder(&to_come).unwrap(), PathBuf::from("/srv/models"));
        assert_eq!([folder("").unwrap(), Config::models_dir(None).unwrap()], [default_models_dir(), default_models_dir()]);
        for broken in ["[model]\nmodels_dirs = \"x\"", "[model]\nmodels_dir = 5", "[model]\nthreads = 0", "[model"] {
            assert_eq!(folder(broken).unwrap_err().code, 3, "{broken}");
        }
        assert_eq!(Config::models_dir(Some(Path::new("/nonexistent/galen.toml"))).unwrap_err().code, 3);
    }

    #[test]
    fn an_unknown_key_fails_with_the_nearest_one() {
        let failure = load("[http]\nlisen = \"127.0.0.1:1\"").unwrap_err();
        assert_eq!(failure.code, 3);
        assert!(failure.message.contains("did you mean `listen`"), "{failure}");
    }

    #[test]
    fn an_open_door_a_twin_target_and_a_shown_password_are_refused() {
        assert!(load("[http]\nlisten = \"0.0.0.0:9877\"").unwrap_err().message.contains("not loopback"));
        let twin = "[[target]]\nname = \"a\"\ndsn = \"host=x password=hunter2\"\n";
        assert!(load(&twin.repeat(2)).unwrap_err().message.contains("twice"));
        assert!(!format!("{:?}", load(twin).unwrap()).contains("hunter2"));
    }
}
