//! What is looked at when a store is opened, and what is believed.

use anyhow::Result;
use usnap_test_support::Tool;

use crate::statements::bench::{Bench, Setup, Side};
use crate::statements::craft::Craft;
use crate::statements::{Check, Statement, Usnap, hold, said};

#[test]
fn opening_what_is_there() -> Result<()> {
    hold("statements::activation::opening_what_is_there", STATEMENTS)
}

pub(crate) const STATEMENTS: &[Statement] = &[
    Statement {
        id: "open.chunk-numbers",
        kernel: "08 ok, 0 ok, 0x10 no, 8k no, -8 no, 7 no, 4194304 no",
        usnap: Usnap::Nothing,
        check: Check::Kernel(chunk_numbers),
    },
    Statement {
        id: "open.chunk-default",
        kernel: "P 32; SnAp 1 1 32",
        usnap: Usnap::Nothing,
        check: Check::Kernel(|bench| {
            let (origin, cow) = (bench.letters(64, b'o')?, bench.device(100, &[])?);
            let snapshot = bench.snapshot(&origin, &cow, "P 0")?;
            Ok(format!(
                "{}; {}",
                snapshot.table_line()?,
                said::header(&cow)?
            ))
        }),
    },
    Statement {
        id: "open.block-size",
        kernel: "origin 4 no, 8 ok; COW 4 no, 8 ok",
        usnap: Usnap::Nothing,
        check: Check::Kernel(block_size),
    },
    Statement {
        id: "open.table-chunk-read",
        kernel: "64: refused (Input/output error); 32: open; 8: open",
        usnap: Usnap::Differs("64: open; 32: open; 8: open"),
        check: Check::Both(
            || Setup::new(64, 40).holds(Craft::new(1).bytes(4)),
            |side| {
                let mut seen = Vec::new();
                for chunk in [64, 32, 8] {
                    side.chunk = chunk;
                    seen.push(format!("{chunk}: {}", side.open()?));
                }
                Ok(seen.join("; "))
            },
        ),
    },
    Statement {
        id: "open.magic",
        kernel: "refused (No such device or address), refused (No such device or address)",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 100),
            |side| {
                each(
                    side,
                    &[Craft::new(8).magic(*b"pAnS"), Craft::new(8).magic(*b"oops")],
                    |_| Ok(String::new()),
                )
            },
        ),
    },
    Statement {
        id: "open.header-chunk-wins",
        kernel: "open 8a; 24/100 16",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(16, 100).holds(Craft::new(8).entries(&[(0, 2)]).data(2, b'a').bytes(4)),
            |side| {
                let opened = side.open()?;
                Ok(format!(
                    "{opened} {}; {}",
                    side.shows(0, 8)?,
                    side.status()?
                ))
            },
        ),
    },
    Statement {
        id: "open.header-chunk-bad",
        kernel: "refused (Invalid argument), refused (Invalid argument), refused (Invalid argument), refused (Invalid argument)",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 100),
            |side| {
                let stores = [7, 0, 4_194_304, 1 << 31].map(|c| Craft::new(8).says_chunk(c));
                each(side, &stores, |_| Ok(String::new()))
            },
        ),
    },
    Statement {
        id: "open.version",
        kernel: "refused (Invalid argument), refused (Invalid argument)",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 100),
            |side| {
                let newer = || Craft::new(8).version(2);
                each(side, &[newer(), newer().valid(0)], |_| Ok(String::new()))
            },
        ),
    },
    Statement {
        id: "open.invalid",
        kernel: "open; Invalid; reads EIO, writes EIO",
        usnap: Usnap::Differs("refused; Invalid"),
        check: Check::Both(
            || Setup::new(8, 100).holds(Craft::new(8).valid(0).entries(&[(0, 2)]).bytes(4)),
            |side| {
                let opened = side.open()?;
                if opened != "open" {
                    return Ok(format!("{opened}; {}", side.status()?));
                }
                let (reads, writes) = (side.shows(0, 8)?, side.write(0, 8, b'a')?);
                Ok(format!(
                    "{opened}; {}; reads {reads}, writes {writes}",
                    side.status()?
                ))
            },
        ),
    },
    Statement {
        id: "open.area-cut-off",
        kernel: "34: refused (Input/output error); 35: open 35/35 3",
        usnap: Usnap::Same,
        check: Check::Both(|| Setup::new(1, 34), area_cut_off),
    },
    Statement {
        id: "open.area-partly-there",
        kernel: "refused (Input/output error)",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 258 * 8 + 4).holds(Craft::new(8).in_order(0, 256).bytes(2)),
            |side| side.open(),
        ),
    },
    Statement {
        id: "open.later-areas",
        kernel: "open 3/100 2; 1a 63o",
        usnap: Usnap::Same,
        check: Check::Both(
            || {
                let entries = Craft::new(1)
                    .entries(&[(0, 2)])
                    .data(2, b'a')
                    .data(36, b'x');
                Setup::new(1, 100)
                    .origin(64)
                    .holds(entries.placed(32, 9, 36).bytes(40))
            },
            |side| {
                let opened = side.open()?;
                Ok(format!(
                    "{opened} {}; {}",
                    side.status()?,
                    side.shows(0, 64)?
                ))
            },
        ),
    },
    Statement {
        id: "open.next-free",
        kernel: "open 35/100 2; 0>33 1>35",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(1, 100).holds(Craft::new(1).entries(&[(0, 33)]).bytes(40)),
            |side| {
                let seen = format!("{} {}", side.open()?, side.status()?);
                side.write(1, 1, b'a')?;
                side.close()?;
                Ok(format!("{seen}; {}", side.entries()?))
            },
        ),
    },
    Statement {
        id: "open.holes",
        kernel: "open 80/100 16; 16o 8c 16o 8b 16o 8d; 5>9 8>4 2>2 0>10",
        usnap: Usnap::Same,
        check: Check::Both(
            || {
                let store = Craft::new(8).entries(&[(5, 9), (8, 4), (2, 2)]);
                let store = store.data(9, b'b').data(2, b'c').data(4, b'd');
                Setup::new(8, 100).origin(72).holds(store.bytes(10))
            },
            |side| {
                let opened = format!("{} {}", side.open()?, side.status()?);
                let shows = side.shows(0, 72)?;
                side.write(0, 8, b'e')?;
                side.close()?;
                Ok(format!("{opened}; {shows}; {}", side.entries()?))
            },
        ),
    },
    Statement {
        id: "open.terminator",
        kernel: "open 24/100 16; 8a 56o",
        usnap: Usnap::Same,
        check: Check::Both(junk, |side| {
            let opened = format!("{} {}", side.open()?, side.status()?);
            Ok(format!("{opened}; {}", side.shows(0, 64)?))
        }),
    },
    Statement {
        id: "open.behind-terminator",
        kernel: "8a 40o 16b; 32/100 16",
        usnap: Usnap::Differs("8a 48o 8b; 32/100 16"),
        check: Check::Both(junk, |side| {
            side.must_open()?;
            side.write(56, 8, b'b')?;
            side.must_open()?;
            Ok(format!("{}; {}", side.shows(0, 64)?, side.status()?))
        }),
    },
    Statement {
        id: "open.old-beyond-origin",
        kernel: "open 24/100 16 64o",
        usnap: Usnap::Differs("refused"),
        check: Check::Both(
            || believed(&[(1000, 2)]),
            |side| {
                let opened = side.open()?;
                if opened != "open" {
                    return Ok(opened);
                }
                Ok(format!(
                    "{opened} {} {}",
                    side.status()?,
                    side.shows(0, 64)?
                ))
            },
        ),
    },
    Statement {
        id: "open.new-beyond-cow",
        kernel: "open 408/100 16; reads EIO; writes EIO Invalid",
        usnap: Usnap::Differs("refused"),
        check: Check::Both(
            || believed(&[(0, 50)]),
            |side| {
                let opened = side.open()?;
                if opened != "open" {
                    return Ok(opened);
                }
                let (status, reads) = (side.status()?, side.shows(0, 8)?);
                let writes = side.write(8, 8, b'z')?;
                Ok(format!(
                    "{opened} {status}; reads {reads}; writes {writes} {}",
                    side.status()?
                ))
            },
        ),
    },
    Statement {
        id: "open.new-is-area",
        kernel: "open; 1? 70 56o",
        usnap: Usnap::Differs("refused"),
        check: Check::Both(|| believed(&[(0, 1)]), what_shows),
    },
    Statement {
        id: "open.new-twice",
        kernel: "open; 16a 48o",
        usnap: Usnap::Differs("refused"),
        check: Check::Both(|| believed(&[(0, 2), (1, 2)]), what_shows),
    },
    Statement {
        id: "open.old-twice",
        kernel: "open; 8a 56o",
        usnap: Usnap::Differs("refused"),
        check: Check::Both(|| believed(&[(0, 2), (0, 3)]), what_shows),
    },
    Statement {
        id: "open.high-bits",
        kernel: "open; 8a 8b 48o",
        usnap: Usnap::Differs("refused"),
        check: Check::Both(|| believed(&[(0, 2 | 1 << 56)]), what_shows),
    },
    Statement {
        id: "open.new-largest",
        kernel: "open 0/100 16",
        usnap: Usnap::Differs("refused"),
        check: Check::Both(
            || believed(&[(0, u64::MAX)]),
            |side| {
                let opened = side.open()?;
                if opened != "open" {
                    return Ok(opened);
                }
                Ok(format!("{opened} {}", side.status()?))
            },
        ),
    },
];

/// A store with these entries; chunk 2 holds `a`, chunk 3 `b`.
fn believed(entries: &[(u64, u64)]) -> Setup {
    let store = Craft::new(8).entries(entries);
    let store = store.data(2, b'a').data(3, b'b').bytes(4);
    Setup::new(8, 100).origin(64).holds(store)
}

/// An entry, a terminator with an old chunk, and an entry behind it.
fn junk() -> Setup {
    let store = Craft::new(8)
        .placed(0, 0, 2)
        .placed(1, 5, 0)
        .placed(2, 6, 3);
    let store = store.data(2, b'a').data(3, b'x').bytes(4);
    Setup::new(8, 100).origin(64).holds(store)
}

fn what_shows(side: &mut Side<'_>) -> Result<String> {
    let opened = side.open()?;
    if opened != "open" {
        return Ok(opened);
    }
    Ok(format!("{opened}; {}", side.shows(0, 64)?))
}

/// Opens each of these and says how that went.
fn each(
    side: &mut Side<'_>,
    stores: &[Craft],
    more: fn(&mut Side<'_>) -> Result<String>,
) -> Result<String> {
    let mut seen = Vec::new();
    for store in stores {
        side.cow = side.bench.device(100, &store.bytes(4))?;
        let opened = side.open()?;
        seen.push(opened + &more(side)?);
        side.close()?;
    }
    Ok(seen.join(", "))
}

fn chunk_numbers(bench: &Bench) -> Result<String> {
    let mut seen = Vec::new();
    let origin = bench.letters(64, b'o')?;
    for number in ["08", "0", "0x10", "8k", "-8", "7", "4194304"] {
        let cow = bench.device(100, &[])?;
        let table = format!(
            "0 64 snapshot {} {} P {number}",
            origin.path().display(),
            cow.path().display()
        );
        let word = if bench.try_table(&table, &[])?.is_ok() {
            "ok"
        } else {
            "no"
        };
        seen.push(format!("{number} {word}"));
    }
    Ok(seen.join(", "))
}

fn block_size(bench: &Bench) -> Result<String> {
    let file = "/run/blocks";
    std::fs::write(file, vec![0; 1 << 20])?;
    let said = Tool::new("losetup")
        .args(["--find", "--show", "--sector-size", "4096", file])
        .ok()?;
    let large = said.trim().to_owned();
    let small = bench.device(2048, &[])?;
    let small = small.path().display().to_string();
    let take = |origin: &str, cow: &str, chunk: u32| -> Result<&'static str> {
        let table = format!("0 2048 snapshot {origin} {cow} N {chunk}");
        Ok(if bench.try_table(&table, &[])?.is_ok() {
            "ok"
        } else {
            "no"
        })
    };
    let seen = format!(
        "origin 4 {}, 8 {}; COW 4 {}, 8 {}",
        take(&large, &small, 4)?,
        take(&large, &small, 8)?,
        take(&small, &large, 4)?,
        take(&small, &large, 8)?
    );
    Tool::new("losetup").args(["--detach", &large]).ok()?;
    Ok(seen)
}

fn area_cut_off(side: &mut Side<'_>) -> Result<String> {
    let store = Craft::new(1).in_order(0, 32);
    side.cow = side.bench.device(34, &store.bytes(34))?;
    let mut seen = format!("34: {}", side.open()?);
    side.cow = side.bench.device(35, &store.bytes(35))?;
    seen += &format!("; 35: {} {}", side.open()?, side.status()?);
    Ok(seen)
}
