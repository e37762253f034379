//! What can go wrong between Galen and a target, in kinds that callers can match.

use std::error::Error as _;

use tokio_postgres::error::SqlState;

/// Why a target cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceErrorKind {
    /// Nobody answers at the address, or TLS cannot be agreed on.
    Unreachable,
    /// The server does not accept the user or the password.
    Authentication,
    /// The server or Galen refuses: superuser without leave, no such database or role, a malformed DSN.
    Refused,
    /// PostgreSQL older than 13.
    UnsupportedVersion,
    /// An open connection broke.
    Lost,
}

/// A failure with one line for people: where, what, and what to do. It never holds the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// For callers that decide.
    pub kind: SourceErrorKind,
    /// For people.
    pub message: String,
}

impl SourceError {
    pub(super) fn new(kind: SourceErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Reads a driver's error on connecting to `place` (`host:port/database`).
    pub(super) fn on_connect(place: &str, error: &tokio_postgres::Error) -> Self {
        use SourceErrorKind::{Authentication, Refused, Unreachable};
        let why = reason(error);
        let (kind, advice) = match error.code() {
            Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
                (Authentication, "check user, password and pg_hba.conf")
            }
            Some(&SqlState::INVALID_CATALOG_NAME) => (Refused, "check the database name in the dsn"),
            Some(&SqlState::TOO_MANY_CONNECTIONS) => (Refused, "raise max_connections or keep a slot free for galen"),
            Some(&SqlState::CANNOT_CONNECT_NOW) => (Unreachable, "the server is starting or stopping; try again"),
            Some(_) => (Refused, "check the role's rights to connect"),
            None if why.contains("password missing") => (Authentication, "put a password into the dsn"),
            None if why.contains("tls") || why.contains("certificate") => (Unreachable, "check sslmode and the server's certificate"),
            None => (Unreachable, "check host, port and that the server listens"),
        };
        Self::new(kind, format!("{place}: {why}; {advice}"))
    }
}

/// The innermost reason of a driver's error, in lower case and on one line.
pub(super) fn reason(error: &tokio_postgres::Error) -> String {
    let text = match error.as_db_error() {
        Some(db) => db.message().to_owned(),
        None => match error.source() {
            Some(inner) => format!("{error}: {inner}"),
            None => error.to_string(),
        },
    };
    text.lines().next().unwrap_or_default().chars().take(300).collect::<String>().to_lowercase()
}
