//! Stores that are full to the last chunk, of every size at which something could go wrong: usnap
//! takes exactly what fits, and dm-snapshot activates each of them, also those of sizes at which it
//! would have destroyed its own.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use usnap_test_support::lab::sha256_of_bytes;
use usnap_test_support::pattern::random_file;
use usnap_test_support::raw_client::command;
use usnap_test_support::{Guest, KIB, NBD_ENOSPC, Need, RawClient, Rng, Scratch, missing};

use crate::LAB;
use crate::stores::entries_of;

/// More chunks than the largest store below takes.
const CHUNKS: u64 = 800;

/// A full store.
struct Full {
    name: String,
    /// The file's content.
    bytes: Vec<u8>,
    status: String,
    /// The digest of what was served.
    served: String,
}

/// The sizes in chunks: around each border of an area, and a few others.
fn sizes(entries: u64) -> Vec<u64> {
    let stride = entries + 1;
    let mut sizes = vec![2, 3, 4, 5, stride / 3, stride + stride / 2, 3 * stride - 14];
    for areas in 1..=3 {
        sizes.extend(areas * stride - 2..=areas * stride + 4);
    }
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// The largest n with 2 + n + n / E <= D, by trying.
fn capacity(entries: u64, device_chunks: u64) -> u64 {
    let fits = |n: &u64| 2 + n + n / entries <= device_chunks;
    (0..).take_while(fits).last().unwrap_or(0)
}

#[test]
fn the_kernel_activates_stores_that_are_full_at_every_border() -> Result<()> {
    if missing(&[Need::GuestKernel])? {
        return Ok(());
    }
    let scratch = LAB.scratch("capacity")?;
    let mut stores = Vec::new();
    let mut guest = Guest::new().limit(Duration::from_secs(400));
    let disk = scratch.join("cows");
    let mut file = File::create(&disk)?;
    let (mut list, mut start) = (Vec::new(), 0);
    for (variable, chunk_bytes) in [("SMALL", 512), ("LARGE", 4 * KIB)] {
        let origin = scratch.join(variable);
        random_file(&origin, CHUNKS * chunk_bytes, chunk_bytes)?;
        guest = guest.disk(variable, &origin);
        for device_chunks in sizes(chunk_bytes / 16) {
            let store = fill(&scratch, &origin, chunk_bytes, device_chunks)?;
            let sectors = store.bytes.len() / 512;
            list.push(format!(
                "{}:{variable}:{start}:{sectors}:{}",
                store.name,
                chunk_bytes / 512
            ));
            start += sectors;
            file.write_all(&store.bytes)?;
            stores.push(store);
        }
    }
    drop(file);
    ensure!(stores.len() > 50, "only {} stores", stores.len());
    let before = fs::read(&disk)?;
    let guest = guest
        .disk("COWS", &disk)
        .variable("STORES", &list.join(" "));
    let said = guest.run(&scratch, include_str!("capacity.sh"))?;
    assert_eq!(said.value("done")?, "yes", "{}", said.text());
    for store in &stores {
        for mode in ["P", "PO"] {
            let value = |what: &str| said.value(&format!("{}.{mode}.{what}", store.name));
            assert_eq!(value("status")?, store.status, "{} {mode}", store.name);
            assert_eq!(value("sha256")?, store.served, "{} {mode}", store.name);
        }
    }
    ensure!(fs::read(&disk)? == before, "activating changed a store");
    Ok(())
}

/// A store of so many chunks, written to until the server says that it is full.
fn fill(scratch: &Scratch, origin: &Path, chunk_bytes: u64, device_chunks: u64) -> Result<Full> {
    let name = format!("{chunk_bytes}-{device_chunks}");
    // A file of zeros is an unused COW device: so its size is exactly this.
    let cow = scratch.sparse_file(&format!("{name}.cow"), device_chunks * chunk_bytes)?;
    let server = LAB
        .serve(origin)?
        .cow(&cow)
        .args(&["--chunk-size", &chunk_bytes.to_string()])
        .start()?;
    let mut client = RawClient::connect(&server.socket())?;
    let mut model = fs::read(origin)?;
    let mut rng = Rng::new(device_chunks);
    let len = usize::try_from(chunk_bytes)?;
    let mut taken = 0;
    for at in (0..model.len()).step_by(len) {
        let data = rng.bytes(len);
        let error = client.call(command::WRITE, at as u64, u32::try_from(len)?, &data)?;
        if error != 0 {
            assert_eq!(error, NBD_ENOSPC, "{name}");
            break;
        }
        model[at..at + len].copy_from_slice(&data);
        taken += 1;
    }
    assert_eq!(taken, capacity(chunk_bytes / 16, device_chunks), "{name}");
    ensure!(client.read_all()? == model, "{name} serves something else");
    client.disconnect()?;
    server.stop()?;
    LAB.check_is_clean(&cow)?;
    let status = LAB.status_line(&cow)?;
    assert_eq!(entries_of(&status, chunk_bytes / 512)?, taken, "{name}");
    let bytes = fs::read(&cow).with_context(|| name.clone())?;
    fs::remove_file(&cow)?;
    assert_eq!(bytes.len() as u64, device_chunks * chunk_bytes, "{name}");
    Ok(Full {
        served: sha256_of_bytes(&model)?,
        name,
        bytes,
        status,
    })
}
