//! What runs cover: which of them may be ranked together, and which stand for one release.

use std::collections::BTreeSet;

use crate::evaluation::Score;
use crate::evaluation::measured::Figure;
use crate::evaluation::record::Run;

/// Runs over the same data sets. They are ranked by the figures that all of them have: a mean over others would say less
/// about the runs than about what was asked of them.
#[derive(Debug, PartialEq)]
pub(super) struct Group<'a> {
    /// Data sets with their halves or protocols.
    pub datasets: BTreeSet<&'a str>,
    /// Places of the runs.
    pub runs: Vec<usize>,
    /// Figures that all of them have.
    pub shared: BTreeSet<Figure<'a>>,
    /// Figures that only some of them have.
    pub partial: BTreeSet<Figure<'a>>,
}

/// What stands in one column: a run, or the runs of one release.
#[derive(Debug, PartialEq)]
pub(super) struct Column {
    /// The run's name, or the release with the names of its runs.
    pub name: String,
    /// Places of the runs.
    pub runs: Vec<usize>,
    /// All their scores.
    pub scores: Vec<Score>,
}

/// The figures that are averaged.
pub(super) fn averaged(scores: &[Score]) -> BTreeSet<Figure<'_>> {
    scores.iter().filter(|score| !score.aside).map(Score::figure).collect()
}

/// Groups the runs with these scores, in the order of the first of each group.
pub(super) fn groups(all: &[Vec<Score>]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (at, scores) in all.iter().enumerate() {
        let datasets: BTreeSet<&str> = scores.iter().map(|score| score.dataset.as_str()).collect();
        let figures = averaged(scores);
        match groups.iter_mut().find(|group| group.datasets == datasets) {
            Some(group) => {
                group.partial.extend(group.shared.symmetric_difference(&figures).copied().collect::<Vec<_>>());
                group.shared.retain(|figure| figures.contains(figure));
                group.runs.push(at);
            }
            None => groups.push(Group { datasets, runs: vec![at], shared: figures, partial: BTreeSet::new() }),
        }
    }
    groups
}

/// The columns in the order of their first runs. Runs of one release, with the same catalog, signals and model, make one column
/// where no two of them have the same figure: then nothing has to be chosen among them.
pub(super) fn columns(runs: &[(String, Run)], all: &[Vec<Score>]) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    let mut placed = BTreeSet::new();
    for at in 0..runs.len() {
        if placed.contains(&at) {
            continue;
        }
        let release: Vec<usize> = (0..runs.len()).filter(|other| same_release(&runs[at].1, &runs[*other].1)).collect();
        let members = if apart(&release, runs, all) { release } else { vec![at] };
        placed.extend(members.iter().copied());
        let names: Vec<&str> = members.iter().map(|i| runs[*i].0.as_str()).collect();
        let name = match names.as_slice() {
            [one] => (*one).to_owned(),
            several => format!("Galen {}: {}", release_of(&runs[at].1, runs), several.join(", ")),
        };
        let scores = members.iter().flat_map(|i| all[*i].clone()).collect();
        columns.push(Column { name, runs: members, scores });
    }
    columns
}

/// The version of a run, with the sources where another run of this version has others.
fn release_of(run: &Run, runs: &[(String, Run)]) -> String {
    let pins = &run.header.pins;
    let other = |(_, other): &(String, Run)| {
        let other = &other.header.pins;
        other.galen_version == pins.galen_version && other.sources != pins.sources
    };
    if runs.iter().any(other) { format!("{} ({})", pins.galen_version, pins.sources) } else { pins.galen_version.clone() }
}

fn same_release(one: &Run, other: &Run) -> bool {
    let of = |run: &Run| {
        let pins = run.header.pins.clone();
        (pins.galen_version, pins.sources, pins.catalog_sha256, pins.signals_sha256)
    };
    of(one) == of(other)
}

/// True where no two of the runs have the same figure, and those that diagnosed cases did so with one model or all without.
fn apart(members: &[usize], runs: &[(String, Run)], all: &[Vec<Score>]) -> bool {
    let mut seen = BTreeSet::new();
    let models: BTreeSet<Option<&str>> = members
        .iter()
        .map(|i| &runs[*i].1)
        .filter(|run| !run.cases.is_empty())
        .map(|run| run.header.pins.model.as_ref().map(|model| model.sha256.as_str()))
        .collect();
    models.len() < 2 && members.iter().flat_map(|i| &all[*i]).all(|score| seen.insert(score.figure()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::Capability;
    use crate::evaluation::record::ModelPin;
    use crate::evaluation::score::scores;
    use crate::evaluation::score_fixture::{case, run};

    fn own() -> Run {
        run(vec![case("a", &["missing_index"], &["missing_index"])])
    }

    fn public(task: &str, dataset: &str) -> Run {
        let line = Figure { capability: Capability::RootCause, task, dataset }.of_case("x", "1", [1.0, 0.5]);
        Run { measured: vec![line], ..Run::default() }
    }

    fn named(runs: Vec<Run>) -> (Vec<(String, Run)>, Vec<Vec<Score>>) {
        let all = runs.iter().map(scores).collect();
        (runs.into_iter().enumerate().map(|(i, run)| (format!("r{i}"), run)).collect(), all)
    }

    fn names(runs: Vec<Run>) -> Vec<String> {
        let (runs, all) = named(runs);
        columns(&runs, &all).into_iter().map(|column| column.name).collect()
    }

    #[test]
    fn runs_of_one_release_make_a_column_only_where_they_share_no_figure() {
        let (one, two) = (public("top1", "d/test"), public("own_rules", "rds"));
        assert_eq!(names(vec![own(), one.clone(), two.clone()]), ["Galen : r0, r1, r2"]);
        // Two runs of the same suite: none of them is the release's.
        assert_eq!(names(vec![own(), own(), one.clone()]), ["r0", "r1", "r2"]);
        let mut next = two.clone();
        next.header.pins.galen_version = "2".into();
        assert_eq!(names(vec![own(), next.clone(), one.clone()]), ["Galen : r0, r2", "r1"]);
        next = two;
        next.header.pins.catalog_sha256 = "other".into();
        assert_eq!(names(vec![own(), next]), ["r0", "r1"]);
        // The same suite in two halves, one of them with a model.
        let mut half = own();
        half.header.pins.half = "test".into();
        assert_eq!(names(vec![own(), half.clone()]), ["Galen : r0, r1"]);
        half.header.pins.model = Some(ModelPin { name: "m".into(), sha256: "s".into() });
        assert_eq!(names(vec![own(), half]), ["r0", "r1"]);
    }

    #[test]
    fn what_covers_the_same_data_sets_is_ranked_by_what_all_have() {
        let mut silent = own();
        silent.cases[0].named.clear();
        let (_, all) = named(vec![own(), public("top1", "d/test"), silent]);
        let told = groups(&all);
        assert_eq!(told.iter().map(|g| g.runs.clone()).collect::<Vec<_>>(), [vec![0, 2], vec![1]]);
        assert_eq!(told[0].datasets.iter().copied().collect::<Vec<_>>(), ["shop/all"]);
        // A run that names nothing has no probability to be judged by.
        assert_eq!(told[0].partial.iter().map(|f| f.task).collect::<Vec<_>>(), ["brier"]);
        assert!(told[0].shared.iter().all(|f| f.task != "brier") && told[0].shared.len() > 5);
        assert_eq!((told[1].shared.len(), told[1].partial.len()), (1, 0));
    }
}
