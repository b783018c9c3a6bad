//! New stores, the header, the layout of areas.

use anyhow::{Result, ensure};
use usnap_test_support::Tool;
use usnap_test_support::lab::text;

use crate::statements::bench::{Bench, Setup, Side};
use crate::statements::craft::Craft;
use crate::statements::{Check, Statement, Usnap, hold, said};

#[test]
fn new_stores_and_their_layout() -> Result<()> {
    hold(
        "statements::stores::new_stores_and_their_layout",
        STATEMENTS,
    )
}

pub(crate) const STATEMENTS: &[Statement] = &[
    Statement {
        id: "new.header",
        kernel: "open; SnAp 1 1 8; 16/100 16; padding 1? 70",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 100),
            |side| {
                let opened = side.open()?;
                let seen = format!("{opened}; {}; {}", said::header(&side.cow)?, side.status()?);
                Ok(format!("{seen}; padding {}", side.cow_shows(0, 8)))
            },
        ),
    },
    Statement {
        id: "new.magic-only",
        kernel: "open; SnAp 1 1 8",
        usnap: Usnap::Differs("refused; \\x00\\x00\\x00\\x00 77 88 99"),
        check: Check::Both(
            || {
                let odd = Craft::new(8).magic([0; 4]).valid(77).version(88);
                Setup::new(8, 100).holds(odd.says_chunk(99).bytes(4))
            },
            |side| Ok(format!("{}; {}", side.open()?, said::header(&side.cow)?)),
        ),
    },
    Statement {
        id: "new.old-content",
        kernel: "open; header 1? 70; area 80; behind 16g",
        usnap: Usnap::Differs("refused; header 1? 7g; area 80; behind 16g"),
        check: Check::Both(
            || Setup::new(8, 100).holds(Craft::new(8).magic([0; 4]).background(b'g').bytes(8)),
            |side| {
                let opened = side.open()?;
                Ok(format!(
                    "{opened}; header {}; area {}; behind {}",
                    side.cow_shows(0, 8),
                    side.cow_shows(8, 8),
                    side.cow_shows(16, 16)
                ))
            },
        ),
    },
    Statement {
        id: "new.smallest",
        kernel: "16: open; 15: refused (Input/output error); SnAp 1 1 8; refused (Input/output error); 7: refused (Input/output error); \\x00\\x00\\x00\\x00 0 0 0",
        usnap: Usnap::Differs(
            "16: open; 15: refused; \\x00\\x00\\x00\\x00 0 0 0; refused; 7: refused; \\x00\\x00\\x00\\x00 0 0 0",
        ),
        check: Check::Both(|| Setup::new(8, 16), smallest),
    },
    Statement {
        id: "new.read-only-table",
        kernel: "ok; SnAp 1 1 8; protected: ok; SnAp 1 1 8",
        usnap: Usnap::Nothing,
        check: Check::Kernel(read_only_table),
    },
    Statement {
        id: "new.p-and-po",
        kernel: "equal: true; Overflow left no trace: true",
        usnap: Usnap::Nothing,
        check: Check::Kernel(p_and_po),
    },
    Statement {
        id: "new.blkid",
        kernel: "DM_snapshot_cow other no uuid",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 100),
            |side| {
                side.must_open()?;
                side.write(0, 8, b'a')?;
                side.close()?;
                let said = Tool::new("blkid")
                    .args(["-p", "-o", "export", text(side.cow.path())?])
                    .ok()?;
                let value = |key: &str| {
                    let found = said.lines().find_map(|line| line.strip_prefix(key));
                    found.unwrap_or("no uuid").to_owned()
                };
                Ok(format!(
                    "{} {} {}",
                    value("TYPE="),
                    value("USAGE="),
                    value("UUID=")
                ))
            },
        ),
    },
    Statement {
        id: "header.written-when",
        kernel: "after commits 1? 7g; after invalidation 1? 70",
        usnap: Usnap::Differs("after commits 1? 7g; after invalidation 1? 7g"),
        check: Check::Both(
            || Setup::new(8, 40).holds(Craft::new(8).background(b'g').bytes(4)),
            |side| {
                side.must_open()?;
                side.write(0, 16, b'a')?;
                side.close()?;
                let commits = side.cow_shows(0, 8);
                side.must_open()?;
                side.write(64, 64, b'a')?;
                side.close()?;
                Ok(format!(
                    "after commits {commits}; after invalidation {}",
                    side.cow_shows(0, 8)
                ))
            },
        ),
    },
    Statement {
        id: "header.valid",
        kernel: "open 8a SnAp 2 1 8; open 8a SnAp 2147483648 1 8",
        usnap: Usnap::Same,
        check: Check::Both(|| Setup::new(8, 100), valid),
    },
    Statement {
        id: "layout.areas",
        kernel: "70 numbers in order, without 34 and 67",
        usnap: Usnap::Same,
        check: Check::Both(|| Setup::new(1, 120), fill_areas),
    },
    Statement {
        id: "layout.next-area",
        kernel: "1: 35/35 3 1a 10; 8: 2072/2072 24 8a 80; 16: 8240/8240 48 16a 160; \
            32: 32864/32864 96 32a 320; 64: 131264/131264 192 64a 640",
        usnap: Usnap::Same,
        check: Check::Both(|| Setup::new(8, 8), next_areas),
    },
    Statement {
        id: "layout.status",
        kernel: "0: 2/101 2, 1: 3/101 2, 2: 4/101 2, 30: 32/101 2, 31: 33/101 2, 32: 35/101 3, \
            33: 36/101 3, 34: 37/101 3, 63: 66/101 3, 64: 68/101 4, 65: 69/101 4, 66: 70/101 4",
        usnap: Usnap::Same,
        check: Check::Both(|| Setup::new(1, 101), status_steps),
    },
];

fn smallest(side: &mut Side<'_>) -> Result<String> {
    let mut seen = vec![format!("16: {}", side.open()?)];
    side.close()?;
    for sectors in [15, 7] {
        side.cow = side.bench.device(sectors, &[])?;
        let opened = side.open()?;
        seen.push(format!("{sectors}: {opened}; {}", said::header(&side.cow)?));
        if sectors == 15 {
            seen.push(side.open()?);
        }
    }
    Ok(seen.join("; "))
}

fn read_only_table(bench: &Bench) -> Result<String> {
    let (origin, cow) = (bench.letters(64, b'o')?, bench.device(100, &[])?);
    let table = format!(
        "0 64 snapshot {} {} P 8",
        origin.path().display(),
        cow.path().display()
    );
    let made = bench.try_table(&table, &["--readonly"])?;
    let first = made.as_ref().map_or_else(Clone::clone, |_| "ok".to_owned());
    drop(made);
    let header = said::header(&cow)?;
    let piece = bench.piece(100);
    let cow = bench
        .try_table(&piece, &["--readonly"])?
        .map_err(anyhow::Error::msg)?;
    let table = format!(
        "0 64 snapshot {} {} P 8",
        origin.path().display(),
        cow.path().display()
    );
    let made = bench.try_table(&table, &["--readonly"])?;
    let second = made.as_ref().map_or_else(Clone::clone, |_| "ok".to_owned());
    drop(made);
    let forced = said::header(&cow)?;
    Ok(format!("{first}; {header}; protected: {second}; {forced}"))
}

fn p_and_po(bench: &Bench) -> Result<String> {
    let origin = bench.letters(256, b'o')?;
    let mut stores = Vec::new();
    for mode in ["P 8", "PO 8"] {
        let cow = bench.device(48, &[])?;
        let snapshot = bench.snapshot(&origin, &cow, mode)?;
        for sector in [8, 100, 64] {
            drop(snapshot.write(sector, &[b'a'; 1024]));
        }
        drop(snapshot);
        stores.push(cow);
    }
    let bytes = [stores[0].read(0, 48)?, stores[1].read(0, 48)?];
    let snapshot = bench.snapshot(&origin, &stores[1], "PO 8")?;
    drop(snapshot.write(0, &[b'b'; 4096 * 5]));
    let overflowed = snapshot.status()?;
    drop(snapshot);
    let after = stores[1].read(0, 16)?;
    Ok(format!(
        "equal: {}; {overflowed} left no trace: {}",
        bytes[0] == bytes[1],
        after[..4096] == bytes[1][..4096]
    ))
}

fn valid(side: &mut Side<'_>) -> Result<String> {
    let mut seen = Vec::new();
    for valid in [2, 1 << 31] {
        let store = Craft::new(8).valid(valid).entries(&[(0, 2)]).data(2, b'a');
        side.cow = side.bench.device(100, &store.bytes(4))?;
        let opened = side.open()?;
        let shows = side.shows(0, 8)?;
        side.write(8, 8, b'b')?;
        side.close()?;
        seen.push(format!("{opened} {shows} {}", said::header(&side.cow)?));
    }
    Ok(seen.join("; "))
}

/// Seventy chunks, one after the other, from the last one on.
fn fill_areas(side: &mut Side<'_>) -> Result<String> {
    side.must_open()?;
    for n in 0..70 {
        side.write(69 - n, 1, b'a')?;
    }
    side.close()?;
    let entries = side.entries()?;
    let named = |pair: &str| entries.split(' ').any(|entry| entry == pair);
    ensure!(entries.split(' ').count() == 70, "{entries}");
    ensure!(
        ["69>2", "38>33", "37>35", "6>66", "5>68", "0>73"]
            .iter()
            .all(|pair| named(pair)),
        "{entries}"
    );
    Ok("70 numbers in order, without 34 and 67".to_owned())
}

/// Where the second area is, for each chunk size: it is full of letters, a store that lacks one
/// entry to a full area gets that entry.
fn next_areas(side: &mut Side<'_>) -> Result<String> {
    let mut seen = Vec::new();
    for chunk in [1, 8, 16, 32, 64] {
        let entries = u64::from(chunk) * 32;
        let sectors = u64::from(chunk);
        let store = Craft::new(chunk).in_order(1, entries - 1).bytes(2);
        let area = sectors * (entries + 2);
        // Nothing but zeros between the first entries' data and the last one's.
        let ends = side.bench.letters(sectors * 3, b'g')?;
        let begins = side.bench.device(sectors * 2, &store)?;
        let middle = sectors * (entries - 2);
        let table = format!(
            "0 {0} linear {1} 0\n{0} {middle} zero\n{2} {3} linear {4} 0\n",
            sectors * 2,
            begins.path().display(),
            sectors * 2 + middle,
            sectors * 3,
            ends.path().display()
        );
        side.cow = side.bench.table(&table)?;
        side.origin = side
            .bench
            .table(&format!("0 {} zero", sectors * (entries + 1)))?;
        side.chunk = chunk;
        side.must_open()?;
        side.write(0, sectors, b'a')?;
        let status = side.status()?;
        side.close()?;
        let ends_with = side.cow_shows(area - sectors, sectors * 2);
        seen.push(format!("{chunk}: {status} {ends_with}"));
        side.cow = side.bench.device(8, &[])?;
        drop((ends, begins));
    }
    Ok(seen.join("; "))
}

/// The status line after each write around the border of an area.
fn status_steps(side: &mut Side<'_>) -> Result<String> {
    side.must_open()?;
    let mut seen = Vec::new();
    for n in 0..67 {
        if matches!(n, 0..=2 | 30..=34 | 63..=66) {
            seen.push(format!("{n}: {}", side.status()?));
        }
        side.write(n, 1, b'a')?;
    }
    Ok(seen.join(", "))
}
