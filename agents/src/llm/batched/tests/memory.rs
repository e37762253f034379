//! Prefixes that leave the cache to host memory and come back.

use super::*;

/// Two tokens lists in a row, each long enough for memory: what many prompts begin with, and what few go on with.
fn path(stem: i32, branch: i32) -> Vec<Token> {
    let part = move |seed: i32| (0..40).map(move |i| 1 + (i * seed + seed) % 15);
    part(stem + 1).chain(part(branch + 8)).chain([1]).collect()
}

#[test]
fn evicted_prefixes_come_back_from_memory() {
    let mut engine = engine(260, Sharing::Any, 100_000);
    let ask = |engine: &mut Engine, stem: i32| {
        let tokens = (0..200).map(|i| 1 + (i * stem) % 15).chain([1]).collect();
        engine.submit(request(1, tokens, 200, Asked::Score(vec![vec![1], vec![2]]).work()));
        drain(engine).remove(&1).unwrap()
    };
    let first = ask(&mut engine, 1);
    ask(&mut engine, 2);
    let again = ask(&mut engine, 1);
    assert_eq!((first.usage.reused_tokens, again.usage.reused_tokens), (0, 200));
    assert_eq!(first.result.unwrap(), again.result.unwrap());
    assert!(engine.counts().restored >= 1);
}

#[test]
fn idle_prefixes_leave_the_cache_while_something_runs_and_come_back() {
    let mut engine = engine(2_000, Sharing::Any, 100_000);
    engine.sizes.idle = 150;
    let ask = |engine: &mut Engine, stem: i32| {
        let tokens = (0..100).map(|i| 1 + (i * stem) % 15).chain([1]).collect();
        engine.submit(request(1, tokens, 100, Asked::Score(vec![vec![1], vec![2]]).work()));
        drain(engine).remove(&1).unwrap()
    };
    let first = ask(&mut engine, 1);
    for stem in 2..8 {
        ask(&mut engine, stem);
    }
    // The last one, idle now, and what was idle beside it.
    assert!(engine.backend.cells.len() <= 150 + 101, "{} cells", engine.backend.cells.len());
    let again = ask(&mut engine, 1);
    assert_eq!((again.usage.reused_tokens, again.result), (100, first.result));
}

#[test]
fn what_shares_a_part_of_a_prefix_in_memory_shares_it_with_all() {
    let mut engine = engine(2_000, Sharing::Any, 100_000);
    engine.sizes.idle = 0;
    let ask = |engine: &mut Engine, id: u64, own: &[Token]| {
        let stem = (0..100).map(|i| 1 + i % 15);
        engine.submit(request(id, stem.chain(own.iter().copied()).collect(), 0, Asked::Score(vec![vec![1], vec![2]]).work()));
    };
    // Two prompts split after the stem, and the rest of the first lies in memory while the second runs.
    let (first, second): (Vec<Token>, Vec<Token>) = ((0..80).map(|i| 1 + i % 7).collect(), (0..80).map(|i| 9 + i % 5).collect());
    for (id, own) in [(1, &first), (2, &second)] {
        ask(&mut engine, id, own);
        drain(&mut engine);
    }
    assert!(engine.counts().saved >= 1);
    let before = engine.backend.evaluated;
    // Five more begin as the first one does, forty tokens further than the stem.
    for id in 0..5 {
        let own: Vec<Token> = first[..40].iter().copied().chain((0..30).map(|i| 8 + (i + Token::try_from(id).unwrap()) % 7)).collect();
        ask(&mut engine, 10 + id, &own);
    }
    drain(&mut engine);
    assert!(engine.backend.evaluated - before <= 5 * 30, "{} evaluated", engine.backend.evaluated - before);
}

#[test]
fn what_memory_cannot_take_stays_in_the_cache_and_short_beginnings_keep_what_is_below_them() {
    let mut engine = engine(2_000, Sharing::Any, 1_500);
    engine.sizes.idle = 0;
    let ask = |engine: &mut Engine, tokens: Vec<Token>| {
        engine.submit(request(1, tokens, 0, Asked::Score(vec![vec![1], vec![2]]).work()));
        drain(engine).remove(&1).unwrap().usage.reused_tokens
    };
    // A token is ten bytes in memory: 200 are too long. The first loses its place once, to find that out.
    let long = |stem: i32| (0..200).map(|i| 1 + (i * stem) % 15).collect::<Vec<Token>>();
    ask(&mut engine, long(1));
    ask(&mut engine, long(2));
    ask(&mut engine, long(4));
    assert_eq!((ask(&mut engine, long(2)), ask(&mut engine, long(4))), (199, 199));
    let short = |own: Token| [7; 20].into_iter().chain((0..60).map(|i| 1 + (i * own) % 15)).collect::<Vec<Token>>();
    let mut engine = self::engine(2_000, Sharing::Any, 100_000);
    engine.sizes.idle = 0;
    ask(&mut engine, short(1));
    ask(&mut engine, short(2));
    ask(&mut engine, vec![3; 50]);
    assert_eq!((ask(&mut engine, short(1)), ask(&mut engine, short(2))), (79, 79));
}

#[test]
fn a_request_that_must_wait_for_cells_moves_nothing_meanwhile() {
    let mut engine = engine(300, Sharing::Any, 100_000);
    engine.sizes.idle = 0;
    let prompt = |stem: i32, length: i32| (0..length).map(|i| 1 + (i * stem) % 15).collect::<Vec<Token>>();
    engine.submit(request(1, prompt(1, 100), 0, Asked::Score(vec![vec![1], vec![2]]).work()));
    drain(&mut engine);
    engine.submit(request(2, prompt(2, 150), 0, Asked::Generate(60, -1).work()));
    engine.step(&mut |_| {});
    engine.submit(request(3, prompt(1, 160), 0, Asked::Score(vec![vec![1], vec![2]]).work()));
    let all = drain(&mut engine);
    assert_eq!(all[&3].usage.reused_tokens, 100);
    assert!(engine.counts().restored <= 1, "{:?}", engine.counts());
}

#[test]
fn paths_that_are_pushed_out_of_memory_leak_no_sequence() {
    // Room for one path in the cache, and for two nodes and a half in memory.
    let mut engine = engine(140, Sharing::Any, 1_000);
    for i in 0..600_i32 {
        let (stem, branch) = (i * i % 5 % 3, i * 7 % 11 % 4);
        let work = Asked::Score(vec![vec![1], vec![2]]);
        engine.submit(request(1, path(stem, branch), 40, work.work()));
        let done = drain(&mut engine).remove(&1).unwrap();
        assert_eq!(done.result, work.alone(&path(stem, branch), 140));
    }
    let counts = engine.counts();
    assert!(counts.restored > 20 && counts.evicted > 100, "{counts:?}");
}

#[test]
fn a_request_whose_prefix_cannot_be_copied_in_is_answered() {
    let mut engine = engine(140, Sharing::Any, 100_000);
    let mut ask = |stem: i32, full: bool| {
        engine.backend.full = full;
        engine.submit(request(1, path(stem, stem), 40, Asked::Score(vec![vec![1], vec![2]]).work()));
        drain(&mut engine).remove(&1).unwrap().result
    };
    assert!(ask(1, false).is_ok() && ask(2, false).is_ok());
    assert_eq!(ask(1, true), Err(LlmError::Crashed("as told".into())));
    assert!(ask(1, false).is_ok());
}
