//! A prober that keeps the answers it passes on, so that a replay of the capture sees what the diagnosis saw.

use std::collections::BTreeMap;
use std::sync::Mutex;

use galen_tools::probe::{Answering, ProbeAnswer, ProbeCall, Prober};

use crate::state::lock;

/// Passes calls on to another prober.
pub struct Recording<'p> {
    inner: &'p dyn Prober,
    answers: Mutex<BTreeMap<String, ProbeAnswer>>,
}

impl<'p> Recording<'p> {
    /// Nothing was asked yet.
    pub fn new(inner: &'p dyn Prober) -> Self {
        Self { inner, answers: Mutex::default() }
    }

    /// The answers so far, by the key of their call.
    pub fn take(&self) -> BTreeMap<String, ProbeAnswer> {
        std::mem::take(&mut *lock(&self.answers))
    }
}

impl Prober for Recording<'_> {
    fn ask<'a>(&'a self, call: &'a ProbeCall) -> Answering<'a> {
        Box::pin(async move {
            let answer = self.inner.ask(call).await;
            lock(&self.answers).insert(call.key(), answer.clone());
            answer
        })
    }
}
