//! The rows of the benchmarks: their JSON lines, passed on, and a table of them.

use std::{
    fmt,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::describe;

/// A benchmark's figure beside its goal, floor and bar.
struct Row {
    name: String,
    reached: Option<f64>,
    goal: Option<f64>,
    floor: Option<f64>,
    bar: Option<f64>,
    /// Whether more is better.
    is_advantage: bool,
}

/// All rows of a run.
#[derive(Default)]
pub(crate) struct Rows(Vec<Row>);

impl Rows {
    /// Runs a benchmark, and passes its lines on as they come.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        let mut bench =
            command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {}", describe(command)))?;
        for line in BufReader::new(bench.stdout.take().context("a benchmark without output")?).lines() {
            let line = line?;
            println!("{line}");
            if let Ok(line) = serde_json::from_str(&line) {
                self.take(&line);
            }
        }
        let status = bench.wait()?;
        if !status.success() {
            bail!("{} ended with {status}", describe(command));
        }
        Ok(())
    }

    /// Takes a line: the figure that is judged, or several, each with a name of its own in `bar`, `goal` and `floor`; microseconds that
    /// have a goal where a ratio is judged, and a slope beside the baseline's.
    fn take(&mut self, line: &Value) {
        let Some(name) = line["bench"].as_str() else { return };
        let targets = ["bar", "goal", "floor"].map(|target| &line[target]);
        let mut judged: Vec<&str> =
            targets.iter().filter_map(|target| target.as_object()).flatten().map(|(key, _)| &**key).collect();
        judged.sort_unstable();
        judged.dedup();
        for key in &judged {
            let names = [(*key).to_owned(), format!("ratio_{key}"), format!("ours_{key}"), format!("{key}_us")];
            let reached = names.iter().find_map(|name| line[name].as_f64());
            let [bar, goal, floor] = targets.map(|target| target[key].as_f64());
            let is_advantage = *key == "advantage";
            self.0.push(Row { name: format!("{name} {key}"), reached, goal, floor, bar, is_advantage });
        }
        if judged.is_empty() {
            let reached = ["ratio", "ours_us", "ours_bytes"].iter().find_map(|name| line[*name].as_f64());
            let [bar, goal, floor] = targets.map(Value::as_f64);
            self.0.push(Row { name: name.to_owned(), reached, goal, floor, bar, is_advantage: false });
        }
        if let Some(reached) = line["ours_slope"].as_f64() {
            let (name, floor) = (format!("{name} slope"), line["baseline_slope"].as_f64());
            self.0.push(Row { name, reached: Some(reached), goal: None, floor, bar: None, is_advantage: false });
        }
        if let Some(goal) = line["goal_us"].as_f64() {
            let (reached, floor) = (line["ours_us"].as_f64(), line["floor_us"].as_f64());
            self.0.push(Row {
                name: format!("{name} us"),
                reached,
                goal: Some(goal),
                floor,
                bar: None,
                is_advantage: false,
            });
        }
    }
}

impl Row {
    fn meets(&self, target: Option<f64>) -> bool {
        match (self.reached, target) {
            (Some(reached), Some(target)) => (reached <= target) != self.is_advantage || reached == target,
            (_, None) => true,
            (None, Some(_)) => false,
        }
    }

    fn verdict(&self) -> &'static str {
        match (self.meets(self.bar), self.meets(self.goal)) {
            (true, true) => "yes",
            (true, false) => "bar",
            (false, _) => "no",
        }
    }
}

/// Aligned; the last column says whether the goal is reached, or only the bar.
impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|row| row.name.len()).max().unwrap_or_default();
        write!(f, "{:width$} {:>12} {:>12} {:>12} {:>12}  ok", "row", "reached", "goal", "floor", "bar")?;
        for row in &self.0 {
            write!(f, "\n{:width$}", row.name)?;
            for figure in [row.reached, row.goal, row.floor, row.bar] {
                write!(f, " {:>12}", figure.map_or_else(|| "-".into(), |figure| figure.to_string()))?;
            }
            write!(f, "  {}", row.verdict())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_say_what_is_reached() {
        let mut rows = Rows::default();
        rows.take(&json!({ "bench": "call", "ratio": 1.1, "ours_us": 3.5, "bar": 1.5, "goal": 1.05, "floor": 1.0 }));
        rows.take(&json!({ "bench": "patch", "ratio": 1.6, "ours_us": 3, "bar": 1.5, "goal_us": 3, "floor_us": 2.5 }));
        rows.take(&json!({ "bench": "heap", "ours_bytes": 1_000, "bar": 1_200, "goal": 1_000, "floor": 400 }));
        rows.take(&json!({
            "bench": "page", "ours_us": 2.4, "ratio_bare": 1.2, "advantage": 400,
            "bar": { "bare": 1.3, "advantage": 300 }, "goal": { "us": 2 }, "floor": { "us": 1, "bare": 1 },
        }));
        rows.take(&json!({ "hint": "no row" }));
        let expected = [
            "row                 reached         goal        floor          bar  ok",
            "call                    1.1         1.05            1          1.5  bar",
            "patch                   1.6            -            -          1.5  no",
            "patch us                  3            3          2.5            -  yes",
            "heap                   1000         1000          400         1200  yes",
            "page advantage          400            -            -          300  yes",
            "page bare               1.2            -            1          1.3  yes",
            "page us                 2.4            2            1            -  bar",
        ];
        assert_eq!(rows.to_string(), expected.join("\n"));
    }
}
