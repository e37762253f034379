//! Charts as SVG: the signal, its baseline, and the anomalous window shaded.

use jiff::Timestamp;
use jiff::fmt::strtime;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Chart;

/// As wide as a column of the page, so that the labels are as large as its text.
const SIZE: (u32, u32) = (450, 170);
const LABEL: u32 = 12;
const LINE: RGBColor = RGBColor(37, 99, 235);
const SHADE: RGBColor = RGBColor(220, 38, 38);
const QUIET: RGBColor = RGBColor(120, 128, 140);

/// Draws a chart as a self-contained SVG element; an empty text where there is nothing to draw.
pub fn svg(chart: &Chart) -> String {
    let mut out = String::new();
    if draw(chart, &mut out).is_none() {
        return String::new();
    }
    // Scales with its column; the role and label are for screen readers.
    let label = super::markdown::plain(&chart.signal).replace('"', "'").replace('<', "(").replace('>', ")");
    out.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{label}\" style=\"max-width:100%;height:auto\" "), 1)
}

fn draw(chart: &Chart, out: &mut String) -> Option<()> {
    let (first, last) = (*chart.times.first()?, *chart.times.last()?);
    if last <= first {
        return None;
    }
    let top = chart.values.iter().copied().chain(chart.baseline).fold(0.0f64, f64::max);
    let top = if top > 0.0 { top * 1.08 } else { 1.0 };
    let root = SVGBackend::with_string(out, SIZE).into_drawing_area();
    let mut context = ChartBuilder::on(&root)
        .margin_top(8)
        .margin_right(12)
        .x_label_area_size(24)
        .y_label_area_size(72)
        .build_cartesian_2d(first..last, 0.0..top)
        .ok()?;
    let text = ("sans-serif", LABEL).into_font().color(&QUIET);
    context
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(QUIET.mix(0.25))
        .axis_style(QUIET.mix(0.6))
        .x_labels(4)
        .y_labels(4)
        .label_style(text)
        .x_label_formatter(&|t| clock(*t))
        .y_label_formatter(&|v| quantity(*v, &chart.unit))
        .draw()
        .ok()?;
    let shaded = chart.from < chart.to;
    if shaded {
        let window = [(chart.from.max(first), 0.0), (chart.to.min(last), top)];
        context.draw_series([Rectangle::new(window, SHADE.mix(0.12).filled())]).ok()?;
    }
    if let Some(baseline) = chart.baseline {
        context.draw_series(DashedLineSeries::new([(first, baseline), (last, baseline)], 5, 4, QUIET.stroke_width(1))).ok()?;
    }
    let points = chart.times.iter().copied().zip(chart.values.iter().copied());
    context.draw_series(LineSeries::new(points, LINE.stroke_width(2))).ok()?;
    if shaded {
        let style = ("sans-serif", LABEL).into_font().color(&SHADE).pos(Pos::new(HPos::Left, VPos::Top));
        context.draw_series([Text::new("anomaly", (chart.from.max(first), top), style)]).ok()?;
    }
    root.present().ok()?;
    drop(context);
    drop(root);
    Some(())
}

fn clock(at: i64) -> String {
    Timestamp::from_millisecond(at).ok().and_then(|t| strtime::format("%H:%M:%S", t).ok()).unwrap_or_default()
}

/// A value with its unit, for an axis.
pub fn quantity(value: f64, unit: &str) -> String {
    use galen_knowledge::template::{bytes, number};
    match unit {
        "bytes" => bytes(value),
        "bytes/s" => format!("{}/s", bytes(value)),
        "ratio" => format!("{} %", number(value * 100.0)),
        "1/s" => format!("{}/s", number(value)),
        "s" | "s/s" => format!("{} s", number(value)),
        _ => number(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_shades_the_window_and_needs_two_points() {
        let mut chart = Chart {
            signal: "x\"><script>".into(),
            unit: "bytes/s".into(),
            times: (0..60).map(|i| i * 1000).collect(),
            values: (0..60).map(|i| f64::from(i % 7) * 1e6).collect(),
            from: 30_000,
            to: 50_000,
            baseline: Some(2e6),
            evidence: vec![],
        };
        let drawn = svg(&chart);
        assert!(drawn.starts_with("<svg") && drawn.contains("MB/s") && drawn.contains("anomaly"));
        assert!(!drawn.contains("<script"));
        (chart.from, chart.to) = (0, 0);
        assert!(!svg(&chart).contains("anomaly"), "nothing is shaded where nothing is abnormal");
        chart.times.truncate(1);
        assert_eq!(svg(&chart), "");
    }
}
