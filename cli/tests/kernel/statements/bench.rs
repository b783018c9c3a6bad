//! What the statements are tried on: block devices inside the guest, and the two that use them, the
//! kernel's dm-snapshot and usnap, driven by the same calls.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use usnap_test_support::disks::device;
use usnap_test_support::lab::text;
use usnap_test_support::raw_client::command;
use usnap_test_support::{RawClient, Serve, Server, Tool};

use crate::LAB;
use crate::statements::said;

pub(crate) const SECTOR: usize = 512;
/// What origins hold in every byte.
pub(crate) const OLD: u8 = b'o';
const ALIGNMENT: usize = 4096;

/// One large disk, all zeros, of which devices are cut; no place is used twice.
pub(crate) struct Bench {
    room: PathBuf,
    next_sector: Cell<u64>,
    serial: Cell<u32>,
}

/// A device-mapper device; removed when dropped.
pub(crate) struct Device {
    name: String,
    path: PathBuf,
    /// The table that it was made with.
    table: String,
}

/// What there is before one of the two opens it.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) origin_sectors: u64,
    pub(crate) cow_sectors: u64,
    /// What the COW device begins with.
    pub(crate) cow: Vec<u8>,
    /// The chunk size in the kernel's table, in sectors; usnap is told it for a new store only.
    pub(crate) chunk: u32,
    /// The mode in the kernel's table.
    pub(crate) mode: &'static str,
    /// What stands behind the chunk size in it.
    pub(crate) features: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Kernel,
    Usnap,
}

/// One of the two, with devices of its own.
pub(crate) struct Side<'b> {
    pub(crate) bench: &'b Bench,
    pub(crate) who: Who,
    pub(crate) origin: Device,
    pub(crate) cow: Device,
    pub(crate) chunk: u32,
    pub(crate) mode: &'static str,
    features: &'static str,
    options: Vec<&'static str>,
    open: Option<Open>,
}

enum Open {
    Snapshot(Device),
    Server(Box<Server>, RawClient),
}

impl Setup {
    /// A COW device of zeros, so a new store, in mode `P`.
    pub(crate) fn new(chunk: u32, cow_sectors: u64) -> Self {
        Self {
            origin_sectors: 256,
            cow_sectors,
            cow: Vec::new(),
            chunk,
            mode: "P",
            features: "",
        }
    }

    /// With an origin of so many sectors.
    pub(crate) fn origin(mut self, sectors: u64) -> Self {
        self.origin_sectors = sectors;
        self
    }

    /// With a COW device that begins with this.
    pub(crate) fn holds(mut self, cow: Vec<u8>) -> Self {
        self.cow = cow;
        self
    }

    /// With these words at the end of the kernel's table.
    pub(crate) fn features(mut self, features: &'static str) -> Self {
        self.features = features;
        self
    }

    /// With this mode in the kernel's table.
    pub(crate) fn mode(mut self, mode: &'static str) -> Self {
        self.mode = mode;
        self
    }
}

impl Bench {
    /// The guest's disk for this.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            room: device("ROOM")?,
            next_sector: Cell::new(0),
            serial: Cell::new(0),
        })
    }

    fn name(&self) -> String {
        self.serial.set(self.serial.get() + 1);
        format!("d{}", self.serial.get())
    }

    /// The table of a device of zeros that nobody had before.
    pub(crate) fn piece(&self, sectors: u64) -> String {
        let start = self.next_sector.get();
        self.next_sector
            .set((start + sectors).next_multiple_of(2048));
        format!("0 {sectors} linear {} {start}", self.room.display())
    }

    /// Such a device that begins with `bytes`.
    pub(crate) fn device(&self, sectors: u64, bytes: &[u8]) -> Result<Device> {
        let device = self.table(&self.piece(sectors))?;
        if !bytes.is_empty() {
            let whole = bytes.len().next_multiple_of(SECTOR);
            let mut padded = bytes.to_vec();
            padded.resize(whole, 0);
            device.write(0, &padded).context("filling a device")?;
        }
        Ok(device)
    }

    /// A device that is full of one letter.
    pub(crate) fn letters(&self, sectors: u64, letter: u8) -> Result<Device> {
        self.device(sectors, &vec![letter; usize::try_from(sectors)? * SECTOR])
    }

    /// A device with this table, which the kernel must take.
    pub(crate) fn table(&self, table: &str) -> Result<Device> {
        match self.try_table(table, &[])? {
            Ok(device) => Ok(device),
            Err(why) => anyhow::bail!("{table}: {why}"),
        }
    }

    /// The same; or what the kernel says against it.
    pub(crate) fn try_table(
        &self,
        table: &str,
        options: &[&str],
    ) -> Result<std::result::Result<Device, String>> {
        let name = self.name();
        let made = Tool::new("dmsetup")
            .args(["create", "--noudevsync"])
            .args(options)
            .arg(&name)
            .input(table)
            .run()?;
        if !made.status.success() {
            return Ok(Err(reason(&made.stderr)));
        }
        let path = path_of(&name)?;
        let table = table.to_owned();
        Ok(Ok(Device { name, path, table }))
    }

    /// One of the two with what `setup` says.
    pub(crate) fn side(&self, who: Who, setup: &Setup) -> Result<Side<'_>> {
        Ok(Side {
            bench: self,
            who,
            origin: self.letters(setup.origin_sectors, OLD)?,
            cow: self.device(setup.cow_sectors, &setup.cow)?,
            chunk: setup.chunk,
            mode: setup.mode,
            features: setup.features,
            options: vec!["--durability", "every-write"],
            open: None,
        })
    }

    /// A snapshot of the kernel's, which must come up.
    pub(crate) fn snapshot(&self, origin: &Device, cow: &Device, mode: &str) -> Result<Device> {
        let table = format!(
            "0 {} snapshot {} {} {mode}",
            origin.sectors()?,
            text(&origin.path)?,
            text(&cow.path)?
        );
        self.table(&table)
    }
}

/// What stands behind the last colon: `Invalid argument`.
fn reason(stderr: &str) -> String {
    let line = stderr.lines().find(|line| line.contains("ioctl"));
    let line = line.or(stderr.lines().next()).unwrap_or_default();
    line.rsplit(':')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn path_of(name: &str) -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/block")? {
        let block = entry?;
        let named = fs::read_to_string(block.path().join("dm/name")).unwrap_or_default();
        if named.trim_end() == name {
            return Ok(Path::new("/dev").join(block.file_name()));
        }
    }
    anyhow::bail!("no device {name}")
}

impl Device {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn first_table(&self) -> &str {
        &self.table
    }

    fn dmsetup(&self, words: &[&str]) -> Result<String> {
        Tool::new("dmsetup").args(words).arg(&self.name).ok()
    }

    /// What stands behind the target's name in its status line.
    pub(crate) fn status(&self) -> Result<String> {
        let line = self.dmsetup(&["status", "--noflush"])?;
        Ok(line
            .split_whitespace()
            .skip(3)
            .collect::<Vec<_>>()
            .join(" "))
    }

    /// What stands behind the devices in its table line.
    pub(crate) fn table_line(&self) -> Result<String> {
        let line = self.dmsetup(&["table"])?;
        Ok(line
            .split_whitespace()
            .skip(5)
            .collect::<Vec<_>>()
            .join(" "))
    }

    /// How many events it raised.
    pub(crate) fn events(&self) -> Result<String> {
        let said = self.dmsetup(&["info", "-c", "--noheadings", "-o", "events"])?;
        Ok(said.trim().to_owned())
    }

    pub(crate) fn suspend(&self) -> Result<()> {
        self.dmsetup(&["suspend", "--noudevsync", "--nolockfs"])
            .map(drop)
    }

    /// Loads another table without using it yet; or what the kernel says.
    pub(crate) fn load(&self, table: &str) -> Result<String> {
        let loaded = Tool::new("dmsetup")
            .args(["reload", &self.name])
            .input(table)
            .run()?;
        Ok(if loaded.status.success() {
            "ok".to_owned()
        } else {
            format!("refused ({})", reason(&loaded.stderr))
        })
    }

    /// Goes on, with the loaded table if there is one.
    pub(crate) fn resume(&self) -> Result<String> {
        let resumed = Tool::new("dmsetup")
            .args(["resume", "--noudevsync", &self.name])
            .run()?;
        Ok(if resumed.status.success() {
            "ok".to_owned()
        } else {
            format!("refused ({})", reason(&resumed.stderr))
        })
    }

    /// Puts another table in place.
    pub(crate) fn change(&self, table: &str) -> Result<()> {
        self.suspend()?;
        let loaded = self.load(table)?;
        ensure!(loaded == "ok", "{table}: {loaded}");
        let resumed = self.resume()?;
        ensure!(resumed == "ok", "{table}: {resumed}");
        Ok(())
    }

    pub(crate) fn sectors(&self) -> Result<u64> {
        let name = self.path.file_name().context("a device has a name")?;
        let size = Path::new("/sys/block").join(name).join("size");
        Ok(fs::read_to_string(size)?.trim().parse()?)
    }

    fn direct(&self) -> io::Result<File> {
        let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or_default();
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(&self.path)
    }

    /// Writes past every cache, as one request where the device takes it as one.
    pub(crate) fn write(&self, sector: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.direct()?;
        let mut at = sector * SECTOR as u64;
        for piece in bytes.chunks(1 << 20) {
            let mut buffer = vec![0; piece.len() + ALIGNMENT];
            let start = buffer.as_ptr().align_offset(ALIGNMENT);
            let aligned = &mut buffer[start..start + piece.len()];
            aligned.copy_from_slice(piece);
            file.write_all_at(aligned, at)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Reads past every cache.
    pub(crate) fn read(&self, sector: u64, sectors: u64) -> io::Result<Vec<u8>> {
        let len = usize::try_from(sectors).unwrap_or_default() * SECTOR;
        let mut buffer = vec![0; len + ALIGNMENT];
        let start = buffer.as_ptr().align_offset(ALIGNMENT);
        let aligned = &mut buffer[start..start + len];
        self.direct()?
            .read_exact_at(aligned, sector * SECTOR as u64)?;
        Ok(aligned.to_vec())
    }

    /// Flushes it, as `fsync` of its file does.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.direct()?.sync_all()
    }

    /// Discards, or with `-z` zeroes: `ok` or the error.
    pub(crate) fn blkdiscard(&self, options: &[&str], sector: u64, sectors: u64) -> Result<String> {
        let said = Tool::new("blkdiscard")
            .args(options)
            .args(["-o", &(sector * 512).to_string()])
            .args(["-l", &(sectors * 512).to_string()])
            .arg(&self.path)
            .run()?;
        Ok(match said.stderr.rsplit(": ").next().map(str::trim) {
            _ if said.status.success() => "ok".to_owned(),
            Some("Operation not supported") => "EOPNOTSUPP".to_owned(),
            Some("Input/output error") => "EIO".to_owned(),
            _ => said.stderr,
        })
    }

    /// A figure of its request queue.
    pub(crate) fn queue(&self, name: &str) -> Result<String> {
        let block = self.path.file_name().context("a device has a name")?;
        let file = Path::new("/sys/block").join(block).join("queue").join(name);
        Ok(fs::read_to_string(file)?.trim().to_owned())
    }

    /// Sends its target a message.
    pub(crate) fn message(&self, words: &[&str]) -> Result<()> {
        Tool::new("dmsetup")
            .args(["message", &self.name, "0"])
            .args(words)
            .ok()
            .map(drop)
    }

    /// What it holds, in letters.
    pub(crate) fn shows(&self, sector: u64, sectors: u64) -> String {
        match self.read(sector, sectors) {
            Ok(bytes) => said::letters(&bytes),
            Err(error) => said::errno(&error),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let removed = Tool::new("dmsetup")
            .args(["remove", "--noudevsync", "--retry", &self.name])
            .run();
        // A device that stays is in nobody's way: the guest goes at the end.
        drop(removed);
    }
}

impl Side<'_> {
    /// Opens the store: `open`, or `refused` with the kernel's reason behind it.
    pub(crate) fn open(&mut self) -> Result<String> {
        self.close()?;
        match self.who {
            Who::Kernel => {
                let table = self.kernel_table("snapshot")?;
                match self.bench.try_table(&table, &[])? {
                    Ok(device) => self.open = Some(Open::Snapshot(device)),
                    Err(why) => return Ok(format!("refused ({why})")),
                }
            }
            Who::Usnap => {
                let chunk = (u64::from(self.chunk) * SECTOR as u64).to_string();
                let mut options = self.options.clone();
                if self.cow.read(0, 1)?.iter().all(|byte| *byte == 0) {
                    options.extend(["--chunk-size", &chunk]);
                }
                let serve = Serve::new(
                    Path::new(LAB.program()),
                    Path::new("/run"),
                    self.origin.path(),
                )?;
                match serve.cow(self.cow.path()).args(&options).start() {
                    Ok(server) => {
                        let client = RawClient::connect(&server.socket())?;
                        self.open = Some(Open::Server(Box::new(server), client));
                    }
                    Err(error) => {
                        let error = error.to_string();
                        ensure!(error.contains("usnap: cannot "), "{error}");
                        return Ok(format!("refused ({})", cause(&error)));
                    }
                }
            }
        }
        Ok("open".to_owned())
    }

    /// The table for the kernel's target of this name.
    pub(crate) fn kernel_table(&self, target: &str) -> Result<String> {
        Ok(format!(
            "0 {} {target} {} {} {} {} {}",
            self.origin.sectors()?,
            text(self.origin.path())?,
            text(self.cow.path())?,
            self.mode,
            self.chunk,
            self.features
        ))
    }

    /// Opens it and expects it to be taken.
    pub(crate) fn must_open(&mut self) -> Result<()> {
        let said = self.open()?;
        ensure!(said == "open", "{said}");
        Ok(())
    }

    /// Gives options to usnap.
    pub(crate) fn options(&mut self, options: &[&'static str]) {
        self.options.extend(options);
    }

    /// Ends the use.
    pub(crate) fn close(&mut self) -> Result<()> {
        match self.open.take() {
            Some(Open::Server(server, client)) => {
                drop(client);
                server.stop_either_way().map(drop)
            }
            Some(Open::Snapshot(_)) | None => Ok(()),
        }
    }

    /// Whether the kernel's table says more than the chunk size.
    pub(crate) fn has_features(&self) -> bool {
        !self.features.is_empty()
    }

    /// The kernel's device.
    pub(crate) fn snapshot(&self) -> Result<&Device> {
        match &self.open {
            Some(Open::Snapshot(device)) => Ok(device),
            _ => anyhow::bail!("no snapshot of the kernel's"),
        }
    }

    /// Writes whole sectors of one letter: `ok` or the error.
    pub(crate) fn write(&mut self, sector: u64, sectors: u64, letter: u8) -> Result<String> {
        let bytes = vec![letter; usize::try_from(sectors)? * SECTOR];
        self.call(command::WRITE, sector, sectors, &bytes)
    }

    /// One request that is no read.
    pub(crate) fn call(
        &mut self,
        number: u16,
        sector: u64,
        sectors: u64,
        bytes: &[u8],
    ) -> Result<String> {
        match self.open.as_mut().context("it is not open")? {
            Open::Snapshot(device) => {
                let done = match number {
                    command::WRITE => device.write(sector, bytes),
                    command::FLUSH => device.flush(),
                    command::WRITE_ZEROES => return device.blkdiscard(&["-z"], sector, sectors),
                    command::TRIM => return device.blkdiscard(&[], sector, sectors),
                    _ => anyhow::bail!("no such request: {number}"),
                };
                Ok(done.map_or_else(|error| said::errno(&error), |()| "ok".to_owned()))
            }
            Open::Server(_, client) => {
                let (at, len) = (sector * SECTOR as u64, u32::try_from(sectors)? * 512);
                let error = client.call(number, at, len, bytes)?;
                Ok(said::error_number(i32::try_from(error)?))
            }
        }
    }

    pub(crate) fn flush(&mut self) -> Result<String> {
        self.call(command::FLUSH, 0, 0, &[])
    }

    /// What it shows, in letters, or the error.
    pub(crate) fn shows(&mut self, sector: u64, sectors: u64) -> Result<String> {
        match self.open.as_mut().context("it is not open")? {
            Open::Snapshot(device) => Ok(device.shows(sector, sectors)),
            Open::Server(_, client) => {
                let mut bytes = vec![0; usize::try_from(sectors)? * SECTOR];
                let error = client.read_or_error(sector * SECTOR as u64, &mut bytes)?;
                Ok(if error == 0 {
                    said::letters(&bytes)
                } else {
                    said::error_number(i32::try_from(error)?)
                })
            }
        }
    }

    /// The status line's figures, or its word.
    pub(crate) fn status(&self) -> Result<String> {
        match &self.open {
            Some(Open::Snapshot(device)) => device.status(),
            _ => LAB.status_line(self.cow.path()),
        }
    }

    /// The entries of area 0 and on, as the disk has them.
    pub(crate) fn entries(&self) -> Result<String> {
        said::entries(&self.cow)
    }

    /// What the COW device holds, in letters.
    pub(crate) fn cow_shows(&self, sector: u64, sectors: u64) -> String {
        self.cow.shows(sector, sectors)
    }
}

/// Behind `usnap: cannot ...:`, what is wrong.
fn cause(error: &str) -> String {
    let line = error.lines().find(|line| line.contains("usnap: cannot "));
    let line = line.unwrap_or_default();
    let cause = line.rsplit(": ").next().unwrap_or_default();
    cause.replace(['(', ')'], "/")
}
