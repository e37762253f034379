//! Which server is asked, with what key, and whether it may be.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::Url;
use serde::Serialize;

use super::super::web::Patience;

/// How a server wants a grammar, and how many alternatives of a token it shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// The plain protocol: a JSON schema for a choice of texts, no other grammar.
    #[default]
    Openai,
    /// `grammar`, as llama-server and llama-cpp-python take it.
    LlamaCpp,
    /// `structured_outputs`.
    Vllm,
    /// `ebnf`.
    Sglang,
}

/// A secret; it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub(super) String);

impl Key {
    /// Takes a key, without blanks around it.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Which server and which of its models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAiConfig {
    /// Such as `http://127.0.0.1:8000/v1`.
    pub base_url: String,
    /// What the server calls the model.
    pub model: String,
    /// Sent as a bearer token.
    pub key: Option<Key>,
    /// Whether the server may be another machine: prompts hold statements and evidence of the monitored databases.
    pub allow_remote: bool,
    /// How it wants grammars.
    pub dialect: Dialect,
    /// Most time for one request, its repetitions included.
    pub request_timeout: Duration,
    /// How often it is tried.
    pub patience: Patience,
}

impl OpenAiConfig {
    /// The usual: no key, this machine only, a minute a request, four attempts.
    pub fn new(base_url: &str, model: &str) -> Self {
        Self {
            base_url: base_url.to_owned(),
            model: model.to_owned(),
            key: None,
            allow_remote: false,
            dialect: Dialect::default(),
            request_timeout: Duration::from_secs(60),
            patience: Patience {
                attempts: 4,
                first_pause: Duration::from_millis(500),
                longest_pause: Duration::from_secs(20),
                stall: Duration::from_secs(60),
                connect: Duration::from_secs(5),
            },
        }
    }

    /// Whether `base_url` is an address, and one that may be asked.
    ///
    /// # Errors
    /// One line that says what to change.
    pub fn check(&self) -> Result<(), String> {
        if self.model.trim().is_empty() {
            return Err("the server's model needs a name".to_owned());
        }
        self.address().map(|_| ())
    }

    pub(super) fn address(&self) -> Result<Url, String> {
        let bad = || format!("base_url `{}` is not an http(s) address", shown(&self.base_url));
        let mut url = Url::parse(&self.base_url).map_err(|_| bad())?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || url.query().is_some() || url.fragment().is_some() {
            return Err(bad());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("base_url holds a password; use api_key_file instead".to_owned());
        }
        if !loopback(&url) && !self.allow_remote {
            return Err(format!(
                "base_url {url} is not on this machine: prompts hold statements and evidence of your databases; set allow_remote = true if they may leave it"
            ));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(if path.is_empty() { "/v1" } else { &path });
        Ok(url)
    }
}

/// Whether it is this machine.
pub(super) fn loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// An address of which nothing is known: only its beginning, for a password may follow.
fn shown(text: &str) -> String {
    text.rsplit('@').next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_machine_needs_a_yes() {
        for here in ["http://127.0.0.1:8000/v1", "http://localhost:1", "http://[::1]:1/v1", "https://127.3.2.1"] {
            OpenAiConfig::new(here, "m").check().unwrap();
        }
        for there in ["http://10.0.0.3:8000/v1", "https://api.example.com/v1", "http://localhost.example.com", "http://0.0.0.0:1"] {
            let mut config = OpenAiConfig::new(there, "m");
            let why = config.check().unwrap_err();
            assert!(why.contains("allow_remote = true") && !why.contains('\n'), "{why}");
            config.allow_remote = true;
            config.check().unwrap();
        }
    }

    #[test]
    fn addresses_that_are_none_are_refused_and_passwords_stay_hidden() {
        for bad in ["", "127.0.0.1:8000", "ftp://127.0.0.1/", "http://127.0.0.1/v1?key=x", "unix:///run/x"] {
            assert!(OpenAiConfig::new(bad, "m").check().is_err(), "{bad}");
        }
        for secret in ["http://me:hunter2@127.0.0.1:8000/v1", "me:hunter2@127.0.0.1"] {
            assert!(!OpenAiConfig::new(secret, "m").check().unwrap_err().contains("hunter2"));
        }
        let mut config = OpenAiConfig::new("http://127.0.0.1", "m");
        config.key = Some(Key::new(" hunter2\n"));
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(config.address().unwrap().as_str(), "http://127.0.0.1/v1");
        assert!(OpenAiConfig::new("http://127.0.0.1", " ").check().is_err());
    }
}
