//! A provider that asks on behalf of one incident, so that the engine can let incidents take turns.

use std::sync::Arc;

use super::{Asking, EmbedRequest, Embeddings, EngineMetrics, GenerateRequest, Generated, ModelIdentity, Provider, ScoreRequest, Scores};

/// Puts the incident's name on every request.
pub struct OfIncident {
    inner: Arc<dyn Provider>,
    incident: String,
}

impl OfIncident {
    /// Asks `inner` in the name of `incident`.
    pub fn new(inner: Arc<dyn Provider>, incident: impl Into<String>) -> Self {
        Self { inner, incident: incident.into() }
    }
}

impl Provider for OfIncident {
    fn identity(&self) -> &ModelIdentity {
        self.inner.identity()
    }

    fn score(&self, mut request: ScoreRequest) -> Asking<'_, Scores> {
        request.incident.clone_from(&self.incident);
        self.inner.score(request)
    }

    fn generate(&self, mut request: GenerateRequest) -> Asking<'_, Generated> {
        request.incident.clone_from(&self.incident);
        self.inner.generate(request)
    }

    fn adapt<'p>(&'p self, name: Option<&'p str>) -> Asking<'p, ()> {
        self.inner.adapt(name)
    }

    fn reset(&self) {
        self.inner.reset();
    }

    fn embed(&self, mut request: EmbedRequest) -> Asking<'_, Embeddings> {
        request.incident.clone_from(&self.incident);
        self.inner.embed(request)
    }

    fn metrics(&self) -> Option<EngineMetrics> {
        self.inner.metrics()
    }
}
