//! The host's filesystem below the COW runs full, to the last block, while clients write: they are
//! told that there is no space and nothing else, what was answered is read, and when there is space
//! again so do writes succeed, without a restart.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use usnap_test_support::disks::{Mount, device, fsck};
use usnap_test_support::guest::inside_guest;
use usnap_test_support::lab::text;
use usnap_test_support::pattern::random_file;
use usnap_test_support::{Guest, MIB, RawClient, Rng, Scratch, Server, Tool, say};

use crate::load::{Answers, Load, lock, run};
use crate::machine::{attach, detach, flush, in_guest, run_dir, serve, status};
use crate::written::Written;
use crate::{LAB, knobs};

const SMALL_BYTES: u64 = 64 * MIB;
const ORIGIN_BYTES: u64 = 24 * MIB;

fn prepare(scratch: &Scratch, rounds: u64) -> Result<Guest> {
    let origin = scratch.join("origin.img");
    random_file(&origin, ORIGIN_BYTES, 41)?;
    // An origin that is a filesystem, for a client that mounts the export.
    let inner = scratch.sparse_file("inner.img", ORIGIN_BYTES)?;
    Tool::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4"])
        .arg(&inner)
        .ok()?;
    let small = scratch.sparse_file("small.img", SMALL_BYTES)?;
    let guest = Guest::new()
        .disk("SMALL", &small)
        .variable("ORIGIN", text(&origin)?)
        .variable("INNER", text(&inner)?)
        .variable("ROUNDS", &rounds.to_string())
        .variable("SEED", &knobs::seed()?.to_string())
        .limit(Duration::from_secs(60 + 30 * rounds));
    Ok(guest)
}

/// Where the COW is: what runs full.
#[derive(Clone, Copy)]
enum Place {
    Ext4,
    Tmpfs,
}

impl Place {
    fn mount(self) -> Result<Mount> {
        let point = run_dir("small");
        match self {
            Self::Ext4 => Mount::new_ext4(&device("SMALL")?, &point),
            Self::Tmpfs => Mount::new(&["-t", "tmpfs", "-o", "size=64m", "none"], &point),
        }
    }

    fn unmount(self, mount: Mount) -> Result<()> {
        mount.unmount()?;
        match self {
            Self::Ext4 => fsck(&device("SMALL")?, false),
            Self::Tmpfs => Ok(()),
        }
    }
}

/// Runs `round` as often as the guest is told, each time with another seed.
fn rounds(round: impl Fn(u64) -> Result<()>) -> Result<()> {
    let number = |name: &str| -> Result<u64> {
        let text = std::env::var(name).with_context(|| format!("no {name}"))?;
        Ok(text.parse()?)
    };
    let mut seed = number("SEED")?;
    for index in 0..number("ROUNDS")? {
        round(seed).with_context(|| format!("round {index}, USNAP_FAULT_SEED={seed}"))?;
        seed = Rng::new(seed).next_u64() >> 16;
    }
    Ok(())
}

fn test(name: &str, full: u64, round: impl Fn(u64) -> Result<()>) -> Result<()> {
    let count = if inside_guest() {
        0
    } else {
        knobs::rounds(3, full)?
    };
    let said = in_guest(name, |scratch| prepare(scratch, count), || rounds(round))?;
    match said {
        Some(_) => say(&format!("{name}: {count} rounds")),
        None => Ok(()),
    }
}

#[test]
fn an_ext4_that_runs_full_costs_only_the_writes_that_find_no_space() -> Result<()> {
    let name = "full_disk::an_ext4_that_runs_full_costs_only_the_writes_that_find_no_space";
    test(name, 100, |seed| clients(Place::Ext4, seed))
}

#[test]
fn a_tmpfs_that_runs_full_costs_only_the_writes_that_find_no_space() -> Result<()> {
    let name = "full_disk::a_tmpfs_that_runs_full_costs_only_the_writes_that_find_no_space";
    test(name, 100, |seed| clients(Place::Tmpfs, seed))
}

#[test]
fn a_filesystem_on_the_export_is_sound_after_the_disk_below_ran_full() -> Result<()> {
    let name = "full_disk::a_filesystem_on_the_export_is_sound_after_the_disk_below_ran_full";
    test(name, 100, filesystem)
}

/// Clients at a depth, until there is no space, then less than none, then some.
fn clients(place: Place, seed: u64) -> Result<()> {
    let mut rng = Rng::new(seed);
    let mount = place.mount()?;
    let ballast = mount.fill("ballast", 4 * MIB + rng.below(8 * MIB))?;
    let origin = device("ORIGIN")?;
    let cow = mount.join("c.cow");
    let chunk = ["512", "4K", "4K", "64K"][usize::try_from(rng.below(4))?];
    let interval = ["0", "0.05", "5"][usize::try_from(rng.below(3))?];
    let server = serve(&origin, &cow)?
        .args(&["--chunk-size", chunk, "--commit-interval", interval])
        .start()?;
    let written = Mutex::new(Written::new(fs::read(&origin)?));
    let load = Load {
        clients: 1 + rng.below(3),
        depth: 16,
        flush_every: [0, 7, 100][usize::try_from(rng.below(3))?],
        reach: usize::MAX,
        writes_only: rng.below(2) == 0,
    };
    let press = |server: &Server, answers: &mut Answers, seed: u64, refusals: u64| -> Result<()> {
        for step in 0..40 {
            *answers += run(&load, &server.socket(), &written, seed + step, || {
                thread::sleep(Duration::from_millis(150));
                Ok(())
            })?;
            holds_what_was_answered(server, &written)?;
            if answers.no_space + answers.flushes_without_space >= refusals {
                return Ok(());
            }
        }
        anyhow::bail!("the disk does not run full: {answers:?}")
    };
    let mut full = Answers::default();
    press(&server, &mut full, rng.next_u64(), 20)?;
    ensure!(full.done > 0, "nothing was written");
    // To the last block, with whatever else is on the disk.
    mount.fill_up("rest")?;
    let refused = full.no_space + full.flushes_without_space;
    press(&server, &mut full, rng.next_u64(), refused + 20)?;
    let server = if rng.below(2) == 0 {
        server
    } else {
        // Killed, and started again where there is no room for anything.
        server.kill()?;
        let server = serve(&origin, &cow)?
            .args(&["--commit-interval", interval])
            .start()?;
        holds_what_was_answered(&server, &written)?;
        press(&server, &mut full, rng.next_u64(), refused + 40)?;
        server
    };
    ensure!(
        status(&cow)?["latched"].is_null(),
        "latched: {}",
        status(&cow)?
    );

    fs::remove_file(&ballast)?;
    let mut client = RawClient::connect(&server.socket())?;
    ensure!(flush(&mut client)? == 0, "a flush, with space again");
    client.disconnect()?;
    let mut again = Answers::default();
    press(&server, &mut again, rng.next_u64(), 0)?;
    ensure!(
        again.no_space + again.flushes_without_space == 0 && again.done > 0,
        "with space again: {again:?}"
    );
    server.stop()?;
    LAB.check_is_clean(&cow)?;

    let server = serve(&origin, &cow)?.start()?;
    holds_what_was_answered(&server, &written)?;
    server.stop()?;
    place.unmount(mount)
}

fn holds_what_was_answered(server: &Server, written: &Mutex<Written>) -> Result<()> {
    let mut client = RawClient::connect(&server.socket())?;
    let found = client.read_all()?;
    let mut written = lock(written);
    let wrong = written.judge(&found);
    ensure!(
        wrong.is_empty(),
        "{} sectors are wrong: {:?}\n{}",
        wrong.len(),
        &wrong[..wrong.len().min(8)],
        server.log()?
    );
    written.adopt(found);
    client.disconnect()
}

/// The kernel's client, ext4 on the export, fio on that.
fn filesystem(seed: u64) -> Result<()> {
    let mut rng = Rng::new(seed);
    let mount = Place::Ext4.mount()?;
    let ballast = mount.fill("ballast", 3 * MIB + rng.below(6 * MIB))?;
    let origin = device("INNER")?;
    let cow = mount.join("c.cow");
    let server = serve(&origin, &cow)?.start()?;
    let export = Path::new("/dev/nbd0");
    attach(&server, export)?;
    let inner = Mount::new(&["-t", "ext4", text(export)?], &run_dir("inner"))?;
    // It finds no space and says so; what the kernel makes of that is its own matter.
    fio(&inner, seed)?;
    mount.fill_up("rest")?;
    fio(&inner, seed + 1)?;
    ensure!(
        status(&cow)?["server"]["refused_for_space"].as_u64() > Some(0),
        "the disk did not run full: {}",
        status(&cow)?
    );
    ensure!(
        status(&cow)?["latched"].is_null(),
        "latched: {}",
        status(&cow)?
    );

    fs::remove_file(&ballast)?;
    inner.unmount()?;
    fsck(export, true)?;
    let inner = Mount::new(&["-t", "ext4", text(export)?], &run_dir("inner"))?;
    let file = inner.join("afterwards");
    let data = rng.bytes(1 << 20);
    fs::write(&file, &data)?;
    inner.unmount()?;
    fsck(export, false)?;
    detach(export)?;
    server.stop()?;
    LAB.check_is_clean(&cow)?;

    let server = serve(&origin, &cow)?.start()?;
    attach(&server, export)?;
    fsck(export, false)?;
    let inner = Mount::new(&["-t", "ext4", text(export)?], &run_dir("inner"))?;
    ensure!(fs::read(inner.join("afterwards"))? == data, "lost");
    inner.unmount()?;
    detach(export)?;
    server.stop()?;
    Place::Ext4.unmount(mount)
}

fn fio(inner: &Mount, seed: u64) -> Result<()> {
    let output = Tool::new("fio")
        .args(["--name=fill", "--rw=randwrite", "--bs=4k", "--size=14m"])
        .args(["--direct=1", "--ioengine=libaio", "--iodepth=16"])
        .args(["--continue_on_error=all", "--fsync=100"])
        .arg(format!("--randseed={seed}"))
        .arg(format!("--directory={}", text(&inner.join(""))?))
        .run()?;
    // With errors it does not end with 0; that it ran is what matters.
    ensure!(output.stdout.contains("fill"), "{output}");
    Ok(())
}
