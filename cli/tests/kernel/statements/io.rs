//! Reads, writes, flushes and discards, what they cost the store, and what their errors do to it.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use usnap_test_support::disks::drop_caches;
use usnap_test_support::log_writes::WriteLog;
use usnap_test_support::raw_client::command;

use crate::statements::bench::{Bench, SECTOR, Setup, Side, Who};
use crate::statements::{Check, Statement, Usnap, hold, said};

#[test]
fn requests_and_their_errors() -> Result<()> {
    hold("statements::io::requests_and_their_errors", STATEMENTS)
}

pub(crate) const STATEMENTS: &[Statement] = &[
    Statement {
        id: "write.always-allocates",
        kernel: "same bytes 24/100 16, zeros 32/100 16",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 100),
            |side| {
                side.must_open()?;
                side.write(8, 8, b'o')?;
                let same = side.status()?;
                side.write(24, 8, 0)?;
                Ok(format!("same bytes {same}, zeros {}", side.status()?))
            },
        ),
    },
    Statement {
        id: "write.zeroes",
        kernel: "ok; 32/100 16; 8o 160 8o",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 100),
            |side| {
                side.must_open()?;
                let wrote = side.call(command::WRITE_ZEROES, 8, 16, &[])?;
                Ok(format!(
                    "{wrote}; {}; {}",
                    side.status()?,
                    side.shows(0, 32)?
                ))
            },
        ),
    },
    Statement {
        id: "write.large",
        kernel: "ok ok; 0>2*16 17>18*9; 1o 64a 7o",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 400),
            |side| {
                side.must_open()?;
                let seen = [side.write(0, 128, b'a')?, side.write(137, 64, b'a')?];
                let shows = side.shows(136, 72)?;
                side.close()?;
                Ok(format!("{}; {}; {shows}", seen.join(" "), side.entries()?))
            },
        ),
    },
    Statement {
        id: "write.part-of-chunk",
        kernel: "ok; 2>2; 3o 2a 3o; 3o 2a 3o",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 100),
            |side| {
                side.must_open()?;
                let wrote = side.write(19, 2, b'a')?;
                let shows = side.shows(16, 8)?;
                side.close()?;
                let (entries, data) = (side.entries()?, side.cow_shows(16, 8));
                Ok(format!("{wrote}; {entries}; {shows}; {data}"))
            },
        ),
    },
    Statement {
        id: "write.mapped",
        kernel: "ok ok; 24/100 16; 3a 2b 3a",
        usnap: Usnap::Same,
        check: Check::Both(
            || Setup::new(8, 100),
            |side| {
                side.must_open()?;
                let seen = [side.write(8, 8, b'a')?, side.write(11, 2, b'b')?];
                Ok(format!(
                    "{}; {}; {}",
                    seen.join(" "),
                    side.status()?,
                    side.shows(8, 8)?
                ))
            },
        ),
    },
    Statement {
        id: "write.pending",
        kernel: "status 24/100 16, reads 8o, on disk none; then 8a, 0>2",
        usnap: Usnap::Nothing,
        check: Check::Kernel(pending),
    },
    Statement {
        id: "limits",
        kernel: "chunk_sectors 0, minimum_io_size 512, optimal_io_size 0, logical_block_size 512, discard_max_bytes 0; with discard: 4096, granularity 8",
        usnap: Usnap::Nothing,
        check: Check::Kernel(limits),
    },
    Statement {
        id: "order.whole-chunk",
        kernel: "0+8, 8+8, 16+8, flush fua, 8+8 fua, flush",
        usnap: Usnap::Differs("16+8, flush, 8+8, flush"),
        check: Check::Each(
            |bench| traced(bench, Who::Kernel, &[(0, 8)]),
            |bench| traced(bench, Who::Usnap, &[(0, 8)]),
        ),
    },
    Statement {
        id: "order.part-of-chunk",
        kernel: "0+8, 8+8, 16+8, flush fua, 8+8 fua, 17+1, flush",
        usnap: Usnap::Differs("16+8, flush, 8+8, flush"),
        check: Check::Each(
            |bench| traced(bench, Who::Kernel, &[(1, 1)]),
            |bench| traced(bench, Who::Usnap, &[(1, 1)]),
        ),
    },
    Statement {
        id: "order.three-chunks",
        kernel: "0+8, 8+8, 16+8, 24+8, 32+8, flush fua, 8+8 fua, flush",
        usnap: Usnap::Differs("16+8, 24+8, 32+8, flush, 8+8, flush"),
        check: Check::Each(
            |bench| traced(bench, Who::Kernel, &[(0, 24)]),
            |bench| traced(bench, Who::Usnap, &[(0, 24)]),
        ),
    },
    Statement {
        id: "order.one-by-one",
        kernel: "0+8, 8+8, 16+8, flush fua, 8+8 fua, 24+8, flush fua, 8+8 fua, flush",
        usnap: Usnap::Differs("16+8, flush, 8+8, flush, 24+8, flush, 8+8, flush"),
        check: Check::Each(
            |bench| traced(bench, Who::Kernel, &[(0, 8), (8, 8)]),
            |bench| traced(bench, Who::Usnap, &[(0, 8), (8, 8)]),
        ),
    },
    Statement {
        id: "order.area-filled",
        kernel: "33+1, 34+1, flush fua, 1+1 fua, flush",
        usnap: Usnap::Differs("32+8, flush, 0+8, flush"),
        check: Check::Each(
            |bench| traced_at_border(bench, Who::Kernel, 31),
            |bench| traced_at_border(bench, Who::Usnap, 31),
        ),
    },
    Statement {
        id: "order.over-the-border",
        kernel: "32+1, 33+1, 35+1, 34+1, flush fua, 1+1 fua, flush fua, 34+1 fua, flush",
        usnap: Usnap::Differs("32+8, flush, 0+8, flush"),
        check: Check::Each(
            |bench| traced_at_border(bench, Who::Kernel, 30),
            |bench| traced_at_border(bench, Who::Usnap, 30),
        ),
    },
    Statement {
        id: "errors.origin-read-p",
        kernel: "whole ok; part EIO; Invalid; SnAp 0 1 8",
        usnap: Usnap::Differs("whole ok; part EIO; 24/100 16; SnAp 1 1 8"),
        check: Check::Both(|| Setup::new(8, 100), bad_origin),
    },
    Statement {
        id: "errors.origin-read-po",
        kernel: "whole ok; part EIO; Invalid; SnAp 0 1 8",
        usnap: Usnap::Differs("whole ok; part EIO; 24/100 16; SnAp 1 1 8"),
        check: Check::Both(|| Setup::new(8, 100).mode("PO"), bad_origin),
    },
    Statement {
        id: "errors.origin-read-n",
        kernel: "whole ok; part EIO; Invalid",
        usnap: Usnap::Nothing,
        check: Check::Kernel(|bench| {
            let mut side = bench.side(Who::Kernel, &Setup::new(8, 100).mode("N"))?;
            let seen = bad_origin(&mut side)?;
            Ok(seen
                .rsplit_once("; ")
                .map(|(seen, _)| seen)
                .unwrap_or_default()
                .to_owned())
        }),
    },
    Statement {
        id: "errors.new-chunk",
        kernel: "ok EIO; Invalid",
        usnap: Usnap::Differs("ok EIO; 32/100 16"),
        check: Check::Both(
            || Setup::new(8, 100),
            |side| {
                side.must_open()?;
                let first = side.write(0, 8, b'a')?;
                break_cow(side, 24, 8)?;
                let second = side.write(8, 8, b'a')?;
                Ok(format!("{first} {second}; {}", side.status()?))
            },
        ),
    },
    Statement {
        id: "errors.mapped-chunk",
        kernel: "ok; writes EIO, reads EIO; 24/100 16; elsewhere ok",
        usnap: Usnap::Differs("ok; writes EIO, reads EIO; 24/100 16; elsewhere EIO"),
        check: Check::Both(
            || Setup::new(8, 100),
            |side| {
                side.must_open()?;
                let first = side.write(0, 8, b'a')?;
                break_cow(side, 16, 8)?;
                let writes = side.write(0, 8, b'b')?;
                drop_caches()?;
                let reads = side.shows(0, 8)?;
                let status = side.status()?;
                let elsewhere = side.write(64, 8, b'c')?;
                Ok(format!(
                    "{first}; writes {writes}, reads {reads}; {status}; elsewhere {elsewhere}"
                ))
            },
        ),
    },
    Statement {
        id: "errors.largest-whole-chunk",
        kernel: "EIO; Invalid",
        usnap: Usnap::Differs("ok; 12288/20000 8192"),
        check: Check::Both(
            || Setup::new(4096, 20_000).origin(8192),
            |side| {
                side.must_open()?;
                side.origin.change("0 8192 error")?;
                let bytes = vec![b'a'; 4096 * SECTOR];
                let wrote = side.call(command::WRITE, 0, 4096, &bytes)?;
                Ok(format!("{wrote}; {}", side.status()?))
            },
        ),
    },
    Statement {
        id: "discard.default",
        kernel: "EOPNOTSUPP; 8a; 24/100 16",
        usnap: Usnap::Differs("ok; 80; 24/100 16"),
        check: Check::Both(|| Setup::new(8, 100), |side| discard(side, 0, 8)),
    },
    Statement {
        id: "discard.zeroes-mapped",
        kernel: "ok; 80 32o 8b 16o; 32/100 16",
        usnap: Usnap::Same,
        check: Check::Both(zeroes, |side| discard(side, 0, 8)),
    },
    Statement {
        id: "discard.zeroes-not-mapped",
        kernel: "ok; 8a 32o 8b 16o; 32/100 16",
        usnap: Usnap::Same,
        check: Check::Both(zeroes, |side| discard(side, 24, 8)),
    },
    Statement {
        id: "discard.zeroes-part",
        kernel: "ok; 40 4a 32o 8b 16o; 32/100 16",
        usnap: Usnap::Differs("ok; 8a 32o 8b 16o; 32/100 16"),
        check: Check::Both(zeroes, |side| discard(side, 0, 4)),
    },
    Statement {
        id: "discard.zeroes-unaligned",
        kernel: "ok; 4a 40 32o 40 4b 16o; 32/100 16",
        usnap: Usnap::Differs("ok; 8a 32o 8b 16o; 32/100 16"),
        check: Check::Both(zeroes, |side| discard(side, 4, 8)),
    },
    Statement {
        id: "discard.overflowed",
        kernel: "EIO; Overflow",
        usnap: Usnap::Differs("ok; 24/24 16"),
        check: Check::Both(
            || {
                Setup::new(8, 24)
                    .mode("PO")
                    .features("1 discard_zeroes_cow")
            },
            |side| {
                side.options(&["--discard", "zeroes"]);
                side.must_open()?;
                side.write(0, 16, b'a')?;
                let said = side.call(command::TRIM, 0, 8, &[])?;
                Ok(format!("{said}; {}", side.status()?))
            },
        ),
    },
];

fn zeroes() -> Setup {
    Setup::new(8, 100)
        .origin(64)
        .features("1 discard_zeroes_cow")
}

/// Chunks 0 and 5 are written, then something is discarded.
fn discard(side: &mut Side<'_>, sector: u64, sectors: u64) -> Result<String> {
    let features = side.has_features();
    if features {
        side.options(&["--discard", "zeroes"]);
    }
    side.must_open()?;
    side.write(0, 8, b'a')?;
    if !features {
        let said = side.call(command::TRIM, sector, sectors, &[])?;
        return Ok(format!("{said}; {}; {}", side.shows(0, 8)?, side.status()?));
    }
    side.write(40, 8, b'b')?;
    let said = side.call(command::TRIM, sector, sectors, &[])?;
    Ok(format!(
        "{said}; {}; {}",
        side.shows(0, 64)?,
        side.status()?
    ))
}

/// A write that the COW device holds up: what is seen until it ends.
fn pending(bench: &Bench) -> Result<String> {
    let mut side = bench.side(Who::Kernel, &Setup::new(8, 100))?;
    side.must_open()?;
    side.cow.suspend()?;
    let snapshot = side.snapshot()?;
    let seen = thread::scope(|scope| -> Result<String> {
        let writer = scope.spawn(|| snapshot.write(0, &[b'a'; 4096]));
        thread::sleep(Duration::from_millis(300));
        let (status, reads) = (snapshot.status()?, snapshot.shows(0, 8));
        side.cow.resume()?;
        writer
            .join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        Ok(format!("status {status}, reads {reads}, on disk none"))
    })?;
    let reads = snapshot.shows(0, 8);
    side.close()?;
    Ok(format!("{seen}; then {reads}, {}", side.entries()?))
}

fn limits(bench: &Bench) -> Result<String> {
    let origin = bench.letters(64, b'o')?;
    let cow = bench.device(100, &[])?;
    let snapshot = bench.snapshot(&origin, &cow, "P 8")?;
    let mut seen = Vec::new();
    for name in [
        "chunk_sectors",
        "minimum_io_size",
        "optimal_io_size",
        "logical_block_size",
        "discard_max_bytes",
    ] {
        seen.push(format!("{name} {}", snapshot.queue(name)?));
    }
    drop(snapshot);
    let snapshot = bench.snapshot(&origin, &cow, "P 8 1 discard_zeroes_cow")?;
    let (max, granularity) = (
        snapshot.queue("discard_max_bytes")?,
        snapshot.queue("discard_granularity")?,
    );
    Ok(format!(
        "{}; with discard: {max}, granularity {granularity}",
        seen.join(", ")
    ))
}

/// What reaches the COW device, and in which order, for some writes of whole sectors.
fn traced(bench: &Bench, who: Who, writes: &[(u64, u64)]) -> Result<String> {
    let mut side = bench.side(who, &Setup::new(8, 100))?;
    trace(&mut side, &[], writes)
}

/// The same in a store of 512-byte chunks with so many exceptions: an area has 32.
fn traced_at_border(bench: &Bench, who: Who, exceptions: u64) -> Result<String> {
    let mut side = bench.side(who, &Setup::new(1, 100))?;
    let before: Vec<(u64, u64)> = (0..exceptions).map(|n| (n, 1)).collect();
    trace(
        &mut side,
        &before,
        &[(64, 32 - exceptions + u64::from(exceptions == 30))],
    )
}

fn trace(side: &mut Side<'_>, before: &[(u64, u64)], writes: &[(u64, u64)]) -> Result<String> {
    let log = side.bench.device(20_000, &[])?;
    let plain = side.bench.device(128, &[])?;
    side.cow = side.bench.table(&format!(
        "0 128 log-writes {} {}",
        plain.path().display(),
        log.path().display()
    ))?;
    side.must_open()?;
    for (sector, sectors) in before {
        side.write(*sector, *sectors, b'a')?;
    }
    side.cow.message(&["mark", "begin"])?;
    for (sector, sectors) in writes {
        side.write(*sector, *sectors, b'a')?;
    }
    side.flush()?;
    side.cow.message(&["mark", "end"])?;
    side.close()?;
    side.cow = side.bench.device(8, &[])?;
    let log = WriteLog::read(log.path())?;
    let (begin, end) = (log.mark("begin")?, log.mark("end")?);
    let described = log.described(begin);
    let behind = log.described(end).len();
    Ok(described[..described.len() - behind].join(", "))
}

/// Makes a part of the COW device fail.
fn break_cow(side: &Side<'_>, sector: u64, sectors: u64) -> Result<()> {
    let words: Vec<&str> = side.cow.first_table().split(' ').collect();
    let [_, len, _, path, start] = words.as_slice() else {
        anyhow::bail!("no linear table");
    };
    let (len, start): (u64, u64) = (len.parse()?, start.trim().parse()?);
    let behind = sector + sectors;
    side.cow.change(&format!(
        "0 {sector} linear {path} {start}\n{sector} {sectors} error\n{behind} {} linear {path} {}\n",
        len - behind,
        start + behind
    ))
}

/// The origin can't be read: a whole chunk needs it not, a part does.
fn bad_origin(side: &mut Side<'_>) -> Result<String> {
    side.must_open()?;
    side.origin.change("0 256 error")?;
    drop_caches()?;
    let (whole, part) = (side.write(0, 8, b'a')?, side.write(9, 2, b'a')?);
    let status = side.status()?;
    side.close()?;
    Ok(format!(
        "whole {whole}; part {part}; {status}; {}",
        said::header(&side.cow)?
    ))
}
