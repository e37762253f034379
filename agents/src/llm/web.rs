//! What every conversation over HTTP has in common: the client, pauses between attempts, and how long a server asks to wait.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, StatusCode};

/// How often and how long a server is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// Attempts in a row without any progress.
    pub attempts: u32,
    /// Pause after the first failure; doubles with each.
    pub first_pause: Duration,
    /// Longest pause, also where the server asks for a longer one.
    pub longest_pause: Duration,
    /// Longest silence of a server that is connected.
    pub stall: Duration,
    /// Longest time to connect.
    pub connect: Duration,
}

impl Patience {
    /// The pause before the next attempt: what the server asked for, else a doubling one with half of it left to chance,
    /// so that many clients do not come back together.
    pub fn pause(&self, failures: u32, asked: Option<Duration>) -> Duration {
        if let Some(asked) = asked {
            return asked.min(self.longest_pause);
        }
        let full = self.first_pause.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(self.longest_pause);
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// A client that trusts the system's certificates. Proxies and redirections are the caller's to decide.
///
/// # Errors
/// One line when TLS cannot be set up.
pub fn client(patience: &Patience) -> Result<ClientBuilder, String> {
    let mut roots = rustls::RootCertStore::empty();
    // Without any, an https address fails with its own message; http ones work.
    for certificate in rustls_native_certs::load_native_certs().certs {
        let _ = roots.add(certificate);
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("galen/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(patience.connect)
        .read_timeout(patience.stall))
}

/// Whether a refusal may be another answer later.
pub fn passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)
}

/// How long the server asks to wait: seconds, or an HTTP date.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let wait = until.as_second().saturating_sub(jiff::Timestamp::now().as_second());
    Some(Duration::from_secs(u64::try_from(wait).unwrap_or(0)))
}

/// An error of the client with its causes, in one line and without the address, which may hold a password.
pub fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience() -> Patience {
        let ms = Duration::from_millis;
        Patience { attempts: 3, first_pause: ms(100), longest_pause: ms(5_000), stall: ms(100), connect: ms(100) }
    }

    #[test]
    fn pauses_double_with_chance_and_end_somewhere() {
        for (failures, full) in [(1, 100), (2, 200), (4, 800), (60, 5_000)] {
            for _ in 0..50 {
                let pause = patience().pause(failures, None).as_millis();
                assert!(pause * 2 >= full - 1 && pause <= full, "{failures}: {pause}");
            }
        }
        assert_eq!(patience().pause(1, Some(Duration::from_secs(2))).as_secs(), 2);
        assert_eq!(patience().pause(1, Some(Duration::from_secs(900))).as_secs(), 5);
    }

    #[test]
    fn a_server_asks_in_seconds_or_with_a_date() {
        let asked = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(asked("7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        assert!(asked("Fri, 31 Dec 2128 23:59:59 GMT").is_some_and(|wait| wait.as_secs() > 1 << 30));
        assert_eq!(asked("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
