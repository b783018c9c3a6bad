//! Room: what is taken when, sizes that are fatal, devices that grow and shrink, ends inside chunks.

use anyhow::{Context, Result};

use crate::statements::bench::{Device, Setup, Side};
use crate::statements::craft::Craft;
use crate::statements::{Check, Statement, Usnap, hold, said};

#[test]
fn room_and_where_it_ends() -> Result<()> {
    hold("statements::space::room_and_where_it_ends", STATEMENTS)
}

pub(crate) const STATEMENTS: &[Statement] = &[
    Statement {
        id: "room.last-chunk",
        kernel: "ok ok ok EIO; 5/5 2; Overflow",
        usnap: Usnap::Differs("ok ok ok ENOSPC; 5/5 2; 5/5 2"),
        check: Check::Both(
            || Setup::new(1, 5).mode("PO"),
            |side| {
                side.must_open()?;
                let mut seen = writes(side, 3)?;
                let full = side.status()?;
                seen.push(side.write(9, 1, b'a')?);
                Ok(format!("{}; {full}; {}", seen.join(" "), side.status()?))
            },
        ),
    },
    Statement {
        id: "room.grown-meanwhile",
        kernel: "ok ok ok; 40/40 16; ok ok; 56/80 16",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 40),
            |side| {
                side.must_open()?;
                let first = writes(side, 3)?.join(" ");
                let full = side.status()?;
                side.cow.change(&resized(&side.cow, 80)?)?;
                let more = [side.write(64, 8, b'a')?, side.write(80, 8, b'a')?].join(" ");
                Ok(format!("{first}; {full}; {more}; {}", side.status()?))
            },
        ),
    },
    Statement {
        id: "room.cut-off",
        kernel: "open 40/24 16; 8a EIO; new EIO; Invalid",
        usnap: Usnap::Differs("refused"),
        check: Check::Both(
            || Setup::new(8, 100),
            |side| {
                side.must_open()?;
                writes(side, 3)?;
                side.close()?;
                side.cow.change(&resized(&side.cow, 24)?)?;
                let opened = side.open()?;
                if opened != "open" {
                    return Ok(opened);
                }
                let status = side.status()?;
                let shows = [side.shows(0, 8)?, side.shows(8, 8)?].join(" ");
                let new = side.write(64, 8, b'z')?;
                Ok(format!(
                    "{opened} {status}; {shows}; new {new}; {}",
                    side.status()?
                ))
            },
        ),
    },
    Statement {
        id: "room.poisoned-p",
        kernel: "31 ok, then EIO EIO; Invalid; SnAp 0 1 1; again open Invalid",
        usnap: Usnap::Differs("31 ok, then ENOSPC ENOSPC; 33/34 2; SnAp 1 1 1; again open 33/34 2"),
        check: Check::Both(|| Setup::new(1, 34), poisoned),
    },
    Statement {
        id: "room.poisoned-po",
        kernel: "31 ok, then EIO EIO; Invalid; SnAp 0 1 1; again open Invalid",
        usnap: Usnap::Differs("31 ok, then ENOSPC ENOSPC; 33/34 2; SnAp 1 1 1; again open 33/34 2"),
        check: Check::Both(|| Setup::new(1, 34).mode("PO"), poisoned),
    },
    Statement {
        id: "room.poisoned-4k",
        kernel: "1029: EIO SnAp 0 1 8; 258 and a half: EIO SnAp 0 1 8; 1028: EIO SnAp 1 1 8; 1030: ok SnAp 1 1 8",
        usnap: Usnap::Differs(
            "1029: ENOSPC SnAp 1 1 8; 258 and a half: ENOSPC SnAp 1 1 8; 1028: ENOSPC SnAp 1 1 8; 1030: ok SnAp 1 1 8",
        ),
        check: Check::Both(|| Setup::new(8, 40).mode("PO"), poisoned_4k),
    },
    Statement {
        id: "room.poisoned-256m",
        kernel: "256M: EIO Invalid SnAp 0 1 8, again Invalid; 255M: EIO Overflow SnAp 1 1 8, again 522240/522240 2048",
        usnap: Usnap::Differs(
            "256M: ENOSPC 524280/524288 2048 SnAp 1 1 8, again 524280/524288 2048; 255M: ENOSPC 522240/522240 2048 SnAp 1 1 8, again 522240/522240 2048",
        ),
        check: Check::Both(|| Setup::new(8, 40).mode("PO"), quarter_gib),
    },
    Statement {
        id: "room.cut-chunk-of-cow",
        kernel: "ok ok EIO; 32/39 16",
        usnap: Usnap::Differs("ok ok ENOSPC; 32/39 16"),
        check: Check::Both(
            || Setup::new(8, 39).mode("PO"),
            |side| {
                side.must_open()?;
                let seen = writes(side, 3)?;
                side.must_open()?;
                Ok(format!("{}; {}", seen.join(" "), side.status()?))
            },
        ),
    },
    Statement {
        id: "room.cut-chunk-of-origin",
        kernel: "ok; 1a 3o 4g",
        usnap: Usnap::Differs("ok; 1a 3o 40"),
        check: Check::Both(
            || {
                let store = Craft::new(8).background(b'g').bytes(4);
                Setup::new(8, 100).origin(20).holds(store)
            },
            |side| {
                side.must_open()?;
                let seen = side.write(16, 1, b'a')?;
                side.close()?;
                Ok(format!("{seen}; {}", side.cow_shows(16, 8)))
            },
        ),
    },
    Statement {
        id: "room.whole-cut-chunk",
        kernel: "EIO; Invalid",
        usnap: Usnap::Differs("ok; 24/100 16"),
        check: Check::Both(
            || Setup::new(8, 100).origin(20),
            |side| {
                let whole = side.origin.first_table().replacen("0 20 ", "0 16 ", 1);
                side.must_open()?;
                side.origin.change(&format!("{whole}\n16 4 error\n"))?;
                let seen = side.write(16, 4, b'a')?;
                Ok(format!("{seen}; {}", side.status()?))
            },
        ),
    },
    Statement {
        id: "room.small-origin",
        kernel: "ok; 2o 2a 1o; 24/100 16",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 100).origin(5),
            |side| {
                side.must_open()?;
                let seen = side.write(2, 2, b'a')?;
                Ok(format!("{seen}; {}; {}", side.shows(0, 5)?, side.status()?))
            },
        ),
    },
    Statement {
        id: "room.shorter-snapshot",
        kernel: "ok; 1a 7o",
        usnap: Usnap::Nothing,
        check: Check::Kernel(|bench| {
            let store = Craft::new(8).background(b'g').bytes(4);
            let (origin, cow) = (bench.letters(24, b'o')?, bench.device(100, &store)?);
            let snapshot = bench.table(&format!(
                "0 12 snapshot {} {} P 8",
                origin.path().display(),
                cow.path().display()
            ))?;
            let wrote = snapshot.write(8, &[b'a'; 512]);
            let wrote = wrote.map_or_else(|error| said::errno(&error), |()| "ok".to_owned());
            drop(snapshot);
            Ok(format!("{wrote}; {}", cow.shows(16, 8)))
        }),
    },
    Statement {
        id: "room.longer-snapshot",
        kernel: "Invalid argument",
        usnap: Usnap::Nothing,
        check: Check::Kernel(|bench| {
            let (origin, cow) = (bench.letters(24, b'o')?, bench.device(100, &[])?);
            let made = bench.try_table(
                &format!(
                    "0 32 snapshot {} {} P 8",
                    origin.path().display(),
                    cow.path().display()
                ),
                &[],
            )?;
            Ok(made.err().unwrap_or_default())
        }),
    },
    Statement {
        id: "crash.not-committed",
        kernel: "open 16/100 16; 64o; 3>2; 8a",
        usnap: Usnap::Same,
        check: Check::Both(
            || {
                let store = Craft::new(8).data(2, b'x').data(3, b'x').bytes(4);
                Setup::new(8, 100).origin(64).holds(store)
            },
            |side| {
                let opened = format!("{} {}", side.open()?, side.status()?);
                let shows = side.shows(0, 64)?;
                side.write(24, 8, b'a')?;
                side.close()?;
                let (entries, data) = (side.entries()?, side.cow_shows(16, 8));
                Ok(format!("{opened}; {shows}; {entries}; {data}"))
            },
        ),
    },
    Statement {
        id: "crash.lost-invalidation",
        kernel: "ok EIO; open; 8a 8o; 24/100 16",
        usnap: Usnap::Differs("ok EIO; refused"),
        check: Check::Both(
            || Setup::new(8, 100),
            |side| {
                side.must_open()?;
                let first = side.write(0, 8, b'a')?;
                let table = side.cow.first_table().to_owned();
                side.cow.change("0 100 error")?;
                let second = side.write(8, 8, b'b')?;
                side.close()?;
                side.cow.change(&table)?;
                let opened = side.open()?;
                if opened != "open" {
                    return Ok(format!("{first} {second}; {opened}"));
                }
                let shows = side.shows(0, 16)?;
                Ok(format!(
                    "{first} {second}; {opened}; {shows}; {}",
                    side.status()?
                ))
            },
        ),
    },
];

/// A device's first table with another length.
fn resized(device: &Device, sectors: u64) -> Result<String> {
    let words: Vec<&str> = device.first_table().split(' ').collect();
    let [_, _, rest @ ..] = words.as_slice() else {
        anyhow::bail!("no table");
    };
    Ok(format!("0 {sectors} {}", rest.join(" ")))
}

/// Writes whole chunks, the first `count` of the device, and says how each went.
fn writes(side: &mut Side<'_>, count: u64) -> Result<Vec<String>> {
    let chunk = u64::from(side.chunk);
    (0..count)
        .map(|n| side.write(n * chunk, chunk, b'a'))
        .collect()
}

/// Chunk by chunk until one is refused, and one more.
fn poisoned(side: &mut Side<'_>) -> Result<String> {
    side.must_open()?;
    let seen = writes(side, 33)?;
    let taken = seen.iter().take_while(|said| *said == "ok").count();
    let refused = seen.get(taken..).context("all were taken")?.join(" ");
    let status = side.status()?;
    side.close()?;
    let header = said::header(&side.cow)?;
    let again = format!("{} {}", side.open()?, side.status()?);
    Ok(format!(
        "{taken} ok, then {refused}; {status}; {header}; again {again}"
    ))
}

/// Stores that lack one entry to a full area, on devices that end behind its data.
fn poisoned_4k(side: &mut Side<'_>) -> Result<String> {
    let mut seen = Vec::new();
    side.origin = side.bench.table("0 16384 zero")?;
    for (name, sectors, entries) in [
        ("1029", 1029 * 8, 1023),
        ("258 and a half", 258 * 8 + 4, 255),
        ("1028", 1028 * 8, 1023),
        ("1030", 1030 * 8, 1023),
    ] {
        side.cow = side.bench.device(sectors, &[])?;
        put_areas(&side.cow, entries)?;
        side.must_open()?;
        let wrote = side.write(0, 8, b'a')?;
        side.close()?;
        seen.push(format!("{name}: {wrote} {}", said::header(&side.cow)?));
    }
    Ok(seen.join("; "))
}

/// The size that is fatal, and one that is not, as live media use them.
fn quarter_gib(side: &mut Side<'_>) -> Result<String> {
    let mut seen = Vec::new();
    side.origin = side.bench.table("0 530000 zero")?;
    for (name, mib, entries) in [("256M", 256, 65_279), ("255M", 255, 65_024)] {
        side.cow = side.bench.device(mib * 2048, &[])?;
        put_areas(&side.cow, entries)?;
        side.must_open()?;
        let wrote = side.write(0, 8, b'a')?;
        let status = side.status()?;
        side.close()?;
        let header = said::header(&side.cow)?;
        side.must_open()?;
        let again = side.status()?;
        side.close()?;
        seen.push(format!("{name}: {wrote} {status} {header}, again {again}"));
    }
    Ok(seen.join("; "))
}

/// The metadata of a store with 4 KiB chunks and so many entries in order, from old chunk 1 on; the
/// data are zeros.
fn put_areas(cow: &Device, entries: u64) -> Result<()> {
    let header = Craft::new(8).bytes(1);
    cow.write(0, &header)?;
    for area in 0..=entries / 256 {
        let mut bytes = Vec::new();
        for n in area * 256..entries.min((area + 1) * 256) {
            bytes.extend((n + 1).to_le_bytes());
            bytes.extend((2 + n + n / 256).to_le_bytes());
        }
        bytes.resize(4096, 0);
        cow.write((1 + area * 257) * 8, &bytes)?;
    }
    Ok(())
}
