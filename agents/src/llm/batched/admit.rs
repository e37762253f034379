//! When a request may begin, and room for it: prefixes are evicted, copied out to memory and in again, and a prefix
//! that another request is just evaluating is waited for.

use std::time::Duration;

use super::queue::Turn;
use super::radix::{NodeId, Place, ROOT, Seq, Sharing, common};
use super::run::{Run, Stage};
use super::{Backend, Batched, Done, LEAST_HOST, LEAST_WAIT, LlmError, MOST_NODES, MOST_RUNNING, Pick, Usage, Waiting, room};

impl<B: Backend, P: Pick> Batched<B, P> {
    /// Lets in what can be placed, fairly.
    pub(super) fn admit(&mut self, began: &mut dyn FnMut(u64)) -> Result<(), LlmError> {
        while self.running.len() < MOST_RUNNING {
            let (tree, running, sizes, sharing) = (&self.tree, &mut self.running, self.sizes, self.sharing);
            let locked = self.reserved + tree.resident_tokens() - tree.idle_tokens();
            let mut waits = 0;
            let next = self.queue.next(|waiting| {
                let tokens = &waiting.request.tokens;
                let found = tree.find(answerable(tokens));
                let known = found.length + found.partial.map_or(0, |(_, at)| at);
                let ahead = running.iter_mut().filter(|r| r.stage == Stage::Prompt).filter_map(|r| {
                    let fit = shareable(r, tokens, sharing);
                    (fit >= known + LEAST_WAIT).then_some((r, fit))
                });
                if let Some((run, fit)) = ahead.max_by_key(|(_, fit)| *fit) {
                    run.keep_at(fit);
                    waits += u64::from(!std::mem::replace(&mut waiting.held, true));
                    return Turn::Later;
                }
                let need = tokens.len() + room(&waiting.request, sizes.limit);
                // All that is idle can be taken out, and what this request builds on must be in.
                if need.saturating_sub(tree.locked_of(&found)) + locked > sizes.cells { Turn::Hold } else { Turn::Begin(need as u64) }
            });
            self.counts.waited += waits;
            let Some(waiting) = next else { return Ok(()) };
            let (id, incident) = (waiting.request.id, waiting.request.incident.clone());
            let queued = waiting.request.since.elapsed();
            match self.begin(waiting) {
                Err(error) => {
                    let result = Err(error.clone());
                    self.done.push(Done { id, result, usage: Usage::default(), queued, ran: Duration::ZERO });
                    return Err(error);
                }
                Ok(None) => began(id),
                Ok(Some(waiting)) => {
                    let charged = waiting.request.tokens.len() + room(&waiting.request, self.sizes.limit);
                    self.queue.put_back(&incident, waiting, charged as u64);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Starts a request, or gives it back when there is no room before others end.
    fn begin(&mut self, waiting: Waiting<P>) -> Result<Option<Waiting<P>>, LlmError> {
        let request = &waiting.request;
        let total = request.tokens.len() + room(request, self.sizes.limit);
        let (tip, reuse) = self.reach(answerable(&request.tokens))?;
        self.tree.lock(tip);
        let reserved = total - reuse;
        let seq = if self.make_room(reserved)? { self.free.pop() } else { None };
        let Some(seq) = seq else {
            self.tree.unlock(tip);
            return Ok(Some(waiting));
        };
        self.reserved += reserved;
        let mut run = Run::new(waiting, seq, tip, reuse, reserved);
        if self.sharing == Sharing::Any {
            run.keep_at(run.tokens.len());
        }
        if self.sharing != Sharing::None && run.shared > 0 {
            run.keep_at(run.shared);
        }
        for node in self.tree.find(&run.tokens[..reuse]).path {
            if let Some(from) = self.place_of(node) {
                let (start, end) = self.tree.span(node);
                self.backend.copy(from, seq, start, end)?;
            }
        }
        self.running.push(run);
        Ok(None)
    }

    /// The longest known prefix, made resident and cut to size: its last node and its length.
    fn reach(&mut self, tokens: &[i32]) -> Result<(NodeId, usize), LlmError> {
        let found = self.tree.find(tokens);
        // The whole path is held: room for its beginning must not be made of its end.
        let end = found.path.last().copied();
        end.into_iter().for_each(|node| self.tree.lock(node));
        let reached = self.bring_path(&found.path);
        end.into_iter().for_each(|node| self.tree.unlock(node));
        let (tip, reuse) = reached?;
        if tip != end.unwrap_or(ROOT) {
            return Ok((tip, reuse));
        }
        if let Some((node, at)) = found.partial
            && let Some(from) = self.seq_of(tip, node)?
        {
            self.tree.lock(node);
            let seq = self.node_seq()?;
            self.tree.unlock(node);
            if let Some(seq) = seq {
                let start = self.tree.span(node).0;
                self.backend.copy(from, seq, start, start + at)?;
                self.backend.remove(from, start, start + at)?;
                if let Some(upper) = self.tree.split(node, at, seq) {
                    return Ok((upper, start + at));
                }
            }
        }
        Ok((tip, reuse))
    }

    /// The sequence of a node below `parent`, brought in from memory where it is there. One that there is no room for is
    /// forgotten: as long as it stands in the tree, nothing that begins as it does can be kept.
    fn seq_of(&mut self, parent: NodeId, node: NodeId) -> Result<Option<Seq>, LlmError> {
        if self.place_of(node).is_none() {
            self.tree.lock(node);
            let brought = self.bring_in(parent, node);
            self.tree.unlock(node);
            if !brought? {
                self.drop_node(node);
                return Ok(None);
            }
        }
        Ok(self.place_of(node))
    }

    /// Makes nodes resident from the first on, as many as there is room for: the last of them and its length.
    fn bring_path(&mut self, path: &[NodeId]) -> Result<(NodeId, usize), LlmError> {
        let (mut tip, mut reuse) = (ROOT, 0);
        for node in path.iter().copied() {
            if self.place_of(node).is_none() && !self.bring_in(tip, node)? {
                break;
            }
            (tip, reuse) = (node, self.tree.span(node).1);
        }
        Ok((tip, reuse))
    }

    /// Copies a locked node in from memory, if there is room.
    fn bring_in(&mut self, parent: NodeId, node: NodeId) -> Result<bool, LlmError> {
        let (start, end) = self.tree.span(node);
        debug_assert!(parent == ROOT || self.place_of(parent).is_some());
        if !self.host.contains_key(&node) || !self.make_room(end - start)? {
            return Ok(false);
        }
        let Some(seq) = self.node_seq()? else { return Ok(false) };
        let Some((state, bytes)) = self.host.remove(&node) else {
            self.free.push(seq);
            return Ok(false);
        };
        self.host_bytes -= bytes;
        self.backend.restore(&state, seq)?;
        self.counts.restored += 1;
        self.tree.moved(node, Place::Resident(seq));
        Ok(true)
    }

    /// Evicts until so many more cells are free. False when what is left is in use.
    fn make_room(&mut self, cells: usize) -> Result<bool, LlmError> {
        while self.tree.resident_tokens() + self.reserved + cells > self.sizes.cells {
            if !self.evict()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Copies out what nothing builds on beyond [`Sizes::idle`](super::Sizes::idle): attention passes over every cell that is in
    /// use, whoever's it is.
    pub(super) fn trim(&mut self) -> Result<(), LlmError> {
        if self.running.is_empty() || self.sizes.host_bytes == 0 {
            return Ok(());
        }
        while self.tree.idle_tokens() > self.sizes.idle
            // What memory cannot take stays where it is: there are cells for it.
            && let Some(node) = self.tree.victim_below(self.too_long)
            && self.take_out(node)?
        {}
        Ok(())
    }

    fn length_of(&self, node: NodeId) -> usize {
        let (start, end) = self.tree.span(node);
        end - start
    }

    /// A sequence for a node, if need be that of an evicted one.
    fn node_seq(&mut self) -> Result<Option<Seq>, LlmError> {
        while self.tree.resident() >= MOST_NODES {
            if !self.evict()? {
                return Ok(None);
            }
        }
        Ok(self.free.pop())
    }

    /// Takes the prefix used longest ago out of the cache.
    fn evict(&mut self) -> Result<bool, LlmError> {
        let Some(node) = self.tree.victim() else { return Ok(false) };
        self.take_out(node)
    }

    /// Takes a node out of the cache, into memory where that pays.
    fn take_out(&mut self, node: NodeId) -> Result<bool, LlmError> {
        let Some(seq) = self.place_of(node) else { return Ok(false) };
        self.counts.evicted += 1;
        // Without a short beginning, what lies in memory below it would be lost.
        let pays = self.length_of(node) >= LEAST_HOST || self.tree.has_children(node);
        let saved = if pays && self.sizes.host_bytes > 0 { self.backend.save(seq).ok() } else { None };
        if saved.as_ref().is_some_and(|(_, bytes)| *bytes > self.sizes.host_bytes) {
            self.too_long = self.too_long.min(self.length_of(node));
        }
        self.backend.remove(seq, 0, usize::MAX)?;
        self.free.push(seq);
        self.tree.moved(node, Place::Host);
        match saved {
            Some((state, bytes)) if bytes <= self.sizes.host_bytes => {
                self.counts.saved += 1;
                self.host_bytes += bytes;
                self.host.insert(node, (state, bytes));
            }
            _ => self.drop_node(node),
        }
        while self.host_bytes > self.sizes.host_bytes {
            let Some(oldest) = self.tree.oldest_on_host() else { break };
            self.drop_node(oldest);
        }
        Ok(true)
    }

    fn drop_node(&mut self, node: NodeId) {
        for gone in self.tree.forget(node) {
            self.host_bytes -= self.host.remove(&gone).map_or(0, |(_, bytes)| bytes);
        }
    }

    /// Puts what a run has evaluated into the tree, up to the marks that were set for it.
    pub(super) fn keep(&mut self, place: usize) -> Result<(), LlmError> {
        while let Some(run) = self.running.get_mut(place)
            && let Some(mark) = run.due()
        {
            let tokens = run.tokens.get(..mark).unwrap_or_default().to_vec();
            let (seq, before, in_tree) = (run.seq, run.tip, run.in_tree);
            let (tip, known) = self.reach(&tokens)?;
            if known < in_tree {
                continue;
            }
            self.tree.lock(tip);
            let unknown = mark - known;
            let cut = self.tree.find(&tokens).partial.is_some();
            let fresh = if unknown == 0 || (cut && self.sharing == Sharing::Any) { None } else { self.node_seq()? };
            let Some(fresh) = fresh else {
                self.tree.unlock(tip);
                continue;
            };
            self.backend.copy(seq, fresh, known, mark)?;
            let node = self.tree.add(tip, tokens.get(known..).unwrap_or_default().to_vec(), fresh);
            self.tree.lock(node);
            self.tree.unlock(tip);
            self.tree.unlock(before);
            self.reserved -= unknown;
            if let Some(run) = self.running.get_mut(place) {
                run.tip = node;
                run.reserved -= unknown;
                run.in_tree = run.in_tree.max(mark);
            }
        }
        Ok(())
    }
}

/// The last token of a prompt is always evaluated: its logits are what is asked for.
fn answerable(tokens: &[i32]) -> &[i32] {
    tokens.split_last().map_or(&[], |(_, rest)| rest)
}

/// Tokens of a prompt that a run is going to have evaluated.
fn shareable<P>(run: &Run<P>, tokens: &[i32], sharing: Sharing) -> usize {
    let fit = common(&run.tokens, answerable(tokens));
    match sharing {
        Sharing::Any => fit,
        Sharing::Whole if fit >= run.shared => run.shared,
        Sharing::Whole | Sharing::None => 0,
    }
}
