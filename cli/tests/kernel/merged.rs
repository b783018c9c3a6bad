//! The kernel's snapshot-merge and ours: the same origin and the same metadata from the same store,
//! and either finishes what the other left half-way.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use usnap_test_support::lab::{sha256_of_bytes, text};
use usnap_test_support::pattern::random_file;
use usnap_test_support::{Guest, KIB, MIB, Need, RawClient, Rng, Scratch, missing};

use crate::LAB;

/// It ends inside a chunk.
const ORIGIN_BYTES: u64 = 12 * MIB + 3 * 512;
/// Chunk size, and how many writes.
const STORES: [(u64, usize); 3] = [(512, 900), (4 * KIB, 1200), (64 * KIB, 100)];

/// A store, its origin, and what both show.
struct Pair {
    cow: PathBuf,
    origin: PathBuf,
    content: Vec<u8>,
}

impl Pair {
    fn make(scratch: &Scratch, name: &str, chunk_bytes: u64, writes: usize) -> Result<Self> {
        let (cow, origin) = (
            scratch.join(&format!("{name}.cow")),
            scratch.join(&format!("{name}.img")),
        );
        random_file(&origin, ORIGIN_BYTES, chunk_bytes)?;
        let mut content = fs::read(&origin)?;
        let server = LAB
            .serve(&origin)?
            .cow(&cow)
            .args(&["--chunk-size", &chunk_bytes.to_string()])
            .start()?;
        let mut client = RawClient::connect(&server.socket())?;
        let mut rng = Rng::new(chunk_bytes);
        for _ in 0..writes {
            let len = 512 * (1 + rng.below(2 * chunk_bytes / 512));
            let offset = rng.below((ORIGIN_BYTES - len) / 512) * 512;
            let bytes = rng.bytes(usize::try_from(len)?);
            client.write_at(offset, &bytes)?;
            content[usize::try_from(offset)?..][..bytes.len()].copy_from_slice(&bytes);
        }
        let end = usize::try_from(ORIGIN_BYTES)? - 512;
        client.write_at(ORIGIN_BYTES - 512, &[0x5a; 512])?;
        content[end..].fill(0x5a);
        client.disconnect()?;
        server.stop()?;
        Ok(Self {
            cow,
            origin,
            content,
        })
    }

    /// The same, in files of their own.
    fn copy(&self, scratch: &Scratch, name: &str) -> Result<Self> {
        let (cow, origin) = (
            scratch.join(&format!("{name}.cow")),
            scratch.join(&format!("{name}.img")),
        );
        fs::copy(&self.cow, &cow)?;
        fs::copy(&self.origin, &origin)?;
        Ok(Self {
            cow,
            origin,
            content: self.content.clone(),
        })
    }

    fn merge(&self, args: &[&str]) -> Result<()> {
        LAB.usnap(&["merge", text(&self.cow)?, text(&self.origin)?])
            .args(args)
            .ok()
            .map(drop)
    }

    /// Merges some of it: batch after batch, until it is killed.
    fn merge_half(&self) -> Result<()> {
        let all = self.exceptions()?;
        let mut merge = Command::new(LAB.program())
            .arg("merge")
            .args([&self.cow, &self.origin])
            .args(["--batch", "64K"])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start a merge")?;
        let begun = Instant::now();
        while self.exceptions()? > all - all / 8 {
            ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "it does not begin"
            );
        }
        let pid = Pid::from_raw(i32::try_from(merge.id())?).context("no pid")?;
        kill_process(pid, Signal::KILL)?;
        merge.wait()?;
        let left = self.exceptions()?;
        ensure!(
            left > 0 && left < all,
            "{left} of {all} are left: not half-way"
        );
        Ok(())
    }

    /// How many entries the first areas have, read from the file itself.
    fn exceptions(&self) -> Result<u64> {
        let file = fs::File::open(&self.cow)?;
        let mut sectors = [0; 4];
        file.read_exact_at(&mut sectors, 12)?;
        let chunk_bytes = 512 * u64::from(u32::from_le_bytes(sectors));
        let mut count = 0;
        let mut area = vec![0; usize::try_from(chunk_bytes)?];
        for index in 0.. {
            file.read_exact_at(
                &mut area,
                (1 + index * (chunk_bytes / 16 + 1)) * chunk_bytes,
            )?;
            let live = |entry: &&[u8]| entry[8..].iter().any(|byte| *byte != 0);
            let here = area.chunks(16).take_while(live).count() as u64;
            count += here;
            if here < chunk_bytes / 16 {
                break;
            }
        }
        Ok(count)
    }

    fn origin_is_the_snapshot(&self, who: &str) -> Result<()> {
        ensure!(
            fs::read(&self.origin)? == self.content,
            "{who}: the origin is not what the snapshot was"
        );
        Ok(())
    }
}

/// A COW file without its identity record.
fn but_record(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = fs::read(path)?;
    bytes[16..512].fill(0);
    Ok(bytes)
}

#[test]
fn either_finishes_a_merge_of_the_other_and_both_leave_the_same() -> Result<()> {
    if missing(&[Need::GuestKernel])? {
        return Ok(());
    }
    let scratch = LAB.scratch("merged")?;
    // Of each store: merged by us, by the kernel, half by us and half by the kernel, and the other
    // way round.
    let (mut ours, mut theirs, mut ours_first, mut theirs_first) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut guest = Guest::new().limit(Duration::from_secs(300));
    let mut list = Vec::new();
    for (chunk_bytes, writes) in STORES {
        let pair = Pair::make(&scratch, &format!("{chunk_bytes}"), chunk_bytes, writes)?;
        let copy = |who: &str| pair.copy(&scratch, &format!("{chunk_bytes}-{who}"));
        let (kernels, half_ours, half_theirs) = (copy("theirs")?, copy("half")?, copy("rest")?);
        half_ours.merge_half()?;
        pair.merge(&[])?;
        for (pair, how) in [
            (&kernels, "whole"),
            (&half_ours, "whole"),
            (&half_theirs, "half"),
        ] {
            let number = list.len();
            guest = guest
                .disk(&format!("ORIGIN{number}"), &pair.origin)
                .disk(&format!("COW{number}"), &pair.cow);
            let sectors = chunk_bytes / 512;
            list.push(format!(
                "{number}:ORIGIN{number}:COW{number}:{sectors}:{how}"
            ));
        }
        ours.push(pair);
        theirs.push(kernels);
        ours_first.push(half_ours);
        theirs_first.push(half_theirs);
        // A guest has sixteen disks.
        if list.len() == 6 || ours.len() == STORES.len() {
            let stores = list.join(" ");
            let said = std::mem::take(&mut guest)
                .variable("STORES", &stores)
                .run(&scratch, include_str!("merged.sh"))?;
            guest = guest.limit(Duration::from_secs(300));
            assert_eq!(said.value("done")?, "yes", "{}", said.text());
            let first = ours.len() - list.len() / 3;
            for number in 0..list.len() {
                let content = &ours[first + number / 3].content;
                assert_eq!(
                    said.value(&format!("{number}.shown"))?,
                    sha256_of_bytes(content)?,
                    "{stores}: {number} shows something else before the kernel merges it"
                );
            }
            list.clear();
        }
    }
    let mut halves = 0;
    for (number, ours) in ours.iter().enumerate() {
        let (theirs, half) = (&theirs[number], &theirs_first[number]);
        ours.origin_is_the_snapshot("ours")?;
        theirs.origin_is_the_snapshot("the kernel's")?;
        ours_first[number].origin_is_the_snapshot("ours, then the kernel's")?;
        let merged = but_record(&theirs.cow)?;
        ensure!(
            but_record(&ours.cow)? == merged,
            "{number}: the stores differ"
        );
        halves += usize::from(half.exceptions()? > 0);
        // The kernel says nothing of the origin, which it changed.
        LAB.usnap(&["merge", text(&half.cow)?, text(&half.origin)?])
            .fails_with(1)?;
        half.merge(&["--force-origin"])?;
        half.origin_is_the_snapshot("the kernel's, then ours")?;
        ensure!(
            but_record(&half.cow)? == merged,
            "{number}: the stores differ"
        );
        // What the kernel finished is an empty store with the flag of ours: known by its size.
        let finished = &ours_first[number];
        finished.merge(&[])?;
        ensure!(
            but_record(&finished.cow)? == merged,
            "{number}: the stores differ"
        );
    }
    // A small store may be merged between two looks.
    ensure!(halves > 0, "the kernel never stopped half-way");
    Ok(())
}
