//! Keeps what a model was asked and answered, and gives exactly that again without the model.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::RwLock;

use super::protocol::{Asker, Times};
use super::{
    Asking, EmbedRequest, Embeddings, EngineMetrics, GenerateRequest, Generated, LlmError, ModelIdentity, Provider, ScoreRequest, Scores,
    Usage,
};

/// Everything a model was asked and answered in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// The model that answered.
    pub model: ModelIdentity,
    /// In the order in which the answers came. A change of the adapter stands behind all that was asked before it, and before all else.
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
    /// The adapter was changed to the one of this name, or to none.
    Adapt(Option<String>, Result<(), LlmError>),
}

/// Passes requests on and keeps them with their answers. A change of the adapter waits here for the answers to all before it, and what
/// comes after it waits for the change: nobody may wait for one and leave an earlier request lying unpolled.
pub struct Recorder {
    inner: Arc<dyn Provider>,
    kept: Mutex<Vec<Exchange>>,
    /// Requests share it, a change of the adapter has it alone: on which side of it each stands is the same here and in the engine.
    turn: RwLock<()>,
}

/// A change of the adapter that was asked for. It is kept when it ends, also where nobody waits for that: it may have been made.
struct Change<'r> {
    recorder: &'r Recorder,
    name: Option<&'r str>,
    answer: Result<(), LlmError>,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.recorder.keep(Exchange::Adapt(self.name.map(str::to_owned), self.answer.clone()));
    }
}

impl Recorder {
    /// Records what `inner` is asked.
    pub fn new(inner: Arc<dyn Provider>) -> Self {
        Self { inner, kept: Mutex::default(), turn: RwLock::default() }
    }

    /// What was recorded so far. What nobody waited for is not in it, but for changes of the adapter that had been asked for.
    pub fn recording(&self) -> Recording {
        Recording { model: self.inner.identity().clone(), exchanges: lock(&self.kept).clone() }
    }

    fn keep(&self, exchange: Exchange) {
        lock(&self.kept).push(exchange);
    }
}

impl Provider for Recorder {
    fn identity(&self) -> &ModelIdentity {
        self.inner.identity()
    }

    fn score(&self, request: ScoreRequest) -> Asking<'_, Scores> {
        Box::pin(async {
            let _turn = self.turn.read().await;
            let answer = self.inner.score(request.clone()).await;
            self.keep(Exchange::Score(request, answer.clone()));
            answer
        })
    }

    fn generate(&self, request: GenerateRequest) -> Asking<'_, Generated> {
        Box::pin(async {
            let _turn = self.turn.read().await;
            let answer = self.inner.generate(request.clone()).await;
            self.keep(Exchange::Generate(request, answer.clone()));
            answer
        })
    }

    fn adapt<'p>(&'p self, name: Option<&'p str>) -> Asking<'p, ()> {
        Box::pin(async move {
            let _alone = self.turn.write().await;
            let unheard = LlmError::Unavailable("nobody waited for the change of the adapter".to_owned());
            let mut change = Change { recorder: self, name, answer: Err(unheard) };
            change.answer = self.inner.adapt(name).await;
            change.answer.clone()
        })
    }

    fn reset(&self) {
        self.inner.reset();
    }

    fn embed(&self, request: EmbedRequest) -> Asking<'_, Embeddings> {
        Box::pin(async {
            let _turn = self.turn.read().await;
            let answer = self.inner.embed(request.clone()).await;
            self.keep(Exchange::Embed(request, answer.clone()));
            answer
        })
    }

    fn metrics(&self) -> Option<EngineMetrics> {
        self.inner.metrics()
    }
}

/// Answers recorded requests, and no others. What was asked between two changes of the adapter is answered between these only.
#[derive(Debug)]
pub struct RecordedProvider {
    model: ModelIdentity,
    /// Changes of the adapter, in their order.
    changes: Vec<(Option<String>, Result<(), LlmError>)>,
    /// How many of them were made.
    made: Mutex<usize>,
    scores: Answers<Scores>,
    texts: Answers<Generated>,
    vectors: Answers<Embeddings>,
    metrics: Mutex<EngineMetrics>,
}

/// The answers to each request, and how many of them were given. A request asked again gets the next answer, and none when it
/// was not asked as often.
#[derive(Debug)]
struct Answers<T>(Mutex<ByRequest<T>>);

/// By the number of changes before a request, and the request.
type ByRequest<T> = HashMap<(usize, String), (Vec<Result<T, LlmError>>, usize)>;

impl RecordedProvider {
    /// Replays a recording.
    pub fn new(recording: Recording) -> Self {
        let (mut scores, mut texts, mut vectors) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut changes = Vec::new();
        for exchange in recording.exchanges {
            match exchange {
                Exchange::Score(request, answer) => add(&mut scores, changes.len(), &request, answer),
                Exchange::Generate(request, answer) => add(&mut texts, changes.len(), &request, answer),
                Exchange::Embed(request, answer) => add(&mut vectors, changes.len(), &request, answer),
                Exchange::Adapt(name, answer) => changes.push((name, answer)),
            }
        }
        let (scores, texts, vectors) = (Answers(Mutex::new(scores)), Answers(Mutex::new(texts)), Answers(Mutex::new(vectors)));
        Self { model: recording.model, changes, made: Mutex::default(), scores, texts, vectors, metrics: Mutex::default() }
    }

    /// Recorded answers that nobody asked for: a replay of the same run leaves none.
    pub fn unasked(&self) -> usize {
        self.scores.unasked() + self.texts.unasked() + self.vectors.unasked() + self.changes.len() - self.made()
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

    fn made(&self) -> usize {
        *lock(&self.made)
    }

    /// Puts an answer into the books, which say nothing of time. What an error cost is not recorded.
    fn booked<T>(&self, asker: &Asker, answer: Result<T, LlmError>, usage: impl Fn(&T) -> Usage) -> Result<T, LlmError> {
        let cost = answer.as_ref().map(usage).unwrap_or_default();
        lock(&self.metrics).ended(asker, answer.as_ref().err(), cost, Times::default());
        answer
    }

    /// The answer to the next change, when this is it.
    fn change(&self, name: Option<&str>) -> Result<(), LlmError> {
        let mut made = lock(&self.made);
        match self.changes.get(*made) {
            Some((recorded, answer)) if recorded.as_deref() == name => {
                *made += 1;
                answer.clone()
            }
            // Changes were not recorded once, and without any the model is as it is.
            None if self.changes.is_empty() && name.is_none() => Ok(()),
            _ => {
                let to = name.map_or_else(|| "the model as it is".to_owned(), |name| format!("the adapter '{name}'"));
                Err(LlmError::Invalid(format!("the recording has no change to {to} after {} changes", *made)))
            }
        }
    }
}

impl Provider for RecordedProvider {
    fn identity(&self) -> &ModelIdentity {
        &self.model
    }

    fn score(&self, request: ScoreRequest) -> Asking<'_, Scores> {
        let asker = Asker::new(&request.agent, &request.incident, &request.branch);
        let answer = self.booked(&asker, self.scores.next(self.made(), &request, &asker), |scores| scores.usage);
        Box::pin(async { answer })
    }

    fn generate(&self, request: GenerateRequest) -> Asking<'_, Generated> {
        let asker = Asker::new(&request.agent, &request.incident, &request.branch);
        let answer = self.booked(&asker, self.texts.next(self.made(), &request, &asker), |generated| generated.usage);
        Box::pin(async { answer })
    }

    fn embed(&self, request: EmbedRequest) -> Asking<'_, Embeddings> {
        let asker = Asker::new(&request.agent, &request.incident, &request.branch);
        let answer = self.booked(&asker, self.vectors.next(self.made(), &request, &asker), |embeddings| embeddings.usage);
        Box::pin(async { answer })
    }

    fn adapt<'p>(&'p self, name: Option<&'p str>) -> Asking<'p, ()> {
        let answer = self.change(name);
        Box::pin(async { answer })
    }

    /// Tokens as they were recorded, and nothing of an engine.
    fn metrics(&self) -> Option<EngineMetrics> {
        Some(lock(&self.metrics).clone())
    }
}

fn add<T>(answers: &mut ByRequest<T>, changes: usize, request: &impl Serialize, answer: Result<T, LlmError>) {
    answers.entry((changes, key(request))).or_insert_with(|| (Vec::new(), 0)).0.push(answer);
}

fn key(request: &impl Serialize) -> String {
    serde_json::to_string(request).unwrap_or_default()
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Clone> Answers<T> {
    fn unasked(&self) -> usize {
        lock(&self.0).values().map(|(list, given)| list.len() - given).sum()
    }

    fn next(&self, changes: usize, request: &impl Serialize, Asker { agent, .. }: &Asker) -> Result<T, LlmError> {
        let mut answers = lock(&self.0);
        let unknown = || {
            let place = if changes == 0 { String::new() } else { format!(" after {changes} changes of the adapter") };
            LlmError::Invalid(format!("the recording has no such request of '{agent}'{place}"))
        };
        let (list, given) = answers.get_mut(&(changes, key(request))).ok_or_else(unknown)?;
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
    use crate::llm::Prompt;

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

    /// One question before a change of the adapter, after it, after one that was refused, and after the change back.
    fn adapted() -> Recording {
        let exchanges = vec![
            Exchange::Score(request("q"), answer(-1.0)),
            Exchange::Adapt(Some("locks".into()), Ok(())),
            Exchange::Score(request("q"), answer(-2.0)),
            Exchange::Adapt(Some("none".into()), Err(LlmError::Invalid("no such adapter".into()))),
            Exchange::Score(request("q"), answer(-2.0)),
            Exchange::Adapt(None, Ok(())),
            Exchange::Score(request("q"), answer(-1.0)),
        ];
        Recording { exchanges, ..recording() }
    }

    async fn ask(provider: &dyn Provider, exchange: Exchange) {
        match exchange {
            Exchange::Score(request, answer) => assert_eq!(provider.score(request).await, answer),
            Exchange::Adapt(name, answer) => assert_eq!(provider.adapt(name.as_deref()).await, answer),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn changes_of_the_adapter_are_recorded_and_replayed() {
        let json = serde_json::to_string(&adapted()).unwrap();
        assert!(json.contains(r#"{"adapt":["locks",{"Ok":null}]}"#) && json.contains(r#"{"adapt":[null,{"Ok":null}]}"#), "{json}");
        let replay = Arc::new(RecordedProvider::new(serde_json::from_str(&json).unwrap()));
        let recorder = Recorder::new(Arc::clone(&replay) as Arc<dyn Provider>);
        for exchange in adapted().exchanges {
            ask(&recorder, exchange).await;
        }
        assert_eq!((recorder.recording(), replay.ended()), (adapted(), Ok(())));
    }

    #[tokio::test]
    async fn a_run_that_changes_the_adapter_otherwise_is_another_run() {
        let replay = RecordedProvider::new(adapted());
        for other in [None, Some("none")] {
            let refused = replay.adapt(other).await;
            assert!(matches!(&refused, Err(LlmError::Invalid(why)) if why.contains("after 0 changes")), "{refused:?}");
        }
        assert_eq!(replay.unasked(), 7, "what is refused is not made");
        assert_eq!(replay.score(request("q")).await, answer(-1.0));
        // The change is left out: what was asked after it is not answered before it.
        assert!(matches!(replay.score(request("q")).await, Err(LlmError::Invalid(_))));
        assert_eq!(replay.adapt(Some("locks")).await, Ok(()));
        assert_eq!(replay.adapt(Some("none")).await, Err(LlmError::Invalid("no such adapter".into())));
        assert_eq!(replay.adapt(None).await, Ok(()));
        assert!(replay.adapt(None).await.is_err(), "one more than were recorded");
        assert_eq!(replay.unasked(), 3, "two answers that the changes went past, and the last");
        let refused = replay.score(request("r")).await;
        assert!(matches!(&refused, Err(LlmError::Invalid(why)) if why.contains("after 3 changes")), "{refused:?}");
    }

    #[tokio::test]
    async fn a_recording_without_changes_is_of_the_model_as_it_is() {
        let replay = RecordedProvider::new(recording());
        assert_eq!(replay.adapt(None).await, Ok(()));
        assert!(matches!(replay.adapt(Some("locks")).await, Err(LlmError::Invalid(_))));
        assert_eq!(replay.score(request("r")).await, answer(-7.000_000_000_000_001));
        assert_eq!(replay.unasked(), 2);
    }

    /// Answers a turn later than it is asked.
    struct Late(RecordedProvider);

    impl Provider for Late {
        fn identity(&self) -> &ModelIdentity {
            self.0.identity()
        }
        fn score(&self, request: ScoreRequest) -> Asking<'_, Scores> {
            let asking = self.0.score(request);
            Box::pin(async {
                tokio::task::yield_now().await;
                asking.await
            })
        }
        fn generate(&self, request: GenerateRequest) -> Asking<'_, Generated> {
            self.0.generate(request)
        }
        fn embed(&self, request: EmbedRequest) -> Asking<'_, Embeddings> {
            self.0.embed(request)
        }
        fn adapt<'p>(&'p self, name: Option<&'p str>) -> Asking<'p, ()> {
            let asking = self.0.adapt(name);
            Box::pin(async {
                tokio::task::yield_now().await;
                asking.await
            })
        }
    }

    #[tokio::test]
    async fn a_change_is_asked_for_and_recorded_between_what_was_asked_before_and_after_it() {
        let recorder = Recorder::new(Arc::new(Late(RecordedProvider::new(adapted()))));
        let (before, changed, after) =
            tokio::join!(recorder.score(request("q")), recorder.adapt(Some("locks")), recorder.score(request("q")));
        assert_eq!((before, changed, after), (answer(-1.0), Ok(()), answer(-2.0)));
        assert_eq!(recorder.recording().exchanges, adapted().exchanges[..3]);
    }

    #[tokio::test]
    async fn a_change_that_nobody_waits_for_is_recorded_as_asked_for() {
        let recorder = Recorder::new(Arc::new(Late(RecordedProvider::new(adapted()))));
        tokio::select! {
            biased;
            _ = recorder.adapt(Some("locks")) => panic!("it is answered a turn later"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(recorder.score(request("q")).await, answer(-2.0));
        let replay = RecordedProvider::new(recorder.recording());
        let unheard = replay.adapt(Some("locks")).await;
        assert!(matches!(&unheard, Err(LlmError::Unavailable(why)) if why.contains("nobody waited")), "{unheard:?}");
        assert_eq!(replay.score(request("q")).await, answer(-2.0));
        assert_eq!(replay.ended(), Ok(()));
    }

    #[tokio::test]
    async fn a_replay_books_the_tokens_that_were_recorded() {
        let usage = Usage { prompt_tokens: 70, reused_tokens: 5, generated_tokens: 3 };
        let asked = ScoreRequest { incident: "i".into(), branch: "h1".into(), ..request("q") };
        let answered = answer(-1.0).map(|scores| Scores { usage, ..scores });
        let exchanges = vec![Exchange::Score(asked.clone(), answered), Exchange::Score(request("r"), Err(LlmError::Crashed("x".into())))];
        let replay = RecordedProvider::new(Recording { exchanges, ..recording() });
        assert!(replay.score(asked).await.is_ok() && replay.score(request("r")).await.is_err());
        let metrics = replay.metrics().unwrap();
        assert_eq!((metrics.agents["a"], metrics.branches("i").unwrap()["h1"]), (usage, usage));
        assert_eq!((metrics.answered, metrics.failed), (1, 1));
    }
}
