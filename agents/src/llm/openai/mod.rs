//! A model behind somebody else's server that speaks OpenAI's chat completions: vLLM, SGLang, llama-server, and others.

mod config;
mod score;
mod stream;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::grammar::{self, Fit, Grammar};
use super::protocol::{Asker, Times};
use super::registry::hexadecimal;
use super::web;
use super::{
    Asking, EmbedRequest, Embeddings, EngineMetrics, GenerateRequest, Generated, LlmError, ModelIdentity, Prompt, Provider, ScoreRequest,
    Scores, Usage, schema,
};
use config::loopback;
use wire::{Constraint, Request};

pub use config::{Dialect, Key, OpenAiConfig};

/// Where answers are asked for.
const CHAT: &str = "chat/completions";
/// Requests in flight at once; more wait.
const MOST_AT_ONCE: usize = 16;
/// Texts that are sent together: their vectors must fit one answer.
const TEXTS_AT_ONCE: usize = 32;
/// Largest answer that is not a stream.
const LARGEST_ANSWER: usize = 4 << 20;

/// A model on a server. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct OpenAiProvider {
    identity: ModelIdentity,
    config: OpenAiConfig,
    base: Url,
    client: Client,
    permits: Semaphore,
    metrics: Mutex<EngineMetrics>,
}

/// Time that a request waited for its turn here, microseconds. How long it waits at the server is not seen.
#[derive(Debug, Clone, Default)]
struct Queued(Arc<AtomicU64>);

impl Queued {
    /// Counts from now until it is dropped, also where whoever asked does not wait so long.
    fn waiting(&self) -> impl Drop + use<> {
        struct Waiting(Queued, Instant);

        impl Drop for Waiting {
            fn drop(&mut self) {
                self.0.0.fetch_add(micros(self.1), Ordering::Relaxed);
            }
        }

        Waiting(self.clone(), Instant::now())
    }
}

/// An attempt that failed.
enum Failed {
    /// Another attempt would fail too.
    Finally(LlmError),
    /// Another attempt may work, after a pause that the server may have asked for.
    Again(String, Option<Duration>),
}

impl From<LlmError> for Failed {
    fn from(error: LlmError) -> Self {
        Self::Finally(error)
    }
}

impl OpenAiProvider {
    /// Sets the client up, without asking the server anything.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] for an address that is none or may not be asked.
    pub fn new(config: OpenAiConfig) -> Result<Self, LlmError> {
        config.check().map_err(LlmError::Unavailable)?;
        let base = config.address().map_err(LlmError::Unavailable)?;
        let mut headers = HeaderMap::new();
        if let Some(Key(key)) = &config.key {
            let value = HeaderValue::from_str(&format!("Bearer {key}"));
            let mut value = value.map_err(|_| LlmError::Unavailable("the key of the model's server is no text for a header".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        // No redirection, and for this machine no proxy and no name service: what is asked here stays here.
        let mut builder = web::client(&config.patience).map_err(LlmError::Unavailable)?.redirect(Policy::none()).default_headers(headers);
        if loopback(&base) {
            let port = base.port_or_known_default().unwrap_or(80);
            builder = builder.no_proxy().resolve("localhost", SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        let client = builder.build().map_err(|e| LlmError::Unavailable(web::told(e)))?;
        let mut hasher = Sha256::new();
        hasher.update(format!("openai\n{base}\n{}\n", config.model));
        let identity = ModelIdentity { name: config.model.clone(), sha256: hexadecimal(hasher) };
        Ok(Self { identity, config, base, client, permits: Semaphore::new(MOST_AT_ONCE), metrics: Mutex::default() })
    }

    /// As [`OpenAiProvider::new`], and sees that the server is there and has the model.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`], also when the server lists models and not this one.
    pub async fn connect(config: OpenAiConfig) -> Result<Self, LlmError> {
        let provider = Self::new(config)?;
        let listed = provider.insist(provider.deadline(), &Queued::default(), || provider.list()).await.map_err(|e| match e {
            LlmError::Unavailable(_) => e,
            other => LlmError::Unavailable(other.to_string()),
        })?;
        match listed {
            Some(names) if !names.contains(&provider.config.model) => Err(LlmError::Unavailable(format!(
                "the server at {} has no model '{}'; it has: {}",
                provider.base,
                provider.config.model,
                wire::plain(&names.join(", "))
            ))),
            _ => Ok(provider),
        }
    }

    /// The server's models; none where it does not list them.
    async fn list(&self) -> Result<Option<Vec<String>>, Failed> {
        let response = self.client.get(self.endpoint("models")).send().await.map_err(unreachable)?;
        if matches!(response.status().as_u16(), 404 | 405 | 501) {
            return Ok(None);
        }
        let response = accepted(response).await?;
        let models: wire::Models = whole(response).await?;
        Ok(Some(models.data.into_iter().map(|m| m.id).collect()))
    }

    fn endpoint(&self, name: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{name}", self.base.path()));
        url
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.config.request_timeout
    }

    /// Tries until it works, fails for good, or the time is over. `queued` grows by the time until its turn comes.
    async fn insist<T, F>(&self, deadline: Instant, queued: &Queued, attempt: impl Fn() -> F) -> Result<T, LlmError>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let late = |_| LlmError::Timeout(u64::try_from(self.config.request_timeout.as_millis()).unwrap_or(u64::MAX));
        let waiting = queued.waiting();
        let permit = timeout_at(deadline, self.permits.acquire()).await;
        drop(waiting);
        let _permit = permit.map_err(late)?;
        let mut failures = 0;
        loop {
            let (why, asked) = match timeout_at(deadline, attempt()).await.map_err(late)? {
                Ok(answer) => return Ok(answer),
                Err(Failed::Finally(error)) => return Err(error),
                Err(Failed::Again(why, asked)) => (why, asked),
            };
            failures += 1;
            let pause = self.config.patience.pause(failures, asked);
            // Not worth a wait whose end nobody would see.
            if failures >= self.config.patience.attempts || Instant::now() + pause >= deadline {
                return Err(LlmError::Server(format!("{why}, {failures} times")));
            }
            tracing::debug!(why, failures, "the model's server is asked again");
            sleep(pause).await;
        }
    }

    /// As [`OpenAiProvider::insist`], with sections left out of the prompt while the server says that it is too long: the
    /// tokens are the server's to count. Returns the numbers of these sections too.
    async fn fitted<T, F>(&self, prompt: &Prompt, queued: &Queued, attempt: impl Fn(Arc<Prompt>) -> F) -> Result<(T, Vec<usize>), LlmError>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let (deadline, mut count) = (self.deadline(), 0);
        loop {
            let (plain, cut) = prompt.without(count);
            let plain = Arc::new(plain);
            match self.insist(deadline, queued, || attempt(Arc::clone(&plain))).await {
                Err(LlmError::TooLong { tokens, limit }) if count < prompt.sections.len() => count = prompt.further(count, tokens, limit),
                answer => return answer.map(|answer| (answer, cut)),
            }
        }
    }

    /// Waits for what was asked, and puts it into the books.
    async fn booked<T>(
        &self,
        asker: Asker,
        queued: Queued,
        usage: impl Fn(&T) -> Usage,
        asked: impl Future<Output = Result<T, LlmError>>,
    ) -> Result<T, LlmError> {
        let began = Instant::now();
        let mut asking = Open { metrics: &self.metrics, asker: Some(asker), queued: queued.clone() };
        let result = asked.await;
        if let Some(asker) = asking.asker.take() {
            let queued_us = queued.0.load(Ordering::Relaxed);
            let times = Times { queued_us, ran_us: micros(began).saturating_sub(queued_us) };
            let cost = result.as_ref().map(usage).unwrap_or_default();
            lock(&self.metrics).ended(&asker, result.as_ref().err(), cost, times);
        }
        result
    }

    async fn send(&self, endpoint: &str, request: &impl Serialize) -> Result<Response, Failed> {
        accepted(self.post(endpoint, serialised(request)?).await.map_err(unreachable)?).await
    }

    async fn post(&self, endpoint: &str, body: Vec<u8>) -> reqwest::Result<Response> {
        self.client.post(self.endpoint(endpoint)).header(CONTENT_TYPE, "application/json").body(body).send().await
    }

    /// Asks in one piece what a stream did not answer: llama-cpp-python refuses a prompt that is too long with an empty stream, and
    /// says why only without one. It also closes the connection behind that stream, which may be seen when the next request is on
    /// its way: that goes over a new one then.
    async fn again(&self, request: &Request<'_>) -> Result<Generated, Failed> {
        let body = serialised(request)?;
        let response = match self.post(CHAT, body.clone()).await {
            Err(error) if !error.is_timeout() => self.post(CHAT, body).await,
            answer => answer,
        };
        let body = limited(accepted(response.map_err(unreachable)?).await?).await?;
        // Nothing at all is no answer to read: it goes away when the server is well again.
        if body.is_empty() {
            return Err(broken_off());
        }
        piece(read(&body)?)
    }

    async fn told(&self, request: &GenerateRequest, prompt: &Prompt, grammar: Option<&Grammar>) -> Result<Generated, Failed> {
        let constraint = match (&request.schema, &request.grammar, grammar) {
            (Some(schema), ..) => Constraint::Schema(self.config.dialect, schema.clone()),
            (None, Some(text), Some(read)) => Constraint::of(self.config.dialect, text, read),
            _ => Constraint::None,
        };
        let (wraps, sent) = (matches!(constraint, Constraint::Choice(_)), constraint != Constraint::None);
        let body = Request::generate(&self.config, prompt, request.max_tokens, constraint)?;
        let response = self.send(CHAT, &body).await?;
        let streamed = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).is_some_and(|t| t.contains("event-stream"));
        let most = usize::try_from(request.max_tokens).unwrap_or(usize::MAX);
        let collected = if streamed { stream::collect(response, most).await? } else { Some(piece(whole(response).await?)?) };
        let mut answer = match collected {
            Some(answer) => answer,
            None => self.again(&body.unstreamed()).await?,
        };
        if wraps {
            answer.text = wire::unwrap_choice(&answer.text)?;
        }
        match grammar.map(|g| g.fit(&answer.text)) {
            None | Some(Fit::Whole) => Ok(answer),
            // Too long to follow here: then the server is believed, where it was told.
            Some(Fit::Unknown) if sent => Ok(answer),
            Some(Fit::Beginning) if !answer.finished => Ok(answer),
            Some(_) if !sent => Err(LlmError::Server(format!(
                "its answer does not obey the grammar, or is too long to tell; the dialect {:?} has no way to send such a one",
                self.config.dialect
            ))
            .into()),
            Some(_) => Err(LlmError::Server(format!(
                "its answer does not obey the grammar that was sent; does it take grammars, and is the dialect {:?} right?",
                self.config.dialect
            ))
            .into()),
        }
    }
}

impl Provider for OpenAiProvider {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn score(&self, request: ScoreRequest) -> Asking<'_, Scores> {
        let (asker, queued) = (Asker::new(&request.agent, &request.incident, &request.branch), Queued::default());
        Box::pin(self.booked(asker, queued.clone(), |scores| scores.usage, self.scored(request, queued)))
    }

    fn generate(&self, request: GenerateRequest) -> Asking<'_, Generated> {
        let (asker, queued) = (Asker::new(&request.agent, &request.incident, &request.branch), Queued::default());
        Box::pin(self.booked(asker, queued.clone(), |generated| generated.usage, self.generated(request, queued)))
    }

    fn embed(&self, request: EmbedRequest) -> Asking<'_, Embeddings> {
        let (asker, queued) = (Asker::new(&request.agent, &request.incident, &request.branch), Queued::default());
        Box::pin(self.booked(asker, queued.clone(), |embeddings| embeddings.usage, self.embedded(request, queued)))
    }

    fn metrics(&self) -> Option<EngineMetrics> {
        Some(lock(&self.metrics).clone())
    }
}

impl OpenAiProvider {
    async fn scored(&self, request: ScoreRequest, queued: Queued) -> Result<Scores, LlmError> {
        let score::Letters { labels, prompt } = score::Letters::of(&request)?;
        let labels = &labels;
        let (scores, cut) = self
            .fitted(&prompt, &queued, |plain| async move {
                let letters = score::Letters { labels: labels.clone(), prompt: (*plain).clone() };
                let body = Request::score(&self.config, &letters)?;
                let answer: wire::Answer = whole(self.send(CHAT, &body).await?).await?;
                Ok(score::scores(&letters, answer)?)
            })
            .await?;
        Ok(Scores { cut, ..scores })
    }

    async fn generated(&self, request: GenerateRequest, queued: Queued) -> Result<Generated, LlmError> {
        if request.max_tokens == 0 {
            return Err(LlmError::Invalid("max_tokens is 0".to_owned()));
        }
        let text = match (&request.grammar, &request.schema) {
            (Some(_), Some(_)) => return Err(LlmError::Invalid("an answer obeys a grammar or a schema, not both".to_owned())),
            (None, Some(schema)) => Some(schema::grammar(schema)?),
            (grammar, None) => grammar.clone(),
        };
        let grammar = text.as_deref().map(grammar::readable).transpose().map_err(LlmError::Invalid)?;
        let (request, grammar) = (&request, grammar.as_ref());
        let ask = |plain: Arc<Prompt>| async move { self.told(request, &plain, grammar).await };
        let (generated, cut) = self.fitted(&request.prompt, &queued, ask).await?;
        Ok(Generated { cut, ..generated })
    }

    async fn embedded(&self, request: EmbedRequest, queued: Queued) -> Result<Embeddings, LlmError> {
        if request.texts.iter().any(|text| text.trim().is_empty()) {
            return Err(LlmError::Invalid("a text to embed is empty".to_owned()));
        }
        let mut all = Embeddings { vectors: Vec::with_capacity(request.texts.len()), usage: Usage::default() };
        // llama-cpp-python 0.3.36 mixes the vectors of several texts up where the model has no pooling of its own.
        let at_once = if self.config.dialect == Dialect::LlamaCpp { 1 } else { TEXTS_AT_ONCE };
        let deadline = self.deadline();
        for texts in request.texts.chunks(at_once) {
            let body = wire::EmbeddingRequest { model: &self.config.model, input: texts, encoding_format: "float" };
            let ask = || async { Ok(wire::vectors_of(whole(self.send("embeddings", &body).await?).await?, texts.len())?) };
            let Embeddings { vectors, usage } = self.insist(deadline, &queued, ask).await?;
            all.vectors.extend(vectors);
            all.usage += usage;
        }
        Ok(all)
    }
}

/// A request that somebody waits for, until it ends.
struct Open<'p> {
    metrics: &'p Mutex<EngineMetrics>,
    asker: Option<Asker>,
    queued: Queued,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(asker) = &self.asker {
            lock(self.metrics).dropped(asker, self.queued.0.load(Ordering::Relaxed));
        }
    }
}

fn lock(metrics: &Mutex<EngineMetrics>) -> MutexGuard<'_, EngineMetrics> {
    metrics.lock().unwrap_or_else(PoisonError::into_inner)
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn unreachable(error: reqwest::Error) -> Failed {
    Failed::Again(web::told(error), None)
}

/// The answer, unless the server refuses.
async fn accepted(response: Response) -> Result<Response, Failed> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let asked = web::retry_after(response.headers());
    let body = limited(response).await.unwrap_or_default();
    let said = wire::refusal(&body);
    if web::passing(status) {
        return Err(Failed::Again(format!("the server answers {status}: {said}"), asked));
    }
    Err(wire::refused(status, &body, &said).into())
}

/// The body as JSON.
async fn whole<T: DeserializeOwned>(response: Response) -> Result<T, Failed> {
    read(&limited(response).await?)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failed> {
    serde_json::from_slice(body).map_err(|e| LlmError::Server(format!("it answered what is no answer: {e}")).into())
}

fn serialised(request: &impl Serialize) -> Result<Vec<u8>, LlmError> {
    serde_json::to_vec(request).map_err(|e| LlmError::Invalid(e.to_string()))
}

/// The text of an answer in one piece, which says how it ended as a stream does.
fn piece(answer: wire::Answer) -> Result<Generated, Failed> {
    match answer.choices.first() {
        Some(choice) if choice.finish_reason.is_none() => Err(broken_off()),
        _ => Ok(wire::text_of(answer)?),
    }
}

fn broken_off() -> Failed {
    Failed::Again("the server broke off in the middle of its answer".to_owned(), None)
}

async fn limited(mut response: Response) -> Result<Vec<u8>, Failed> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&chunk);
        if body.len() > LARGEST_ANSWER {
            return Err(LlmError::Server(format!("its answer is longer than {LARGEST_ANSWER} bytes")).into());
        }
    }
    Ok(body)
}
