//! Tables in Markdown.

/// A table with its heading.
pub(crate) struct Table {
    text: String,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new<T: AsRef<str>>(heading: impl IntoIterator<Item = T>) -> Self {
        let mut table = Self {
            text: String::new(),
        };
        let columns = table.row(heading);
        table.text += &"|---".repeat(columns);
        table.text += "|\n";
        table
    }

    /// Adds a row, and tells how many cells it has.
    pub(crate) fn row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) -> usize {
        let mut count = 0;
        for cell in cells {
            self.text += "| ";
            self.text += cell.as_ref();
            self.text.push(' ');
            count += 1;
        }
        self.text += "|\n";
        count
    }

    /// The table's text.
    pub(crate) fn text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn a_table_has_a_rule_below_its_heading() {
        let mut table = Table::new(["a", "b"]);
        table.row(["1".to_owned(), "2".to_owned()]);
        assert_eq!(table.text(), "| a | b |\n|---|---|\n| 1 | 2 |\n");
    }
}
