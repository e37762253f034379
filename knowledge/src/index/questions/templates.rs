//! Questions by template: two pairs of words of a section, in other words where people have such, in a frame.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::answers::{Answer, Asked};
use super::{Asker, Question};
use crate::chunk::KnowledgeChunk;

/// Templates: a name, what they ask for, the question with two cues.
const TEMPLATES: &[(&str, Asked, &str)] = &[
    ("which-setting", Asked::Setting, "Which setting decides about {a} and {b}?"),
    ("what-to-set", Asked::Setting, "What do I set for {a} when it comes to {b}?"),
    ("is-there", Asked::Setting, "Is there a parameter for {a}, because of {b}?"),
    ("configure", Asked::Setting, "How is {a} configured with regard to {b}?"),
    ("look-up", Asked::Name, "Where can I look up {a} and {b}?"),
    ("what-shows", Asked::Name, "What tells me about {a}, next to {b}?"),
    ("what-for", Asked::Name, "What is there in PostgreSQL for {a} with {b}?"),
    ("how-relate", Asked::Topic, "How do {a} and {b} go together?"),
    ("explain", Asked::Topic, "What should I know about {a} before {b}?"),
    ("where-said", Asked::Topic, "Where is it said how {a} works with {b}?"),
    ("matters", Asked::Topic, "Does {a} matter for {b}?"),
];

/// Words that people say instead of the manual's.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("rows", "records"),
    ("row", "record"),
    ("remove", "delete"),
    ("removed", "deleted"),
    ("disk", "storage"),
    ("maximum", "largest"),
    ("minimum", "smallest"),
    ("specified", "given"),
    ("specifies", "says"),
    ("amount", "quantity"),
    ("number", "count"),
    ("memory", "RAM"),
    ("statement", "command"),
    ("statements", "commands"),
    ("clients", "applications"),
    ("client", "application"),
    ("transaction", "unit of work"),
    ("allowed", "permitted"),
    ("automatically", "by itself"),
    ("performed", "done"),
    ("required", "needed"),
    ("obtain", "get"),
    ("database", "data base"),
    ("failure", "crash"),
    ("primary", "master"),
    ("standby", "replica"),
    ("delay", "wait"),
    ("enabled", "switched on"),
    ("disabled", "switched off"),
    ("determine", "find out"),
    ("concurrent", "simultaneous"),
    ("previous", "earlier"),
    ("additional", "more"),
    ("frequently", "often"),
    ("beginning", "start"),
];

/// Templates, with how often the questions of each were tried and survived.
#[derive(Debug, Clone, Default)]
pub struct Templates {
    tries: BTreeMap<String, (usize, usize)>,
}

impl Asker for Templates {
    fn ask(&mut self, _: &KnowledgeChunk, answer: &Answer, _: &[Question]) -> Option<(String, String)> {
        let (name, question) = ask(answer, &self.tries)?;
        Some((name.to_owned(), question))
    }

    fn judged(&mut self, made_by: &str, survived: bool) {
        let tally = self.tries.entry(made_by.to_owned()).or_default();
        tally.0 += usize::from(survived);
        tally.1 += 1;
    }
}

/// The question of the template that has served best so far; none when the answer has too few cues.
fn ask(answer: &Answer, tries: &BTreeMap<String, (usize, usize)>) -> Option<(&'static str, String)> {
    // Untried ones first; equal ones by the answer, so that all have their turn.
    let turn = Sha256::digest(&answer.phrase).first().copied().unwrap_or(0) as usize;
    let fitting: Vec<_> = TEMPLATES.iter().filter(|(_, asked, _)| *asked == answer.asked).collect();
    let worth = |name: &str| tries.get(name).map_or(1.0, |(kept, tried)| (*kept as f64 + 1.0) / (*tried as f64 + 1.0));
    let rotated = (0..fitting.len()).map(|at| fitting[(at + turn) % fitting.len()]);
    let (name, _, text) = rotated.reduce(|best, next| if worth(next.0) > worth(best.0) + 0.15 { next } else { best })?;
    let [a, b] = [answer.cues.first()?, answer.cues.get(1)?].map(|cue| reworded(cue));
    Some((name, text.replace("{a}", &a).replace("{b}", &b)))
}

fn reworded(cue: &str) -> String {
    let other = |word: &str| OTHER_WORDS.iter().find(|(from, _)| *from == word).map_or_else(|| word.to_owned(), |(_, to)| (*to).to_owned());
    cue.split(' ').map(other).collect::<Vec<_>>().join(" ")
}
