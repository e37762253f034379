//! Server-sent events into text: whole lines only, so that a character cut in two by the network is never seen.

use reqwest::Response;

use super::super::{Generated, LlmError};
use super::wire::{Chunk, plain};
use super::{Failed, unreachable};

/// Longest line.
const LONGEST_LINE: usize = 1 << 20;
/// Most bytes that a token stands for, with room; a server that sends more does not keep to the limit it was given.
const BYTES_A_TOKEN: usize = 512;

/// What the events so far make.
#[derive(Debug, Default)]
struct Collected {
    generated: Generated,
    parts: u64,
    reason: Option<String>,
    counted: bool,
    done: bool,
}

/// Reads a stream to its end.
///
/// # Errors
/// [`Failed::Again`] when the connection breaks or the stream ends before the answer does; [`LlmError::Server`] for what
/// is no stream, and for an error inside it.
pub async fn collect(mut response: Response, most_tokens: usize) -> Result<Generated, Failed> {
    let mut buffer: Vec<u8> = Vec::new();
    let mut collected = Collected::default();
    let most_bytes = most_tokens.saturating_add(64).saturating_mul(BYTES_A_TOKEN);
    while !collected.done {
        let Some(bytes) = response.chunk().await.map_err(unreachable)? else { break };
        buffer.extend_from_slice(&bytes);
        let mut begin = 0;
        while let Some(length) = buffer.get(begin..).and_then(|rest| rest.iter().position(|b| *b == b'\n')) {
            collected.line(buffer.get(begin..begin + length).unwrap_or_default())?;
            begin += length + 1;
        }
        buffer.drain(..begin);
        if buffer.len() > LONGEST_LINE || collected.generated.text.len() > most_bytes {
            return Err(LlmError::Server("it sends more than was asked for".to_owned()).into());
        }
    }
    collected.line(&buffer)?;
    collected.end()
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
            return Err(Failed::Again("the server broke off in the middle of its answer".to_owned(), None));
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
