//! Which prompt prefixes lie in the model's cache: a radix tree of tokens. Pure bookkeeping: it names sequences and
//! never touches a model.

/// A token's number.
pub type Token = i32;
/// A sequence of the model's cache.
pub type Seq = i32;
/// A node of the tree; numbers are reused.
pub type NodeId = usize;

/// The empty prefix.
pub const ROOT: NodeId = 0;

/// How far a kept prefix may be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// At any token: attention over all that came before.
    Any,
    /// Only as a whole, cut where the request says: sliding windows forget the middle of what they saw.
    Whole,
    /// Never: recurrent states.
    None,
}

/// Where a node's tokens are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the cache, marked with this sequence.
    Resident(Seq),
    /// Copied out to the computer's own memory.
    Host,
}

#[derive(Debug)]
struct Node {
    tokens: Vec<Token>,
    start: usize,
    parent: NodeId,
    children: Vec<NodeId>,
    /// Running requests that build on this node or one below.
    refs: usize,
    used: u64,
    place: Place,
}

/// How far a prompt is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Whole nodes, from the root on.
    pub path: Vec<NodeId>,
    /// Tokens of the whole nodes.
    pub length: usize,
    /// A further node of which this many tokens fit, but not all.
    pub partial: Option<(NodeId, usize)>,
}

/// The tree. Resident nodes always hang on resident nodes.
#[derive(Debug)]
pub struct Prefixes {
    nodes: Vec<Option<Node>>,
    sharing: Sharing,
    clock: u64,
    resident: usize,
    resident_tokens: usize,
}

impl Prefixes {
    /// An empty tree.
    pub fn new(sharing: Sharing) -> Self {
        let root = Node { tokens: Vec::new(), start: 0, parent: ROOT, children: Vec::new(), refs: 0, used: 0, place: Place::Host };
        Self { nodes: vec![Some(root)], sharing, clock: 0, resident: 0, resident_tokens: 0 }
    }

    /// The longest known prefix of `tokens`.
    pub fn find(&self, tokens: &[Token]) -> Match {
        let mut found = Match { path: Vec::new(), length: 0, partial: None };
        if self.sharing == Sharing::None {
            return found;
        }
        let mut at = ROOT;
        loop {
            let rest = tokens.get(found.length..).unwrap_or_default();
            let children = self.node(at).map(|n| n.children.as_slice()).unwrap_or_default();
            let best = children
                .iter()
                .filter_map(|id| self.node(*id).map(|n| (*id, common(&n.tokens, rest), n.tokens.len())))
                .filter(|(_, fit, length)| *fit > 0 && (self.sharing == Sharing::Any || fit == length))
                .max_by_key(|(_, fit, _)| *fit);
            match best {
                Some((id, fit, length)) if fit == length => {
                    found.path.push(id);
                    found.length += length;
                    at = id;
                }
                Some((id, fit, _)) => {
                    found.partial = Some((id, fit));
                    return found;
                }
                None => return found,
            }
        }
    }

    /// Adds a resident node below another. `tokens` must not begin as a child does, unless prefixes are shared whole.
    pub fn add(&mut self, parent: NodeId, tokens: Vec<Token>, seq: Seq) -> NodeId {
        let start = self.end(parent);
        self.clock += 1;
        self.resident += 1;
        self.resident_tokens += tokens.len();
        let node = Node { tokens, start, parent, children: Vec::new(), refs: 0, used: self.clock, place: Place::Resident(seq) };
        let id = self.place(node);
        if let Some(parent) = self.node_mut(parent) {
            parent.children.push(id);
        }
        id
    }

    /// Cuts a resident node: its first `at` tokens become a new node above it, marked with `seq`. Returns that node; the
    /// old number stays with the lower part, so that whoever holds it goes on to hold both.
    pub fn split(&mut self, id: NodeId, at: usize, seq: Seq) -> Option<NodeId> {
        let node = self.node_mut(id).filter(|n| at > 0 && at < n.tokens.len() && n.place != Place::Host)?;
        let lower = node.tokens.split_off(at);
        let upper = Node {
            tokens: std::mem::replace(&mut node.tokens, lower),
            start: node.start,
            parent: node.parent,
            children: vec![id],
            refs: node.refs,
            used: node.used,
            place: Place::Resident(seq),
        };
        node.start += at;
        let parent = node.parent;
        let upper = self.place(upper);
        if let Some(node) = self.node_mut(id) {
            node.parent = upper;
        }
        if let Some(child) = self.node_mut(parent).and_then(|p| p.children.iter_mut().find(|c| **c == id)) {
            *child = upper;
        }
        self.resident += 1;
        Some(upper)
    }

    /// Keeps a node and all above it from being evicted until [`Prefixes::unlock`].
    pub fn lock(&mut self, id: NodeId) {
        self.clock += 1;
        let clock = self.clock;
        self.upward(id, |node| {
            node.refs += 1;
            node.used = clock;
        });
    }

    /// Ends one [`Prefixes::lock`].
    pub fn unlock(&mut self, id: NodeId) {
        self.upward(id, |node| node.refs = node.refs.saturating_sub(1));
    }

    /// The resident node to evict first: nothing builds on it, and it was used longest ago.
    pub fn victim(&self) -> Option<NodeId> {
        self.victim_below(usize::MAX)
    }

    /// As [`Prefixes::victim`], of those that are shorter than this.
    pub fn victim_below(&self, length: usize) -> Option<NodeId> {
        let resident = |id: &NodeId| self.node(*id).is_some_and(|n| n.place != Place::Host);
        self.oldest(|n| n.tokens.len() < length && n.refs == 0 && n.place != Place::Host && !n.children.iter().any(resident))
    }

    /// The node in the computer's memory to forget first.
    pub fn oldest_on_host(&self) -> Option<NodeId> {
        self.oldest(|n| n.place == Place::Host && n.refs == 0 && n.children.is_empty())
    }

    fn oldest(&self, fits: impl Fn(&Node) -> bool) -> Option<NodeId> {
        let nodes = self.nodes.iter().enumerate().skip(1).filter_map(|(id, n)| n.as_ref().map(|n| (id, n)));
        nodes.filter(|(_, n)| fits(n)).min_by_key(|(_, n)| n.used).map(|(id, _)| id)
    }

    /// Where a node's tokens are.
    pub fn where_is(&self, id: NodeId) -> Option<Place> {
        if id == ROOT { None } else { self.node(id).map(|n| n.place) }
    }

    /// Says that a node has moved.
    pub fn moved(&mut self, id: NodeId, to: Place) {
        let Some(node) = self.node_mut(id) else { return };
        let (from, length) = (std::mem::replace(&mut node.place, to), node.tokens.len());
        match (from, to) {
            (Place::Resident(_), Place::Host) => {
                self.resident -= 1;
                self.resident_tokens -= length;
            }
            (Place::Host, Place::Resident(_)) => {
                self.resident += 1;
                self.resident_tokens += length;
            }
            _ => {}
        }
    }

    /// Forgets a node that is not resident and all below it; returns their numbers.
    pub fn forget(&mut self, id: NodeId) -> Vec<NodeId> {
        let mut gone = Vec::new();
        if let Some(parent) = self.node(id).map(|n| n.parent).and_then(|p| self.node_mut(p)) {
            parent.children.retain(|c| *c != id);
        }
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if let Some(node) = self.nodes.get_mut(id).and_then(Option::take) {
                open.extend(node.children);
                gone.push(id);
            }
        }
        gone
    }

    /// Positions of a node: from the first to before the last.
    pub fn span(&self, id: NodeId) -> (usize, usize) {
        self.node(id).map_or((0, 0), |n| (n.start, n.start + n.tokens.len()))
    }

    /// Sequences that nodes hold.
    pub fn resident(&self) -> usize {
        self.resident
    }

    /// Cells that nodes hold.
    pub fn resident_tokens(&self) -> usize {
        self.resident_tokens
    }

    /// Cells of nodes that nothing builds on.
    pub fn idle_tokens(&self) -> usize {
        let idle = |n: &&Node| n.refs == 0 && n.place != Place::Host;
        self.nodes.iter().skip(1).flatten().filter(idle).map(|n| n.tokens.len()).sum()
    }

    /// Tokens of a match that running requests build on already.
    pub fn locked_of(&self, found: &Match) -> usize {
        let locked = |id: &NodeId| self.node(*id).is_some_and(|n| n.refs > 0);
        let whole: usize = found.path.iter().filter(|id| locked(id)).filter_map(|id| self.node(*id)).map(|n| n.tokens.len()).sum();
        whole + found.partial.filter(|(id, _)| locked(id)).map_or(0, |(_, at)| at)
    }

    /// Whether other nodes hang on a node.
    pub fn has_children(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(|n| !n.children.is_empty())
    }

    /// Locks that are held: none when nothing runs.
    #[cfg(test)]
    pub fn locks(&self) -> usize {
        self.node(ROOT).map_or(0, |n| n.refs)
    }

    fn end(&self, id: NodeId) -> usize {
        self.span(id).1
    }

    fn upward(&mut self, mut id: NodeId, mut each: impl FnMut(&mut Node)) {
        while let Some(node) = self.node_mut(id) {
            each(node);
            if id == ROOT {
                return;
            }
            id = node.parent;
        }
    }

    fn place(&mut self, node: Node) -> NodeId {
        if let Some(free) = self.nodes.iter().position(Option::is_none) {
            self.nodes[free] = Some(node);
            return free;
        }
        self.nodes.push(Some(node));
        self.nodes.len() - 1
    }

    fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id).and_then(Option::as_ref)
    }

    fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id).and_then(Option::as_mut)
    }
}

/// Tokens with which both begin.
pub fn common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Adds what is missing of a prompt, as the engine does.
    fn insert(tree: &mut Prefixes, tokens: &[Token], seq: Seq) {
        let found = tree.find(tokens);
        let mut tip = found.path.last().copied().unwrap_or(ROOT);
        let mut length = found.length;
        if let Some((node, at)) = found.partial {
            tip = tree.split(node, at, seq + 1_000).unwrap();
            length += at;
        }
        if length < tokens.len() {
            tree.add(tip, tokens[length..].to_vec(), seq);
        }
    }

    proptest! {
        #[test]
        fn the_longest_match_is_that_of_comparing_with_every_prompt(
            prompts in prop::collection::vec(prop::collection::vec(0..3_i32, 1..12), 1..20),
            asked in prop::collection::vec(0..3_i32, 1..12),
        ) {
            let mut tree = Prefixes::new(Sharing::Any);
            for (seq, prompt) in (0..).zip(&prompts) {
                insert(&mut tree, prompt, seq);
            }
            let found = tree.find(&asked);
            let longest = prompts.iter().map(|p| common(p, &asked)).max().unwrap_or(0);
            prop_assert_eq!(found.length + found.partial.map_or(0, |(_, at)| at), longest);
            // Each token of the prompts is held once, whatever number of prompts it begins.
            let mut all = std::collections::BTreeSet::new();
            for prompt in &prompts {
                all.extend((1..=prompt.len()).map(|n| prompt[..n].to_vec()));
            }
            prop_assert_eq!(tree.resident_tokens(), all.len());
        }

        #[test]
        fn what_is_locked_is_never_a_victim_and_all_else_becomes_one(
            prompts in prop::collection::vec(prop::collection::vec(0..3_i32, 1..12), 1..20),
            kept in 0..20_usize,
        ) {
            let mut tree = Prefixes::new(Sharing::Any);
            for (seq, prompt) in (0..).zip(&prompts) {
                insert(&mut tree, prompt, seq);
            }
            let kept = &prompts[kept % prompts.len()];
            let tip = *tree.find(kept).path.last().unwrap();
            tree.lock(tip);
            while let Some(victim) = tree.victim() {
                tree.moved(victim, Place::Host);
            }
            prop_assert_eq!(tree.resident_tokens(), kept.len());
            tree.unlock(tip);
            while let Some(victim) = tree.victim() {
                tree.moved(victim, Place::Host);
            }
            prop_assert_eq!((tree.resident_tokens(), tree.resident(), tree.locks()), (0, 0, 0));
        }
    }

    #[test]
    fn whole_prefixes_are_not_cut() {
        let mut tree = Prefixes::new(Sharing::Whole);
        let long = tree.add(ROOT, vec![1, 2, 3, 4], 0);
        assert_eq!(tree.find(&[1, 2, 3, 9]).length, 0);
        let short = tree.add(ROOT, vec![1, 2], 1);
        assert_eq!(tree.find(&[1, 2, 3, 9]).path, [short]);
        assert_eq!(tree.find(&[1, 2, 3, 4, 5]).path, [long]);
        assert_eq!(Prefixes::new(Sharing::None).find(&[1]).length, 0);
    }
}
