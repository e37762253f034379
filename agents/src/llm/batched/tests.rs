//! The engine over a backend that checks every rule of llama.cpp's cache and whose logits are a function of the
//! tokens that a row really sees: a wrong cell changes the answer.

mod memory;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const VOCABULARY: usize = 16;

/// A cache as llama.cpp's unified one: cells with a position, a token and the sequences that they belong to.
struct Fake {
    cells: Vec<(usize, Token, BTreeSet<Seq>)>,
    capacity: usize,
    logits: Vec<Vec<f32>>,
    evaluated: u64,
    decodes: u64,
    fail_at: u64,
    /// Whether nothing can be copied in.
    full: bool,
    /// Whether nothing can be taken out.
    stuck: bool,
}

impl Fake {
    fn new(capacity: usize) -> Self {
        Self { cells: Vec::new(), capacity, logits: Vec::new(), evaluated: 0, decodes: 0, fail_at: 0, full: false, stuck: false }
    }

    fn of(&self, seq: Seq) -> BTreeMap<usize, Token> {
        let mut all = BTreeMap::new();
        for (position, token, _) in self.cells.iter().filter(|(_, _, seqs)| seqs.contains(&seq)) {
            assert!(all.insert(*position, *token).is_none(), "sequence {seq} has position {position} twice");
        }
        all
    }
}

fn logits_of(tokens: impl Iterator<Item = Token>) -> Vec<f32> {
    let hash = tokens.fold(7_u64, |h, t| (h ^ u64::try_from(t).unwrap()).wrapping_mul(0x0100_0000_01b3).rotate_left(23));
    let mixed = |i: u64| (hash ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (0..VOCABULARY as u64).map(|i| (mixed(i) >> 40) as f32 / 1e6).collect()
}

impl Backend for Fake {
    type State = Vec<(usize, Token)>;

    fn copy(&mut self, from: Seq, to: Seq, start: usize, end: usize) -> Result<(), LlmError> {
        for (position, _, seqs) in &mut self.cells {
            if seqs.contains(&from) && (start..end).contains(position) {
                seqs.insert(to);
            }
        }
        Ok(())
    }

    fn remove(&mut self, seq: Seq, start: usize, end: usize) -> Result<(), LlmError> {
        if self.stuck {
            return Err(LlmError::Crashed("as told".into()));
        }
        for (position, _, seqs) in &mut self.cells {
            if (start..end).contains(position) {
                seqs.remove(&seq);
            }
        }
        self.cells.retain(|(_, _, seqs)| !seqs.is_empty());
        Ok(())
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), LlmError> {
        self.decodes += 1;
        if self.fail_at == self.decodes {
            return Err(LlmError::Crashed("as told".into()));
        }
        assert!(rows.len() <= 32);
        self.logits.clear();
        for row in rows {
            assert!(usize::try_from(row.seq).unwrap() < sequences(Sharing::Any));
            assert!(self.cells.len() < self.capacity, "no cell is free");
            let seqs: BTreeSet<Seq> = [row.seq].into_iter().chain(row.also.iter().copied()).collect();
            assert_eq!(seqs.len(), row.also.len() + 1, "a sequence is named twice");
            self.cells.push((row.position, row.token, seqs));
            self.evaluated += 1;
            let seen = self.of(row.seq);
            assert!(row.also.iter().all(|other| self.of(*other) == seen), "sequences of one row hold different tokens");
            assert!(seen.keys().copied().eq(0..=row.position), "positions are not consecutive: {:?}", seen.keys());
            self.logits.push(if row.logits { logits_of(seen.into_values()) } else { Vec::new() });
        }
        Ok(())
    }

    fn logits(&self, row: usize) -> &[f32] {
        &self.logits[row]
    }

    fn save(&mut self, seq: Seq) -> Result<(Self::State, usize), LlmError> {
        let state: Vec<_> = self.of(seq).into_iter().collect();
        let bytes = state.len() * 10;
        Ok((state, bytes))
    }

    fn restore(&mut self, state: &Self::State, seq: Seq) -> Result<(), LlmError> {
        if self.full {
            return Err(LlmError::Crashed("as told".into()));
        }
        assert!(self.of(seq).is_empty());
        self.cells.extend(state.iter().map(|(position, token)| (*position, *token, BTreeSet::from([seq]))));
        assert!(self.cells.len() <= self.capacity);
        Ok(())
    }

    fn clear(&mut self) {
        self.cells.clear();
    }
}

/// Ends at token 0; fails at token `trips`.
struct Likeliest {
    trips: Token,
}

impl Pick for Likeliest {
    fn next(&mut self, logits: &[f32]) -> Result<Next, LlmError> {
        let best = (0..VOCABULARY).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        match Token::try_from(best).unwrap() {
            0 => Ok(Next::End),
            t if t == self.trips => Err(LlmError::Invalid("tripped".into())),
            t => Ok(Next::Token(t)),
        }
    }
}

#[derive(Debug, Clone)]
enum Asked {
    Score(Vec<Vec<Token>>),
    Generate(usize, Token),
}

impl Asked {
    fn work(&self) -> Work<Likeliest> {
        match self {
            Self::Score(options) => Work::Score(options.clone()),
            Self::Generate(most, trips) => Work::Generate(*most, Likeliest { trips: *trips }),
        }
    }

    /// What one request alone gets.
    fn alone(&self, tokens: &[Token], limit: usize) -> Result<Outcome, LlmError> {
        match self {
            Self::Score(options) => Ok(Outcome::Scores(options.iter().map(|option| mean(tokens.to_vec(), option)).collect())),
            Self::Generate(most, trips) => {
                let (mut seen, mut made, mut pick) = (tokens.to_vec(), Vec::new(), Likeliest { trips: *trips });
                while made.len() < (*most).min((limit - tokens.len()).max(1)) {
                    match pick.next(&logits_of(seen.iter().copied()))? {
                        Next::Token(t) => made.push(t),
                        end => return Ok(Outcome::Tokens(made, end == Next::End)),
                    }
                    seen.extend(made.last());
                }
                Ok(Outcome::Tokens(made, false))
            }
        }
    }
}

fn mean(mut seen: Vec<Token>, option: &[Token]) -> f64 {
    let mut sum = 0.0;
    for token in option {
        sum += log_softmax(&logits_of(seen.iter().copied()), &[*token])[0];
        seen.push(*token);
    }
    sum / option.len() as f64
}

/// Prompts cut from few stems, so that they have much in common.
fn asked() -> impl Strategy<Value = (Vec<Token>, usize, Asked)> {
    let token = 1..VOCABULARY as Token;
    let stem = |stem: i32, cut: usize| (0..40).map(move |i| 1 + (i * 7 + stem * (i / 10)) % 15).take(cut);
    let prompt = (0..3_i32, 1..40_usize, prop::collection::vec(token.clone(), 1..8));
    let trips = prop::option::weighted(0.2, token.clone());
    let work = prop_oneof![
        (1..12_usize, trips).prop_map(|(most, trips)| Asked::Generate(most, trips.unwrap_or(-1))),
        prop::collection::vec(prop::collection::vec(token, 1..5), 2..6).prop_map(Asked::Score),
    ];
    (prompt, work).prop_map(move |((number, cut, own), work)| (stem(number, cut).chain(own).collect(), cut, work))
}

type Engine = Batched<Fake, Likeliest>;

fn engine(cells: usize, sharing: Sharing, host_bytes: usize) -> Engine {
    Batched::new(Fake::new(cells), Sizes { cells, limit: cells, batch: 32, queue: 20_000, host_bytes, idle: cells }, sharing)
}

fn request(id: u64, tokens: Vec<Token>, shared: usize, work: Work<Likeliest>) -> Request<Likeliest> {
    Request { id, since: Instant::now(), incident: (id % 3).to_string(), tokens, shared, work }
}

/// Runs to the end, checks that nothing is left behind, and returns the ends by number.
fn drain(engine: &mut Engine) -> BTreeMap<u64, Done> {
    let mut all = BTreeMap::new();
    for _ in 0..200_000 {
        for done in engine.step(&mut |_| {}) {
            assert!(all.insert(done.id, done).is_none());
        }
        if engine.idle() {
            nothing_left(engine);
            return all;
        }
    }
    panic!("the engine does not come to an end");
}

fn nothing_left(engine: &Engine) {
    assert_eq!((engine.reserved, engine.tree.locks(), engine.running.len()), (0, 0, 0));
    assert_eq!(engine.free.len() + engine.tree.resident(), sequences(engine.sharing));
    assert_eq!(engine.free.iter().collect::<BTreeSet<_>>().len(), engine.free.len());
    assert_eq!(engine.backend.cells.len(), engine.tree.resident_tokens());
    assert_eq!(engine.host.values().map(|(_, bytes)| bytes).sum::<usize>(), engine.host_bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn answers_are_those_of_each_request_alone(
        requests in prop::collection::vec(asked(), 1..30),
        cells in 80..400_usize,
        way in prop_oneof![Just(Sharing::Any), Just(Sharing::Whole), Just(Sharing::None)],
        host in prop_oneof![Just(0), Just(300_usize), Just(5_000)],
        idle in prop_oneof![Just(0), Just(40_usize), Just(400)],
        cancelled in prop::collection::btree_set(0..30_u64, 0..6),
        steps in 0..6_usize,
    ) {
        let mut engine = engine(cells, way, host);
        engine.sizes.idle = idle;
        for (id, (tokens, shared, work)) in (0..).zip(&requests) {
            engine.submit(request(id, tokens.clone(), *shared, work.work()));
        }
        let mut all = BTreeMap::new();
        for _ in 0..steps {
            all.extend(engine.step(&mut |_| {}).into_iter().map(|d| (d.id, d)));
        }
        for id in &cancelled {
            engine.cancel(*id);
        }
        all.extend(drain(&mut engine));
        prop_assert_eq!(all.len(), requests.len());
        for (id, (tokens, _, work)) in (0..).zip(&requests) {
            let result = &all[&id].result;
            if *result == Err(LlmError::Invalid("cancelled".into())) {
                prop_assert!(cancelled.contains(&id));
            } else {
                prop_assert_eq!(result, &work.alone(tokens, cells), "request {}", id);
            }
        }
        engine.forget();
        prop_assert_eq!(engine.backend.cells.len(), 0);
    }
}

#[test]
fn ten_thousand_requests_leave_nothing_behind() {
    let mut engine = engine(600, Sharing::Any, 2_000);
    engine.backend.fail_at = 500;
    let (mut finished, mut failed, mut cancelled) = (0, 0, 0);
    for round in 0..100_i32 {
        for i in 0..100_i32 {
            let id = u64::try_from(round * 100 + i).unwrap();
            let tokens = (0..10 + i % 5).map(|p| 1 + p * (round % 4 + 1) % 15).chain([i % 15 + 1]).collect();
            let asked = if i % 3 == 0 { Asked::Score(vec![vec![1, 2], vec![3]]) } else { Asked::Generate(4, i % 7) };
            engine.submit(request(id, tokens, 10, asked.work()));
            if i % 10 == 9 {
                engine.cancel(id - 3);
            }
        }
        for done in drain(&mut engine).into_values() {
            match done.result {
                Ok(_) => finished += 1,
                Err(LlmError::Invalid(why)) if why == "cancelled" => cancelled += 1,
                Err(_) => failed += 1,
            }
        }
    }
    assert_eq!(finished + failed + cancelled, 10_000);
    assert!(finished > 5_000 && failed > 100 && cancelled == 1_000, "{finished} {failed} {cancelled}");
}

#[test]
fn what_prompts_have_in_common_is_evaluated_once() {
    let mut engine = engine(2_000, Sharing::Any, 0);
    for id in 0..20 {
        let own = [id % 15 + 1, 2, 3, 1 + id / 15];
        let tokens = (0..200).map(|i| 1 + i % 15).chain(own).collect();
        engine.submit(request(u64::try_from(id).unwrap(), tokens, 0, Asked::Score(vec![vec![1], vec![2]]).work()));
    }
    let all = drain(&mut engine);
    assert!(engine.backend.evaluated <= 200 + 20 * 4, "{} evaluated", engine.backend.evaluated);
    let billed: u64 = all.values().map(|d| d.usage.prompt_tokens).sum();
    assert_eq!(billed, engine.backend.evaluated);
    assert_eq!(engine.counts().waited, 19, "each that waits is counted once, however many steps it takes");
}

#[test]
fn what_options_begin_with_is_evaluated_once() {
    let options: Vec<Vec<Token>> = (1..7).map(|i| vec![1, 2, i, 3, 4]).chain([vec![1, 2], vec![5, 2, 1]]).collect();
    let ask = |sharing| {
        let mut engine = engine(600, sharing, 0);
        engine.submit(request(1, vec![1, 2, 3], 0, Asked::Score(options.clone()).work()));
        let done = drain(&mut engine).remove(&1).unwrap();
        assert_eq!(done.result, Asked::Score(options.clone()).alone(&[1, 2, 3], 600));
        assert_eq!(done.usage.prompt_tokens, engine.backend.evaluated);
        engine.backend.evaluated
    };
    // The prompt, the two tokens that seven have in common, two more of six each, and two of the last.
    assert_eq!(ask(Sharing::Any), 3 + 2 + 6 * 2 + 2);
    assert_eq!(ask(Sharing::None), 3 + 6 * 4 + 1 + 2);
}

#[test]
fn what_cannot_be_placed_is_refused_with_its_reason() {
    let sizes = Sizes { cells: 100, limit: 50, batch: 32, queue: 2, host_bytes: 0, idle: 100 };
    let mut engine = Batched::new(Fake::new(100), sizes, Sharing::Any);
    for (id, length) in [(1, 51), (2, 0), (3, 10), (4, 10), (5, 10)] {
        engine.submit(request(id, vec![1; length], 0, Asked::Generate(3, -1).work()));
    }
    let all = drain(&mut engine);
    assert!(matches!(all[&1].result, Err(LlmError::TooLong { limit: 50, .. })));
    assert!(matches!(all[&2].result, Err(LlmError::Invalid(_))));
    assert!(all[&3].result.is_ok() && all[&4].result.is_ok());
    assert_eq!(all[&5].result, Err(LlmError::Busy { waiting: 2 }));
}

#[test]
fn options_leave_room_for_answers_that_are_on_their_way() {
    let mut engine = engine(600, Sharing::Any, 0);
    let options: Vec<Vec<Token>> = (1..9).map(|i| vec![i, 2, 3, 4, 5]).collect();
    for id in 0..3 {
        engine.submit(request(id, vec![1 + id as Token, 2], 0, Asked::Score(options.clone()).work()));
        engine.submit(request(10 + id, vec![5 + id as Token, 3], 0, Asked::Generate(12, -1).work()));
    }
    // The backend refuses more than 32 rows; a group of these options has as many.
    let all = drain(&mut engine);
    assert!(all.values().all(|done| done.result.is_ok()));
}

#[test]
fn a_short_prompt_does_not_wait_for_the_long_ones_of_another_incident() {
    let mut engine = engine(2_000, Sharing::Any, 0);
    let ask = |id: u64, incident: &str, prompt: usize| {
        let tokens = vec![1 + id as Token; prompt];
        Request { incident: incident.to_owned(), ..request(id, tokens, 0, Asked::Score(vec![vec![1], vec![2]]).work()) }
    };
    (0..4).for_each(|id| engine.submit(ask(id, "loud", 320)));
    assert!(engine.step(&mut |_| {}).is_empty());
    engine.submit(ask(9, "quiet", 40));
    // In turn with the oldest, two batches of 32 rows hold its prompt and its options, though 1,248 tokens came before it.
    let soon: Vec<u64> = (0..4).flat_map(|_| engine.step(&mut |_| {})).map(|done| done.id).collect();
    assert_eq!(soon, [9]);
    assert_eq!(drain(&mut engine).len(), 4);
}

#[test]
fn options_go_with_the_end_of_their_prompt_where_they_fit() {
    let batches = |sharing: Sharing, prompt: usize, options: usize| {
        let mut engine = engine(600, sharing, 0);
        let options: Vec<Vec<Token>> = (0..options as Token).map(|i| vec![1 + i % 15, 2 + i % 13, 3]).collect();
        let work = Asked::Score(options);
        engine.submit(request(1, vec![1; prompt], 0, work.work()));
        let done = drain(&mut engine).remove(&1).unwrap();
        assert_eq!(done.result, work.alone(&vec![1; prompt], 600));
        assert_eq!(done.usage.prompt_tokens, engine.backend.evaluated);
        engine.backend.decodes
    };
    // 32 rows a batch, options of two rows each.
    assert_eq!(batches(Sharing::Any, 24, 4), 1);
    assert_eq!(batches(Sharing::Whole, 24, 4), 1);
    assert_eq!(batches(Sharing::Any, 24, 5), 2, "they do not fit");
    assert_eq!(batches(Sharing::Any, 32 + 10, 4), 2);
    assert_eq!(batches(Sharing::None, 24, 4), 2, "a state that runs cannot be in two");
    assert_eq!(batches(Sharing::Any, 4, 18), 3, "sixteen options at a time");
}

#[test]
fn options_that_cannot_be_taken_out_again_fail_all_and_leave_nothing() {
    let mut engine = engine(600, Sharing::Any, 0);
    let options = || Asked::Score(vec![vec![1, 2], vec![3, 4], vec![5, 6]]).work();
    engine.submit(request(1, vec![1, 2, 3], 0, options()));
    engine.submit(request(2, vec![7, 8, 9], 0, Asked::Generate(50, -1).work()));
    engine.backend.stuck = true;
    let failed = engine.step(&mut |_| {});
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(failed.iter().all(|done| done.result == Err(LlmError::Crashed("as told".into()))), "{failed:?}");
    engine.backend.stuck = false;
    nothing_left(&engine);
    engine.submit(request(3, vec![1, 2, 3], 0, options()));
    assert!(drain(&mut engine)[&3].result.is_ok());
}

#[test]
fn what_is_cancelled_has_cost_what_was_evaluated_of_it() {
    let mut engine = engine(600, Sharing::Any, 0);
    engine.submit(request(1, vec![1; 100], 0, Asked::Generate(5, -1).work()));
    engine.step(&mut |_| {});
    engine.cancel(1);
    let done = drain(&mut engine).remove(&1).unwrap();
    assert_eq!((done.usage.prompt_tokens, engine.backend.evaluated), (32, 32), "a batch of a hundred");
}

#[test]
fn time_in_the_queue_counts_from_when_a_request_was_asked() {
    // A step may last, and a request that comes meanwhile is taken in only when it is over.
    let earlier = Duration::from_secs(1_000);
    let since = Instant::now().checked_sub(earlier).unwrap();
    let mut engine = engine(600, Sharing::Any, 0);
    engine.submit(request(1, vec![1; 100], 0, Asked::Generate(5, -1).work()));
    engine.step(&mut |_| {});
    for (id, length) in [(2, 10), (3, 10), (4, 1_000)] {
        engine.submit(Request { since, ..request(id, vec![2; length], 0, Asked::Generate(2, -1).work()) });
    }
    engine.cancel(3);
    let all = drain(&mut engine);
    assert!(all[&1].queued < earlier, "{:?}", all[&1]);
    for (id, well) in [(2, true), (3, false), (4, false)] {
        let done = &all[&id];
        assert!(done.result.is_ok() == well && done.queued >= earlier && done.ran < earlier, "{done:?}");
    }
}

#[test]
fn the_longest_step_is_known_when_a_batch_was_half_full() {
    let mut engine = engine(600, Sharing::Any, 0);
    // 32 rows are a batch.
    for (id, length, known) in [(1, 15, false), (2, 16, true), (3, 1, true)] {
        let prompt = vec![Token::try_from(id).unwrap(); length];
        engine.submit(request(id, prompt, 0, Asked::Generate(3, -1).work()));
        drain(&mut engine);
        assert_eq!(engine.tried(), known, "{length}");
    }
}
