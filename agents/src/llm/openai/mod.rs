//! A model behind somebody else's server that speaks OpenAI's chat completions: vLLM, SGLang, llama-server, and others.

mod score;
mod stream;
mod wire;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
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
use super::web::{self, Patience};
use super::{
    Asking, EmbedRequest, Embeddings, EngineMetrics, GenerateRequest, Generated, LlmError, ModelIdentity, Prompt, Provider, ScoreRequest,
    Scores, Usage, schema,
};
use wire::{Constraint, Request};

/// Where answers are asked for.
const CHAT: &str = "chat/completions";
/// Requests in flight at once; more wait.
const MOST_AT_ONCE: usize = 16;
/// Texts that are sent together: their vectors must fit one answer.
const TEXTS_AT_ONCE: usize = 32;
/// Largest answer that is not a stream.
const LARGEST_ANSWER: usize = 4 << 20;

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
pub struct Key(String);

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

    fn address(&self) -> Result<Url, String> {
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

fn loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// An address of which nothing is known: only its beginning, for a password may follow.
fn shown(text: &str) -> String {
    text.rsplit('@').next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(100).collect()
}

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
        let came = Instant::now();
        let permit = timeout_at(deadline, self.permits.acquire()).await;
        queued.0.fetch_add(micros(came), Ordering::Relaxed);
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
        let mut asking = Open { metrics: &self.metrics, asker: Some(asker) };
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
        let body = serde_json::to_vec(request).map_err(|e| LlmError::Invalid(e.to_string()))?;
        let post = self.client.post(self.endpoint(endpoint)).header(CONTENT_TYPE, "application/json").body(body);
        accepted(post.send().await.map_err(unreachable)?).await
    }

    async fn told(&self, request: &GenerateRequest, prompt: &Prompt, grammar: Option<&Grammar>) -> Result<Generated, Failed> {
        let constraint = match (&request.schema, &request.grammar, grammar) {
            (Some(schema), ..) => Constraint::Schema(self.config.dialect, schema.clone()),
            (None, Some(text), Some(read)) => Constraint::of(self.config.dialect, text, read),
            _ => Constraint::None,
        };
        let wraps = matches!(constraint, Constraint::Choice(_));
        let body = Request::generate(&self.config, prompt, request.max_tokens, constraint)?;
        let response = self.send(CHAT, &body).await?;
        let streamed = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).is_some_and(|t| t.contains("event-stream"));
        let most = usize::try_from(request.max_tokens).unwrap_or(usize::MAX);
        let mut answer = if streamed { stream::collect(response, most).await? } else { wire::text_of(whole(response).await?)? };
        if wraps {
            answer.text = wire::unwrap_choice(&answer.text)?;
        }
        match grammar.map(|g| g.fit(&answer.text)) {
            None | Some(Fit::Whole) => Ok(answer),
            Some(Fit::Beginning) if !answer.finished => Ok(answer),
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
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(asker) = &self.asker {
            lock(self.metrics).dropped(asker);
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
    let body = limited(response).await?;
    serde_json::from_slice(&body).map_err(|e| LlmError::Server(format!("it answered what is no answer: {e}")).into())
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
