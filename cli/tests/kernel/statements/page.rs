//! `format-spec/KERNEL.md` has a row for each statement that is checked, in the section that names
//! its file, with the verdict that the check holds to.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::statements::{Statement, Usnap, activation, io, merge, modes, space, stores};

const PAGE: &str = include_str!("../../../../format-spec/KERNEL.md");

const FILES: [(&str, &[Statement]); 6] = [
    ("stores", stores::STATEMENTS),
    ("activation", activation::STATEMENTS),
    ("space", space::STATEMENTS),
    ("modes", modes::STATEMENTS),
    ("io", io::STATEMENTS),
    ("merge", merge::STATEMENTS),
];

/// Of each row that begins with an id: the file of its section, and how the verdict begins.
fn rows() -> Result<BTreeMap<String, (String, String)>> {
    let mut rows = BTreeMap::new();
    let mut file = String::new();
    for line in PAGE.lines() {
        if line.starts_with("## ") {
            let path = line.split('`').nth(1).unwrap_or_default();
            let name = path.rsplit('/').next().unwrap_or_default();
            name.trim_end_matches(".rs").clone_into(&mut file);
        }
        let Some(row) = line.strip_prefix("| `") else {
            continue;
        };
        let (id, _) = row.split_once('`').context("an id without an end")?;
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        ensure!(cells.len() == 5, "{id} has not three cells: {line}");
        let verdict = cells[3].split([':', ';']).next().unwrap_or_default();
        let previous = rows.insert(id.to_owned(), (file.clone(), verdict.to_owned()));
        ensure!(previous.is_none(), "{id} is there twice");
    }
    Ok(rows)
}

#[test]
fn the_page_lists_what_is_checked_and_nothing_else() -> Result<()> {
    let mut rows = rows()?;
    let mut count = [0; 3];
    for (file, statements) in FILES {
        for statement in statements {
            let id = statement.id;
            let (section, verdict) = rows.remove(id).with_context(|| format!("no row {id}"))?;
            ensure!(section == file, "{id} is in the section of {section}");
            let (index, wanted) = match statement.usnap {
                Usnap::Same => (0, "same"),
                Usnap::Differs(_) => (1, "different"),
                Usnap::Nothing => (2, "-"),
            };
            ensure!(
                verdict == wanted,
                "{id}: {verdict}, but the check says {wanted}"
            );
            count[index] += 1;
        }
    }
    ensure!(rows.is_empty(), "rows without a check: {:?}", rows.keys());
    let [same, different, alone] = count;
    let said = format!(
        "{} statements: {same} same, {different} different, {alone} of the kernel alone",
        same + different + alone
    );
    ensure!(PAGE.contains(&said), "the page does not say: {said}");
    Ok(())
}
