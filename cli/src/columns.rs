//! Tables for people: each column as wide as what stands in it.

/// Spaces between two columns.
const GAP: usize = 2;

/// Writes rows, of which the first is the head; nothing stands behind the last word of a line.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |text: &String| text.chars().count();
    let mut widths = [0; N];
    for row in rows {
        for (widest, text) in widths.iter_mut().zip(row) {
            *widest = width(text).max(*widest);
        }
    }
    let mut table = String::new();
    for row in rows {
        let mut line = String::new();
        for (text, widest) in row.iter().zip(widths) {
            line.push_str(text);
            line.extend(std::iter::repeat_n(' ', widest - width(text) + GAP));
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_push_all_lines_aside() {
        let rows = [["ID", "NAME", "LAST"], ["1", "größer", ""], ["12345", "b", "x"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows), "ID     NAME    LAST\n1      größer\n12345  b       x\n");
    }
}
