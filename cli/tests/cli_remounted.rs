//! `kill -9` of a server in a mount namespace of its own, as containers and services have: its
//! mounts are new at each start, and its filesystem is the same, unless it was unmounted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use usnap_test_support::{Lab, Need, RawClient, Scratch, Serve, Server, Tool, missing};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));

const CHUNK: u64 = 4096;
const CHUNKS: u64 = 16;

/// Where journals lie beside the COW file, by what `stat` calls the filesystem.
const WITH_JOURNALS: [&str; 3] = ["ext2/ext3", "xfs", "tmpfs"];

fn origin(scratch: &Scratch) -> Result<PathBuf> {
    let path = scratch.join("disk.img");
    let len = usize::try_from(CHUNK * CHUNKS)?;
    std::fs::write(&path, vec![5; len])?;
    Ok(path)
}

/// A server started by a shell in a mount namespace of its own, after `script`.
fn serve(unshare: &[&str], script: &str, origin: &Path, cow: &Path) -> Result<Serve> {
    let mut launcher = Command::new("unshare");
    launcher.arg("--mount").args(unshare);
    launcher.args(["sh", "-c", &format!("{script} exec \"$@\""), "sh"]);
    launcher.arg(LAB.program());
    let serve = Serve::wrapped(launcher, Path::new("/tmp"), origin)?.cow(cow);
    // Only flushes commit, and there is none.
    Ok(serve.args(&["--commit-interval", "0"]))
}

fn write(server: &Server, chunk: u64, byte: u8) -> Result<()> {
    let mut client = RawClient::connect(&server.socket())?;
    client.write_at(chunk * CHUNK, &[byte; 4096])
}

/// The first byte of each of the first three chunks.
fn bytes(server: &Server) -> Result<Vec<u8>> {
    let all = RawClient::connect(&server.socket())?.read_all()?;
    Ok(all.chunks(4096).take(3).map(|chunk| chunk[0]).collect())
}

#[test]
fn a_server_in_another_mount_namespace_replays_by_itself() -> Result<()> {
    if missing(&[Need::PrivateMounts])? {
        return Ok(());
    }
    for root in ["/tmp", "/dev/shm"] {
        let scratch = Scratch::new(Path::new(root), "usnap-namespace")?;
        let kind = Tool::new("stat").args(["-f", "-c", "%T"]);
        let kind = kind.arg(scratch.path()).ok()?;
        let origin = origin(&scratch)?;
        // Before Linux 6.0 tmpfs did not tell when a file was made.
        let is_born_known = origin.metadata()?.created().is_ok();
        if !WITH_JOURNALS.contains(&kind.trim()) || !is_born_known {
            continue;
        }
        let cow = scratch.join("c.cow");
        let served = |expected: [u8; 3], unshare: Option<&[&str]>| -> Result<Server> {
            let serve = match unshare {
                Some(unshare) => serve(unshare, "", &origin, &cow)?,
                None => LAB.serve(&origin)?.cow(&cow),
            };
            let server = serve.start()?;
            ensure!(bytes(&server)? == expected, "{}", server.log()?);
            Ok(server)
        };
        let in_one = Some(&["--map-root-user"][..]);
        let server = served([5, 5, 5], in_one)?;
        write(&server, 0, 1)?;
        server.kill()?;
        let server = served([1, 5, 5], in_one)?;
        write(&server, 1, 2)?;
        server.kill()?;
        // And by hand, from outside.
        let server = served([1, 2, 5], None)?;
        let log = server.log()?;
        ensure!(log.contains("replayed 1 exception"), "{log}");
        server.stop()?;
        LAB.check_is_clean(&cow)?;
    }
    Ok(())
}

#[test]
fn a_filesystem_that_was_unmounted_is_asked_about() -> Result<()> {
    if missing(&[Need::LoopMounts])? {
        return Ok(());
    }
    let scratch = Scratch::new(Path::new("/tmp"), "usnap-remounted")?;
    let origin = origin(&scratch)?;
    let image = scratch.sparse_file("ext4.img", 64 << 20)?;
    let made = Tool::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&image);
    made.ok()?;
    let small = scratch.join("small");
    std::fs::create_dir(&small)?;
    let mount = format!(
        "PATH=$PATH:/usr/sbin:/sbin; mount -o loop '{}' '{}' &&",
        image.display(),
        small.display()
    );
    let cow = small.join("c.cow");
    let server = serve(&[], &mount, &origin, &cow)?.start()?;
    write(&server, 0, 1)?;
    server.kill()?;
    is_unmounted(&image)?;

    let refused = serve(&[], &mount, &origin, &cow)?.start().err();
    let refused = format!("{:#}", refused.context("it is served")?);
    let why = "was written before the filesystem was last mounted";
    ensure!(refused.contains(why), "{refused}");
    ensure!(refused.contains("--journal=replay"), "{refused}");
    is_unmounted(&image)?;

    let told = serve(&[], &mount, &origin, &cow)?.args(&["--journal", "replay"]);
    let server = told.start()?;
    ensure!(bytes(&server)? == [1, 5, 5], "{}", server.log()?);
    server.stop()?;
    is_unmounted(&image)
}

/// Waits until no loop device has the image: the last process of its namespace took the mount along.
fn is_unmounted(image: &Path) -> Result<()> {
    let start = Instant::now();
    while !Tool::new("losetup").arg("-j").arg(image).ok()?.is_empty() {
        ensure!(
            start.elapsed() < Duration::from_secs(20),
            "it stays mounted"
        );
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
