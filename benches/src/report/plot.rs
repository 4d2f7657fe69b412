//! Plots as SVG.

use std::ops::Range;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, ValueFormatter};
use plotters::prelude::*;

use super::document::Figure;
use super::text;

const SIZE: (u32, u32) = (760, 420);
const FONT: &str = "sans-serif";

/// Colours that people with any colour vision can tell apart (Okabe and Ito, 2008).
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
];

/// What a plot shows.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) title: String,
    /// What the vertical axis measures.
    pub(super) unit: String,
    pub(super) series: Vec<Series>,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// A group of bars for each label; a series has a figure for each.
    Bars { labels: Vec<String> },
    /// Lines over numbers, both axes logarithmic; a series has a figure for each.
    Lines { axis: String, at: Vec<f64> },
}

#[derive(Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) figures: Vec<Figure>,
}

impl Plot {
    /// The plot as an SVG document.
    pub(super) fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            area.fill(&WHITE)?;
            match &self.kind {
                Kind::Bars { labels } => self.bars(&area, labels)?,
                Kind::Lines { axis, at } => self.lines(&area, axis, at)?,
            }
            area.present()?;
        }
        Ok(svg)
    }

    fn figures(&self) -> impl Iterator<Item = &Figure> {
        self.series.iter().flat_map(|series| &series.figures)
    }

    fn bars(&self, area: &DrawingArea<SVGBackend<'_>, Shift>, labels: &[String]) -> Result<()> {
        let top = self
            .figures()
            .fold(0.0, |top: f64, figure| top.max(figure.max));
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, (FONT, 20))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(84)
            .build_cartesian_2d(Places(labels.len()), 0.0..above(top))?;
        let label = |place: &f64| labels.get(*place as usize).cloned().unwrap_or_default();
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_label_formatter(&label)
            .y_label_formatter(&|value| text::number(*value))
            .y_desc(self.unit.as_str())
            .light_line_style(TRANSPARENT)
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 14))
            .draw()?;
        let width = 0.8 / self.series.len() as f64;
        for (number, series) in self.series.iter().enumerate() {
            let color = color(number);
            let left = |place: usize| place as f64 - 0.4 + width * number as f64;
            let bars = series.figures.iter().enumerate().map(|(place, figure)| {
                let corners = [
                    (left(place) + width * 0.06, 0.0),
                    (left(place) + width * 0.94, figure.median),
                ];
                Rectangle::new(corners, color.filled())
            });
            chart
                .draw_series(bars)?
                .label(series.name.as_str())
                .legend(move |at| swatch(at, color));
            let middle = |place| left(place) + width / 2.0;
            chart.draw_series(series.figures.iter().enumerate().map(|(place, figure)| {
                let at = middle(place);
                PathElement::new([(at, figure.min), (at, figure.max)], BLACK.stroke_width(2))
            }))?;
        }
        self.legend(&mut chart)
    }

    fn lines(
        &self,
        area: &DrawingArea<SVGBackend<'_>, Shift>,
        axis: &str,
        at: &[f64],
    ) -> Result<()> {
        let positive = |values: &mut dyn Iterator<Item = f64>| {
            let values = values.filter(|value| *value > 0.0);
            let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
                (low.min(value), high.max(value))
            });
            if low <= high { (low, high) } else { (1.0, 1.0) }
        };
        let (low, high) = positive(&mut at.iter().copied());
        // A logarithmic axis has no zero: it is drawn one power of ten before the least.
        let zero = low / 10.0;
        let place = |x: f64| if x > 0.0 { x } else { zero };
        let first = if at.contains(&0.0) { zero } else { low };
        let across = (first / 1.3..high * 1.3)
            .log_scale()
            .with_key_points(at.iter().copied().map(place).collect());
        let (low, high) = positive(&mut self.figures().flat_map(|figure| [figure.min, figure.max]));
        // Above the highest line there is room for the legend.
        let up = low / 1.5..high * 2.0 * (high / low).powf(0.3);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, (FONT, 20))
            .margin(12)
            .x_label_area_size(52)
            .y_label_area_size(84)
            .build_cartesian_2d(across, up.log_scale())?;
        let label = |x: &f64| text::number(if *x == zero { 0.0 } else { *x });
        chart
            .configure_mesh()
            .x_label_formatter(&label)
            .y_label_formatter(&|value| text::number(*value))
            .x_desc(axis)
            .y_desc(self.unit.as_str())
            .light_line_style(TRANSPARENT)
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 14))
            .draw()?;
        for (number, series) in self.series.iter().enumerate() {
            let color = color(number);
            let mut figures: Vec<(f64, &Figure)> =
                at.iter().copied().map(place).zip(&series.figures).collect();
            figures.sort_by(|a, b| a.0.total_cmp(&b.0));
            let medians = figures.iter().map(|(x, figure)| (*x, figure.median));
            chart
                .draw_series(LineSeries::new(medians.clone(), color.stroke_width(2)))?
                .label(series.name.as_str())
                .legend(move |at| swatch(at, color));
            chart.draw_series(medians.map(|at| Circle::new(at, 4, color.filled())))?;
            chart.draw_series(figures.iter().map(|(x, figure)| {
                PathElement::new([(*x, figure.min), (*x, figure.max)], color.stroke_width(1))
            }))?;
        }
        self.legend(&mut chart)
    }

    /// Names the series, where there are several.
    fn legend<'a, 'b: 'a, X, Y>(&self, chart: &mut Chart<'a, 'b, X, Y>) -> Result<()>
    where
        X: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        if self.series.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .background_style(WHITE.mix(0.85))
                .label_font((FONT, 14))
                .draw()?;
        }
        Ok(())
    }
}

/// An axis with so many places, each in the middle of its share.
struct Places(usize);

impl Ranged for Places {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (from, to): (i32, i32)) -> i32 {
        from + (f64::from(to - from) * (place + 0.5) / self.0 as f64).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        (0..self.0).map(|place| place as f64).collect()
    }

    fn range(&self) -> Range<f64> {
        -0.5..self.0 as f64 - 0.5
    }
}

type Chart<'a, 'b, X, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>;

/// Room above the highest bar for the legend.
fn above(top: f64) -> f64 {
    if top > 0.0 { top * 1.25 } else { 1.0 }
}

fn color(number: usize) -> RGBColor {
    COLORS[number % COLORS.len()]
}

fn swatch((x, y): (i32, i32), color: RGBColor) -> Rectangle<(i32, i32)> {
    Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.filled())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, medians: &[f64]) -> Series {
        let figure = |&median: &f64| Figure {
            median,
            min: median * 0.9,
            max: median * 1.1,
        };
        Series {
            name: name.to_owned(),
            figures: medians.iter().map(figure).collect(),
        }
    }

    #[test]
    fn bars_are_labelled() {
        let plot = Plot {
            title: "latency".to_owned(),
            unit: "ms".to_owned(),
            series: vec![series("p50", &[1.0, 2.0]), series("p99", &[3.0, 4.0])],
            kind: Kind::Bars {
                labels: vec!["small".to_owned(), "large".to_owned()],
            },
        };
        let svg = plot.svg().unwrap();
        for word in ["latency", "ms", "p50", "p99", "small", "large"] {
            assert!(svg.contains(&format!("\n{word}\n")), "{word} is missing");
        }
    }

    #[test]
    fn lines_may_begin_at_zero() {
        let plot = Plot {
            title: "history".to_owned(),
            unit: "tasks/s".to_owned(),
            series: vec![series("tasks/s", &[100.0, 90.0, 80.0])],
            kind: Kind::Lines {
                axis: "finished runs".to_owned(),
                at: vec![0.0, 1e4, 1e6],
            },
        };
        let svg = plot.svg().unwrap();
        for word in ["0", "10\u{a0}000", "1\u{a0}000\u{a0}000", "finished runs"] {
            assert!(svg.contains(&format!("\n{word}\n")), "{word} is missing");
        }
    }
}
