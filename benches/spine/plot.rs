//! Plots as SVG, beside the tables.

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::Outcome;
use crate::report::output_dir;

/// All pixels across.
const WIDTH: i32 = 1_000;
/// Those for the names of the lines.
const NAMES_WIDTH: i32 = 260;

/// A line of a plot.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// What a plot is called and what its axes count.
pub(crate) struct Titles<'a> {
    pub(crate) file: &'a str,
    pub(crate) caption: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
}

/// Which share of the values, in nanoseconds, is at most so many milliseconds.
pub(crate) fn shares(name: &str, values: &[u64]) -> Line {
    let mut values = values.to_vec();
    values.sort_unstable();
    let count = values.len() as f64;
    let points =
        values.iter().enumerate().map(|(n, ns)| ((*ns as f64 / 1e6).max(0.01), (n + 1) as f64 / count));
    Line { name: name.to_owned(), points: points.collect() }
}

/// Both axes logarithmic.
pub(crate) fn log_log(titles: &Titles<'_>, lines: &[Line]) -> Outcome<()> {
    let (x, y) = extent(lines);
    let (x, y) = (decades(x), decades(y));
    draw(titles, lines, (x.0..x.1).log_scale(), (y.0..y.1).log_scale())
}

/// The lower axis logarithmic, the other one from 0 to 1.
pub(crate) fn distribution(titles: &Titles<'_>, lines: &[Line]) -> Outcome<()> {
    let x = decades(extent(lines).0);
    draw(titles, lines, (x.0..x.1).log_scale(), 0.0..1.0)
}

/// Both axes from 0.
pub(crate) fn plain(titles: &Titles<'_>, lines: &[Line]) -> Outcome<()> {
    let (x, y) = extent(lines);
    draw(titles, lines, 0.0..x.1, 0.0..y.1)
}

type Range = (f64, f64);

/// From the least to the most of both, with room above.
fn extent(lines: &[Line]) -> (Range, Range) {
    let points = || lines.iter().flat_map(|line| &line.points);
    let of = |value: fn(&(f64, f64)) -> f64| {
        let (least, most) = points().map(value).fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
        (least.max(1e-3), (most * 1.2).max(2e-3))
    };
    (of(|point| point.0), of(|point| point.1))
}

/// The whole powers of ten around a range, whose labels are then on its axis.
fn decades((least, most): Range) -> Range {
    (10_f64.powf(least.log10().floor()), 10_f64.powf(most.log10().ceil()))
}

fn draw<X, Y>(titles: &Titles<'_>, lines: &[Line], x: X, y: Y) -> Outcome<()>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let path = output_dir()?.join(format!("{}.svg", titles.file));
    let area = SVGBackend::new(&path, (WIDTH.unsigned_abs(), 460)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(titles.caption, ("sans-serif", 18))
        .margin(12)
        .margin_right(NAMES_WIDTH)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)?;
    chart.configure_mesh().x_desc(titles.x).y_desc(titles.y).max_light_lines(4).draw()?;
    for (n, line) in lines.iter().enumerate() {
        let style = Palette99::pick(n).stroke_width(2);
        chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
        // Beside the lines: on them it would hide some.
        let (x, y) = (WIDTH - NAMES_WIDTH + 12, 60 + 22 * i32::try_from(n)?);
        area.draw(&PathElement::new([(x, y), (x + 18, y)], style))?;
        area.draw(&Text::new(line.name.as_str(), (x + 24, y - 6), ("sans-serif", 12)))?;
    }
    area.present()?;
    println!("{}", path.display());
    Ok(())
}
