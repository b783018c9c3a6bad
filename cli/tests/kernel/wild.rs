//! Stores from the wild: what live media, LVM, Android and recovery of RAIDs make by their own
//! commands, used by usnap, and then by the kernel again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use usnap_test_support::lab::{sha256_of_bytes, text};
use usnap_test_support::pattern::random_file;
use usnap_test_support::{Guest, MIB, Need, RawClient, Rng, Scratch, Tool, missing};

use crate::LAB;

const BASE_BYTES: u64 = 24 * MIB;

/// A store that the kernel made.
struct Store {
    name: &'static str,
    origin: &'static str,
    /// How the kernel's table calls it.
    mode: &'static str,
}

const STORES: [Store; 6] = [
    Store::new("dracut", "PO"),
    Store::new("booted", "PO"),
    Store::new("archiso", "P"),
    Store::new("android", "PO"),
    Store::new("raid1", "P"),
    Store::new("raid2", "P"),
];

impl Store {
    const fn new(name: &'static str, mode: &'static str) -> Self {
        Self {
            name,
            origin: "base.img",
            mode,
        }
    }

    fn cow(&self, scratch: &Scratch) -> PathBuf {
        scratch.join(&format!("{}.cow", self.name))
    }
}

/// A small filesystem.
fn base_image(scratch: &Scratch) -> Result<PathBuf> {
    let base = scratch.sparse_file("base.img", BASE_BYTES)?;
    Tool::new("mke2fs")
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-d",
            "/usr/include/linux/netfilter",
        ])
        .arg(&base)
        .ok()?;
    Ok(base)
}

/// Uses the store as the kernel left it: looks, reads, writes. Returns what it shows at the end.
fn used(origin: &Path, cow: &Path, digest: &str, status: &str) -> Result<String> {
    assert_eq!(LAB.status_line(cow)?, status, "{}", cow.display());
    LAB.check_is_clean(cow)?;
    let said = LAB
        .usnap(&["check", text(cow)?, "--origin", text(origin)?])
        .ok();
    said.with_context(|| cow.display().to_string())?;
    LAB.usnap(&["dump", text(cow)?]).ok()?;
    LAB.usnap(&["info", text(cow)?]).ok()?;

    let before = fs::read(cow)?;
    let server = LAB.serve(origin)?.cow(cow).args(&["--read-only"]).start()?;
    let mut model = RawClient::connect(&server.socket())?.read_all()?;
    server.stop()?;
    assert_eq!(sha256_of_bytes(&model)?, digest, "{}", cow.display());
    ensure!(fs::read(cow)? == before, "reading changed the store");

    let server = LAB.serve(origin)?.cow(cow).start()?;
    let mut client = RawClient::connect(&server.socket())?;
    let mut rng = Rng::new(7);
    for _ in 0..40 {
        let len = usize::try_from(1 + rng.below(30_000))?;
        let at = usize::try_from(rng.below((model.len() - len) as u64))?;
        let data = rng.bytes(len);
        client.write_at(at as u64, &data)?;
        model[at..at + len].copy_from_slice(&data);
    }
    ensure!(client.read_all()? == model, "something else was written");
    client.disconnect()?;
    server.stop()?;
    LAB.check_is_clean(cow)?;
    sha256_of_bytes(&model)
}

#[test]
fn stores_of_live_media_android_and_raid_recovery_are_used_and_given_back() -> Result<()> {
    if missing(&[Need::GuestKernel, Need::Program("mke2fs")])? {
        return Ok(());
    }
    let scratch = LAB.scratch("wild")?;
    let base = base_image(&scratch)?;
    scratch.sparse_file("large.img", 300 * MIB)?;
    random_file(&scratch.join("android.cow"), 20 * MIB, 5)?;
    let guest = Guest::new().module("block/loop");
    let said = guest
        .limit(Duration::from_secs(400))
        .run(&scratch, include_str!("wild.sh"))?;
    assert_eq!(said.value("done")?, "yes", "{}", said.text());
    // The layer below must be what the upper one was made over.
    ram_over_read_only(&scratch, &base, said.value("ram.sha256")?)?;
    not_yet_stores(&scratch, &base)?;

    let mut given_back = Vec::new();
    for store in &STORES {
        let value = |what: &str| said.value(&format!("{}.{what}", store.name));
        let cow = store.cow(&scratch);
        let shows = used(&base, &cow, value("sha256")?, value("status")?)
            .with_context(|| store.name.to_owned())?;
        given_back.push((store, LAB.status_line(&cow)?, shows));
    }
    // Filled by the kernel to where it loses the store, mended, and served.
    assert_eq!(said.value("filled.status")?, "Invalid");
    let filled = scratch.join("filled.cow");
    assert_eq!(LAB.status_line(&filled)?, "Invalid");
    let large = scratch.join("large.img");
    let refused = LAB
        .usnap(&["serve", text(&large)?, "--single", "--cow"])
        .arg(&filled)
        .fails_with(1)?;
    ensure!(
        refused.stderr.contains("hint: ") && refused.stderr.contains("repair"),
        "{refused}"
    );
    LAB.usnap(&["repair", "--revalidate", text(&filled)?])
        .ok()?;
    LAB.check_is_clean(&filled)?;
    // 254 areas full of zeros that were written, and what the last one had.
    let entries = crate::stores::entries_of(&LAB.status_line(&filled)?, 8)?;
    ensure!(entries >= 254 * 256, "only {entries} chunks are left");

    let list: Vec<String> = STORES
        .iter()
        .map(|store| format!("{}:{}:{}", store.name, store.origin, store.mode))
        .collect();
    let guest = Guest::new()
        .module("block/loop")
        .variable("STORES", &list.join(" "));
    let said = guest.run(&scratch, include_str!("wild_back.sh"))?;
    assert_eq!(said.value("done")?, "yes", "{}", said.text());
    for (store, status, shows) in &given_back {
        let value = |what: &str| said.value(&format!("{}.{what}", store.name));
        assert_eq!(value("status")?, status, "{}", store.name);
        assert_eq!(value("sha256")?, shows, "{}", store.name);
    }
    Ok(())
}

/// An overlay in memory over a read-only overlay over the base.
fn ram_over_read_only(scratch: &Scratch, base: &Path, digest: &str) -> Result<()> {
    let (layer, ram) = (scratch.join("dracut.cow"), scratch.join("ram.cow"));
    let server = LAB
        .serve(base)?
        .cow(&ram)
        .args(&["--layer", text(&layer)?, "--read-only"])
        .start()?;
    let content = RawClient::connect(&server.socket())?.read_all()?;
    server.stop()?;
    assert_eq!(sha256_of_bytes(&content)?, digest, "ram");
    Ok(())
}

/// What a kernel would make a store of, since its magic is zero, and we don't unasked.
fn not_yet_stores(scratch: &Scratch, base: &Path) -> Result<()> {
    for name in ["reset.cow", "fresh.cow"] {
        let cow = scratch.join(name);
        let before = fs::read(&cow)?;
        let serve = ["serve", text(base)?, "--single", "--cow", text(&cow)?];
        let refused = LAB.usnap(&serve).fails_with(1)?;
        ensure!(
            refused.stderr.contains("hint: ") && refused.stderr.contains("usnap create --force"),
            "{refused}"
        );
        ensure!(fs::read(&cow)? == before, "{name} was changed");
        // As the hint says.
        let create = ["create", "--force", text(&cow)?, "--origin", text(base)?];
        LAB.usnap(&create).ok()?;
        assert_eq!(fs::metadata(&cow)?.len(), before.len() as u64, "{name}");
        LAB.check_is_clean(&cow)?;
        let server = LAB.serve(base)?.cow(&cow).start()?;
        let content = RawClient::connect(&server.socket())?.read_all()?;
        server.stop()?;
        ensure!(content == fs::read(base)?, "{name} is not empty");
    }
    Ok(())
}

#[test]
fn a_snapshot_of_lvm_is_used() -> Result<()> {
    if missing(&[
        Need::GuestKernel,
        Need::Program("lvm"),
        Need::Program("mke2fs"),
    ])? {
        return Ok(());
    }
    let scratch = LAB.scratch("lvm")?;
    base_image(&scratch)?;
    let disk = scratch.sparse_file("pv.img", 64 * MIB)?;
    let guest = Guest::new().disk("PV", &disk);
    let said = guest.run(&scratch, include_str!("wild_lvm.sh"))?;
    assert_eq!(said.value("done")?, "yes", "{}", said.text());
    assert_eq!(said.value("table")?, "snapshot P 8");
    let devices = said.value("devices")?;
    ensure!(
        devices.contains("vg-root-real") && devices.contains("vg-snap-cow"),
        "{devices}"
    );
    let (origin, cow) = (scratch.join("lvm.img"), scratch.join("lvm.cow"));
    let shows = used(
        &origin,
        &cow,
        said.value("lvm.sha256")?,
        said.value("lvm.status")?,
    )?;
    let status = LAB.status_line(&cow)?;

    let guest = Guest::new()
        .module("block/loop")
        .variable("STORES", "lvm:lvm.img:P");
    let said = guest.run(&scratch, include_str!("wild_back.sh"))?;
    assert_eq!(said.value("lvm.status")?, status);
    assert_eq!(said.value("lvm.sha256")?, shows);
    Ok(())
}
