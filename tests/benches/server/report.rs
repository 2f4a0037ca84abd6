//! A scenario's result, and the arithmetic of rounds.

use std::ops::Range;

use serde::Serialize;

use crate::Result;

/// How good a figure must be, wants to be, and can be; all of the figure that is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Above it the run fails.
    pub(crate) bar: f64,
    /// What the project is after.
    pub(crate) goal: f64,
    /// What is known to be possible.
    pub(crate) floor: f64,
}

impl Target {
    pub(crate) const fn new(bar: f64, goal: f64, floor: f64) -> Self {
        Self { bar, goal, floor }
    }
}

/// A scenario's result, one line of JSON.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) bench: String,
    /// The unit of the figures: CPU microseconds of the server per operation, or bytes.
    pub(crate) unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ours_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ours_bytes: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline_bytes: Option<f64>,
    /// Bytes on a connection per operation, both ways, WebSocket headers included.
    #[serde(skip_serializing_if = "Option::is_none")]
    ours_wire: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline_wire: Option<f64>,
    /// The median of the rounds' ratios.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    /// The lowest and the highest of the rounds' ratios.
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio_range: Option<[f64; 2]>,
    /// By how many times an operation costs more with much than with little.
    #[serde(skip_serializing_if = "Option::is_none")]
    ours_slope: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline_slope: Option<f64>,
    /// The cost of the part that grows alone, or of the least that does the same; microseconds of an operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    bare_us: Option<f64>,
    /// By how many times it grows, where growth is judged; by how many times ours is dearer, where a cost is.
    #[serde(skip_serializing_if = "Option::is_none")]
    bare_ratio: Option<f64>,
    bar: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<f64>,
    /// The same of `ours_us`, where the ratio is judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    goal_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    floor_us: Option<f64>,
    /// Absent when nothing was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ok: Option<bool>,
    rounds: usize,
}

impl Report {
    /// Of figures that were measured in turns, ours beside the baseline's; `judge` has the medians and their ratio.
    pub(crate) fn of_pairs(
        bench: String,
        unit: &'static str,
        pairs: &[(f64, f64)],
        bar: f64,
        judge: impl Fn(f64, f64, f64) -> f64,
    ) -> Self {
        let (mut ours, mut baseline): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        let mut ratios = ratios(pairs);
        let (ours, baseline, ratio) = (median(&mut ours), median(&mut baseline), median(&mut ratios));
        Self {
            bench,
            unit,
            ours_us: Some(rounded(ours)),
            baseline_us: Some(rounded(baseline)),
            ratio: Some(rounded(ratio)),
            ratio_range: Some([rounded(ratios[0]), rounded(ratios[ratios.len() - 1])]),
            bar,
            ok: Some(judge(ours, baseline, ratio) <= bar),
            rounds: pairs.len(),
            ..Self::default()
        }
    }

    /// Of figures that were measured in turns, judged by their ratio.
    pub(crate) fn of_ratio(bench: &str, unit: &'static str, pairs: &[(f64, f64)], target: Target) -> Self {
        Self::of_pairs(bench.to_owned(), unit, pairs, target.bar, |_, _, ratio| ratio).aimed(target)
    }

    /// Of what an operation costs with much and with little, of ours and of the baseline: judged is how much more ours grows.
    pub(crate) fn of_slopes(
        bench: String,
        unit: &'static str,
        ours: &[(f64, f64)],
        baseline: &[(f64, f64)],
        target: Target,
    ) -> Self {
        let most = |pairs: &[(f64, f64)]| median(&mut pairs.iter().map(|(many, _)| *many).collect::<Vec<_>>());
        let (our_slope, its_slope) = (median(&mut ratios(ours)), median(&mut ratios(baseline)));
        let ratio = our_slope / its_slope;
        Self {
            bench,
            unit,
            ours_us: Some(rounded(most(ours))),
            baseline_us: Some(rounded(most(baseline))),
            ratio: Some(rounded(ratio)),
            ours_slope: Some(rounded(our_slope)),
            baseline_slope: Some(rounded(its_slope)),
            ok: Some(ratio <= target.bar),
            rounds: ours.len(),
            ..Self::default()
        }
        .aimed(target)
    }

    /// Of one figure in bytes, or in microseconds.
    pub(crate) fn of_one(bench: String, unit: &'static str, figure: f64, bar: f64) -> Self {
        let is_bytes = unit.contains("bytes");
        Self {
            bench,
            unit,
            ours_us: (!is_bytes).then_some(rounded(figure)),
            ours_bytes: is_bytes.then_some(rounded(figure)),
            bar,
            ok: Some(figure <= bar),
            rounds: 1,
            ..Self::default()
        }
    }

    /// The same, beside a baseline's if there is one.
    pub(crate) fn of_figure(
        bench: String,
        unit: &'static str,
        ours: f64,
        baseline: Option<f64>,
        target: Target,
    ) -> Self {
        Self { baseline_bytes: baseline.map(rounded), ..Self::of_one(bench, unit, ours, target.bar).aimed(target) }
    }

    /// Of one server only, which is judged by nothing: ours, or the baseline.
    pub(crate) fn of_profile(bench: &str, unit: &'static str, figure: f64, is_ours: bool, rounds: usize) -> Self {
        let (ours, baseline) = (is_ours.then_some(rounded(figure)), (!is_ours).then_some(rounded(figure)));
        let bench = bench.to_owned();
        if unit.contains("bytes") {
            return Self { bench, unit, ours_bytes: ours, baseline_bytes: baseline, rounds, ..Self::default() };
        }
        Self { bench, unit, ours_us: ours, baseline_us: baseline, rounds, ..Self::default() }
    }

    /// With what the part that grows takes alone, large and small: where nothing else grew, ours would be at the floor.
    pub(crate) fn beside_alone(self, alone: &[(f64, f64)]) -> Self {
        let mut large: Vec<f64> = alone.iter().map(|(large, _)| *large).collect();
        let mut more: Vec<f64> = alone.iter().map(|(large, small)| large - small).collect();
        let floor = self.baseline_us.map(|small| rounded(1.0 + median(&mut more).max(0.0) / small));
        let (bare_us, bare_ratio) = (rounded(median(&mut large)), rounded(median(&mut ratios(alone))));
        Self { bare_us: Some(bare_us), bare_ratio: Some(bare_ratio), floor: floor.or(self.floor), ..self }
    }

    /// With the least that does the same, beside the baseline: its ratio is the floor.
    pub(crate) fn beside_least(self, least: &[(f64, f64)]) -> Self {
        let mut own: Vec<f64> = least.iter().map(|(own, _)| *own).collect();
        let floor = Some(rounded(median(&mut ratios(least))));
        Self { bare_us: Some(rounded(median(&mut own))), bare_ratio: floor, floor, ..self }
    }

    /// With what the same takes without a server, which is the floor.
    pub(crate) fn beside_bare(self, bare: f64) -> Self {
        let bare_ratio = self.ours_us.map(|ours| rounded(ours / bare));
        Self { bare_us: Some(rounded(bare)), bare_ratio, floor: Some(rounded(bare)), ..self }
    }

    /// With what the figure wants to be, and can be.
    fn aimed(self, Target { bar, goal, floor }: Target) -> Self {
        Self { bar, goal: Some(goal), floor: Some(floor), ..self }
    }

    /// With what a microsecond figure wants to be, whose ratio is judged; what the least takes that was measured beside is the floor.
    pub(crate) fn aimed_us(self, goal: f64) -> Self {
        Self { goal_us: Some(goal), floor_us: self.bare_us.or(self.baseline_us), ..self }
    }

    /// With the bytes on the wire.
    pub(crate) fn wired(self, ours: f64, baseline: f64) -> Self {
        let some = |bytes: f64| (bytes > 0.0).then_some(rounded(bytes));
        Self { ours_wire: some(ours), baseline_wire: some(baseline), ..self }
    }
}

/// Both slices of each round, one after the other; which is first alternates, so that a machine that gets busier favours
/// nobody. One more round, before the others, warms up.
pub(crate) fn in_turns(
    rounds: Range<usize>,
    mut ours: impl FnMut() -> Result<f64>,
    mut baseline: impl FnMut() -> Result<f64>,
) -> Result<Vec<(f64, f64)>> {
    let mut pairs = Vec::new();
    for (count, round) in (0..).zip(rounds.start..=rounds.end) {
        let pair = if round % 2 == 0 {
            let first = ours()?;
            (first, baseline()?)
        } else {
            let first = baseline()?;
            (ours()?, first)
        };
        if count > 0 {
            eprintln!("  ours {:.3} µs, baseline {:.3} µs, ratio {:.2}", pair.0, pair.1, pair.0 / pair.1);
            pairs.push(pair);
        }
    }
    Ok(pairs)
}

fn ratios(pairs: &[(f64, f64)]) -> Vec<f64> {
    pairs.iter().map(|(ours, baseline)| ours / baseline).collect()
}

/// The median; sorts the figures.
pub(crate) fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len().is_multiple_of(2) { f64::midpoint(figures[middle - 1], figures[middle]) } else { figures[middle] }
}

fn rounded(figure: f64) -> f64 {
    (figure * 1_000.0).round() / 1_000.0
}
