//! docs/kernels.md: kernel by test.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::Result;

use super::Row;

/// The document of some rows.
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
