//! What a live target is: its address (a secret) and how often each group of probes runs.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{SourceError, SourceErrorKind};

/// One monitored server.
#[derive(Debug, Clone)]
pub struct PgConfig {
    /// Name of the target in captures and reports.
    pub name: String,
    /// Where and as whom to connect.
    pub dsn: Dsn,
    /// Work as a superuser when the role is one. Off: a superuser is refused.
    pub allow_superuser: bool,
    /// How often each group of probes runs.
    pub intervals: Intervals,
}

impl PgConfig {
    /// A target with default intervals; a superuser is refused.
    pub fn new(name: impl Into<String>, dsn: impl Into<Dsn>) -> Self {
        Self { name: name.into(), dsn: dsn.into(), allow_superuser: false, intervals: Intervals::default() }
    }
}

/// A connection string, in `key=value` or URL form. It is never printed and never serialised.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Dsn(String);

impl Dsn {
    /// The string with its secrets.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads the string; the error names no part of it, since any part may be the password.
    pub(super) fn parse(&self) -> Result<tokio_postgres::Config, SourceError> {
        self.0.parse().map_err(|_| {
            SourceError::new(
                SourceErrorKind::Refused,
                "the dsn cannot be read; write postgresql://user:password@host:5432/database or host=.. user=.. dbname=..",
            )
        })
    }
}

impl From<&str> for Dsn {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Dsn {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dsn(..)")
    }
}

/// Time between two runs of each group of probes. Written in seconds: `statements = 10` or `0.5`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Intervals {
    /// Session samples and locks.
    #[serde(with = "seconds")]
    pub sessions: Duration,
    /// Database counters and WAL position.
    #[serde(with = "seconds")]
    pub database: Duration,
    /// `/proc` of the host, when the server is local.
    #[serde(with = "seconds")]
    pub host: Duration,
    /// pg_stat_statements.
    #[serde(with = "seconds")]
    pub statements: Duration,
    /// Table counters.
    #[serde(with = "seconds")]
    pub tables: Duration,
    /// Index counters and the set of indexes.
    #[serde(with = "seconds")]
    pub indexes: Duration,
    /// Checkpoints, archiver, replicas, slots, prepared transactions, vacuum progress.
    #[serde(with = "seconds")]
    pub server: Duration,
    /// Run-time settings.
    #[serde(with = "seconds")]
    pub settings: Duration,
    /// Exact sizes of database and tables.
    #[serde(with = "seconds")]
    pub sizes: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self {
            sessions: s(1),
            database: s(1),
            host: s(1),
            statements: s(10),
            tables: s(10),
            indexes: s(60),
            server: s(5),
            settings: s(300),
            sizes: s(60),
        }
    }
}

impl Intervals {
    /// Shorter intervals for recordings of a minute or two.
    pub fn brisk() -> Self {
        let s = Duration::from_secs;
        // Settings too: an incident may have begun with one.
        Self { statements: s(3), tables: s(3), indexes: s(5), server: s(2), sizes: s(10), settings: s(15), ..Self::default() }
    }
}

impl Intervals {
    /// For the seconds after an alert: the first finding waits for two readings of the counters.
    pub fn attentive() -> Self {
        let two = Duration::from_secs(2);
        Self { statements: two, tables: two, ..Self::brisk() }
    }

    /// The shorter of two intervals, group by group.
    pub fn at_most(&self, other: &Self) -> Self {
        Self {
            sessions: self.sessions.min(other.sessions),
            database: self.database.min(other.database),
            host: self.host.min(other.host),
            statements: self.statements.min(other.statements),
            tables: self.tables.min(other.tables),
            indexes: self.indexes.min(other.indexes),
            server: self.server.min(other.server),
            settings: self.settings.min(other.settings),
            sizes: self.sizes.min(other.sizes),
        }
    }
}

mod seconds {
    //! Durations as seconds in configuration files.
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(value.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(from)?;
        if !(0.2..=86_400.0).contains(&seconds) {
            return Err(de::Error::custom(format!("interval {seconds} must lie between 0.2 and 86400 seconds")));
        }
        Ok(Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn debug_never_shows_the_password() {
        let config = PgConfig::new("shop", "postgresql://galen:hunter2@db/shop");
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn a_malformed_dsn_is_refused_without_quoting_it() {
        let error = Dsn::from("host=db passwort=hunter2").parse().expect_err("unknown key");
        assert_eq!(error.kind, SourceErrorKind::Refused);
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn intervals_have_defaults_bounds_and_no_unknown_keys() {
        let read = |text: &str| toml::from_str::<Intervals>(text);
        let some = read("statements = 30.0").expect("valid");
        assert_eq!((some.statements.as_secs(), some.tables.as_secs()), (30, 10));
        assert!(read("statements = 0.0").is_err());
        assert!(read("statments = 30.0").is_err());
    }
}
