//! Keeps what a model was asked and answered, and gives exactly that again without the model.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{
    Asking, EmbedRequest, Embeddings, EngineMetrics, GenerateRequest, Generated, LlmError, ModelIdentity, Provider, ScoreRequest, Scores,
};

/// Everything a model was asked and answered in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// The model that answered.
    pub model: ModelIdentity,
    /// In the order in which the answers came.
    pub exchanges: Vec<Exchange>,
}

/// A request and its answer, refusals too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exchange {
    /// Options were scored.
    Score(ScoreRequest, Result<Scores, LlmError>),
    /// Text was generated.
    Generate(GenerateRequest, Result<Generated, LlmError>),
    /// Texts became vectors.
    Embed(EmbedRequest, Result<Embeddings, LlmError>),
}

/// Passes requests on and keeps them with their answers.
pub struct Recorder {
    inner: Arc<dyn Provider>,
    exchanges: Mutex<Vec<Exchange>>,
}

impl Recorder {
    /// Records what `inner` is asked.
    pub fn new(inner: Arc<dyn Provider>) -> Self {
        Self { inner, exchanges: Mutex::default() }
    }

    /// What was recorded so far.
    pub fn recording(&self) -> Recording {
        let exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Recording { model: self.inner.identity().clone(), exchanges }
    }

    fn keep(&self, exchange: Exchange) {
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner).push(exchange);
    }
}

impl Provider for Recorder {
    fn identity(&self) -> &ModelIdentity {
        self.inner.identity()
    }

    fn score(&self, request: ScoreRequest) -> Asking<'_, Scores> {
        Box::pin(async {
            let answer = self.inner.score(request.clone()).await;
            self.keep(Exchange::Score(request, answer.clone()));
            answer
        })
    }

    fn generate(&self, request: GenerateRequest) -> Asking<'_, Generated> {
        Box::pin(async {
            let answer = self.inner.generate(request.clone()).await;
            self.keep(Exchange::Generate(request, answer.clone()));
            answer
        })
    }

    /// Not recorded: answers are kept with what was asked, and a recording is of one adapter.
    fn adapt<'p>(&'p self, name: Option<&'p str>) -> Asking<'p, ()> {
        self.inner.adapt(name)
    }

    fn reset(&self) {
        self.inner.reset();
    }

    fn embed(&self, request: EmbedRequest) -> Asking<'_, Embeddings> {
        Box::pin(async {
            let answer = self.inner.embed(request.clone()).await;
            self.keep(Exchange::Embed(request, answer.clone()));
            answer
        })
    }

    fn metrics(&self) -> Option<EngineMetrics> {
        self.inner.metrics()
    }
}

/// Answers recorded requests, and no others.
#[derive(Debug)]
pub struct RecordedProvider {
    model: ModelIdentity,
    scores: Answers<Scores>,
    texts: Answers<Generated>,
    vectors: Answers<Embeddings>,
}

/// The answers to each request, and how many of them were given. A request asked again gets the next answer, and none when it
/// was not asked as often.
#[derive(Debug)]
struct Answers<T>(Mutex<ByRequest<T>>);

type ByRequest<T> = HashMap<String, (Vec<Result<T, LlmError>>, usize)>;

impl RecordedProvider {
    /// Replays a recording.
    pub fn new(recording: Recording) -> Self {
        let (mut scores, mut texts, mut vectors) = (HashMap::new(), HashMap::new(), HashMap::new());
        for exchange in recording.exchanges {
            match exchange {
                Exchange::Score(request, answer) => add(&mut scores, &request, answer),
                Exchange::Generate(request, answer) => add(&mut texts, &request, answer),
                Exchange::Embed(request, answer) => add(&mut vectors, &request, answer),
            }
        }
        let (scores, texts, vectors) = (Answers(Mutex::new(scores)), Answers(Mutex::new(texts)), Answers(Mutex::new(vectors)));
        Self { model: recording.model, scores, texts, vectors }
    }
}

impl RecordedProvider {
    /// Recorded answers that nobody asked for: a replay of the same run leaves none.
    pub fn unasked(&self) -> usize {
        self.scores.unasked() + self.texts.unasked() + self.vectors.unasked()
    }

    /// The end of a replay: everything that was recorded was asked.
    ///
    /// # Errors
    /// [`LlmError::Invalid`] with how much was not.
    pub fn ended(&self) -> Result<(), LlmError> {
        match self.unasked() {
            0 => Ok(()),
            left => Err(LlmError::Invalid(format!("the recording has {left} more answers than were asked for"))),
        }
    }
}

impl Provider for RecordedProvider {
    fn identity(&self) -> &ModelIdentity {
        &self.model
    }

    fn score(&self, request: ScoreRequest) -> Asking<'_, Scores> {
        let answer = self.scores.next(&request, &request.agent);
        Box::pin(async { answer })
    }

    fn generate(&self, request: GenerateRequest) -> Asking<'_, Generated> {
        let answer = self.texts.next(&request, &request.agent);
        Box::pin(async { answer })
    }

    fn embed(&self, request: EmbedRequest) -> Asking<'_, Embeddings> {
        let answer = self.vectors.next(&request, &request.agent);
        Box::pin(async { answer })
    }
}

fn add<T>(answers: &mut ByRequest<T>, request: &impl Serialize, answer: Result<T, LlmError>) {
    answers.entry(key(request)).or_insert_with(|| (Vec::new(), 0)).0.push(answer);
}

fn key(request: &impl Serialize) -> String {
    serde_json::to_string(request).unwrap_or_default()
}

impl<T: Clone> Answers<T> {
    fn unasked(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().map(|(list, given)| list.len() - given).sum()
    }

    fn next(&self, request: &impl Serialize, agent: &str) -> Result<T, LlmError> {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = || LlmError::Invalid(format!("the recording has no such request of '{agent}'"));
        let (list, given) = answers.get_mut(&key(request)).ok_or_else(unknown)?;
        let Some(answer) = list.get(*given).cloned() else {
            return Err(LlmError::Invalid(format!("the recording has this request of '{agent}' {given} times, not more")));
        };
        *given += 1;
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{Prompt, Usage};

    fn request(own: &str) -> ScoreRequest {
        let options = vec!["x".into(), "y".into()];
        ScoreRequest { agent: "a".into(), prompt: Prompt::new("s", own), options, ..ScoreRequest::default() }
    }

    fn answer(first: f64) -> Result<Scores, LlmError> {
        Ok(Scores { logprobs: vec![first, -0.1 - 0.2], usage: Usage::default(), cut: Vec::new() })
    }

    fn recording() -> Recording {
        let exchanges = vec![
            Exchange::Score(request("q"), Err(LlmError::Crashed("x".into()))),
            Exchange::Score(request("q"), answer(-1.0 / 3.0)),
            Exchange::Score(request("r"), answer(-7.000_000_000_000_001)),
        ];
        Recording { model: ModelIdentity { name: "m".into(), sha256: "0".into() }, exchanges }
    }

    #[tokio::test]
    async fn a_recording_survives_json_and_answers_in_order() {
        let json = serde_json::to_string(&recording()).unwrap();
        let read: Recording = serde_json::from_str(&json).unwrap();
        assert_eq!(read, recording());
        let provider = RecordedProvider::new(read);
        assert_eq!(provider.unasked(), 3);
        assert_eq!(provider.score(request("q")).await, Err(LlmError::Crashed("x".into())));
        assert_eq!(provider.score(request("q")).await, answer(-1.0 / 3.0));
        let again = provider.score(request("q")).await;
        assert!(matches!(&again, Err(LlmError::Invalid(why)) if why.contains("2 times, not more")), "{again:?}");
        assert!(matches!(provider.ended(), Err(LlmError::Invalid(why)) if why.contains("1 more answers")));
        assert_eq!(provider.score(request("r")).await, answer(-7.000_000_000_000_001));
        assert!(matches!(provider.score(request("z")).await, Err(LlmError::Invalid(_))));
        assert_eq!((provider.unasked(), provider.ended()), (0, Ok(())));
    }

    #[tokio::test]
    async fn a_recorded_run_is_the_run() {
        let recorder = Recorder::new(Arc::new(RecordedProvider::new(recording())));
        let before = [recorder.score(request("r")).await, recorder.score(request("none")).await];
        let replay = RecordedProvider::new(recorder.recording());
        let after = [replay.score(request("r")).await, replay.score(request("none")).await];
        assert_eq!(before, after);
        assert_eq!(recorder.recording().exchanges.len(), 2);
    }
}
