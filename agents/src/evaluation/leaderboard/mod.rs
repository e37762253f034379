//! The leaderboard: runs side by side as one page, no script, nothing from outside.

mod coverage;
mod details;
mod table;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde_json::{Value, json};

use coverage::{Column, Group};

use super::calibration::calibration;
use super::record::Run;
use super::score::{Level, hierarchy, scores};
use super::tasks::TASKS;
use super::{Score, dbot, dbsherlock, plots, rds};

const PAGE: &str = include_str!("../../../templates/leaderboard.html");

/// Renders the page. `runs` are names and runs; with `reference` the run at that index, and what stands in its column, takes the
/// place of the trivial methods as baseline.
///
/// # Errors
/// One line, when the template does not render.
pub fn render(runs: &[(String, Run)], reference: Option<usize>) -> Result<String, String> {
    let all: Vec<Vec<Score>> = runs.iter().map(|(_, run)| scores(run)).collect();
    let columns = coverage::columns(runs, &all);
    let reference = reference.and_then(|at| columns.iter().find(|column| column.runs.contains(&at)));
    let against = reference.map(|column| column.scores.as_slice());
    let trees: Vec<Level> = columns.iter().map(|column| hierarchy(&column.scores, against)).collect();
    let capabilities = names(&trees);
    let groups = coverage::groups(&all);
    let board = Board { runs, all: &all, against, capabilities: &capabilities, columns: &columns };
    let colour = |at: usize| board.colour(at);
    let reliability: Vec<_> = (0..runs.len()).map(|i| (colour(i), calibration(&runs[i].1))).filter(|(_, told)| told.cases > 0).collect();
    let cost: Vec<_> = (0..runs.len()).filter_map(|i| Some((colour(i), details::cost(&runs[i].1)?))).collect();
    let drawn = |any: bool, plot: &dyn Fn() -> String| any.then(plot);
    let context = json!({
        "groups": groups.iter().map(|group| board.group(group)).collect::<Vec<_>>(),
        "capabilities": capabilities,
        "reference": reference.map(|column| &column.name),
        "bars": plots::bars("Gain over the baseline by capability", &bars(&capabilities, &trees)),
        "reliability": drawn(!reliability.is_empty(), &|| plots::reliability("Reliability of the first cause", &reliability)),
        "cost": drawn(!cost.is_empty(), &|| plots::cost("Accuracy over time", &cost)),
        "columns": columns.iter().enumerate().map(|(i, column)| json!({"name": column.name, "colour": hex(i)})).collect::<Vec<_>>(),
        "levels": table::rows(&columns, &trees, against),
        "about": about(),
        "runs": runs.iter().enumerate().map(|(i, (name, run))| details::details(name, &hex(colour(i)), run)).collect::<Vec<_>>(),
    });
    let mut env = Environment::new();
    env.set_auto_escape_callback(|_| AutoEscape::Html);
    env.add_filter("fixed", |value: f64, digits: usize| format!("{value:.digits$}"));
    let page = env.template_from_str(PAGE).and_then(|t| t.render(Serde(&context)));
    page.map_err(|e| format!("the leaderboard does not render: {e}"))
}

/// What the tasks measure: those of suites, and those of each public benchmark.
fn about() -> Vec<Value> {
    let own = TASKS.iter().map(|t| (t.name.to_owned(), t.about));
    let dbsherlock = dbsherlock::HOW.iter().map(|(task, how)| (format!("dbsherlock: {task}"), *how));
    let others = [("dbot: dbot_accuracy_single, dbot_accuracy_multi".to_owned(), dbot::ABOUT), ("rds: own_rules".to_owned(), rds::ABOUT)];
    own.chain(dbsherlock).chain(others).map(|(task, about)| json!({"task": task, "about": about})).collect()
}

/// What the rows of the first table are made from.
struct Board<'a> {
    runs: &'a [(String, Run)],
    all: &'a [Vec<Score>],
    against: Option<&'a [Score]>,
    capabilities: &'a [String],
    columns: &'a [Column],
}

impl Board<'_> {
    /// The colour of a run: that of its column.
    fn colour(&self, at: usize) -> usize {
        self.columns.iter().position(|column| column.runs.contains(&at)).unwrap_or(at)
    }

    /// Runs of the same data sets, the best first.
    fn group(&self, group: &Group<'_>) -> Value {
        let tree = |at: &usize| (*at, hierarchy(&table::only(&self.all[*at], &group.shared), self.against));
        let mut trees: Vec<(usize, Level)> = group.runs.iter().map(tree).collect();
        trees.sort_by(|a, b| b.1.gain.total_cmp(&a.1.gain));
        let partial = group.partial.iter().map(|figure| {
            let has = |at: &&usize| self.all[**at].iter().any(|score| score.figure() == *figure);
            let names: Vec<&str> = group.runs.iter().filter(has).map(|at| self.runs[*at].0.as_str()).collect();
            format!("{} of {} (only {})", figure.task, figure.dataset, names.join(", "))
        });
        json!({
            "datasets": group.datasets,
            "figures": group.shared.len(),
            "partial": partial.collect::<Vec<_>>(),
            "rows": trees.iter().map(|(at, tree)| self.row(*at, tree)).collect::<Vec<_>>(),
        })
    }

    fn row(&self, at: usize, tree: &Level) -> Value {
        let (name, run) = &self.runs[at];
        let (pins, cases) = (&run.header.pins, run.case_count());
        // What has nothing in common with the reference has no gain over it.
        let related = !tree.parts.is_empty();
        json!({
            "name": name,
            "colour": hex(self.colour(at)),
            "model": pins.model.as_ref().map_or("none", |m| m.name.as_str()),
            "half": pins.half,
            "cases": cases,
            "failed": run.failed.len(),
            "missing": run.header.cases.saturating_sub(cases + run.failed.len()),
            "gain": related.then_some(tree.gain),
            "ratio": tree.ratio,
            "parts": self.capabilities.iter().map(|c| find(tree, c).map(|p| json!({"gain": p.gain}))).collect::<Vec<_>>(),
        })
    }
}

/// Capabilities of all columns, in their order.
fn names(trees: &[Level]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for part in trees.iter().flat_map(|t| &t.parts) {
        if !names.contains(&part.name) {
            names.push(part.name.clone());
        }
    }
    names
}

fn find<'a>(tree: &'a Level, name: &str) -> Option<&'a Level> {
    tree.parts.iter().find(|p| p.name == name)
}

fn hex(index: usize) -> String {
    let (r, g, b) = plots::COLOURS[index % plots::COLOURS.len()];
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn bars(capabilities: &[String], trees: &[Level]) -> Vec<(String, Vec<Option<f64>>)> {
    let of = |c: &String| (c.replace('_', " "), trees.iter().map(|t| find(t, c).map(|p| p.gain)).collect());
    capabilities.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::Capability;
    use crate::evaluation::measured::Figure;
    use crate::evaluation::record::FailedCase;
    use crate::evaluation::score_fixture::{case, run};

    fn two() -> Vec<(String, Run)> {
        let good = run(vec![case("a", &["missing_index"], &["missing_index"]), case("b", &["healthy"], &["healthy"])]);
        let mut bad = run(vec![case("a", &["missing_index"], &["table_bloat"]), case("b", &["healthy"], &["deadlocks"])]);
        bad.failed.push(FailedCase { dataset: "d".into(), case: "<c>".into(), why: "cut off".into() });
        vec![("bad<script>".into(), bad), ("good".into(), good)]
    }

    #[test]
    fn the_better_run_stands_first_and_nothing_comes_from_outside() {
        let page = render(&two(), None).unwrap();
        let table = page.find("<tbody>").unwrap();
        assert!(page[table..].find("good").unwrap() < page[table..].find("bad&lt;script&gt;").unwrap());
        assert!(!page.contains("<script") && !page.contains("<link") && !page.contains("@import") && !page.contains("src="));
        assert_eq!(page.matches("http").count(), page.matches("http://www.w3.org").count());
        assert!(page.matches("<svg").count() >= 3 && page.contains("table_bloat") && page.contains("cut off"));
    }

    #[test]
    fn against_itself_a_reference_gains_nothing() {
        let page = render(&two(), Some(1)).unwrap();
        assert!(page.contains("relative to the run <b>good</b>"), "the reference is named");
        assert!(page.contains(">100<") || page.contains(">100 "), "{page}");
    }

    fn public(aside: bool) -> Run {
        let figure = Figure { capability: Capability::RootCause, task: "top1", dataset: "d/test" };
        let mut run = Run { measured: vec![figure.of_case("x", "1", [0.75, 0.5])], ..Run::default() };
        run.measured[0].placebo = Some(0.125);
        run.measured[0].aside = aside;
        run
    }

    /// The text of the page's table cells and rows, without markup.
    fn words(page: &str) -> String {
        let text: String = page.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)).collect::<Vec<_>>().join(" ");
        text.replace("&#x2f;", "/").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_public_run_stands_beside_an_own_one_with_what_it_covers() {
        let own = run(vec![case("a", &["missing_index"], &["missing_index"])]);
        let page = words(&render(&[("own".into(), own.clone()), ("d".into(), public(false))], None).unwrap());
        for part in [
            "Galen : own, d",
            "Covers shop/all (",
            "Covers d/test (1 figure)",
            "d/test 0.750 baseline 0.500, placebo 0.125, n 1",
            "root cause top1 d/test 1 0 0",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
        // Over another release they are two columns, and what a mean is over is said.
        let mut next = public(false);
        next.header.pins.galen_version = "2".into();
        let page = words(&render(&[("own".into(), own.clone()), ("d".into(), next)], None).unwrap());
        assert!(page.contains("1 of 10 figures, gain 50.0") && !page.contains("that every column has"), "{page}");
        // What stands aside is shown and enters no mean.
        let page = words(&render(&[("own".into(), own), ("d".into(), public(true))], None).unwrap());
        assert!(page.contains("d/test aside 0.750 baseline 0.500") && page.contains("Covers d/test (0 figures)"), "{page}");
    }

    #[test]
    fn what_has_nothing_in_common_with_the_reference_has_no_gain_over_it() {
        let mut own = run(vec![case("a", &["missing_index"], &["missing_index"])]);
        own.header.pins.galen_version = "1".into();
        let page = words(&render(&[("own".into(), own), ("d".into(), public(false))], Some(0)).unwrap());
        assert!(page.contains("Covers d/test (1 figure) 1 d none 1 - -"), "{page}");
    }
}
