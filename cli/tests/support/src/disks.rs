//! Block devices and filesystems, driven from inside the guest, where we are root and nothing is
//! anybody else's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::text;
use crate::tool::Tool;

/// A device-mapper device.
#[derive(Debug)]
pub struct Mapped {
    name: &'static str,
    path: PathBuf,
}

impl Mapped {
    /// Makes the device `name` with this table.
    ///
    /// # Errors
    /// The kernel refuses the table.
    pub fn create(name: &'static str, table: &str) -> Result<Self> {
        dmsetup(&["create", "--noudevsync", name, "--table", table])?;
        let minor = dmsetup(&["info", "-c", "--noheadings", "-o", "minor", name])?;
        let path = PathBuf::from(format!("/dev/dm-{}", minor.trim()));
        Ok(Self { name, path })
    }

    /// `/dev/dm-N`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts another table in place. What waits in a filesystem above is not written before: the
    /// device changes under its users, as a real one does when it fails.
    ///
    /// # Errors
    /// The kernel refuses the table.
    pub fn change(&self, table: &str) -> Result<()> {
        dmsetup(&["suspend", "--noudevsync", "--nolockfs", self.name])?;
        dmsetup(&["reload", self.name, "--table", table])?;
        dmsetup(&["resume", "--noudevsync", self.name]).map(drop)
    }

    /// Sends the target a message.
    ///
    /// # Errors
    /// The target knows no such message.
    pub fn message(&self, message: &[&str]) -> Result<String> {
        let mut arguments = vec!["message", self.name, "0"];
        arguments.extend(message);
        dmsetup(&arguments)
    }

    /// What the target says of itself.
    ///
    /// # Errors
    /// The device is gone.
    pub fn status(&self) -> Result<String> {
        dmsetup(&["status", self.name])
    }

    /// Removes the device.
    ///
    /// # Errors
    /// It is in use.
    pub fn remove(self) -> Result<()> {
        dmsetup(&["remove", "--noudevsync", "--retry", self.name]).map(drop)
    }
}

fn dmsetup(arguments: &[&str]) -> Result<String> {
    Tool::new("dmsetup").args(arguments).ok()
}

/// The device that a variable of the guest names.
///
/// # Errors
/// There is no such variable.
pub fn device(variable: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable).with_context(|| format!("no variable {variable}"))?;
    Ok(PathBuf::from(path))
}

/// A device's size in sectors of 512 bytes.
///
/// # Errors
/// It can't be asked.
pub fn sectors(device: &Path) -> Result<u64> {
    let said = Tool::new("blockdev").arg("--getsz").arg(device).ok()?;
    said.trim().parse().context("blockdev said no number")
}

/// A mounted filesystem; unmounted when dropped, if it lets itself be.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
}

impl Mount {
    /// Makes an ext4 filesystem on `device` and mounts it at `point`, which is made.
    ///
    /// # Errors
    /// The device fails.
    pub fn new_ext4(device: &Path, point: &Path) -> Result<Self> {
        // Nothing may be written later by a thread of the filesystem's own that fills in tables.
        Tool::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-E"])
            .arg("lazy_itable_init=0,lazy_journal_init=0")
            .arg(device)
            .ok()?;
        Self::new(&["-t", "ext4", text(device)?], point)
    }

    /// Mounts with these arguments of `mount`, before the place.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new(arguments: &[&str], point: &Path) -> Result<Self> {
        fs::create_dir_all(point).with_context(|| format!("no {}", point.display()))?;
        Tool::new("mount").args(arguments).arg(point).ok()?;
        Ok(Self {
            point: point.to_owned(),
        })
    }

    /// The path of `name` inside.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }

    /// Takes space until there are `left` bytes, in the file `name`.
    ///
    /// # Errors
    /// There were not as many.
    pub fn fill(&self, name: &str, left: u64) -> Result<PathBuf> {
        let free = rustix::fs::statvfs(&self.point)?;
        let free = free.f_bavail * free.f_frsize;
        ensure!(free >= left, "only {free} bytes are free");
        let path = self.join(name);
        let len = (free - left).to_string();
        Tool::new("fallocate").args(["-l", &len]).arg(&path).ok()?;
        Ok(path)
    }

    /// Takes what is left, to the last block, in the file `name`.
    ///
    /// # Errors
    /// The filesystem says something else than that it is full.
    pub fn fill_up(&self, name: &str) -> Result<()> {
        use std::io::{ErrorKind, Write as _};
        let mut file = fs::File::create(self.join(name))?;
        loop {
            // Blocks are taken when they are written back, so each is, before the next.
            match file
                .write_all(&[0x55; 4096])
                .and_then(|()| file.sync_data())
            {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => bail!("filling up: {error}"),
            }
        }
    }

    /// Unmounts.
    ///
    /// # Errors
    /// It is in use.
    pub fn unmount(self) -> Result<()> {
        Tool::new("umount").arg(&self.point).ok().map(drop)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // After `unmount` there is nothing to do, which it says; after a failure this is the last try.
        drop(
            Tool::new("umount")
                .args(["-q", "-l"])
                .arg(&self.point)
                .run(),
        );
    }
}

/// Forgets what is cached and not dirty, so that reads go to the devices.
///
/// # Errors
/// We are not root.
pub fn drop_caches() -> Result<()> {
    Tool::new("sync").ok()?;
    fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the caches")
}

/// Expects an ext4 filesystem to be sound; with `repair`, after what a mount would repair too.
///
/// # Errors
/// It is not.
pub fn fsck(device: &Path, repair: bool) -> Result<()> {
    if repair {
        let output = Tool::new("e2fsck").arg("-fy").arg(device).run()?;
        ensure!(matches!(output.status.code(), Some(0..=2)), "{output}");
    }
    Tool::new("e2fsck").arg("-fn").arg(device).ok().map(drop)
}
