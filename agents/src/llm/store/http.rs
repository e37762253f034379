//! A download that goes on where it broke off: by HTTP ranges, held to one version of the file by its validator.

use futures_util::StreamExt;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};

use super::super::web::{self, Patience};
use super::partial::Partial;
use super::{Progress, PullError};
use std::time::Duration;

/// Most hops from a publisher's address to where the file lies.
const MOST_REDIRECTS: usize = 10;

/// An attempt that failed.
enum Failed {
    /// Another attempt would fail too.
    Finally(PullError),
    /// Another attempt may work, after a pause that the server may have asked for.
    Again(String, Option<Duration>),
}

impl From<PullError> for Failed {
    fn from(error: PullError) -> Self {
        Self::Finally(error)
    }
}

/// Fetches `url` into `partial`; `size` is what the file must have, if that is known.
///
/// # Errors
/// [`PullError::Usage`] for no address, [`PullError::Refused`], [`PullError::Mismatch`] for another size,
/// [`PullError::Disk`]; [`PullError::Network`] when the patience is at an end.
pub async fn download(
    url: &str,
    partial: &mut Partial,
    size: Option<u64>,
    patience: &Patience,
    progress: &dyn Progress,
) -> Result<(), PullError> {
    let address = Url::parse(url).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
    let address = address.ok_or_else(|| PullError::Usage(format!("{} is not an http(s) address", shown(url))))?;
    let secure = address.scheme() == "https";
    let policy = Policy::custom(move |attempt| {
        if attempt.previous().len() > MOST_REDIRECTS {
            attempt.error("it sends from one address to the next")
        } else if secure && attempt.url().scheme() != "https" {
            attempt.error("it sends from an encrypted to a plain address")
        } else {
            attempt.follow()
        }
    });
    let client =
        web::client(patience).and_then(|builder| builder.redirect(policy).build().map_err(web::told)).map_err(PullError::Network)?;
    // Progress is what no attempt reached before: one that begins again may be cut off anywhere, for ever.
    let (mut failures, mut most) = (0, partial.len());
    loop {
        let (why, asked) = match attempt(&client, &address, partial, size, progress).await {
            Ok(()) => return Ok(()),
            Err(Failed::Finally(error)) => return Err(error),
            Err(Failed::Again(why, asked)) => (why, asked),
        };
        failures = if partial.len() > most { 1 } else { failures + 1 };
        most = most.max(partial.len());
        if failures >= patience.attempts {
            let goes_on = partial.len() > 0 && (size.is_some() || partial.validator().is_some());
            let kept = if goes_on { format!("; {} bytes are kept, run it again to go on", partial.len()) } else { String::new() };
            return Err(PullError::Network(format!("{}: {why}{kept}", shown(url))));
        }
        let pause = patience.pause(failures, asked);
        progress.say(&format!("{why}; trying again in {:.1} s", pause.as_secs_f64()));
        tokio::time::sleep(pause).await;
    }
}

async fn attempt(client: &Client, url: &Url, partial: &mut Partial, size: Option<u64>, progress: &dyn Progress) -> Result<(), Failed> {
    if size.is_some_and(|size| partial.len() > size) {
        partial.restart(None)?;
    }
    if size == Some(partial.len()) {
        return Ok(());
    }
    // With neither a digest to tell in the end nor a validator, the rest may be of another version.
    if partial.len() > 0 && size.is_none() && partial.validator().is_none() {
        partial.restart(None)?;
    }
    let mut request = client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
    if partial.len() > 0 {
        request = request.header(RANGE, format!("bytes={}-", partial.len()));
        if let Some(validator) = partial.validator() {
            request = request.header(IF_RANGE, validator);
        }
    }
    let response = request.send().await.map_err(|error| {
        if error.is_redirect() {
            return Failed::Finally(PullError::Refused(format!("{}: {}", shown(url.as_str()), web::told(error))));
        }
        Failed::Again(web::told(error), None)
    })?;
    let total = accept(&response, url, partial)?;
    if let (Some(size), Some(total)) = (size, total)
        && size != total
    {
        let what = format!("{} offers a file of {total} bytes, not {size}: it is another file", shown(url.as_str()));
        return Err(PullError::Mismatch(what).into());
    }
    if let (None, Some(total)) = (size, total) {
        partial.room(total)?;
    }
    receive(response, partial, size.or(total), progress).await
}

/// Looks at the answer's head, begins again where the body is not the rest of what is there, and returns the size of
/// the whole file, if the server says it.
fn accept(response: &Response, url: &Url, partial: &mut Partial) -> Result<Option<u64>, Failed> {
    let status = response.status();
    match status {
        StatusCode::OK => {
            partial.restart(validator(response.headers()))?;
            Ok(response.content_length())
        }
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).and_then(content_range);
            let same = partial.validator().is_none_or(|known| validator(response.headers()).is_none_or(|now| now == known));
            match range {
                Some((start, total)) if start == partial.len() && same => Ok(total),
                _ => {
                    partial.restart(None)?;
                    Err(Failed::Again("the server sent another part than the one asked for".to_owned(), None))
                }
            }
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            partial.restart(None)?;
            Err(Failed::Again("what is there is longer than the server's file; beginning again".to_owned(), None))
        }
        _ if web::passing(status) => Err(Failed::Again(format!("the server answers {status}"), web::retry_after(response.headers()))),
        _ => {
            let advice = match status.as_u16() {
                401 | 403 => "; its publisher may want its terms accepted first: fetch it by hand and pull it with --from FILE",
                404 | 410 => "; the file has moved: see the publisher's page, and pull it with --from URL",
                _ => "",
            };
            Err(PullError::Refused(format!("{} answers {status}{advice}", shown(url.as_str()))).into())
        }
    }
}

async fn receive(response: Response, partial: &mut Partial, most: Option<u64>, progress: &dyn Progress) -> Result<(), Failed> {
    let mut body = response.bytes_stream();
    progress.at(partial.len(), most);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| Failed::Again(web::told(error), None))?;
        if most.is_some_and(|most| partial.len() + chunk.len() as u64 > most) {
            partial.restart(None)?;
            return Err(PullError::Mismatch("the server sends more bytes than the file has".to_owned()).into());
        }
        partial.write(&chunk)?;
        progress.at(partial.len(), most);
    }
    match most {
        Some(most) if partial.len() < most => {
            Err(Failed::Again(format!("the server broke off at {} of {most} bytes", partial.len()), None))
        }
        _ => Ok(()),
    }
}

/// What a range may be held to: a strong entity tag, else the time of the last change.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    text(ETAG).filter(|tag| !tag.starts_with("W/")).or_else(|| text(LAST_MODIFIED))
}

/// Start and total of `bytes START-END/TOTAL`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

/// An address without what is secret in some: user, password, query.
pub fn shown(url: &str) -> String {
    let Some(mut address) = Url::parse(url).ok().filter(Url::has_host) else {
        return url.rsplit('@').next().unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
    };
    let _ = address.set_username("");
    let _ = address.set_password(None);
    address.set_query(None);
    address.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!(content_range("lines 5-9/10"), None);
        assert_eq!(content_range("bytes */10"), None);
    }

    #[test]
    fn secrets_in_an_address_are_not_shown() {
        assert_eq!(shown("https://me:hunter2@h.example/a.gguf?token=hunter2"), "https://h.example/a.gguf");
        assert!(!shown("me:hunter2@h/x").contains("hunter2"));
    }
}
