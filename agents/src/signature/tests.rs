//! Signatures on made incidents: they are told apart, with noise, missing signals and two causes at once, and strangers stay strangers.

use galen_knowledge::condition::Facts;

use super::*;

/// Deterministic noise in -1..1.
fn noise(seed: u64) -> f64 {
    let mixed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// Effects of class `class` (0..6): five signals of its own move, ten common ones a little; `loud` scales the noise.
fn incident(class: usize, seed: u64, loud: f64) -> Moved {
    let whole: Effects = (0..40)
        .map(|i| {
            let own = i / 5 == class;
            let level = if own {
                0.9
            } else if i >= 30 {
                0.3
            } else {
                0.0
            };
            let value: f64 = level + loud * noise(seed * 1_000 + i as u64 + class as u64 * 77);
            (format!("s{i}"), value.clamp(-1.0, 1.0))
        })
        .collect();
    Moved { onset: whole.clone(), whole }
}

fn cases(k: u64) -> Vec<Case> {
    let of = |class: usize, seed| Case { class: format!("Class {class}"), causes: Vec::new(), moved: incident(class, seed, 0.25) };
    (0..5).flat_map(|class| (0..k).map(move |seed| of(class, seed + 1))).collect()
}

fn best(learnt: &Signatures, found: &Match) -> String {
    learnt.class[found.ranking()[0]].name.clone()
}

#[test]
fn unseen_incidents_find_their_class_through_noise() {
    let learnt = learn_from(&cases(5), "made");
    for class in 0..5 {
        for seed in 50..70 {
            let found = learnt.explain(&incident(class, seed, 0.4).whole, false).unwrap();
            assert_eq!(best(&learnt, &found), format!("Class {class}"), "seed {seed}: {:?}", found.shares);
            assert!((found.shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        }
    }
    assert!(
        learnt.class.iter().all(|c| c.ratio[0] > 5.0 && c.ratio[1] < 0.3),
        "{:?}",
        learnt.class.iter().map(|c| c.ratio).collect::<Vec<_>>()
    );
}

#[test]
fn a_stranger_is_novel_and_the_known_are_not() {
    let learnt = learn_from(&cases(5), "made");
    let novel = |class: usize, seed| learnt.explain(&incident(class, seed, 0.25).whole, false).unwrap().novel;
    let wrong = (100..120).filter(|seed| novel(5, *seed)).count();
    assert!(wrong >= 18, "{wrong} of 20 strangers noticed");
    let alarms = (0..5).flat_map(|c| (100..110).map(move |s| (c, s))).filter(|(c, s)| novel(*c, *s)).count();
    assert!(alarms <= 8, "{alarms} of 50 known incidents called strange");
}

#[test]
fn two_causes_at_once_are_both_found_and_missing_signals_are_not_zeros() {
    let learnt = learn_from(&cases(5), "made");
    let (a, b) = (incident(1, 7, 0.25).whole, incident(3, 8, 0.25).whole);
    let both: Effects = a.iter().map(|(n, v)| (n.clone(), if v.abs() > b[n].abs() { *v } else { b[n] })).collect();
    let mut two: Vec<usize> = learnt.explain(&both, false).unwrap().ranking()[..2].to_vec();
    two.sort_unstable();
    assert_eq!(two, [1, 3]);
    let part: Effects = a.iter().enumerate().filter(|(i, _)| i % 2 == 0).map(|(_, (n, v))| (n.clone(), *v)).collect();
    let found = learnt.explain(&part, false).unwrap();
    assert_eq!((best(&learnt, &found), found.signals), ("Class 1".into(), 20));
    assert_eq!(learnt.explain(&part.into_iter().take(4).collect(), false), None, "four signals prove nothing");
    assert_eq!(Signatures::default().explain(&both, false), None);
}

#[test]
fn the_file_comes_back_the_same_and_a_bad_one_is_refused() {
    let learnt = learn_from(&cases(3), "made/learn");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.toml");
    std::fs::write(&path, learnt.to_toml().unwrap()).unwrap();
    assert_eq!(Signatures::load(&path).unwrap(), learnt);
    assert_eq!(learn_from(&cases(3), "made/learn").to_toml(), learnt.to_toml());
    for (from, to) in [
        ("format = 1", "format = 9"),
        ("novel_above = ", "novel_above = 7"),
        ("name = \"Class 1\"", "name = \"Class 0\""),
        ("format = 1", "x = 1"),
    ] {
        std::fs::write(&path, learnt.to_toml().unwrap().replacen(from, to, 1)).unwrap();
        let error = Signatures::load(&path).unwrap_err();
        assert!(error.starts_with(&path.display().to_string()) && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn a_class_gives_its_cause_a_test_and_a_strange_class_becomes_a_cause() {
    let mut learnt = learn_from(&cases(3), "made");
    learnt.class[0].causes = vec!["missing_index".into()];
    learnt.class[1].name = "Ours: {{ evil }} %}".into();
    let mut catalog = galen_knowledge::catalog::Catalog::builtin().unwrap();
    let before = catalog.get("missing_index").unwrap().test.len();
    let prior = catalog.get("missing_index").unwrap().prior;
    extend(&mut catalog, &learnt);
    assert_eq!(catalog.get("missing_index").unwrap().test.len(), before + 1);
    // 3 of 15 labelled cases here, and a prior of the catalog that weighs as much as 20 more.
    assert!((catalog.get("missing_index").unwrap().prior - (3.0 + 20.0 * prior) / 35.0).abs() < 1e-9);
    let ours = catalog.get("ours_evil").unwrap();
    let facts: Facts = [("share_ours_evil".to_owned(), 0.8.into()), ("novel".to_owned(), false.into())].into();
    assert_eq!(catalog.prepared().holds(&ours.test[0].supports, &facts), Some(true));
    let said = catalog.prepared().sentences().render(&ours.test[0].says, &facts).unwrap();
    assert_eq!(said, "The signals move as in 3 learnt cases of Ours: evil: 80 % of the explanation.");
    let strange: Facts = [("share_ours_evil".to_owned(), 0.8.into()), ("novel".to_owned(), true.into())].into();
    assert_eq!(catalog.prepared().holds(&ours.test[0].supports, &strange), Some(false), "a stranger is not forced into a class");
}

#[test]
fn a_class_of_one_case_leans_on_the_others() {
    let mut few = cases(5);
    let mut taken = 0;
    few.retain(|c| {
        taken += usize::from(c.class == "Class 2");
        c.class != "Class 2" || taken == 1
    });
    let learnt = learn_from(&few, "made");
    let lonely = learnt.class.iter().find(|c| c.name == "Class 2").unwrap();
    assert_eq!(lonely.cases, 1);
    assert!(lonely.ratio[0] > 5.0 && lonely.ratio[1] < 0.3, "{:?}", lonely.ratio);
}
