//! A provider that answers by an instant or not at all: a diagnosis has a time by which its report is due.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{
    Asking, EmbedRequest, Embeddings, EngineMetrics, GenerateRequest, Generated, LlmError, ModelIdentity, Provider, ScoreRequest, Scores,
};

/// Passes requests on; those unanswered by the deadline, and all after it, are [`LlmError::Timeout`].
pub struct Within {
    inner: Arc<dyn Provider>,
    patience: Duration,
    deadline: Instant,
}

impl Within {
    /// All requests together have `patience` from now on.
    pub fn new(inner: Arc<dyn Provider>, patience: Duration) -> Self {
        Self { inner, patience, deadline: Instant::now() + patience }
    }

    async fn in_time<T>(&self, asking: Asking<'_, T>) -> Result<T, LlmError> {
        let late = |_| LlmError::Timeout(u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX));
        timeout_at(self.deadline, asking).await.map_err(late)?
    }
}

impl Provider for Within {
    fn identity(&self) -> &ModelIdentity {
        self.inner.identity()
    }

    fn score(&self, request: ScoreRequest) -> Asking<'_, Scores> {
        Box::pin(self.in_time(self.inner.score(request)))
    }

    fn generate(&self, request: GenerateRequest) -> Asking<'_, Generated> {
        Box::pin(self.in_time(self.inner.generate(request)))
    }

    fn adapt<'p>(&'p self, name: Option<&'p str>) -> Asking<'p, ()> {
        Box::pin(self.in_time(self.inner.adapt(name)))
    }

    fn reset(&self) {
        self.inner.reset();
    }

    fn embed(&self, request: EmbedRequest) -> Asking<'_, Embeddings> {
        Box::pin(self.in_time(self.inner.embed(request)))
    }

    fn metrics(&self) -> Option<EngineMetrics> {
        self.inner.metrics()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{Prompt, Usage};

    /// Answers after 100 ms.
    struct Slow(ModelIdentity);

    impl Provider for Slow {
        fn identity(&self) -> &ModelIdentity {
            &self.0
        }
        fn score(&self, _: ScoreRequest) -> Asking<'_, Scores> {
            Box::pin(async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(Scores { logprobs: vec![0.0, -1.0], usage: Usage::default(), cut: Vec::new() })
            })
        }
        fn generate(&self, _: GenerateRequest) -> Asking<'_, Generated> {
            Box::pin(std::future::pending())
        }
        fn embed(&self, _: EmbedRequest) -> Asking<'_, Embeddings> {
            Box::pin(std::future::pending())
        }
        fn metrics(&self) -> Option<EngineMetrics> {
            let mut metrics = EngineMetrics::default();
            metrics.answered = 7;
            Some(metrics)
        }
    }

    fn slow() -> Arc<dyn Provider> {
        Arc::new(Slow(ModelIdentity { name: "slow".into(), sha256: String::new() }))
    }

    fn prompt() -> Prompt {
        Prompt::new("", "?")
    }

    #[tokio::test]
    async fn requests_share_one_deadline_and_what_is_late_is_a_timeout() {
        let ask = || ScoreRequest { agent: "a".into(), prompt: prompt(), options: vec!["A".into(), "B".into()], ..ScoreRequest::default() };
        let provider = Within::new(slow(), Duration::from_millis(150));
        assert!(provider.score(ask()).await.is_ok());
        assert_eq!(provider.score(ask()).await, Err(LlmError::Timeout(150)));
        let generate = GenerateRequest { agent: "a".into(), prompt: prompt(), max_tokens: 1, ..GenerateRequest::default() };
        assert_eq!(provider.generate(generate).await, Err(LlmError::Timeout(150)));
        assert_eq!(provider.identity().name, "slow");
        assert_eq!(provider.metrics().map(|m| m.answered), Some(7), "what the engine has done is passed on");
    }
}
