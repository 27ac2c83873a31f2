//! Plain text tables: each column is as wide as its widest cell, with two spaces between columns.

/// Formats rows below a header. An empty cell is shown as `-`.
pub fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let shown = |cell: &str| match cell {
        "" => "-".to_owned(),
        cell => cell.to_owned(),
    };
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(
        rows.iter()
            .map(|row| row.each_ref().map(|cell| shown(cell))),
    );
    let widths: [usize; N] = std::array::from_fn(|column| {
        let width = |line: &[String; N]| line[column].chars().count();
        lines.iter().map(width).max().unwrap_or(0)
    });
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(widths);
        let padded: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a".into(), String::new()], ["long".into(), "x".into()]];
        assert_eq!(table(["N", "V"], &rows), "N     V\na     -\nlong  x\n");
    }
}
