//! Modes, tables, status words, full stores, two users of one store.

use anyhow::{Context, Result};
use usnap_test_support::lab::text;

use crate::LAB;
use crate::statements::bench::{Bench, Device, Setup, Side, Who};
use crate::statements::{Check, Statement, Usnap, hold, said};

#[test]
fn modes_tables_and_full_stores() -> Result<()> {
    hold(
        "statements::modes::modes_tables_and_full_stores",
        STATEMENTS,
    )
}

pub(crate) const STATEMENTS: &[Statement] = &[
    Statement {
        id: "full.p",
        kernel: "ok ok EIO; mapped EIO; reads EIO; flush ok; Invalid; SnAp 0 1 8; again Invalid",
        usnap: Usnap::Differs(
            "ok ok ENOSPC; mapped ok; reads 8b; flush ok; 32/32 16; SnAp 1 1 8; again 32/32 16",
        ),
        check: Check::Both(|| Setup::new(8, 32), fill),
    },
    Statement {
        id: "full.po",
        kernel: "ok ok EIO; mapped EIO; reads 8a; flush ok; Overflow; SnAp 1 1 8; again 32/32 16",
        usnap: Usnap::Differs(
            "ok ok ENOSPC; mapped ok; reads 8b; flush ok; 32/32 16; SnAp 1 1 8; again 32/32 16",
        ),
        check: Check::Both(|| Setup::new(8, 32).mode("PO"), fill),
    },
    Statement {
        id: "full.events",
        kernel: "P 1, PO 0",
        usnap: Usnap::Nothing,
        check: Check::Kernel(|bench| {
            let mut seen = Vec::new();
            for mode in ["P", "PO"] {
                let (_devices, snapshot) = full(bench, mode)?;
                seen.push(format!("{mode} {}", snapshot.events()?));
            }
            Ok(seen.join(", "))
        }),
    },
    Statement {
        id: "full.po-stays",
        kernel: "suspended and resumed Overflow, grown Overflow EIO, handed over Overflow, made anew 32/64 16 ok",
        usnap: Usnap::Nothing,
        check: Check::Kernel(po_stays),
    },
    Statement {
        id: "full.middle-po",
        kernel: "EIO; 0>2*4; 32a 96o",
        usnap: Usnap::Differs("ENOSPC; 0>2*4; 32a 96o"),
        check: Check::Both(|| Setup::new(8, 48).origin(128).mode("PO"), middle),
    },
    Statement {
        id: "full.middle-p",
        kernel: "EIO; none; Invalid",
        usnap: Usnap::Differs("ENOSPC; 0>2*4; 32a 96o"),
        check: Check::Both(|| Setup::new(8, 48).origin(128), middle),
    },
    Statement {
        id: "table.modes",
        kernel: "P ok, p ok, PO ok, Po ok, POx ok, PX no, persistent no, N ok, n ok, NO ok, Nxyz ok, X no, O no, transient no",
        usnap: Usnap::Nothing,
        check: Check::Kernel(|bench| {
            let modes = [
                "P",
                "p",
                "PO",
                "Po",
                "POx",
                "PX",
                "persistent",
                "N",
                "n",
                "NO",
                "Nxyz",
                "X",
                "O",
                "transient",
            ];
            taken(bench, &modes.map(|mode| format!("{mode} 8")))
        }),
    },
    Statement {
        id: "table.arguments",
        kernel: "P 8 0 ok, P 8 1 discard_zeroes_cow ok, P 8 1 DISCARD_ZEROES_COW ok, P 8 1 discard_passdown_origin no, P 8 2 discard_passdown_origin discard_zeroes_cow ok, P 8 1 nonsense no, P 8 3 discard_zeroes_cow no, P 8 0 more words ok, P no, P 8 2 discard_zeroes_cow no",
        usnap: Usnap::Nothing,
        check: Check::Kernel(|bench| {
            let tables = [
                "P 8 0",
                "P 8 1 discard_zeroes_cow",
                "P 8 1 DISCARD_ZEROES_COW",
                "P 8 1 discard_passdown_origin",
                "P 8 2 discard_passdown_origin discard_zeroes_cow",
                "P 8 1 nonsense",
                "P 8 3 discard_zeroes_cow",
                "P 8 0 more words",
                "P",
                "P 8 2 discard_zeroes_cow",
            ];
            taken(bench, &tables.map(str::to_owned))
        }),
    },
    Statement {
        id: "table.same-device",
        kernel: "refused (Invalid argument)",
        usnap: Usnap::Same,
        check: Check::Each(
            |bench| {
                let one = bench.device(100, &[])?;
                let one = one.path().display();
                let made = bench.try_table(&format!("0 64 snapshot {one} {one} P 8"), &[])?;
                Ok(made.map_or_else(|why| format!("refused ({why})"), |_| "open".to_owned()))
            },
            |bench| {
                let one = bench.device(100, &[])?;
                let one = text(one.path())?;
                let said = LAB.usnap(&["serve", one, "--cow", one, "--single"]).run()?;
                Ok(if said.status.code() == Some(1) {
                    "refused".to_owned()
                } else {
                    said.to_string()
                })
            },
        ),
    },
    Statement {
        id: "table.line",
        kernel: "P 8, PO 8, N 8, PO 8 2 discard_zeroes_cow discard_passdown_origin",
        usnap: Usnap::Nothing,
        check: Check::Kernel(|bench| {
            let origin = bench.letters(64, b'o')?;
            let mut seen = Vec::new();
            for mode in [
                "p 8",
                "Pox 8",
                "Nxyz 8",
                "PO 8 2 discard_zeroes_cow discard_passdown_origin",
            ] {
                let cow = bench.device(100, &[])?;
                seen.push(bench.snapshot(&origin, &cow, mode)?.table_line()?);
            }
            Ok(seen.join(", "))
        }),
    },
    Statement {
        id: "transient.layout",
        kernel: "0/100 0; 8/100 0; COW 8a 80; made anew 64o 0/100 0",
        usnap: Usnap::Nothing,
        check: Check::Kernel(transient),
    },
    Statement {
        id: "transient.room",
        kernel: "7: EIO Invalid; 8: ok 8/8 0; chunk 0: Invalid argument",
        usnap: Usnap::Nothing,
        check: Check::Kernel(transient_room),
    },
    Statement {
        id: "transient.over-persistent",
        kernel: "header 8a; No such device or address",
        usnap: Usnap::Nothing,
        check: Check::Kernel(|bench| {
            let (origin, cow) = (bench.letters(64, b'o')?, bench.device(100, &[])?);
            drop(bench.snapshot(&origin, &cow, "P 8")?);
            bench
                .snapshot(&origin, &cow, "N 8")?
                .write(0, &[b'a'; 4096])?;
            let header = cow.shows(0, 8);
            let table = format!(
                "0 64 snapshot {} {} P 8",
                origin.path().display(),
                cow.path().display()
            );
            let again = bench.try_table(&table, &[])?.err().unwrap_or_default();
            Ok(format!("header {header}; {again}"))
        }),
    },
    Statement {
        id: "users.two-origins",
        kernel: "open open",
        usnap: Usnap::Differs("open refused"),
        check: Check::Each(
            |bench| {
                let cow = bench.device(100, &[])?;
                let origins = [bench.letters(64, b'o')?, bench.letters(64, b'p')?];
                let _first = bench.snapshot(&origins[0], &cow, "P 8")?;
                let _second = bench.snapshot(&origins[1], &cow, "P 8")?;
                Ok("open open".to_owned())
            },
            |bench| {
                let mut first = bench.side(Who::Usnap, &Setup::new(8, 100))?;
                let opened = first.open()?;
                let other = bench.letters(256, b'p')?;
                let said = LAB.usnap(&["serve", text(other.path())?, "--single", "--cow"]);
                let said = said.arg(first.cow.path()).run()?;
                first.close()?;
                let refused = said.status.code() == Some(1) && said.stderr.contains("busy");
                let second = if refused {
                    "refused".to_owned()
                } else {
                    said.to_string()
                };
                Ok(format!("{opened} {second}"))
            },
        ),
    },
    Statement {
        id: "users.handover",
        kernel: "source active: refused (Invalid argument); source suspended: ok, 24/100 16, source Invalid",
        usnap: Usnap::Nothing,
        check: Check::Kernel(handover),
    },
];

/// Three chunks where two fit, one of them again, a read, a flush, and a second life.
fn fill(side: &mut Side<'_>) -> Result<String> {
    side.must_open()?;
    let mut seen = Vec::new();
    for n in 0..3 {
        seen.push(side.write(n * 8, 8, b'a')?);
    }
    let mapped = side.write(0, 8, b'b')?;
    let (reads, flush, status) = (side.shows(0, 8)?, side.flush()?, side.status()?);
    side.close()?;
    let header = said::header(&side.cow)?;
    side.must_open()?;
    Ok(format!(
        "{}; mapped {mapped}; reads {reads}; flush {flush}; {status}; {header}; again {}",
        seen.join(" "),
        side.status()?
    ))
}

/// A snapshot that was written to once too often.
fn full(bench: &Bench, mode: &str) -> Result<([Device; 2], Device)> {
    let (origin, cow) = (bench.letters(64, b'o')?, bench.device(32, &[])?);
    let snapshot = bench.snapshot(&origin, &cow, &format!("{mode} 8"))?;
    for chunk in 0..3 {
        // The last one is refused.
        drop(snapshot.write(chunk * 8, &[b'a'; 4096]));
    }
    Ok(([origin, cow], snapshot))
}

fn po_stays(bench: &Bench) -> Result<String> {
    let ([origin, cow], snapshot) = full(bench, "PO")?;
    snapshot.suspend()?;
    snapshot.resume()?;
    let mut seen = format!("suspended and resumed {}", snapshot.status()?);
    let longer = cow.first_table().replacen("0 32 ", "0 64 ", 1);
    cow.change(&longer)?;
    let wrote = snapshot.write(0, &[b'b'; 4096]);
    let wrote = wrote.map_or_else(|error| said::errno(&error), |()| "ok".to_owned());
    seen += &format!(", grown {} {wrote}", snapshot.status()?);
    snapshot.change(snapshot.first_table())?;
    seen += &format!(", handed over {}", snapshot.status()?);
    drop(snapshot);
    let snapshot = bench.snapshot(&origin, &cow, "PO 8")?;
    let status = snapshot.status()?;
    snapshot.write(40, &[b'b'; 4096])?;
    Ok(format!("{seen}, made anew {status} ok"))
}

/// One large write where a part of it fits.
fn middle(side: &mut Side<'_>) -> Result<String> {
    side.must_open()?;
    let wrote = side.write(0, 128, b'a')?;
    side.close()?;
    let entries = side.entries()?;
    side.must_open()?;
    let shows = side.shows(0, 128)?;
    let shows = if shows == "EIO" {
        side.status()?
    } else {
        shows
    };
    Ok(format!("{wrote}; {entries}; {shows}"))
}

/// Which ends of a table are taken.
fn taken(bench: &Bench, ends: &[String]) -> Result<String> {
    let origin = bench.letters(64, b'o')?;
    let mut seen = Vec::new();
    for end in ends {
        let cow = bench.device(100, &[])?;
        let table = format!(
            "0 64 snapshot {} {} {end}",
            origin.path().display(),
            cow.path().display()
        );
        let word = if bench.try_table(&table, &[])?.is_ok() {
            "ok"
        } else {
            "no"
        };
        seen.push(format!("{} {word}", end.strip_suffix(" 8").unwrap_or(end)));
    }
    Ok(seen.join(", "))
}

fn transient(bench: &Bench) -> Result<String> {
    let (origin, cow) = (bench.letters(64, b'o')?, bench.device(100, &[])?);
    let snapshot = bench.snapshot(&origin, &cow, "N 8")?;
    let fresh = snapshot.status()?;
    snapshot.write(24, &[b'a'; 4096])?;
    let written = snapshot.status()?;
    drop(snapshot);
    let device = cow.shows(0, 16);
    let snapshot = bench.snapshot(&origin, &cow, "N 8")?;
    let (shows, status) = (snapshot.shows(0, 64), snapshot.status()?);
    Ok(format!(
        "{fresh}; {written}; COW {device}; made anew {shows} {status}"
    ))
}

fn transient_room(bench: &Bench) -> Result<String> {
    let origin = bench.letters(64, b'o')?;
    let mut seen = Vec::new();
    for sectors in [7, 8] {
        let cow = bench.device(sectors, &[])?;
        let snapshot = bench.snapshot(&origin, &cow, "N 8")?;
        let wrote = snapshot.write(0, &[b'a'; 4096]);
        let wrote = wrote.map_or_else(|error| said::errno(&error), |()| "ok".to_owned());
        seen.push(format!("{sectors}: {wrote} {}", snapshot.status()?));
    }
    let cow = bench.device(100, &[])?;
    let table = format!(
        "0 64 snapshot {} {} N 0",
        origin.path().display(),
        cow.path().display()
    );
    let refused = bench.try_table(&table, &[])?.err();
    seen.push(format!("chunk 0: {}", refused.context("it was taken")?));
    Ok(seen.join("; "))
}

fn handover(bench: &Bench) -> Result<String> {
    let (origin, cow) = (bench.letters(64, b'o')?, bench.device(100, &[])?);
    let source = bench.snapshot(&origin, &cow, "P 8")?;
    source.write(0, &[b'a'; 4096])?;
    let target = bench.table("0 64 error")?;
    target.suspend()?;
    let loaded = target.load(source.first_table())?;
    let early = target.resume()?;
    source.suspend()?;
    let late = target.resume()?;
    let status = target.status()?;
    Ok(format!(
        "source active: {early}; source suspended: {late}, {status}, source {}{}",
        source.status()?,
        if loaded == "ok" { "" } else { &loaded }
    ))
}
