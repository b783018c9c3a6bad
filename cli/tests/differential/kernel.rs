//! Inside the guest: dm-snapshot plays histories, many side by side, step by step. A process costs
//! far more there than a request, so all devices of a round are made, removed and asked for their
//! status by one call.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::OFlags;
use usnap_test_support::disks::device;
use usnap_test_support::guest::inside_guest;
use usnap_test_support::{Need, Tool, missing};

use crate::boot::{ANSWERS, LIST, Listed, Part, play_on_kernel};
use crate::history::{Step, bytes};
use crate::play::{Device, Seen, perform, read_all};
use crate::store_view::mapped_digest;

/// So many histories have devices at a time.
const SIDE_BY_SIDE: usize = 64;
const ALIGNMENT: usize = 4096;
const EIO: i32 = 5;
const EOPNOTSUPP: i32 = 95;

/// `/dev/dm-N` by its role and the place of its history in the group.
fn minor(role: char, index: usize) -> usize {
    let base = match role {
        'o' => 0,
        'c' => 1000,
        _ => 2000,
    };
    base + index
}

fn path(role: char, index: usize) -> String {
    format!("/dev/dm-{}", minor(role, index))
}

/// A description for `dmsetup create --concise`.
fn concise(role: char, index: usize, table: &str) -> String {
    format!("{role}{index},,{},rw,{table}", minor(role, index))
}

fn dmsetup(arguments: &[&str]) -> Result<String> {
    Tool::new("dmsetup").args(arguments).ok()
}

fn create(devices: &[String]) -> Result<()> {
    let devices = devices.join(";");
    dmsetup(&["create", "--noudevsync", "--concise", &devices]).map(drop)
}

fn remove(devices: &[String]) -> Result<()> {
    let names = devices.iter().map(String::as_str);
    let mut arguments = vec!["remove", "--noudevsync", "--retry"];
    arguments.extend(names);
    dmsetup(&arguments).map(drop)
}

/// Bytes of which a part is aligned as direct I/O wants it.
fn with_aligned<T>(len: usize, body: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut buffer = vec![0; len + ALIGNMENT];
    let start = buffer.as_ptr().align_offset(ALIGNMENT);
    body(&mut buffer[start..start + len])
}

fn open_direct(path: &str) -> Result<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits())?;
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).custom_flags(flags);
    options.open(path).with_context(|| format!("no {path}"))
}

/// A device that is active.
struct Mapped {
    file: File,
    path: String,
}

impl Mapped {
    fn open(path: String) -> Result<Self> {
        let file = open_direct(&path)?;
        Ok(Self { file, path })
    }
}

fn errno(result: std::io::Result<()>) -> Result<i32> {
    match result {
        Ok(()) => Ok(0),
        Err(error) => error.raw_os_error().context("an error without a number"),
    }
}

impl Device for Mapped {
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<i32> {
        with_aligned(data.len(), |buffer| {
            buffer.copy_from_slice(data);
            errno(self.file.write_all_at(buffer, offset))
        })
    }

    fn read(&mut self, offset: u64, len: usize) -> Result<Result<Vec<u8>, i32>> {
        with_aligned(len, |buffer| {
            let errno = errno(self.file.read_exact_at(buffer, offset))?;
            Ok(if errno == 0 {
                Ok(buffer.to_vec())
            } else {
                Err(errno)
            })
        })
    }

    /// Discards go by an ioctl; nothing safe makes it.
    fn discard(&mut self, offset: u64, len: u64) -> Result<i32> {
        let (offset, len) = (offset.to_string(), len.to_string());
        let arguments = ["--offset", &offset, "--length", &len, &self.path];
        let output = Tool::new("blkdiscard").args(arguments).run()?;
        match output.stderr.trim_end() {
            "" if output.status.success() => Ok(0),
            said if said.ends_with("Operation not supported") => Ok(EOPNOTSUPP),
            said if said.ends_with("Input/output error") => Ok(EIO),
            _ => bail!("{output}"),
        }
    }

    fn flush(&mut self) -> Result<i32> {
        errno(self.file.sync_data())
    }
}

/// A history under way.
struct Running<'a> {
    index: usize,
    listed: &'a Listed,
    /// None while it is deactivated.
    mapped: Option<Mapped>,
}

impl<'a> Running<'a> {
    fn slices(&self) -> Result<[String; 2]> {
        let (shape, index) = (&self.listed.history.shape, self.index);
        let slice = |disk: &str, sectors: u64, start: u64| -> Result<String> {
            let disk = device(disk)?;
            Ok(format!("0 {sectors} linear {} {start}", disk.display()))
        };
        let origin = slice("ORIGINS", shape.origin, self.listed.origin_start)?;
        let cow = slice("COWS", shape.cow, self.listed.cow_start)?;
        Ok([concise('o', index, &origin), concise('c', index, &cow)])
    }

    fn snapshot(&self) -> String {
        let (shape, index) = (&self.listed.history.shape, self.index);
        let features = if shape.discards {
            " 1 discard_zeroes_cow"
        } else {
            ""
        };
        let table = format!(
            "0 {} snapshot {} {} {} {}{features}",
            shape.origin,
            path('o', index),
            path('c', index),
            shape.mode,
            shape.chunk
        );
        concise('s', index, &table)
    }

    fn open(&mut self) -> Result<()> {
        self.mapped = Some(Mapped::open(path('s', self.index))?);
        Ok(())
    }

    fn mapped(&mut self) -> Result<&mut Mapped> {
        self.mapped.as_mut().context("it is not active")
    }

    /// The COW device, past all caches.
    fn cow(&self) -> Result<Vec<u8>> {
        let mut cow = Mapped::open(path('c', self.index))?;
        let all = cow.read(0, bytes(self.listed.history.shape.cow))?;
        all.map_err(|errno| anyhow::anyhow!("the COW device: error {errno}"))
    }

    /// What it does in a round, if it has not ended.
    fn step(&self, round: usize) -> Option<&'a Step> {
        let index = self.listed.steps.start + round;
        let listed = self.listed;
        (index < listed.steps.end).then(|| &listed.history.steps[index])
    }

    fn act(&mut self, step: &Step) -> Result<Seen> {
        let listed = self.listed;
        let mut seen = perform(&listed.history, step, self.mapped()?)?;
        if *step == Step::Flush {
            seen.mapped = mapped_digest(&self.cow()?, listed.history.shape.chunk);
        }
        Ok(seen)
    }
}

/// The status lines of all snapshots, behind the target's name, by the number in the name.
fn statuses() -> Result<HashMap<usize, String>> {
    let said = dmsetup(&["status", "--target", "snapshot"])?;
    let parse = |line: &str| {
        let (name, rest) = line.strip_prefix('s')?.split_once(": ")?;
        let status = rest.splitn(4, ' ').nth(3)?;
        Some((name.parse().ok()?, status.trim_end().to_owned()))
    };
    let lines = said.lines();
    lines
        .map(|line| parse(line).with_context(|| format!("no status: {line}")))
        .collect()
}

/// Deactivates these, lets each COW device be looked at, and activates them again.
fn reactivate(running: &mut [Running<'_>], seen: &mut HashMap<usize, Seen>) -> Result<()> {
    if seen.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = seen.keys().map(|index| format!("s{index}")).collect();
    for index in seen.keys() {
        running[*index].mapped = None;
    }
    remove(&names)?;
    let mut tables = Vec::new();
    for (index, seen) in seen.iter_mut() {
        let history = &running[*index];
        seen.look_at(&history.listed.history, history.cow()?);
        tables.push(history.snapshot());
    }
    create(&tables)?;
    seen.keys().try_for_each(|index| running[*index].open())
}

/// Plays a group to its end; the answers go to `answers`, each behind the number of its history.
fn play_group(listed: &[Listed], first: usize, answers: &mut String) -> Result<()> {
    let running = listed.iter().enumerate().map(|(index, listed)| Running {
        index,
        listed,
        mapped: None,
    });
    let mut running: Vec<_> = running.collect();
    let mut tables = Vec::new();
    for history in &running {
        tables.extend(history.slices()?);
        tables.push(history.snapshot());
    }
    create(&tables)?;
    running.iter_mut().try_for_each(Running::open)?;
    let rounds = listed.iter().map(|listed| listed.steps.len()).max();
    for round in 0..rounds.unwrap_or(0) {
        let (mut seen, mut inactive) = (HashMap::new(), HashMap::new());
        for history in &mut running {
            let Some(step) = history.step(round) else {
                continue;
            };
            if *step == Step::Reactivate {
                inactive.insert(history.index, Seen::default());
            } else {
                let acted = history.act(step);
                let acted = acted.with_context(|| format!("{step} of {}", history.listed));
                seen.insert(history.index, acted?);
            }
        }
        reactivate(&mut running, &mut inactive)?;
        seen.extend(inactive);
        answer(seen, first, answers)?;
    }
    let mut last = HashMap::new();
    for history in &mut running {
        let read = read_all(&history.listed.history, history.mapped()?)?;
        last.insert(history.index, read);
    }
    let statuses = statuses()?;
    running.iter_mut().for_each(|history| history.mapped = None);
    let names = |role: char| -> Vec<String> {
        (0..listed.len())
            .map(|index| format!("{role}{index}"))
            .collect()
    };
    remove(&names('s'))?;
    for (index, seen) in &mut last {
        let history = &running[*index];
        seen.look_at(&history.listed.history, history.cow()?);
    }
    write_answers(last, &statuses, first, answers)?;
    remove(&[names('o'), names('c')].concat())
}

fn answer(seen: HashMap<usize, Seen>, first: usize, answers: &mut String) -> Result<()> {
    write_answers(seen, &statuses()?, first, answers)
}

fn write_answers(
    seen: HashMap<usize, Seen>,
    statuses: &HashMap<usize, String>,
    first: usize,
    answers: &mut String,
) -> Result<()> {
    for (index, mut seen) in seen {
        let Some(status) = statuses.get(&index) else {
            bail!("no status of s{index}");
        };
        seen.status.clone_from(status);
        writeln!(answers, "{} {seen}", first + index)?;
    }
    Ok(())
}

fn play_all() -> Result<()> {
    let list = fs::read_to_string(device(LIST)?)?;
    let listed: Vec<Listed> = list.lines().map(str::parse).collect::<Result<_>>()?;
    let mut answers = String::new();
    for (group, listed) in listed.chunks(SIDE_BY_SIDE).enumerate() {
        play_group(listed, group * SIDE_BY_SIDE, &mut answers)?;
    }
    let path = device(ANSWERS)?;
    fs::write(Path::new(&path), answers).context("cannot leave the answers")
}

/// Outside: what the kernel is known to answer to a short history.
#[test]
fn the_guest_plays_what_it_is_given() -> Result<()> {
    if inside_guest() {
        return play_all();
    }
    if missing(&[Need::GuestKernel])? {
        return Ok(());
    }
    let history = "7 8 32 40 PO plain 0 w0+8#1 w9+1#2 r0+32 a w16+16#3 r0+32 f";
    let played = play_on_kernel(&[Part::whole(&history.parse()?)])?;
    let seen = &played[0].seen;
    let statuses: Vec<&str> = seen.iter().map(|seen| &*seen.status).collect();
    let expected = [
        "24/40 16", "32/40 16", "32/40 16", "32/40 16", "Overflow", "Overflow", "Overflow",
        "Overflow",
    ];
    ensure!(statuses == expected, "{statuses:?}");
    let errors: Vec<i32> = seen.iter().map(|seen| seen.errno).collect();
    assert_eq!(errors, [0, 0, 0, 0, 5, 0, 0, 0]);
    assert_ne!(seen[2].content, seen[5].content, "a chunk more is new");
    assert_eq!(seen[5].content, seen[7].content);
    Ok(())
}
