//! docs/kernels.md: kernel by test.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::Result;

use super::Row;

/// Writes the document of some rows.
pub(super) fn document(rows: &[Row]) -> Result<String> {
    let mut text = String::from(
        "# Kernels\n\nWritten by `cargo xtask vm --write`: the system tests on Debian's kernels, in virtual machines. What is\n\
         claimed is what is tested: the first and the last of these before each change, all of them before a release.\n",
    );
    write!(text, "\n| kernel | passed | failed |\n|---|---|---|\n")?;
    for row in rows {
        let passed = row.tests.values().filter(|passed| **passed).count();
        writeln!(text, "| {} | {passed} | {} |", row.release, row.tests.len() - passed + row.broken.len())?;
    }
    text += "\n## Instructions that the verifier followed\n\nIt gives up at 1,000,000.\n";
    let columns: Vec<_> = rows.iter().map(|row| (row.release.as_str(), &row.programs)).collect();
    table(&mut text, "program", &columns, u64::to_string)?;
    text += "\n## Tests\n";
    let columns: Vec<_> = rows.iter().map(|row| (row.release.as_str(), &row.tests)).collect();
    table(&mut text, "test", &columns, |passed| if *passed { "✓" } else { "✗" }.to_owned())?;
    Ok(text)
}

/// Reads the rows of a document.
pub(super) fn read(text: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut columns: Vec<usize> = Vec::new();
    let mut is_tests = false;
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        match cells[..] {
            ["kernel", ..] => columns.clear(),
            [title @ ("program" | "test"), ref releases @ ..] => {
                is_tests = title == "test";
                columns = releases.iter().map(|release| row_of(&mut rows, release)).collect();
            }
            [name, ref values @ ..] => {
                for (column, value) in columns.iter().zip(values) {
                    let (row, name) = (&mut rows[*column], name.trim_matches('`').to_owned());
                    match (is_tests, value.parse()) {
                        (true, _) if *value == "✓" || *value == "✗" => drop(row.tests.insert(name, *value == "✓")),
                        (false, Ok(count)) => drop(row.programs.insert(name, count)),
                        _ => {}
                    }
                }
            }
            [] => {}
        }
    }
    rows
}

fn row_of(rows: &mut Vec<Row>, release: &str) -> usize {
    rows.iter().position(|row| row.release == release).unwrap_or_else(|| {
        rows.push(Row::new(release));
        rows.len() - 1
    })
}

/// Puts a row to those of a document: in the place of the kernel's, or, if it has only `some` tests, into it. The
/// oldest kernel comes first.
pub(super) fn put(rows: &mut Vec<Row>, new: &Row, some: bool) {
    let index = row_of(rows, &new.release);
    let row = &mut rows[index];
    if !some {
        *row = Row::new(&new.release);
    }
    row.tests.extend(new.tests.clone());
    row.programs.extend(new.programs.clone());
    row.broken.clone_from(&new.broken);
    let version =
        |row: &Row| -> Vec<u32> { row.release.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect() };
    rows.sort_by_key(version);
}

/// A row for each name, a column for each kernel; a dash where it has none.
fn table<T>(
    text: &mut String,
    title: &str,
    columns: &[(&str, &BTreeMap<String, T>)],
    shown: impl Fn(&T) -> String,
) -> Result<()> {
    let names: BTreeSet<&String> = columns.iter().flat_map(|(_release, values)| values.keys()).collect();
    let heads: Vec<&str> = columns.iter().map(|(release, _values)| *release).collect();
    write!(text, "\n| {title} | {} |\n|---|{}\n", heads.join(" | "), "---|".repeat(heads.len()))?;
    for name in names {
        let cells = columns.iter().map(|(_release, values)| values.get(name).map_or("–".to_owned(), &shown));
        writeln!(text, "| `{name}` | {} |", cells.collect::<Vec<_>>().join(" | "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_is_read_as_it_was_written() {
        let mut new = Row::new("6.12.1-cloud");
        new.tests = BTreeMap::from([("a::b".to_owned(), true), ("a::c".to_owned(), false)]);
        new.programs = BTreeMap::from([("ssa_egress".to_owned(), 44)]);
        let mut rows = Vec::new();
        put(&mut rows, &new, false);
        let mut other = Row::new("6.1.0-50-cloud");
        other.tests = BTreeMap::from([("a::b".to_owned(), true)]);
        put(&mut rows, &other, true);
        let text = document(&rows).unwrap();
        let mut again = read(&text);
        assert_eq!(document(&again).unwrap(), text);
        assert!(text.contains("| `a::c` | – | ✗ |"), "{text}");
        // Some tests go in beside the others, all of them take their place.
        let mut some = Row::new("6.12.1-cloud");
        some.tests = BTreeMap::from([("a::c".to_owned(), true)]);
        put(&mut again, &some, true);
        assert_eq!(again[1].tests.len(), 2);
        put(&mut again, &some, false);
        assert_eq!(again[1].tests.len(), 1);
    }
}
