//! The table in benches/README.md: what is recorded, and the one place where it is.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::job::{Count, Job, Side};

/// What the table's first line begins with.
const HEAD: &str = "| instructions of one |";

/// A document with the table in it: a line for each job, a column for each side.
#[derive(Debug)]
pub(crate) struct Table {
    lines: Vec<String>,
    /// Where the rows are.
    rows: std::ops::Range<usize>,
}

impl Table {
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("no table of counts in {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let head = lines.iter().position(|line| line.starts_with(HEAD));
        // Below the head is the line that makes it a table.
        let first = head.with_context(|| format!("no line begins with {HEAD:?}"))? + 2;
        let count = lines
            .iter()
            .skip(first)
            .take_while(|line| line.starts_with('|'))
            .count();
        let rows = first..first + count;
        let table = Self { lines, rows };
        for row in table.rows() {
            let name = cells(row).next().unwrap_or_default();
            let is_known = Job::ALL.iter().any(|job| job.to_string() == name);
            ensure!(is_known, "nothing is called {name:?}");
        }
        Ok(table)
    }

    fn rows(&self) -> &[String] {
        self.lines.get(self.rows.clone()).unwrap_or_default()
    }

    /// What is recorded; `None` where nothing is.
    pub(crate) fn recorded(&self, count: Count) -> Option<u64> {
        let row = self.rows().iter().find(|row| is_of(row, count.job))?;
        let cell = cells(row).nth(column(count.side))?;
        cell.replace(',', "").parse().ok()
    }

    /// Changes what is recorded.
    pub(crate) fn put(&mut self, count: Count, instructions: u64) {
        let changed = |side: Side, table: &Self| {
            let kept = table.recorded(Count { side, ..count });
            let value = if side == count.side {
                Some(instructions)
            } else {
                kept
            };
            value.map_or_else(String::new, grouped)
        };
        let row = format!(
            "| {} | {} | {} |",
            count.job,
            changed(Side::Engine, self),
            changed(Side::Server, self)
        );
        let old = self.rows().iter().position(|row| is_of(row, count.job));
        match old.and_then(|old| self.lines.get_mut(self.rows.start + old)) {
            Some(line) => *line = row,
            None => {
                self.lines.insert(self.rows.end, row);
                self.rows.end += 1;
            }
        }
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.text())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn text(&self) -> String {
        self.lines.join("\n") + "\n"
    }
}

/// What stands between the bars of a row.
fn cells(row: &str) -> impl Iterator<Item = &str> {
    row.trim_matches('|').split('|').map(str::trim)
}

fn is_of(row: &str, job: Job) -> bool {
    cells(row).next() == Some(job.to_string().as_str())
}

fn column(side: Side) -> usize {
    match side {
        Side::Engine => 1,
        Side::Server => 2,
    }
}

/// Digits in groups of three.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Benches\n\n| instructions of one | engine | server |\n|---|---|---|\n\
        | 4K read, mapped | 418 | 1,002,003 |\n| 4K first write |  | 7 |\n\nmore\n";

    fn count(side: Side, job: Job) -> Count {
        Count { side, job }
    }

    #[test]
    fn what_is_recorded_is_read_from_the_row_and_the_column() {
        let table = Table::parse(TEXT).unwrap();
        let recorded = |side, job| table.recorded(count(side, job));
        assert_eq!(recorded(Side::Engine, Job::ReadMapped), Some(418));
        assert_eq!(recorded(Side::Server, Job::ReadMapped), Some(1_002_003));
        assert_eq!(recorded(Side::Engine, Job::FirstWrite), None);
        assert_eq!(recorded(Side::Server, Job::FirstWrite), Some(7));
        assert_eq!(recorded(Side::Server, Job::LargeRead), None);
    }

    #[test]
    fn recording_changes_one_cell_and_nothing_else() {
        let mut table = Table::parse(TEXT).unwrap();
        table.put(count(Side::Engine, Job::ReadMapped), 4321);
        assert_eq!(table.text(), TEXT.replace("418", "4,321"));
        table.put(count(Side::Server, Job::LargeRead), 9);
        let added = "| 256K read, origin |  | 9 |\n\nmore\n";
        assert!(table.text().ends_with(added), "{}", table.text());
        assert_eq!(Table::parse(&table.text()).unwrap().text(), table.text());
    }

    #[test]
    fn a_row_of_what_is_not_counted_is_refused() {
        let text = TEXT.replace("4K first write", "5K first write");
        let error = Table::parse(&text).unwrap_err().to_string();
        assert!(error.contains("5K first write"), "{error}");
        assert!(Table::parse("# Nothing\n").is_err());
    }

    #[test]
    fn the_readme_records_everything_that_is_counted() {
        let table = Table::load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")));
        let table = table.unwrap();
        for count in Count::all() {
            assert!(table.recorded(count).is_some(), "{count}");
        }
    }
}
