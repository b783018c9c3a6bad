//! The origin written, and the store merged into it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use usnap_test_support::lab::text;

use crate::LAB;
use crate::statements::bench::{Bench, Device, Setup, Side, Who};
use crate::statements::craft::Craft;
use crate::statements::{Check, Statement, Usnap, hold, said};

#[test]
fn the_origin_and_the_merge() -> Result<()> {
    hold("statements::merge::the_origin_and_the_merge", STATEMENTS)
}

pub(crate) const STATEMENTS: &[Statement] = &[
    Statement {
        id: "origin.underneath",
        kernel: "8a 8z 48o",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 100).origin(64),
            |side| {
                side.must_open()?;
                side.write(0, 8, b'a')?;
                side.origin.write(0, &[b'z'; 8192])?;
                side.shows(0, 64)
            },
        ),
    },
    Statement {
        id: "origin.chunk-sizes",
        kernel: "8: 5>2 8o; 16: 2>2 16o; 32: 1>2 32o; snapshot 256o; origin 40o 1a 215o; status ''",
        usnap: Usnap::Nothing,
        check: Check::Kernel(chunk_sizes),
    },
    Statement {
        id: "origin.snapshot-full",
        kernel: "ok ok; P Invalid, PO Invalid, the other 32/100 16",
        usnap: Usnap::Nothing,
        check: Check::Kernel(snapshot_full),
    },
    Statement {
        id: "origin.behind-snapshot",
        kernel: "ok; none",
        usnap: Usnap::Nothing,
        check: Check::Kernel(|bench| {
            let (origin, cow) = (bench.letters(256, b'o')?, bench.device(100, &[])?);
            let (below, above) = (origin.path().display(), cow.path().display());
            let snapshot = bench.table(&format!("0 64 snapshot {below} {above} P 8"))?;
            let device = bench.table(&format!("0 256 snapshot-origin {below}"))?;
            device.write(128, &[b'a'; 4096])?;
            drop((device, snapshot));
            Ok(format!("ok; {}", said::entries(&cow)?))
        }),
    },
    Statement {
        id: "merge.result",
        kernel: "done; origin 8o 8b 8o 8d 8o 8b 8c 8o; SnAp 1 1 8, area 80, data 16b 8c 8d; again open 16/100 16, 64 as the origin",
        usnap: Usnap::Same,
        check: Check::Both(|| Setup::new(8, 100).origin(64), merge_result),
    },
    Statement {
        id: "merge.cut-chunk",
        kernel: "done; 15o 5a",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 100).origin(20),
            |side| {
                side.must_open()?;
                side.write(15, 5, b'a')?;
                side.close()?;
                let said = merge(side)?;
                Ok(format!("{said}; {}", side.origin.shows(0, 20)))
            },
        ),
    },
    Statement {
        id: "merge.areas",
        kernel: "done; areas 10 10 10, data 2c; none",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(1, 120),
            |side| {
                side.must_open()?;
                for n in 0..70 {
                    side.write(69 - n, 1, b'c')?;
                }
                side.close()?;
                let said = merge(side)?;
                let areas = [1, 34, 67].map(|chunk| side.cow_shows(chunk, 1)).join(" ");
                let data = side.cow_shows(35, 2);
                Ok(format!(
                    "{said}; areas {areas}, data {data}; {}",
                    side.entries()?
                ))
            },
        ),
    },
    Statement {
        id: "merge.failed",
        kernel: "failed (Merge failed); same content; again done; none",
        usnap: Usnap::Same,
        check: Check::Both(|| Setup::new(8, 100).origin(128), merge_failed),
    },
    Statement {
        id: "merge.failed-left",
        kernel: "1>2 9>3 4>4",
        usnap: Usnap::Differs("1>2 9>3 4>4 12>5 15>6 7>7"),
        check: Check::Both(
            || Setup::new(8, 100).origin(128),
            |side| {
                scattered(side)?;
                break_origin(side)?;
                merge(side)?;
                side.entries()
            },
        ),
    },
    Statement {
        id: "merge.invalid",
        kernel: "Invalid; 64o; SnAp 0 1 8; 0>2",
        usnap: Usnap::Differs("failed; 64o; SnAp 0 1 8; 0>2"),
        check: Check::Both(
            || {
                let store = Craft::new(8).valid(0).entries(&[(0, 2)]).data(2, b'a');
                Setup::new(8, 100).origin(64).holds(store.bytes(4))
            },
            |side| {
                let (said, shows) = if side.who == Who::Kernel {
                    let device = side.bench.table(&side.kernel_table("snapshot-merge")?)?;
                    (device.status()?, device.shows(0, 64))
                } else {
                    (merge(side)?, side.origin.shows(0, 64))
                };
                let header = said::header(&side.cow)?;
                Ok(format!("{said}; {shows}; {header}; {}", side.entries()?))
            },
        ),
    },
    Statement {
        id: "merge.overflowed",
        kernel: "done; 16a 48o",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 32).origin(64).mode("PO"),
            |side| {
                side.must_open()?;
                for n in 0..3 {
                    side.write(n * 8, 8, b'a')?;
                }
                side.close()?;
                let said = merge(side)?;
                Ok(format!("{said}; {}", side.origin.shows(0, 64)))
            },
        ),
    },
    Statement {
        id: "merge.meanwhile",
        kernel: "mapped 8a, not mapped 8o; wrote ok ok, to the origin 8u; done, origin has 8m, events 0",
        usnap: Usnap::Nothing,
        check: Check::Kernel(meanwhile),
    },
];

/// `done` or `failed`, with what the kernel calls it.
fn merge(side: &mut Side<'_>) -> Result<String> {
    if side.who == Who::Usnap {
        let said = LAB.usnap(&["merge", text(side.cow.path())?, text(side.origin.path())?]);
        let said = said.run()?;
        ensure!(matches!(said.status.code(), Some(0 | 1)), "{said}");
        return Ok(if said.status.success() {
            "done".to_owned()
        } else {
            format!("failed ({})", said.stderr.replace(['(', ')'], "/"))
        });
    }
    let device = side.bench.table(&side.kernel_table("snapshot-merge")?)?;
    Ok(match finished(&device)?.as_str() {
        "Merge failed" => "failed (Merge failed)".to_owned(),
        _ => "done".to_owned(),
    })
}

/// Waits until a merge has nothing left, or failed.
fn finished(device: &Device) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = device.status()?;
        let figures: Vec<&str> = status.split(['/', ' ']).collect();
        if status.starts_with('M') || figures.first() == figures.last() {
            return Ok(status);
        }
        ensure!(Instant::now() < deadline, "still {status}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn chunk_sizes(bench: &Bench) -> Result<String> {
    let origin = bench.letters(256, b'o')?;
    let mut snapshots = Vec::new();
    for chunk in [8, 16, 32] {
        let cow = bench.device(200, &[])?;
        let snapshot = bench.snapshot(&origin, &cow, &format!("P {chunk}"))?;
        snapshots.push((chunk, snapshot, cow));
    }
    let device = bench.table(&format!(
        "0 256 snapshot-origin {}",
        origin.path().display()
    ))?;
    device.write(40, &[b'a'; 512])?;
    let mut seen = Vec::new();
    for (chunk, _, cow) in &snapshots {
        let data = cow.shows(2 * chunk, *chunk);
        seen.push(format!("{chunk}: {} {data}", said::entries(cow)?));
    }
    let [(_, first, _), ..] = snapshots.as_slice() else {
        anyhow::bail!("no snapshots")
    };
    seen.push(format!("snapshot {}", first.shows(0, 256)));
    seen.push(format!("origin {}", origin.shows(0, 256)));
    seen.push(format!("status '{}'", device.status()?));
    Ok(seen.join("; "))
}

fn snapshot_full(bench: &Bench) -> Result<String> {
    let origin = bench.letters(256, b'o')?;
    let cows = [
        bench.device(24, &[])?,
        bench.device(24, &[])?,
        bench.device(100, &[])?,
    ];
    let snapshots = [
        bench.snapshot(&origin, &cows[0], "P 8")?,
        bench.snapshot(&origin, &cows[1], "PO 8")?,
        bench.snapshot(&origin, &cows[2], "P 8")?,
    ];
    let device = bench.table(&format!(
        "0 256 snapshot-origin {}",
        origin.path().display()
    ))?;
    device.write(0, &[b'a'; 4096])?;
    device.write(8, &[b'a'; 4096])?;
    Ok(format!(
        "ok ok; P {}, PO {}, the other {}",
        snapshots[0].status()?,
        snapshots[1].status()?,
        snapshots[2].status()?
    ))
}

fn merge_result(side: &mut Side<'_>) -> Result<String> {
    side.must_open()?;
    side.write(8, 8, b'b')?;
    for (chunk, letter) in [(5, b'b'), (6, b'c'), (3, b'd')] {
        side.write(chunk * 8, 8, letter)?;
    }
    side.close()?;
    let said = merge(side)?;
    let origin = side.origin.shows(0, 64);
    let header = said::header(&side.cow)?;
    let (area, data) = (side.cow_shows(8, 8), side.cow_shows(16, 32));
    let opened = side.open()?;
    let status = side.status()?;
    let shows = side.shows(0, 64)?;
    let same = if shows == origin {
        "64 as the origin"
    } else {
        &shows
    };
    Ok(format!(
        "{said}; origin {origin}; {header}, area {area}, data {data}; again {opened} {status}, {same}"
    ))
}

/// Six chunks in an order of no pattern.
fn scattered(side: &mut Side<'_>) -> Result<()> {
    side.must_open()?;
    for (chunk, letter) in [1, 9, 4, 12, 15, 7].into_iter().zip(b'a'..) {
        side.write(chunk * 8, 8, letter)?;
    }
    side.close()
}

/// Chunk 4 of the origin can't be written; returns the table that mends it.
fn break_origin(side: &Side<'_>) -> Result<String> {
    let whole = side.origin.first_table().to_owned();
    let words: Vec<&str> = whole.split(' ').collect();
    let [_, _, _, path, start] = words.as_slice() else {
        anyhow::bail!("no linear table");
    };
    let start: u64 = start.trim().parse()?;
    side.origin.change(&format!(
        "0 32 linear {path} {start}\n32 8 error\n40 88 linear {path} {}\n",
        start + 40
    ))?;
    Ok(whole)
}

fn merge_failed(side: &mut Side<'_>) -> Result<String> {
    scattered(side)?;
    side.must_open()?;
    let before = side.shows(0, 128)?;
    side.close()?;
    let whole = break_origin(side)?;
    let said = merge(side)?;
    side.origin.change(&whole)?;
    let opened = side.open()?;
    let after = side.shows(0, 128)?;
    side.close()?;
    let same = if before == after {
        "same content"
    } else {
        "other content"
    };
    ensure!(opened == "open", "{opened}");
    let again = merge(side)?;
    ensure!(
        side.origin.shows(0, 128) == before,
        "the origin is not as the snapshot was"
    );
    Ok(format!(
        "{said}; {same}; again {again}; {}",
        side.entries()?
    ))
}

/// A merge that waits for its origin at each write.
fn meanwhile(bench: &Bench) -> Result<String> {
    let mut side = bench.side(Who::Kernel, &Setup::new(8, 100).origin(128))?;
    side.must_open()?;
    for chunk in [1, 9, 4, 12, 15, 7] {
        side.write(chunk * 8, 8, b'a')?;
    }
    side.close()?;
    let origin = side.origin.path().display().to_string();
    let slow = bench.table(&format!("0 128 delay {origin} 0 0 {origin} 0 400"))?;
    let table = side.kernel_table("snapshot-merge")?;
    let device = bench.table(&table.replacen(&origin, &slow.path().display().to_string(), 1))?;
    let (mapped, unmapped) = (device.shows(8, 8), device.shows(24, 8));
    device.write(24, &[b'u'; 4096])?;
    let direct = side.origin.shows(24, 8);
    device.write(8, &[b'm'; 4096])?;
    ensure!(
        device.status()? != "16/100 16",
        "the merge was over too soon"
    );
    let done = finished(&device)?;
    ensure!(done == "16/100 16", "{done}");
    let events = device.events()?;
    drop((device, slow));
    Ok(format!(
        "mapped {mapped}, not mapped {unmapped}; wrote ok ok, to the origin {direct}; done, origin has {}, events {events}",
        side.origin.shows(8, 8)
    ))
}
