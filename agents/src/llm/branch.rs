//! A provider that asks about one branch of the search, so that the engine can account its tokens there.

use super::{Asking, EmbedRequest, Embeddings, EngineMetrics, GenerateRequest, Generated, ModelIdentity, Provider, ScoreRequest, Scores};

/// Puts the branch's name on every request.
pub struct OfBranch<'p> {
    inner: &'p dyn Provider,
    branch: String,
}

impl<'p> OfBranch<'p> {
    /// Asks `inner` about `branch`.
    pub fn new(inner: &'p dyn Provider, branch: impl Into<String>) -> Self {
        Self { inner, branch: branch.into() }
    }
}

impl Provider for OfBranch<'_> {
    fn identity(&self) -> &ModelIdentity {
        self.inner.identity()
    }

    fn score(&self, mut request: ScoreRequest) -> Asking<'_, Scores> {
        request.branch.clone_from(&self.branch);
        self.inner.score(request)
    }

    fn generate(&self, mut request: GenerateRequest) -> Asking<'_, Generated> {
        request.branch.clone_from(&self.branch);
        self.inner.generate(request)
    }

    fn embed(&self, mut request: EmbedRequest) -> Asking<'_, Embeddings> {
        request.branch.clone_from(&self.branch);
        self.inner.embed(request)
    }

    fn adapt<'p>(&'p self, name: Option<&'p str>) -> Asking<'p, ()> {
        self.inner.adapt(name)
    }

    fn reset(&self) {
        self.inner.reset();
    }

    fn metrics(&self) -> Option<EngineMetrics> {
        self.inner.metrics()
    }
}
