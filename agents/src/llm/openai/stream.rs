//! Server-sent events into text: whole lines only, so that a character cut in two by the network is never seen.

use reqwest::Response;

use super::super::{Generated, LlmError};
use super::wire::{Chunk, plain};
use super::{Failed, broken_off, unreachable};

/// Longest line.
const LONGEST_LINE: usize = 1 << 20;
/// Most bytes that a token stands for, with room; a server that sends more does not keep to the limit it was given.
const BYTES_A_TOKEN: usize = 512;

/// What the events so far make.
#[derive(Debug, Default)]
struct Collected {
    generated: Generated,
    events: u64,
    parts: u64,
    reason: Option<String>,
    counted: bool,
    done: bool,
}

/// Bytes as they come, cut into lines.
#[derive(Debug, Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Bytes at the beginning of the buffer that hold no end of a line: one that drips is looked through once.
    scanned: usize,
}

/// Reads a stream to its end. None where it ends in due form without one event: some servers stream no refusals.
///
/// # Errors
/// [`Failed::Again`] when the connection breaks or the stream ends before the answer does; [`LlmError::Server`] for what
/// is no stream, and for an error inside it.
pub async fn collect(mut response: Response, most_tokens: usize) -> Result<Option<Generated>, Failed> {
    let mut lines = Lines::default();
    let mut collected = Collected::default();
    let most_bytes = most_tokens.saturating_add(64).saturating_mul(BYTES_A_TOKEN);
    while !collected.done {
        let Some(bytes) = response.chunk().await.map_err(unreachable)? else { break };
        lines.push(&bytes, |line| collected.line(line))?;
        if lines.buffer.len() > LONGEST_LINE || collected.generated.text.len() > most_bytes {
            return Err(LlmError::Server("it sends more than was asked for".to_owned()).into());
        }
    }
    collected.line(&lines.buffer)?;
    if collected.events == 0 { Ok(None) } else { collected.end().map(Some) }
}

impl Lines {
    /// Adds bytes, and hands on each line that they end, without its end. What is left in the buffer is the beginning of
    /// the next.
    ///
    /// # Errors
    /// The first of `take`.
    fn push(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8]) -> Result<(), LlmError>) -> Result<(), LlmError> {
        self.buffer.extend_from_slice(bytes);
        let mut begin = 0;
        while let Some(length) = self.buffer.get(self.scanned..).and_then(|rest| rest.iter().position(|b| *b == b'\n')) {
            let end = self.scanned + length;
            take(self.buffer.get(begin..end).unwrap_or_default())?;
            begin = end + 1;
            self.scanned = begin;
        }
        self.buffer.drain(..begin);
        self.scanned = self.buffer.len();
        Ok(())
    }
}

impl Collected {
    fn line(&mut self, line: &[u8]) -> Result<(), LlmError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // Other fields, comments and the blank lines between events carry nothing.
        let Some(data) = line.strip_prefix(b"data:") else {
            let known =
                line.is_empty() || line.starts_with(b":") || [&b"event:"[..], b"id:", b"retry:"].iter().any(|f| line.starts_with(f));
            return if known { Ok(()) } else { Err(garbage(line)) };
        };
        self.events += 1;
        let data = std::str::from_utf8(data).map_err(|_| garbage(data))?.trim();
        if data == "[DONE]" {
            self.done = true;
            return Ok(());
        }
        // A list would be read as the fields in their order.
        let chunk: Option<Chunk> = if data.starts_with('{') { serde_json::from_str(data).ok() } else { None };
        let chunk = chunk.ok_or_else(|| garbage(data.as_bytes()))?;
        if let Some(error) = chunk.error.filter(|e| !e.is_null()) {
            let said = error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned);
            return Err(LlmError::Server(plain(&said)));
        }
        if let Some(counted) = chunk.usage {
            self.generated.usage = counted.usage();
            self.counted = true;
        }
        for choice in chunk.choices.into_iter().take(1) {
            if let Some(text) = choice.delta.content.filter(|t| !t.is_empty()) {
                self.generated.text.push_str(&text);
                self.parts += 1;
            }
            self.reason = choice.finish_reason.or(self.reason.take());
        }
        Ok(())
    }

    fn end(mut self) -> Result<Generated, Failed> {
        // A server that drops one request for another may still end the stream in due form.
        if self.reason.is_none() {
            return Err(broken_off());
        }
        self.generated.finished = self.reason.as_deref() != Some("length");
        if !self.counted {
            // A server that does not count sends about a token a part.
            self.generated.usage.generated_tokens = self.parts;
        }
        Ok(self.generated)
    }
}

fn garbage(bytes: &[u8]) -> LlmError {
    let shown: String = String::from_utf8_lossy(bytes).chars().take(60).collect();
    LlmError::Server(format!("it sent what is no stream of answers: {}", plain(&shown)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&[u8]]) -> Result<Collected, LlmError> {
        let mut collected = Collected::default();
        for line in lines {
            collected.line(line)?;
        }
        Ok(collected)
    }

    #[test]
    fn events_make_a_text_with_its_count() {
        let collected = read(&[
            b": keep-alive\r",
            b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\r",
            b"",
            "data: {\"choices\":[{\"delta\":{\"content\":\"grö\"}}]}".as_bytes(),
            "data:{\"choices\":[{\"delta\":{\"content\":\"ße\"},\"finish_reason\":\"stop\"}]}".as_bytes(),
            b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}",
            b"data: [DONE]",
        ])
        .unwrap();
        let Ok(generated) = collected.end() else { panic!() };
        assert_eq!((generated.text.as_str(), generated.finished, generated.usage.prompt_tokens), ("größe", true, 5));
    }

    const EVENTS: &str = ": keep-alive\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"grö\"}}]}\r\n\n\
        data:{\"choices\":[{\"delta\":{\"content\":\"ße\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]";

    /// The text of events that come in these pieces, and the lines that ended.
    fn pushed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (String, Vec<Vec<u8>>) {
        let (mut lines, mut collected, mut seen) = (Lines::default(), Collected::default(), Vec::new());
        for piece in pieces {
            let take = |line: &[u8]| {
                seen.push(line.to_vec());
                collected.line(line)
            };
            lines.push(piece, take).unwrap();
            assert_eq!(lines.scanned, lines.buffer.len(), "nothing is looked through twice");
        }
        collected.line(&lines.buffer).unwrap();
        let Ok(generated) = collected.end() else { panic!() };
        (generated.text, seen)
    }

    #[test]
    fn events_cut_at_any_byte_are_read_the_same() {
        let bytes = EVENTS.as_bytes();
        let whole = pushed([bytes]);
        assert_eq!((whole.0.as_str(), whole.1.len()), ("größe", 6));
        for at in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(at);
            assert_eq!(pushed([head, tail]), whole, "cut at {at}");
        }
        assert_eq!(pushed(bytes.chunks(1)), whole);
    }

    #[test]
    fn a_long_line_that_drips_is_looked_through_once() {
        let (mut lines, mut lengths) = (Lines::default(), Vec::new());
        // Looked through again with each byte this would take minutes.
        for _ in 0..LONGEST_LINE {
            lines.push(b"x", |_| Ok(())).unwrap();
        }
        let take = |line: &[u8]| {
            lengths.push(line.len());
            Ok(())
        };
        lines.push(b"\n\nx", take).unwrap();
        assert_eq!((lengths, lines.buffer.as_slice()), (vec![LONGEST_LINE, 0], &b"x"[..]));
    }

    #[test]
    fn garbage_half_characters_and_errors_are_typed() {
        for bad in [&b"<html>"[..], b"data: {", b"data: {\"choices\":[{\"delta\":{\"content\":\"\xc3\"}}]}", b"data: []", b"\xff\xfe"] {
            assert!(matches!(read(&[bad]), Err(LlmError::Server(_))), "{bad:?}");
        }
        let error = read(&[b"data: {\"error\":{\"message\":\"out of memory\\nsorry\"}}"]).unwrap_err().to_string();
        assert!(error.contains("out of memory sorry"), "{error}");
    }

    #[test]
    fn a_stream_that_ends_before_the_answer_is_tried_again() {
        let half = read(&[b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}"]).unwrap();
        assert!(matches!(half.end(), Err(Failed::Again(..))));
        let dropped = read(&[b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}", b"data: [DONE]"]).unwrap();
        assert!(matches!(dropped.end(), Err(Failed::Again(..))));
    }
}
