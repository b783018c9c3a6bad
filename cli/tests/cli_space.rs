//! Room for changes, on a running server: warnings and commands as it is used up, a COW file that
//! grows by itself, filesystems that run full, and a COW file that is cut off.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use usnap_test_support::lab::text;
use usnap_test_support::raw_client::command;
use usnap_test_support::{Lab, MIB, NBD_ENOSPC, Need, RawClient, Scratch, Serve, Server, missing};

const LAB: Lab = Lab::new(env!("CARGO_BIN_EXE_usnap"), env!("CARGO_TARGET_TMPDIR"));
const CHUNK: usize = 4096;
const NBD_EIO: u32 = 5;
/// For what a server does within a second or two when the machine is not busy.
const LIMIT: Duration = Duration::from_secs(30);

/// A folder with an origin of 32 MiB of zeros, and the COW file to be.
struct Place {
    scratch: Scratch,
    origin: PathBuf,
    cow: PathBuf,
}

impl Place {
    fn new(name: &str) -> Result<Self> {
        let scratch = LAB.scratch(name)?;
        Ok(Self {
            origin: scratch.sparse_file("disk.img", 32 * MIB)?,
            cow: scratch.join("c.cow"),
            scratch,
        })
    }

    fn serve(&self, words: &[&str]) -> Result<Server> {
        LAB.serve(&self.origin)?.cow(&self.cow).args(words).start()
    }

    fn set_len(&self, chunks: u64) -> Result<()> {
        let file = fs::OpenOptions::new().write(true).open(&self.cow)?;
        Ok(file.set_len(chunks * CHUNK as u64)?)
    }

    fn chunks(&self) -> Result<u64> {
        Ok(fs::metadata(&self.cow)?.len() / CHUNK as u64)
    }
}

fn write(client: &mut RawClient, chunk: usize) -> Result<u32> {
    let offset = (chunk * CHUNK) as u64;
    client.call(command::WRITE, offset, 4096, &[7; CHUNK])
}

fn read(client: &mut RawClient, chunk: usize) -> Result<u32> {
    client.read_or_error((chunk * CHUNK) as u64, &mut [0; CHUNK])
}

/// Writes chunk after chunk from `from` on; how many there were before one found no space.
fn fill(client: &mut RawClient, from: usize) -> Result<usize> {
    for chunk in from..32 * 256 {
        match write(client, chunk)? {
            0 => {}
            NBD_ENOSPC => return Ok(chunk - from),
            error => anyhow::bail!("error {error} at chunk {chunk}"),
        }
    }
    anyhow::bail!("nothing was refused")
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        ensure!(start.elapsed() < LIMIT, "not {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn wait_for_log(server: &Server, words: &str) -> Result<()> {
    let waited = wait_until(words, || Ok(server.log()?.contains(words)));
    waited.map_err(|error| error.context(server.log().unwrap_or_default()))
}

fn status(cow: &Path) -> Result<Value> {
    let said = LAB.usnap(&["status", text(cow)?, "--json"]).ok()?;
    Ok(serde_json::from_str(&said)?)
}

/// The lines of the log that say how much room is left.
fn warnings(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| line.contains("of the room is used"))
        .collect()
}

#[test]
fn warnings_and_commands_come_once_at_each_level() -> Result<()> {
    let place = Place::new("levels")?;
    let said = place.scratch.join("said");
    let say = format!(
        "80:echo $USNAP_PERCENT $USNAP_BYTES_LEFT \"$USNAP_COW\" >> '{}'",
        text(&said)?
    );
    // 1,024 chunks: room for 1,019.
    let words = [
        "--cow-size",
        "4M",
        "--on-space",
        &say,
        "--on-space",
        "33:echo a third of it",
    ];
    let server = place.serve(&words)?;
    let mut client = RawClient::connect(&server.socket())?;
    let mut written = 0;
    for (upto, percent) in [(337, 33), (714, 70), (816, 80), (918, 90), (969, 95)] {
        while written < upto - 1 {
            ensure!(write(&mut client, written)? == 0);
            written += 1;
        }
        // The timer must not see more of it than the bell tells.
        let before = warnings(&server.log()?).len();
        std::thread::sleep(Duration::from_millis(60));
        ensure!(
            warnings(&server.log()?).len() == before,
            "before {percent} %"
        );
        ensure!(write(&mut client, written)? == 0);
        written += 1;
        match percent {
            33 => wait_for_log(&server, "a third of it")?,
            _ => wait_for_log(&server, &format!("{percent} % of the room is used"))?,
        }
    }
    ensure!(fill(&mut client, written)? == 1019 - written);
    let now = status(&place.cow)?;
    let space = &now["space"];
    ensure!(
        space["percent_used"] == 100 && space["bytes_left"] == 0,
        "{space}"
    );
    ensure!(
        space["limited_by"] == "cow" && space["seconds_left"] == 0,
        "{space}"
    );
    client.disconnect()?;
    let log = server.stop()?;
    ensure!(warnings(&log).len() == 4, "{log}");
    ensure!(log.matches("a third of it").count() == 1, "{log}");
    let expected = format!(
        "80 {} {}\n",
        (1019 - 816) * CHUNK,
        fs::canonicalize(&place.cow)?.display()
    );
    ensure!(fs::read_to_string(&said)? == expected, "{expected}");

    // At rest the same is known but for the rate; a new server says it again.
    let space = &status(&place.cow)?["space"];
    let expected = json!({"percent_used": 100, "bytes_left": 0, "limited_by": "cow",
        "seconds_left": null, "is_live": false});
    ensure!(*space == expected, "{space}");
    let server = place.serve(&[])?;
    wait_for_log(&server, "100 % of the room is used, 0 B left in the COW")?;
    ensure!(warnings(&server.stop()?).len() == 1);
    Ok(())
}

#[test]
fn a_cow_that_can_never_be_full_warns_of_nothing() -> Result<()> {
    let place = Place::new("never-full")?;
    let hook = place.scratch.join("hook");
    let on_space = format!("50:touch {}", text(&hook)?);
    let server = place.serve(&["--on-space", &on_space])?;
    let mut client = RawClient::connect(&server.socket())?;
    for chunk in 0..32 * 256 {
        ensure!(write(&mut client, chunk)? == 0, "chunk {chunk}");
    }
    std::thread::sleep(Duration::from_millis(1500));
    let shown = status(&place.cow)?;
    ensure!(shown["full"] == false, "{shown}");
    let log = server.stop()?;
    ensure!(warnings(&log).is_empty() && !hook.exists(), "{log}");
    ensure!(status(&place.cow)?["full"] == false, "at rest");
    Ok(())
}

#[test]
fn a_store_that_is_filled_at_once_is_still_noticed_and_every_command_runs() -> Result<()> {
    let place = Place::new("at-once")?;
    let words = [
        "--cow-size",
        "4M",
        "--on-space",
        "1:echo hook-1",
        "--on-space",
        "99:echo hook-99",
    ];
    let server = place.serve(&words)?;
    let mut client = RawClient::connect(&server.socket())?;
    let error = client.call(command::WRITE, 0, 8 << 20, &vec![1; 8 << 20])?;
    ensure!(error == NBD_ENOSPC, "{error}");
    client.disconnect()?;
    // Nothing more is waited for: the end of the server looks, too.
    let log = server.stop()?;
    ensure!(!warnings(&log).is_empty(), "{log}");
    ensure!(
        log.contains("hook-1\n") && log.contains("hook-99\n"),
        "{log}"
    );
    Ok(())
}

#[test]
fn the_time_left_follows_the_rate_and_memory_is_watched_as_well() -> Result<()> {
    let place = Place::new("rate")?;
    let server = place.serve(&["--cow-size", "16M"])?;
    let mut client = RawClient::connect(&server.socket())?;
    let idle = status(&place.cow)?;
    ensure!(
        idle["space"]["seconds_left"].is_null() && idle["space"]["is_live"] == true,
        "{idle}"
    );
    let start = Instant::now();
    let mut chunk = 0;
    while start.elapsed() < Duration::from_millis(1500) {
        ensure!(write(&mut client, chunk)? == 0);
        chunk += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    let said = LAB.usnap(&["status", text(&place.cow)?]).ok()?;
    ensure!(said.contains(" at this rate\n"), "{said}");
    client.disconnect()?;
    server.stop()?;

    let serve = LAB.serve(&place.origin)?;
    let words = [
        "--transient",
        "--ram-limit",
        "1M",
        "--on-space",
        "50:echo \"cow=<$USNAP_COW>\"",
    ];
    let server = serve.args(&words).start()?;
    let mut client = RawClient::connect(&server.socket())?;
    ensure!(fill(&mut client, 0)? == 256);
    wait_for_log(
        &server,
        "memory for changes: 100 % of the room is used, 0 B left in memory",
    )?;
    wait_for_log(&server, "cow=<>")?;
    client.disconnect()?;
    server.stop()?;
    Ok(())
}

#[test]
fn commands_get_nothing_of_the_servers_and_leave_nothing_behind() -> Result<()> {
    let place = Place::new("hooks")?;
    let script = "1:ls -l /proc/self/fd | grep -c 'socket:\\|event\\|c.cow\\|disk.img\\|journal'; readlink /proc/self/fd/0; echo out; exit 7";
    let words = [
        "--cow-size",
        "4M",
        "--on-space",
        script,
        "--on-space",
        "2:sleep 1000 & sleep 1000",
    ];
    let server = place.serve(&words)?;
    let mut client = RawClient::connect(&server.socket())?;
    for chunk in 0..30 {
        ensure!(write(&mut client, chunk)? == 0);
    }
    wait_for_log(&server, "of --on-space failed: exit status: 7")?;
    let log = server.log()?;
    // The tests' own runner may have passed on some of its descriptors; none is the server's.
    ensure!(log.contains("\n0\n/dev/null\nout\n"), "{log}");
    let children = || -> Result<Vec<String>> {
        let tasks = fs::read_dir(format!("/proc/{}/task", server.pid()))?;
        let mut states = Vec::new();
        for task in tasks {
            let children = fs::read_to_string(task?.path().join("children"))?;
            for child in children.split_whitespace() {
                states.push(fs::read_to_string(format!("/proc/{child}/stat"))?);
            }
        }
        Ok(states)
    };
    let now = children()?;
    ensure!(now.len() == 1 && !now[0].contains(") Z "), "{now:?}");
    let sleeper = now[0].split(' ').next().unwrap_or_default().to_owned();
    client.disconnect()?;
    let start = Instant::now();
    server.stop()?;
    ensure!(
        start.elapsed() > Duration::from_secs(4),
        "it has some seconds to end by itself"
    );
    ensure!(
        !Path::new(&format!("/proc/{sleeper}")).exists(),
        "it was ended"
    );
    Ok(())
}

#[test]
fn a_cow_file_grows_to_its_limit_and_no_further() -> Result<()> {
    let place = Place::new("grows")?;
    let server = place.serve(&["--cow-size", "1M", "--max-cow", "3M"])?;
    ensure!(place.chunks()? == 256);
    let said = LAB.usnap(&["status", text(&place.cow)?]).ok()?;
    // The largest n with 2 + n + n / 256 <= 768.
    ensure!(said.contains("room for 764 more"), "{said}");
    ensure!(
        said.contains("COW of 1 MiB, growing up to 3 MiB,"),
        "{said}"
    );
    let mut client = RawClient::connect(&server.socket())?;
    ensure!(fill(&mut client, 0)? == 764);
    ensure!(place.chunks()? == 768);
    let full = status(&place.cow)?;
    ensure!(
        full["full"] == true && full["cow_limit_bytes"].is_null(),
        "{full}"
    );
    client.disconnect()?;
    server.stop()?;
    LAB.check_is_clean(&place.cow)?;

    // One that is there already grows as well; a size that kernels destroy is not taken.
    let server = place.serve(&["--max-cow", "4116K"])?;
    let mut client = RawClient::connect(&server.socket())?;
    ensure!(fill(&mut client, 764)? == 1023 - 764);
    ensure!(place.chunks()? == 1028, "1,029 is 4 * 257 + 1");
    client.disconnect()?;
    server.stop()?;
    LAB.check_is_clean(&place.cow)?;
    let server = place.serve(&["--max-cow", "1M"])?;
    let log = server.stop()?;
    ensure!(log.contains("it does not grow"), "{log}");
    ensure!(place.chunks()? == 1028, "never shorter");
    Ok(())
}

#[test]
fn what_grows_begins_with_64_mib_and_a_block_device_does_not_grow() -> Result<()> {
    let place = Place::new("begins")?;
    let large = place.scratch.sparse_file("large.img", 1 << 30)?;
    let server = LAB
        .serve(&large)?
        .cow(&place.cow)
        .args(&["--max-cow", "1G"])
        .start()?;
    ensure!(fs::metadata(&place.cow)?.len() == 64 * MIB);
    server.stop()?;
    let device = Path::new("/dev/loop0");
    if fs::metadata(device).is_ok_and(|found| found.file_type().is_block_device()) {
        let words = [
            "serve",
            text(&large)?,
            "--cow",
            text(device)?,
            "--max-cow",
            "1G",
        ];
        let said = LAB.usnap(&words).fails_with(2)?;
        ensure!(
            said.stderr.contains("does not grow by itself"),
            "{}",
            said.stderr
        );
    }
    Ok(())
}

#[test]
fn growth_that_fails_is_no_space_and_is_tried_again() -> Result<()> {
    let place = Place::new("limited")?;
    let mut launcher = Command::new("sh");
    // In blocks of 512 bytes, as dash counts; bash counts 1,024.
    launcher.args(["-c", "ulimit -S -f 4096; exec \"$@\"", "sh", LAB.program()]);
    let server = Serve::wrapped(launcher, LAB.root(), &place.origin)?
        .cow(&place.cow)
        .args(&["--cow-size", "1M", "--max-cow", "100M"])
        .start()?;
    let mut client = RawClient::connect(&server.socket())?;
    ensure!(fill(&mut client, 0)? == 254);
    ensure!(
        place.chunks()? == 256,
        "a step would be longer than the limit"
    );
    ensure!(read(&mut client, 5)? == 0);
    client.flush()?;
    let pid = server.pid().to_string();
    let lifted = Command::new("prlimit")
        .args(["--pid", &pid, "--fsize=unlimited"])
        .status();
    if lifted.is_ok_and(|status| status.success()) {
        ensure!(write(&mut client, 254)? == 0, "the next write tries again");
        ensure!(place.chunks()? > 256);
    }
    client.disconnect()?;
    server.stop()?;
    LAB.check_is_clean(&place.cow)
}

/// A server whose COW file lies on a filesystem of its own, made by `script` at `$0`.
fn on_small_filesystem(
    place: &Place,
    unshare: &[&str],
    script: &str,
    words: &[&str],
) -> Result<(Server, PathBuf)> {
    let small = place.scratch.join("small");
    fs::create_dir(&small)?;
    let mut launcher = Command::new("unshare");
    launcher
        .arg("--mount")
        .args(unshare)
        .args(["sh", "-c", script]);
    launcher.arg(&small).arg(LAB.program());
    let server = Serve::wrapped(launcher, LAB.root(), &place.origin)?
        .cow(&small.join("c.cow"))
        .args(words)
        .start()?;
    let inside = format!("/proc/{}/root{}", server.pid(), text(&small)?);
    Ok((server, PathBuf::from(inside)))
}

/// Fills the filesystem, makes room, fills it again: only ENOSPC, and all of it is durable.
fn runs_full_and_gets_room(server: Server, inside: &Path) -> Result<()> {
    let mut client = RawClient::connect(&server.socket())?;
    wait_until("some room", || Ok(inside.join("ballast").exists()))?;
    let filled = fill(&mut client, 0)?;
    ensure!(filled > 300, "only {filled} chunks");
    client.flush()?;
    wait_for_log(&server, "left on its filesystem")?;
    ensure!(read(&mut client, filled - 1)? == 0 && write(&mut client, 0)? == 0);
    ensure!(write(&mut client, filled)? == NBD_ENOSPC, "still full");
    let first = warnings(&server.log()?).len();
    fs::remove_file(inside.join("ballast"))?;
    // The share falls, so that the levels can be passed again.
    std::thread::sleep(Duration::from_millis(2500));
    let more = fill(&mut client, filled)?;
    ensure!(more > 300, "only {more} chunks more");
    client.flush()?;
    wait_until("said again", || Ok(warnings(&server.log()?).len() > first))?;
    // The copy is the file as it is; the server goes on meanwhile.
    LAB.check_is_clean(&inside.join("c.cow"))?;
    client.disconnect()?;
    let log = server.stop()?;
    ensure!(!log.contains("ERROR"), "{log}");
    Ok(())
}

#[test]
fn a_filesystem_in_memory_that_runs_full_is_the_limit_that_is_told() -> Result<()> {
    if missing(&[Need::PrivateMounts])? {
        return Ok(());
    }
    // Chunks of 512 bytes too: every 33rd chunk is an area, and every page has one.
    for chunk_size in ["4K", "512"] {
        let place = Place::new("tmpfs")?;
        let script = r#"mount -t tmpfs -o size=6m none "$0" &&
            head -c 3M /dev/zero > "$0/ballast" && exec "$@""#;
        let words = ["--chunk-size", chunk_size];
        let (server, inside) = on_small_filesystem(&place, &["--map-root-user"], script, &words)?;
        runs_full_and_gets_room(server, &inside)?;
    }
    Ok(())
}

#[test]
fn where_space_is_reserved_ahead_a_filesystem_runs_full_in_the_same_way() -> Result<()> {
    if missing(&[Need::LoopMounts, Need::Filesystem("overlay")])? {
        return Ok(());
    }
    // What lies below an overlay is not known, so nothing is taken for granted.
    let script = r#"mount -t tmpfs -o size=6m none "$0" &&
        mkdir "$0/lower" "$0/upper" "$0/work" && cd "$0" &&
        mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay "$0" &&
        head -c 3M /dev/zero > "$0/ballast" && cd / && exec "$@""#;
    let place = Place::new("overlay")?;
    let (server, inside) = on_small_filesystem(&place, &[], script, &[])?;
    runs_full_and_gets_room(server, &inside)
}

#[test]
fn ext4_that_runs_full_refuses_data_and_areas_and_goes_on_when_there_is_room() -> Result<()> {
    if missing(&[Need::LoopMounts])? {
        return Ok(());
    }
    for chunk_size in ["4K", "512"] {
        let place = Place::new("ext4")?;
        let image = place.scratch.sparse_file("ext4.img", 10 * MIB)?;
        let script = r#"PATH=$PATH:/usr/sbin:/sbin; image=$1; shift
            mke2fs -q -t ext4 -m 0 "$image" && mount -o loop "$image" "$0" &&
            head -c 3M /dev/zero > "$0/ballast" && sync && exec "$@""#;
        let small = script.replace("image=$1; shift", &format!("image='{}'", text(&image)?));
        let words = ["--chunk-size", chunk_size];
        let (server, inside) = on_small_filesystem(&place, &[], &small, &words)?;
        runs_full_and_gets_room(server, &inside)?;
    }
    Ok(())
}

#[test]
fn a_full_server_uses_a_file_that_is_made_longer_at_once() -> Result<()> {
    let place = Place::new("longer")?;
    let server = place.serve(&["--cow-size", "1M"])?;
    let mut client = RawClient::connect(&server.socket())?;
    ensure!(fill(&mut client, 0)? == 254);
    wait_for_log(&server, "0 B left in the COW")?;
    place.set_len(512)?;
    ensure!(
        fill(&mut client, 254)? == 509 - 254,
        "2 + n + n / 256 <= 512"
    );
    client.flush()?;
    client.disconnect()?;
    server.stop()?;
    LAB.check_is_clean(&place.cow)
}

#[test]
fn a_cow_file_that_is_cut_off_loses_what_lay_behind_and_nothing_else() -> Result<()> {
    let place = Place::new("cut")?;
    let server = place.serve(&["--cow-size", "1M"])?;
    let mut client = RawClient::connect(&server.socket())?;
    for chunk in 0..100 {
        ensure!(write(&mut client, chunk)? == 0);
    }
    client.flush()?;
    place.set_len(50)?;
    wait_for_log(
        &server,
        "was cut off to 204800 bytes: what lay in its chunks 50 to 101 is lost",
    )?;
    // Chunk n lies at n + 2.
    for (chunk, error) in [(0, 0), (47, 0), (48, NBD_EIO), (99, NBD_EIO)] {
        ensure!(read(&mut client, chunk)? == error, "read {chunk}");
        ensure!(write(&mut client, chunk)? == error, "write {chunk}");
    }
    ensure!(read(&mut client, 500)? == 0, "the origin's");
    ensure!(write(&mut client, 500)? == NBD_ENOSPC);
    ensure!(place.chunks()? == 50, "not made longer over zeros");
    // Long again it looks whole, and is not.
    place.set_len(256)?;
    ensure!(write(&mut client, 500)? == 0, "behind all that");
    ensure!(read(&mut client, 99)? == NBD_EIO && read(&mut client, 0)? == 0);
    client.flush()?;
    client.disconnect()?;
    server.stop()?;
    Ok(())
}

#[test]
fn a_commit_of_what_was_cut_off_fails_for_good() -> Result<()> {
    let place = Place::new("cut-commit")?;
    let server = place.serve(&["--cow-size", "1M", "--commit-interval", "0"])?;
    let mut client = RawClient::connect(&server.socket())?;
    for chunk in 0..100 {
        ensure!(write(&mut client, chunk)? == 0);
    }
    place.set_len(50)?;
    wait_for_log(&server, "was cut off")?;
    place.set_len(256)?;
    for _ in 0..2 {
        ensure!(client.call(command::FLUSH, 0, 0, &[])? == NBD_EIO);
    }
    let now = status(&place.cow)?;
    ensure!(
        now["latched"]
            .as_str()
            .is_some_and(|why| why.contains("cut off")),
        "{now}"
    );
    client.disconnect()?;
    server.stop_with(1)?;
    Ok(())
}

#[test]
fn an_unused_end_that_is_cut_off_and_comes_back_costs_nothing() -> Result<()> {
    let place = Place::new("cut-unused")?;
    let server = place.serve(&["--cow-size", "1M"])?;
    let mut client = RawClient::connect(&server.socket())?;
    for chunk in 0..10 {
        ensure!(write(&mut client, chunk)? == 0);
    }
    place.set_len(50)?;
    wait_for_log(&server, "was cut off to 204800 bytes; nothing lay behind")?;
    place.set_len(256)?;
    ensure!(fill(&mut client, 10)? == 254 - 10);
    for chunk in 0..254 {
        ensure!(read(&mut client, chunk)? == 0);
    }
    client.flush()?;
    client.disconnect()?;
    let log = server.stop()?;
    ensure!(!log.contains("ERROR"), "{log}");
    LAB.check_is_clean(&place.cow)
}
