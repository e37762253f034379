//! The plots of the leaderboard, as SVG elements that read on light and dark ground.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::calibration::Calibration;

const QUIET: RGBColor = RGBColor(120, 128, 140);
/// Colours of runs, told apart by people with any colour vision (Okabe and Ito).
pub const COLOURS: [(u8, u8, u8); 6] = [(0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0)];

/// The colour of the run at an index.
pub fn colour(index: usize) -> RGBColor {
    let (r, g, b) = COLOURS[index % COLOURS.len()];
    RGBColor(r, g, b)
}

/// A bar chart: for each row one bar a run, from 0 to 100; values below 0 are drawn to the left.
pub fn bars(title: &str, rows: &[(String, Vec<Option<f64>>)]) -> String {
    let runs = rows.iter().map(|r| r.1.len()).max().unwrap_or(0).max(1) as i32;
    let (bar, gap) = (12, 10);
    let height = rows.len() as i32 * (runs * bar + gap) + 34;
    let (left, right) = (150, 660);
    let lowest = rows.iter().flat_map(|r| r.1.iter().flatten()).copied().fold(0.0f64, f64::min).max(-100.0);
    let x = |v: f64| left + ((v.clamp(-100.0, 100.0) - lowest) / (100.0 - lowest) * f64::from(right - left)).round() as i32;
    svg(title, (720, height.max(40) as u32), |root| {
        for tick in [-100.0, -50.0, 0.0, 50.0, 100.0].into_iter().filter(|t| *t >= lowest) {
            root.draw(&PathElement::new([(x(tick), 4), (x(tick), height - 24)], QUIET.mix(if tick == 0.0 { 0.8 } else { 0.25 })))?;
            root.draw(&Text::new(format!("{tick:.0}"), (x(tick), height - 20), small(HPos::Center, VPos::Top)))?;
        }
        for (i, (name, values)) in rows.iter().enumerate() {
            let top = 6 + i as i32 * (runs * bar + gap);
            root.draw(&Text::new(name.clone(), (left - 10, top + runs * bar / 2), small(HPos::Right, VPos::Center)))?;
            for (run, value) in values.iter().enumerate() {
                let y = top + run as i32 * bar;
                let Some(value) = value else { continue };
                let (from, to) = (x(0.0).min(x(*value)), x(0.0).max(x(*value)).max(x(0.0) + 1));
                root.draw(&Rectangle::new([(from, y), (to, y + bar - 2)], colour(run).filled()))?;
                root.draw(&Text::new(format!("{value:.0}"), (to + 4, y + bar / 2 - 1), small(HPos::Left, VPos::Center)))?;
            }
        }
        Ok(())
    })
}

/// Reliability diagram: share right over probability, one line a run in the colour of its index, with the diagonal of perfect
/// calibration.
pub fn reliability(title: &str, runs: &[(usize, Calibration)]) -> String {
    let (left, top, size) = (46, 10, 270);
    let at = |p: f64, share: f64| (left + (p * f64::from(size)).round() as i32, top + size - (share * f64::from(size)).round() as i32);
    svg(title, (340, 330), |root| {
        frame(root, at)?;
        root.draw(&PathElement::new([at(0.0, 0.0), at(1.0, 1.0)], QUIET.mix(0.7)))?;
        for (run, calibration) in runs {
            let points: Vec<(i32, i32)> = calibration.bins.iter().map(|b| at(b.probability, b.right)).collect();
            root.draw(&PathElement::new(points.clone(), colour(*run).stroke_width(2)))?;
            for (bin, point) in calibration.bins.iter().zip(points) {
                // The area of a dot goes with its cases.
                let radius = (2.0 + (bin.cases as f64).sqrt() * 1.5).min(12.0) as i32;
                root.draw(&Circle::new(point, radius, colour(*run).mix(0.6).filled()))?;
            }
        }
        root.draw(&Text::new("probability of the first cause", (left + size / 2, top + size + 24), small(HPos::Center, VPos::Top)))?;
        Ok(())
    })
}

/// Accuracy over milliseconds a case, on a logarithmic axis, one dot a run in the colour of its index.
pub fn cost(title: &str, runs: &[(usize, (f64, f64))]) -> String {
    let (left, top, size) = (46, 10, 270);
    let logs: Vec<f64> = runs.iter().map(|(_, (ms, _))| ms.max(0.01).log10()).collect();
    let low = logs.iter().copied().fold(f64::INFINITY, f64::min).floor().min(0.0);
    let high = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0);
    let at = |p: f64, share: f64| (left + (p * f64::from(size)).round() as i32, top + size - (share * f64::from(size)).round() as i32);
    let x = |log: f64| (log - low) / (high - low);
    svg(title, (380, 330), |root| {
        for decade in (low as i32)..=(high as i32) {
            let foot = at(x(f64::from(decade)), 0.0);
            root.draw(&PathElement::new([foot, at(x(f64::from(decade)), 1.0)], QUIET.mix(0.25)))?;
            root.draw(&Text::new(milliseconds(decade), (foot.0, foot.1 + 5), small(HPos::Center, VPos::Top)))?;
        }
        rows(root, at)?;
        for ((run, (_, accuracy)), log) in runs.iter().zip(&logs) {
            root.draw(&Circle::new(at(x(*log), *accuracy), 6, colour(*run).filled()))?;
        }
        root.draw(&Text::new("time a case (median)", (left + size / 2, top + size + 24), small(HPos::Center, VPos::Top)))?;
        Ok(())
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn frame(root: &Area<'_>, at: impl Fn(f64, f64) -> (i32, i32)) -> Drawn {
    for step in 0..=5 {
        let v = f64::from(step) / 5.0;
        root.draw(&PathElement::new([at(v, 0.0), at(v, 1.0)], QUIET.mix(0.25)))?;
        root.draw(&Text::new(format!("{v:.1}"), (at(v, 0.0).0, at(v, 0.0).1 + 5), small(HPos::Center, VPos::Top)))?;
    }
    rows(root, at)
}

fn rows(root: &Area<'_>, at: impl Fn(f64, f64) -> (i32, i32)) -> Drawn {
    for step in 0..=5 {
        let v = f64::from(step) / 5.0;
        root.draw(&PathElement::new([at(0.0, v), at(1.0, v)], QUIET.mix(if step == 0 { 0.8 } else { 0.25 })))?;
        root.draw(&Text::new(format!("{:.0} %", v * 100.0), (at(0.0, v).0 - 6, at(0.0, v).1), small(HPos::Right, VPos::Center)))?;
    }
    Ok(())
}

fn milliseconds(decade: i32) -> String {
    let ms = 10f64.powi(decade);
    if ms >= 1000.0 { format!("{:.0} s", ms / 1000.0) } else { format!("{ms} ms") }
}

fn small(h: HPos, v: VPos) -> TextStyle<'static> {
    ("sans-serif", 12).into_font().color(&QUIET).pos(Pos::new(h, v))
}

/// Draws into an SVG element with a label for screen readers; an empty text when it cannot be drawn.
fn svg(title: &str, size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Drawn) -> String {
    let mut out = String::new();
    let drawn = {
        let root = SVGBackend::with_string(&mut out, size).into_drawing_area();
        draw(&root).and_then(|()| root.present())
    };
    if let Err(error) = drawn {
        tracing::warn!(%error, title, "a plot could not be drawn");
        return String::new();
    }
    let label = title.replace(['"', '<', '>', '&'], " ");
    out.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{label}\" style=\"max-width:100%;height:auto\" "), 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::calibration::of_pairs;

    #[test]
    fn plots_are_elements_with_labels_that_cannot_break_out() {
        let rows = vec![("root cause".to_owned(), vec![Some(80.0), Some(-20.0), None])];
        let drawn = [
            bars("a\"><script>", &rows),
            reliability("r", &[(0, of_pairs(&[(0.9, 1.0), (0.2, 0.0)]))]),
            cost("c", &[(0, (1.5, 0.9)), (1, (30_000.0, 0.95))]),
        ];
        for svg in &drawn {
            assert!(svg.starts_with("<svg role=\"img\"") && svg.trim_end().ends_with("</svg>") && !svg.contains("<script"), "{svg}");
        }
        assert!(drawn[0].contains("root cause") && drawn[2].contains("100 s"));
    }
}
