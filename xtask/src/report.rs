//! A run of many checks, none of which stops the others. Each one's output goes to a log; failing output is shown.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::Result;

use crate::{command, project, tally::Tally};

/// The outcome of the checks so far.
pub(crate) struct Report {
    start: Instant,
    total: Tally,
    failures: Vec<String>,
}

impl Report {
    /// Begins a run.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), total: Tally::default(), failures: Vec::new() }
    }

    /// A command that succeeds or fails as a whole.
    pub(crate) fn check(&mut self, name: &str, command: Command) {
        self.command(name, command, |succeeded, _| Tally::single(succeeded));
    }

    /// A command that runs tests, counted from what it prints. That it ran none, or failed without a failed test (did
    /// not compile, crashed), is a failure too.
    pub(crate) fn tests(&mut self, name: &str, command: Command, count: fn(&str) -> Tally) {
        self.command(name, command, |succeeded, output| {
            let mut tally = count(output);
            if tally.failed == 0 && (tally.passed == 0 || !succeeded) {
                tally += Tally::single(false);
            }
            tally
        });
    }

    /// Work of this program itself.
    pub(crate) fn task(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        self.step(name, |_| work().map(|()| Tally::single(true)));
    }

    /// Prints the failed steps, the time, and as the last line the total.
    pub(crate) fn finish(self) -> ExitCode {
        println!();
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{} s in all", self.start.elapsed().as_secs());
        println!("{}", self.total.summary());
        if self.total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn command(&mut self, name: &str, mut command: Command, judge: impl FnOnce(bool, &str) -> Tally) {
        self.step(name, |log| {
            let succeeded = command::run_into(&mut command, log)?;
            let output = fs::read(log)?;
            let output = String::from_utf8_lossy(&output);
            let tally = judge(succeeded, &output);
            // The tables that tests print.
            for row in output.lines().filter_map(|line| line.strip_prefix("# |")) {
                println!("   |{row}");
            }
            if tally.failed > 0 {
                println!("{output}\n{}: see {}", command::describe(&command), log.display());
            }
            Ok(tally)
        });
    }

    fn step(&mut self, name: &str, work: impl FnOnce(&Path) -> Result<Tally>) {
        let log = project::scratch().join(format!("{}.log", name.replace(' ', "-")));
        println!("== {name}");
        let start = Instant::now();
        let tally = work(&log).unwrap_or_else(|error| {
            println!("{error:#}");
            Tally::single(false)
        });
        println!("   {} in {} s", tally.summary(), start.elapsed().as_secs());
        if tally.failed > 0 {
            self.failures.push(name.to_owned());
        }
        self.total += tally;
    }
}
