//! The hierarchy of capability, task and data set as rows of a table, with a cell for each column.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::coverage::{Column, averaged};
use crate::evaluation::measured::Figure;
use crate::evaluation::score::{Level, hierarchy};
use crate::evaluation::{Capability, Score};

/// All rows: the whole, then each capability with its tasks, and each task with its data sets.
pub(super) fn rows(columns: &[Column], trees: &[Level], against: Option<&[Score]>) -> Vec<Value> {
    let figures: BTreeSet<Figure<'_>> = columns.iter().flat_map(|column| &column.scores).map(Score::figure).collect();
    let mut rows = vec![above("all", "all", trees.iter().map(Some).collect())];
    rows.extend(shared(columns, against));
    let mut last: (Option<Capability>, &str) = (None, "");
    for figure in figures {
        let capability = || trees.iter().map(|tree| part(tree, figure.capability.word()));
        if last.0 != Some(figure.capability) {
            rows.push(above("capability", &figure.capability.word().replace('_', " "), capability().collect()));
        }
        if last != (Some(figure.capability), figure.task) {
            rows.push(above("task", figure.task, capability().map(|level| part(level?, figure.task)).collect()));
        }
        last = (Some(figure.capability), figure.task);
        rows.push(below(figure, columns));
    }
    rows
}

fn part<'a>(level: &'a Level, name: &str) -> Option<&'a Level> {
    level.parts.iter().find(|part| part.name == name)
}

/// Names of the data sets of a level's tasks, each with its task.
fn leaves(level: &Level, path: &str, found: &mut BTreeSet<String>) {
    if level.parts.is_empty() {
        found.insert(path.to_owned());
    }
    for part in &level.parts {
        leaves(part, &format!("{path}\n{}", part.name), found);
    }
}

/// A row above the data sets: each cell has the mean gain, and of how many of the figures in this row it is one.
fn above(kind: &str, name: &str, levels: Vec<Option<&Level>>) -> Value {
    let of = |level: &Level| {
        let mut found = BTreeSet::new();
        leaves(level, "", &mut found);
        found
    };
    let levels: Vec<Option<&Level>> = levels.into_iter().map(|level| level.filter(|level| !level.parts.is_empty())).collect();
    let sets: Vec<BTreeSet<String>> = levels.iter().map(|level| level.map(of).unwrap_or_default()).collect();
    let all = sets.iter().fold(BTreeSet::new(), |all, set| &all | set).len();
    let cell = |(level, set): (&Option<&Level>, &BTreeSet<String>)| {
        level.map(|level| json!({"gain": level.gain, "figures": set.len(), "of": all}))
    };
    json!({"kind": kind, "name": name, "cells": levels.iter().zip(&sets).map(cell).collect::<Vec<_>>()})
}

/// The whole over the figures that every column has, where the columns do not have the same.
fn shared(columns: &[Column], against: Option<&[Score]>) -> Option<Value> {
    let mut sets = columns.iter().map(|column| averaged(&column.scores));
    let first = sets.next()?;
    let rest: Vec<_> = sets.collect();
    let common = rest.iter().fold(first.clone(), |common, set| &common & set);
    if common.is_empty() || (first == common && rest.iter().all(|set| *set == common)) {
        return None;
    }
    let of = |column: &Column| hierarchy(&only(&column.scores, &common), against);
    let levels: Vec<Level> = columns.iter().map(of).collect();
    Some(above("all", &format!("all, over the {} figures that every column has", common.len()), levels.iter().map(Some).collect()))
}

/// The scores of some figures.
pub(super) fn only(scores: &[Score], figures: &BTreeSet<Figure<'_>>) -> Vec<Score> {
    scores.iter().filter(|score| figures.contains(&score.figure())).cloned().collect()
}

fn below(figure: Figure<'_>, columns: &[Column]) -> Value {
    let cell = |column: &Column| {
        let score = column.scores.iter().find(|score| score.figure() == figure)?;
        Some(json!({"value": score.value, "baseline": score.baseline, "placebo": score.placebo, "cases": score.cases}))
    };
    let aside = columns.iter().flat_map(|column| &column.scores).any(|score| score.aside && score.figure() == figure);
    let cells: Vec<Option<Value>> = columns.iter().map(cell).collect();
    json!({"kind": "dataset", "name": figure.dataset, "aside": aside, "cells": cells})
}
