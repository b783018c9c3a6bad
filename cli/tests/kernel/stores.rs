//! dm-snapshot activates what usnap wrote, and usnap serves what dm-snapshot wrote: the same bytes
//! and the same status line, over all chunk sizes, several areas, and a full COW.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use usnap_test_support::lab::{Untouched, sha256_of_bytes, text};
use usnap_test_support::pattern::random_file;
use usnap_test_support::raw_client::command;
use usnap_test_support::{
    Guest, KIB, MIB, NBD_ENOSPC, Need, RawClient, Rng, Scale, Scratch, missing,
};

use crate::LAB;

/// No multiple of a chunk above 512 bytes, so that the last chunk is a partial one.
const SMALL_ORIGIN_BYTES: u64 = 24 * MIB + 3 * 512;
/// Room for more than 70,000 exceptions of 4 KiB, 273 areas and more.
const LARGE_ORIGIN_BYTES: u64 = 320 * MIB;
const MANY_EXCEPTIONS: u64 = 71_000;
const CHUNK_SIZES: [(&str, u64); 5] = [
    ("512", 512),
    ("4K", 4 * KIB),
    ("16K", 16 * KIB),
    ("64K", 64 * KIB),
    ("1M", MIB),
];

/// A store that usnap wrote.
struct OurStore {
    name: String,
    large_origin: bool,
    cow: PathBuf,
    chunk_bytes: u64,
    /// The digest of what the server served last.
    served: String,
}

/// Origins, random all over.
struct Origins {
    small: PathBuf,
    large: PathBuf,
}

impl Origins {
    fn make(scratch: &Scratch) -> Result<Self> {
        let (small, large) = (scratch.join("small.img"), scratch.join("large.img"));
        random_file(&small, SMALL_ORIGIN_BYTES, 1)?;
        random_file(&large, LARGE_ORIGIN_BYTES, 2)?;
        Ok(Self { small, large })
    }
}

#[test]
fn the_kernel_activates_what_usnap_wrote_and_usnap_goes_on_after_the_kernel() -> Result<()> {
    if missing(&[Need::GuestKernel])? {
        return Ok(());
    }
    let scratch = LAB.scratch("ours")?;
    let origins = Origins::make(&scratch)?;
    let untouched = [
        Untouched::note(&origins.small)?,
        Untouched::note(&origins.large)?,
    ];
    let mut stores = Vec::new();
    for (name, chunk_bytes) in CHUNK_SIZES {
        stores.push(small_store(&scratch, &origins, name, chunk_bytes)?);
    }
    stores.push(store_of_many_areas(&scratch, &origins)?);
    stores.push(full_store(&scratch, &origins)?);
    for (name, chunk_size) in [("512", "512"), ("4K", "16K"), ("64K", "4K")] {
        stores.push(compacted(&scratch, &origins, &stores, name, chunk_size)?);
    }

    let more = scratch.join("more");
    random_file(&more, 3 * MIB, 3)?;
    let continued: Vec<&str> = stores
        .iter()
        .filter(|s| s.name != "full" && !s.name.starts_with("compacted"))
        .map(|s| s.name.as_str())
        .collect();
    let mut guest = Guest::new()
        .disk("SMALL", &origins.small)
        .disk("LARGE", &origins.large)
        .variable("MORE", text(&more)?)
        .variable("CONTINUED", &continued.join(" "))
        .limit(Duration::from_secs(400));
    let mut list = Vec::new();
    for (index, store) in stores.iter().enumerate() {
        let origin = if store.large_origin { "LARGE" } else { "SMALL" };
        guest = guest.disk(&format!("COW{index}"), &store.cow);
        list.push(format!(
            "{}:{origin}:COW{index}:{}",
            store.name,
            store.chunk_bytes / 512
        ));
    }
    let mut status_lines = Vec::new();
    for store in &stores {
        status_lines.push(LAB.status_line(&store.cow)?);
    }
    let guest = guest.variable("STORES", &list.join(" "));
    let said = guest.run(&scratch, include_str!("activate.sh"))?;
    assert_eq!(said.value("done")?, "yes", "{}", said.text());

    for (store, status_line) in stores.iter().zip(&status_lines) {
        let name = &store.name;
        for mode in ["P", "PO"] {
            let (digest, status) = (
                format!("{name}.{mode}.sha256"),
                format!("{name}.{mode}.status"),
            );
            assert_eq!(said.value(&digest)?, store.served, "{digest}");
            assert_eq!(said.value(&status)?, status_line, "{status}");
        }
        if !continued.contains(&name.as_str()) {
            continue;
        }
        let status = LAB.status_line(&store.cow)?;
        assert_eq!(
            said.value(&format!("{name}.continued.status"))?,
            status,
            "{name}"
        );
        ensure!(
            status != *status_line,
            "{name}: the kernel added no exception"
        );
        LAB.check_is_clean(&store.cow)?;
        let origin = if store.large_origin {
            &origins.large
        } else {
            &origins.small
        };
        let served = served_digest(origin, &store.cow)?;
        assert_eq!(
            said.value(&format!("{name}.continued.sha256"))?,
            served,
            "{name}"
        );
    }
    untouched.iter().try_for_each(Untouched::verify)
}

#[test]
fn usnap_serves_what_the_kernel_wrote() -> Result<()> {
    if missing(&[Need::GuestKernel, Need::Program("fio")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("theirs")?;
    let origins = Origins::make(&scratch)?;
    let untouched = [
        Untouched::note(&origins.small)?,
        Untouched::note(&origins.large)?,
    ];
    let mut guest = Guest::new()
        .disk("SMALL", &origins.small)
        .disk("LARGE", &origins.large)
        .limit(Duration::from_secs(400));
    let mut stores: Vec<(String, &Path, u64, u64)> = CHUNK_SIZES
        .iter()
        .map(|(name, bytes)| ((*name).to_owned(), origins.small.as_path(), *bytes, 6))
        .collect();
    let written_mib = LARGE_ORIGIN_BYTES / MIB - 10;
    stores.push(("areas".to_owned(), &origins.large, 4 * KIB, written_mib));
    let mut list = Vec::new();
    let mut cows = Vec::new();
    for (index, (name, origin, chunk_bytes, written_mib)) in stores.iter().enumerate() {
        let large = *origin == origins.large;
        let cow_bytes = if large {
            LARGE_ORIGIN_BYTES + 8 * MIB
        } else {
            36 * MIB
        };
        let cow = scratch.sparse_file(&format!("{name}.cow"), cow_bytes)?;
        guest = guest.disk(&format!("COW{index}"), &cow);
        let origin = if large { "LARGE" } else { "SMALL" };
        list.push(format!(
            "{name}:{origin}:COW{index}:{}:{written_mib}",
            chunk_bytes / 512
        ));
        cows.push(cow);
    }
    let guest = guest.variable("STORES", &list.join(" "));
    let said = guest.run(&scratch, include_str!("create.sh"))?;
    assert_eq!(said.value("done")?, "yes", "{}", said.text());

    for ((name, origin, ..), cow) in stores.iter().zip(&cows) {
        assert_eq!(
            said.value(&format!("{name}.status"))?,
            LAB.status_line(cow)?,
            "{name}"
        );
        LAB.check_is_clean(cow)?;
        let server = LAB.serve(origin)?.cow(cow).start()?;
        let mut client = RawClient::connect(&server.socket())?;
        let mut model = client.read_all()?;
        assert_eq!(
            said.value(&format!("{name}.sha256"))?,
            sha256_of_bytes(&model)?,
            "{name}"
        );
        // And it is a store like any other to us.
        let everywhere = model.len() as u64;
        write_at_random(&mut client, &mut model, everywhere, 60, 9)?;
        client.disconnect()?;
        server.stop()?;
        LAB.check_is_clean(cow)?;
        assert_eq!(
            served_digest(origin, cow)?,
            sha256_of_bytes(&model)?,
            "{name}, written on"
        );
    }
    let entries = entries_of(said.value("areas.status")?, 8)?;
    ensure!(
        entries > 70_000,
        "only {entries} exceptions in the store of several areas"
    );
    untouched.iter().try_for_each(Untouched::verify)
}

/// Parts of chunks and runs of chunks at random, some of them twice.
fn small_store(
    scratch: &Scratch,
    origins: &Origins,
    name: &str,
    chunk_bytes: u64,
) -> Result<OurStore> {
    let cow = scratch.join(&format!("{name}.cow"));
    let server = LAB
        .serve(&origins.small)?
        .cow(&cow)
        .args(&["--chunk-size", name])
        .start()?;
    let mut client = RawClient::connect(&server.socket())?;
    assert_eq!(client.size_bytes(), SMALL_ORIGIN_BYTES);
    let mut model = std::fs::read(&origins.small)?;
    // The last third is left to the kernel.
    write_at_random(&mut client, &mut model, 16 * MIB, 300, chunk_bytes)?;
    // The very end, in the middle of a chunk.
    let tail = usize::try_from(SMALL_ORIGIN_BYTES - 700)?;
    write(&mut client, &mut model, tail, &[0x5a; 700])?;
    let served = agreed_digest(&mut client, &model)?;
    client.disconnect()?;
    server.stop()?;
    let (name, large_origin) = (name.to_owned(), false);
    Ok(OurStore {
        name,
        large_origin,
        cow,
        chunk_bytes,
        served,
    })
}

/// What `usnap compact` makes of one of `stores`: as short as it can be, of another chunk size.
fn compacted(
    scratch: &Scratch,
    origins: &Origins,
    stores: &[OurStore],
    name: &str,
    chunk_size: &str,
) -> Result<OurStore> {
    let store = stores.iter().find(|store| store.name == name);
    let store = store.context("there is no such store")?;
    let cow = scratch.join(&format!("compacted-{name}.cow"));
    LAB.usnap(&["compact", "--chunk-size", chunk_size])
        .args([&origins.small, &store.cow, &cow])
        .ok()?;
    LAB.check_is_clean(&cow)?;
    assert_eq!(served_digest(&origins.small, &cow)?, store.served, "{name}");
    let size = CHUNK_SIZES.iter().find(|(size, _)| *size == chunk_size);
    Ok(OurStore {
        name: format!("compacted-{name}"),
        large_origin: false,
        cow,
        chunk_bytes: size.context("there is no such size")?.1,
        served: store.served.clone(),
    })
}

/// More than 70,000 chunks, each written alone, in random order.
fn store_of_many_areas(scratch: &Scratch, origins: &Origins) -> Result<OurStore> {
    let exceptions = Scale::from_env()?.pick(MANY_EXCEPTIONS, 81_000);
    let cow = scratch.join("areas.cow");
    let server = LAB
        .serve(&origins.large)?
        .cow(&cow)
        .args(&["--chunk-size", "4K"])
        .start()?;
    let mut client = RawClient::connect(&server.socket())?;
    let mut model = std::fs::read(&origins.large)?;
    let mut rng = Rng::new(5);
    let chosen = rng.permutation(LARGE_ORIGIN_BYTES / (4 * KIB));
    let chosen = chosen[..usize::try_from(exceptions)?]
        .iter()
        .map(|chunk| usize::try_from(*chunk));
    let places: Vec<usize> = chosen
        .map(|chunk| Ok(chunk? * 4096))
        .collect::<Result<_>>()?;
    for batch in places.chunks(512) {
        for place in batch {
            rng.fill(&mut model[*place..place + 4096]);
        }
        let writes: Vec<(u64, &[u8])> = batch
            .iter()
            .map(|place| (*place as u64, &model[*place..place + 4096]))
            .collect();
        client.write_all(&writes)?;
    }
    let served = agreed_digest(&mut client, &model)?;
    client.disconnect()?;
    server.stop()?;
    assert_eq!(entries_of(&LAB.status_line(&cow)?, 8)?, exceptions);
    let name = "areas".to_owned();
    Ok(OurStore {
        name,
        large_origin: true,
        cow,
        chunk_bytes: 4 * KIB,
        served,
    })
}

/// A COW of 256 MiB with 4 KiB chunks, written until the server says that it is full. The kernel
/// itself destroys a store of this size when it fills it.
fn full_store(scratch: &Scratch, origins: &Origins) -> Result<OurStore> {
    let cow = scratch.join("full.cow");
    let options = ["--chunk-size", "4K", "--cow-size", "256M"];
    let server = LAB
        .serve(&origins.large)?
        .cow(&cow)
        .args(&options)
        .start()?;
    let mut client = RawClient::connect(&server.socket())?;
    let mut model = std::fs::read(&origins.large)?;
    let data = Rng::new(6).bytes(64 << 10);
    let mut at = 0;
    let error = loop {
        let error = client.call(command::WRITE, at as u64, 64 << 10, &data)?;
        if error != 0 {
            break error;
        }
        model[at..at + data.len()].copy_from_slice(&data);
        at += data.len();
    };
    assert_eq!(error, NBD_ENOSPC);
    // What of the refused write reached the store is the server's choice, chunk by chunk.
    let mut refused = vec![0; data.len()];
    client.read_at(at as u64, &mut refused)?;
    for (index, chunk) in refused.chunks(4096).enumerate() {
        let here = index * 4096..(index + 1) * 4096;
        let old = &model[at..][here.clone()];
        ensure!(
            chunk == old || chunk == &data[here.clone()],
            "chunk {index} is neither old nor new"
        );
    }
    model[at..at + data.len()].copy_from_slice(&refused);
    // To the last chunk: single ones go in until none does.
    at += data.len();
    while client.call(command::WRITE, at as u64, 4096, &data[..4096])? == 0 {
        model[at..at + 4096].copy_from_slice(&data[..4096]);
        at += 4096;
    }
    let served = agreed_digest(&mut client, &model)?;
    client.disconnect()?;
    server.stop()?;
    // 65,536 chunks of which one area holds 256 exceptions:
    // the largest n with 2 + n + n/256 <= 65,536 is 65,279.
    assert_eq!(entries_of(&LAB.status_line(&cow)?, 8)?, 65_279);
    let name = "full".to_owned();
    Ok(OurStore {
        name,
        large_origin: true,
        cow,
        chunk_bytes: 4 * KIB,
        served,
    })
}

/// Exceptions of a store without holes, from a status line `allocated/total metadata` in sectors.
pub(crate) fn entries_of(status: &str, chunk_sectors: u64) -> Result<u64> {
    let numbers: Vec<u64> = status
        .split(['/', ' '])
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    ensure!(numbers.len() == 3, "no usage: {status}");
    Ok((numbers[0] - numbers[2]) / chunk_sectors)
}

/// `count` writes of any alignment and length that begin below `end`.
fn write_at_random(
    client: &mut RawClient,
    model: &mut [u8],
    end: u64,
    count: u64,
    seed: u64,
) -> Result<()> {
    let mut rng = Rng::new(seed);
    for _ in 0..count {
        let longest = if rng.below(8) == 0 { 200_000 } else { 9000 };
        let at = rng.below(end);
        let len = (1 + rng.below(longest)).min(model.len() as u64 - at);
        let data = rng.bytes(usize::try_from(len)?);
        write(client, model, usize::try_from(at)?, &data)?;
    }
    Ok(())
}

fn write(client: &mut RawClient, model: &mut [u8], at: usize, data: &[u8]) -> Result<()> {
    model[at..at + data.len()].copy_from_slice(data);
    client.write_at(at as u64, data)
}

/// The digest of what the server serves, which must be what the model says.
fn agreed_digest(client: &mut RawClient, model: &[u8]) -> Result<String> {
    let served = client.read_all()?;
    ensure!(
        served == model,
        "the server serves something else than was written"
    );
    sha256_of_bytes(&served)
}

fn served_digest(origin: &Path, cow: &Path) -> Result<String> {
    let server = LAB.serve(origin)?.cow(cow).start()?;
    let mut client = RawClient::connect(&server.socket())?;
    let digest = sha256_of_bytes(&client.read_all()?)?;
    client.disconnect()?;
    server.stop()?;
    Ok(digest)
}
