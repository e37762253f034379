//! Who is next: requests wait by incident, and the incident that has had the fewest tokens goes first, so that one with
//! forty requests cannot starve another with one.

use std::collections::{BTreeMap, VecDeque};

/// Requests that wait.
#[derive(Debug)]
pub struct Queue<T> {
    lines: BTreeMap<String, Line<T>>,
    most: usize,
    length: usize,
    /// The service of the incident served last: newcomers begin there, not at nothing.
    level: u64,
}

#[derive(Debug)]
struct Line<T> {
    waiting: VecDeque<T>,
    served: u64,
}

/// What to do with a request that is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It begins; its incident is charged with so many tokens.
    Begin(u64),
    /// Not yet, but others may.
    Later,
    /// Not yet, and nobody else before it: it needs the room that comes free.
    Hold,
}

impl<T> Queue<T> {
    /// A queue for at most `most` requests.
    pub fn new(most: usize) -> Self {
        Self { lines: BTreeMap::new(), most, length: 0, level: 0 }
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Takes a request in, or gives it back when the queue is full.
    ///
    /// # Errors
    /// The request itself.
    pub fn push(&mut self, incident: &str, request: T) -> Result<(), T> {
        if self.length >= self.most {
            return Err(request);
        }
        let level = self.level;
        let line = self.lines.entry(incident.to_owned()).or_insert_with(|| Line { waiting: VecDeque::new(), served: level });
        if line.waiting.is_empty() {
            line.served = line.served.max(level);
        }
        line.waiting.push_back(request);
        self.length += 1;
        Ok(())
    }

    /// Asks `decide` about the requests, the most patient incident's first, and returns the first that may begin.
    pub fn next(&mut self, mut decide: impl FnMut(&mut T) -> Turn) -> Option<T> {
        let mut order: Vec<(u64, String)> =
            self.lines.iter().filter(|(_, l)| !l.waiting.is_empty()).map(|(name, l)| (l.served, name.clone())).collect();
        order.sort();
        for (served, name) in order {
            let line = self.lines.get_mut(&name)?;
            for place in 0..line.waiting.len() {
                match line.waiting.get_mut(place).map(&mut decide) {
                    Some(Turn::Begin(tokens)) => {
                        line.served += tokens;
                        self.length -= 1;
                        let request = line.waiting.remove(place);
                        self.forget(served);
                        return request;
                    }
                    Some(Turn::Later) => {}
                    Some(Turn::Hold) | None => return None,
                }
            }
        }
        None
    }

    /// Raises the level to what the most patient of those who wait has had, `served` at least, and forgets the incidents that are over
    /// and not ahead of it; where nobody waits, all of them.
    fn forget(&mut self, served: u64) {
        let waiting = self.lines.values().filter(|l| !l.waiting.is_empty()).map(|l| l.served).min();
        let least = waiting.or_else(|| self.lines.values().map(|l| l.served).max()).unwrap_or(served);
        self.level = self.level.max(served).max(least);
        let level = self.level;
        self.lines.retain(|_, l| !l.waiting.is_empty() || l.served > level);
    }

    /// Puts a request back in front that could not begin after all, and takes its charge back.
    pub fn put_back(&mut self, incident: &str, request: T, charged: u64) {
        let level = self.level;
        let line = self.lines.entry(incident.to_owned()).or_insert_with(|| Line { waiting: VecDeque::new(), served: level });
        line.served = line.served.saturating_sub(charged);
        line.waiting.push_front(request);
        self.length += 1;
    }

    /// Takes out a request that is not wanted any more.
    pub fn remove(&mut self, is: impl Fn(&T) -> bool) -> Option<T> {
        for line in self.lines.values_mut() {
            if let Some(place) = line.waiting.iter().position(&is) {
                self.length -= 1;
                return line.waiting.remove(place);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_does_not_wait_for_forty() {
        let mut queue = Queue::new(100);
        for i in 0..40 {
            queue.push("loud", i).unwrap();
        }
        for _ in 0..5 {
            queue.next(|_| Turn::Begin(100)).unwrap();
        }
        queue.push("quiet", 100).unwrap();
        let order: Vec<i32> = std::iter::from_fn(|| queue.next(|_| Turn::Begin(100))).take(2).collect();
        assert!(order.contains(&100), "{order:?}");
        assert_eq!(std::iter::from_fn(|| queue.next(|_| Turn::Begin(1))).count(), 34);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn incidents_get_equal_tokens_however_large_their_requests_are() {
        let mut queue = Queue::new(1_000);
        for i in 0..400 {
            queue.push("small", ("small", i)).unwrap();
            queue.push("large", ("large", i)).unwrap();
        }
        let (mut small, mut large) = (0_i64, 0_i64);
        for _ in 0..200 {
            let cost = |name: &str| if name == "small" { 10 } else { 90 };
            let (name, _) = queue.next(|(name, _)| Turn::Begin(cost(name))).unwrap();
            *(if name == "small" { &mut small } else { &mut large }) += i64::try_from(cost(name)).unwrap();
        }
        assert!((small - large).abs() <= 90, "{small} {large}");
    }

    #[test]
    fn incidents_that_are_over_are_forgotten() {
        let mut queue = Queue::new(10);
        for i in 0..1_000 {
            queue.push(&format!("incident {i}"), i).unwrap();
            assert_eq!(queue.next(|_| Turn::Begin(100)), Some(i));
        }
        assert_eq!(queue.lines.len(), 0);
        // Also where another one always waits.
        queue.push("patient", -1).unwrap();
        for i in 0..1_000 {
            queue.push("patient", -1).unwrap();
            queue.push(&format!("incident {i}"), i).unwrap();
            queue.next(|_| Turn::Begin(100)).unwrap();
            queue.next(|_| Turn::Begin(100)).unwrap();
        }
        assert!(queue.lines.len() < 5, "{}", queue.lines.len());
    }

    #[test]
    fn a_full_queue_refuses_and_what_must_wait_lets_others_pass_or_not() {
        let mut queue = Queue::new(2);
        queue.push("a", 1).unwrap();
        queue.push("a", 2).unwrap();
        assert_eq!(queue.push("b", 3), Err(3));
        assert_eq!(queue.next(|r| if *r == 1 { Turn::Hold } else { Turn::Begin(1) }), None);
        assert_eq!(queue.next(|r| if *r == 1 { Turn::Later } else { Turn::Begin(1) }), Some(2));
        assert_eq!((queue.remove(|r| *r == 1), queue.len()), (Some(1), 0));
    }
}
