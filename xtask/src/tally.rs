//! Counting tests from what test programs print.

use std::ops::AddAssign;

/// How tests ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// One check that is not a collection of tests.
    pub(crate) fn single(passed: bool) -> Self {
        Self { passed: u64::from(passed), failed: u64::from(!passed), skipped: 0 }
    }

    /// From libtest's lines `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    pub(crate) fn of_cargo(log: &str) -> Self {
        let mut sum = Self::default();
        for line in log.lines() {
            let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
                continue;
            };
            for count in counts.split(';') {
                let mut words = count.split_whitespace();
                let (Some(number), Some(what)) = (words.next().and_then(|word| word.parse().ok()), words.next()) else {
                    continue;
                };
                sum.add(what, number);
            }
        }
        sum
    }

    /// From the summary of Node's own test runner: `# pass 3`, or `ℹ pass 3` from its other reporter.
    pub(crate) fn of_node(log: &str) -> Self {
        let mut sum = Self::default();
        for line in log.lines() {
            let mut words = line.split_whitespace();
            let (Some("#" | "ℹ"), Some(what), Some(number), None) =
                (words.next(), words.next(), words.next().and_then(|word| word.parse().ok()), words.next())
            else {
                continue;
            };
            sum.add(what, number);
        }
        sum
    }

    /// The last line of a test run.
    pub(crate) fn summary(&self) -> String {
        let Self { passed, failed, skipped } = self;
        let skips = if *skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
        format!("{passed} passed, {failed} failed{skips}")
    }

    fn add(&mut self, what: &str, number: u64) {
        match what {
            "passed" | "pass" => self.passed += number,
            "failed" | "fail" | "cancelled" => self.failed += number,
            "ignored" | "skipped" | "todo" => self.skipped += number,
            _ => {}
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn cargo_results_of_all_binaries_add_up() {
        let log = "running 3 tests\ntest a ... ok\n\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.1s\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.0s\n";
        assert_eq!(Tally::of_cargo(log), Tally { passed: 4, failed: 2, skipped: 1 });
    }

    #[test]
    fn node_results_come_from_the_summary_alone() {
        let log =
            "ok 1 - # pass 7\n# tests 6\n# pass 3\n# fail 1\n# cancelled 1\n# skipped 1\n# todo 0\n# duration_ms 3\n";
        assert_eq!(Tally::of_node(log), Tally { passed: 3, failed: 2, skipped: 1 });
        assert_eq!(Tally::of_node("ℹ pass 2\nℹ fail 0\n"), Tally { passed: 2, failed: 0, skipped: 0 });
    }

    #[test]
    fn the_summary_names_skips_only_when_there_are_some() {
        assert_eq!(Tally { passed: 5, failed: 0, skipped: 0 }.summary(), "5 passed, 0 failed");
        assert_eq!(Tally { passed: 5, failed: 1, skipped: 2 }.summary(), "5 passed, 1 failed, 2 skipped");
    }
}
