//! Tables, aligned exactly as Go's `text/tabwriter` does: scripts cut columns
//! out of them.

use std::io;

use crate::output;

/// A table in the making. A cell is ended by a tab; what comes after the last
/// tab of a line belongs to no column.
#[derive(Debug)]
pub(crate) struct Table {
    lines: Vec<Vec<String>>,
    min_width: usize,
    padding: usize,
}

impl Table {
    /// Columns of at least `min_width` characters, with `padding` between them.
    pub(crate) fn new(min_width: usize, padding: usize) -> Self {
        Self { lines: Vec::new(), min_width, padding }
    }

    /// Those columns with their names above.
    pub(crate) fn with_header(min_width: usize, padding: usize, header: &str) -> Self {
        let mut table = Self::new(min_width, padding);
        table.line(header);
        table
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) {
        self.lines.push(line.as_ref().split('\t').map(str::to_owned).collect());
    }

    /// The aligned text.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        self.format(&mut text, &mut Vec::new(), 0, self.lines.len());
        text
    }

    /// Prints it.
    pub(crate) fn print(&self) -> io::Result<()> {
        output::text(self.render())
    }

    /// Formats some lines, of which the columns in `widths` are known. A column
    /// is a run of lines that all have a cell in it: a line without one ends it.
    fn format(&self, text: &mut String, widths: &mut Vec<usize>, first: usize, end: usize) {
        let column = widths.len();
        let has_cell = |line: usize| column + 1 < self.lines[line].len();
        let mut written = first;
        let mut line = first;
        while line < end {
            if !has_cell(line) {
                line += 1;
                continue;
            }
            self.write(text, widths, written, line);
            let block = (line..end).find(|l| !has_cell(*l)).unwrap_or(end);
            let widest = (line..block).map(|l| self.lines[l][column].chars().count()).max();
            widths.push(self.min_width.max(widest.unwrap_or(0) + self.padding));
            self.format(text, widths, line, block);
            widths.pop();
            written = block;
            line = block;
        }
        self.write(text, widths, written, end);
    }

    fn write(&self, text: &mut String, widths: &[usize], first: usize, end: usize) {
        for line in &self.lines[first..end] {
            for (i, cell) in line.iter().enumerate() {
                text.push_str(cell);
                let width = widths.get(i).copied().unwrap_or(0);
                text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
            text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(4, 4);
        table.line("TASK\tPID\tSTATUS\t");
        table.line("a-long-name\t7\tRUNNING");
        table.line("b\t1234\tSTOPPED");
        assert_eq!(
            table.render(),
            "TASK           PID     STATUS    \n\
             a-long-name    7       RUNNING\n\
             b              1234    STOPPED\n"
        );
    }

    #[test]
    fn a_line_without_tabs_ends_the_columns() {
        let mut table = Table::new(1, 4);
        table.line("ID\tTIMESTAMP\t");
        table.line("web\tnow\t");
        table.line("");
        table.line("METRIC\tVALUE\t");
        table.line("memory.usage_in_bytes\t1\t");
        assert_eq!(
            table.render(),
            "ID     TIMESTAMP    \n\
             web    now          \n\
             \n\
             METRIC                   VALUE    \n\
             memory.usage_in_bytes    1        \n"
        );
    }

    #[test]
    fn an_empty_table_is_empty() {
        assert_eq!(Table::new(1, 1).render(), "");
    }
}
