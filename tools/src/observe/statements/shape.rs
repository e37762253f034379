//! The shape of the statements that carry load.

use crate::observe::facts::{FactSheet, text_of, window, work};
use crate::observe::{Observation, Scene};

use super::{Loaded, loaded};

/// A statement below this share of the load is not worth a look.
const WORTH: f64 = 0.02;

/// `statement_shape`.
pub fn statement_shape(scene: &Scene<'_>) -> Observation {
    let capture = scene.capture;
    let mut sheet = FactSheet::new("statement_shape", scene);
    sheet.signals(&["active_sessions"]);
    let statements: Vec<Loaded> = loaded(capture, window(scene)).into_iter().filter(|s| s.share >= WORTH).collect();
    if statements.is_empty() {
        return sheet.finish("no statement text was seen");
    }
    sheet.put("statements", statements.len());
    // What cannot be parsed has no visible shape: where that is much, a quiet picture proves little.
    sheet.put("unread_share", statements.iter().filter(|s| !s.features.parsed).map(|s| s.share).sum::<f64>());
    let correlated = statements.iter().find(|s| s.features.correlated);
    sheet.put("correlated", correlated.is_some());
    if let Some(s) = correlated {
        sheet.statement("correlated_", s.id).put("correlated_share", s.share);
        sheet.put("correlated_all_share", statements.iter().filter(|s| s.features.correlated).map(|s| s.share).sum::<f64>());
    }
    let cartesian = statements.iter().find(|s| s.features.cartesian && s.share > 0.1);
    sheet.put("cartesian", cartesian.is_some());
    if let Some(s) = cartesian {
        sheet.statement("cartesian_", s.id);
    }
    if let Some(s) = statements.iter().find(|s| s.features.unequal && s.features.verb == "select" && s.share > 0.1) {
        sheet.statement("unequal_", s.id).put("unequal_share", s.share);
        sheet.put("unequal_mean_ms", work(capture, Some(window(scene))).get(&s.id).and_then(|w| w.per_call(w.exec_ms)));
    }
    let most = statements.iter().filter(|s| s.share > 0.1).max_by_key(|s| s.features.joins);
    sheet.put("max_joins", most.map_or(0, |s| s.features.joins));
    if let Some(s) = most.filter(|s| s.features.joins > 0) {
        sheet.put("joins_query_id", s.id.to_string()).put("joins_text", text_of(capture, s.id)).put("joins_share", s.share);
        sheet.put("joins_calls", work(capture, Some(window(scene))).get(&s.id).map(|w| w.calls));
        if s.features.joins >= 3 {
            sheet.culprit(crate::model::CulpritKind::Query, s.id, &text_of(capture, s.id).unwrap_or_default());
        }
    }
    many_joins(scene, &mut sheet, &statements);
    let unlimited =
        statements.iter().find(|s| s.features.verb == "select" && !s.features.has_limit && !s.features.aggregates && !s.features.has_where);
    sheet.put("unlimited", unlimited.is_some()).put("unlimited_query_id", unlimited.map(|s| s.id.to_string()));
    let aggregates =
        statements.iter().any(|s| s.features.verb == "select" && s.features.aggregates && s.features.joins < 3 && s.share > 0.3);
    sheet.put("aggregates_all", aggregates);
    creations(scene, &mut sheet);
    sheet.finish("")
}

/// All statements that join four tables or more: how many, their share of the load, and what a call takes.
fn many_joins(scene: &Scene<'_>, sheet: &mut FactSheet<'_>, statements: &[Loaded]) {
    let many: Vec<&Loaded> = statements.iter().filter(|s| s.features.joins >= 3).collect();
    sheet.put("many_joins", many.len()).put("many_joins_share", many.iter().map(|s| s.share).sum::<f64>());
    let work = work(scene.capture, Some(window(scene)));
    let done: Vec<_> = many.iter().filter_map(|s| work.get(&s.id)).filter(|w| w.exec_ms > 0.0).collect();
    let calls: f64 = done.iter().map(|w| w.calls).sum();
    sheet.put("many_joins_mean_ms", (calls > 0.0).then(|| done.iter().map(|w| w.exec_ms).sum::<f64>() / calls));
}

/// CREATE INDEX statements of the window or the imported workload, by table.
fn creations(scene: &Scene<'_>, sheet: &mut FactSheet<'_>) {
    let made: Vec<(String, String)> =
        scene.capture.texts.values().filter_map(|t| crate::sql::features(t)?.creates_index).map(|(name, table, _)| (table, name)).collect();
    let mut tables: std::collections::BTreeMap<String, f64> = std::collections::BTreeMap::new();
    for (table, _) in &made {
        *tables.entry(table.clone()).or_insert(0.0) += 1.0;
    }
    if let Some((table, count)) = crate::observe::facts::largest(&tables) {
        sheet.put("index_creations", count).put("index_creation_table", table);
    } else {
        sheet.put("index_creations", 0usize);
    }
}
