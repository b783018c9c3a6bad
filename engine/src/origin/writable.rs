//! An origin that is written to: by a merge, or by a server of the origin itself. Nobody else uses it
//! meanwhile, not even to read.

use std::path::Path;

use usnap_format::OriginIdentity;

use super::{Identify, identity, is_same_file, size_of};
use crate::device::{
    Attempt, BlockDevice, Extent, FileDevice, ZeroFlags, check_range, lock_origin_to_write,
};
use crate::error::{Error, Result};

/// An origin that is written to, of a size fixed when it is opened.
#[derive(Debug)]
pub struct WritableOrigin {
    device: FileDevice,
    size_bytes: u64,
}

impl WritableOrigin {
    /// Opens a file or block device for this process alone: as long as it is open, every server and
    /// every virtual machine that respects qemu's image locks is refused, and so is this open where
    /// one of them has it open. Nothing is written.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, `ReadOnly`, `InUse` (naming the holder where it can be
    /// found), `Usage` (it is empty, or neither a file nor a block device), `Io` where the filesystem
    /// has no locks.
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot write to origin {}", path.display());
        let device = FileDevice::open_read_write(path).map_err(|e| e.context(cannot()))?;
        lock_origin_to_write(device.file(), path)?;
        let size_bytes = size_of(&device, cannot)?;
        Ok(Self { device, size_bytes })
    }

    /// What this origin is recognised by, as it is now, durably: its modification time, too, which a
    /// flush alone leaves to the filesystem. Were it older after a power cut, the origin would be
    /// taken for one that was written to by somebody else. Reads about a mebibyte of it.
    ///
    /// # Errors
    /// `Io`.
    pub fn identity(&self) -> Result<OriginIdentity> {
        self.device
            .file()
            .sync_all()
            .map_err(|e| Error::io(format!("cannot flush {}", self.device.name()), e))?;
        identity::of(&self.device, self.size_bytes)
    }

    /// Whether `path` names this origin's file or block device.
    #[must_use]
    pub fn is_same_file(&self, path: &Path) -> bool {
        is_same_file(&self.device, path)
    }
}

impl Identify for WritableOrigin {
    fn identify(&self) -> Result<OriginIdentity> {
        self.identity()
    }

    fn is_at(&self, path: &Path) -> bool {
        self.is_same_file(path)
    }
}

impl BlockDevice for WritableOrigin {
    #[inline]
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn name(&self) -> &str {
        self.device.name()
    }

    #[inline]
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.device.read_at(buf, offset)
    }

    #[inline]
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.device.try_read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.check(offset, data.len() as u64)?;
        self.device.write_at(data, offset)
    }

    fn flush(&self) -> Result<()> {
        self.device.flush()
    }

    fn drop_page_cache(&self) {
        self.device.drop_page_cache();
    }

    fn discard_at(&self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        self.device.discard_at(offset, len)
    }

    fn zero_at(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.check(offset, len)?;
        self.device.zero_at(offset, len, flags)
    }

    fn reserve_at(&self, offset: u64, len: u64) -> Result<()> {
        self.check(offset, len)?;
        self.device.reserve_at(offset, len)
    }

    fn needs_reservation(&self) -> bool {
        self.device.needs_reservation()
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.check(offset, len)?;
        self.device.extent_at(offset, len)
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn can_zero_fast(&self) -> bool {
        self.device.can_zero_fast()
    }
}

impl WritableOrigin {
    /// The file may be longer by now; the origin is not.
    fn check(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.device.name(), self.size_bytes, offset, len)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;
    use tempfile::NamedTempFile;

    use super::WritableOrigin;
    use crate::device::{BlockDevice, lock_cow};
    use crate::error::{ErrorKind, Result};
    use crate::origin::Origin;

    fn image() -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&[7; 10_000]).unwrap();
        file
    }

    fn assert_in_use<T>(opened: Result<T>) {
        let error = opened.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
        let us = format!("pid {}", std::process::id());
        assert!(error.to_string().contains(&us), "{error}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn what_is_written_is_read_and_lies_inside_the_size_at_the_open() {
        let image = image();
        let origin = WritableOrigin::open(image.path()).unwrap();
        let before = origin.identity().unwrap();
        origin.write_at(&[9; 100], 9900).unwrap();
        origin.flush().unwrap();
        let mut read = [0; 101];
        origin.read_at(&mut read, 9899).unwrap();
        assert_eq!((read[0], read[1], read[100]), (7, 9, 9));
        assert_ne!(origin.identity().unwrap().sample_crc32, before.sample_crc32);
        File::options()
            .append(true)
            .open(image.path())
            .unwrap()
            .write_all(&[1; 100])
            .unwrap();
        assert_eq!(origin.size_bytes(), 10_000);
        let error = origin.write_at(&[1; 2], 9999).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        assert_eq!(std::fs::read(image.path()).unwrap()[10_000], 1);
    }

    #[test]
    fn it_and_a_server_of_the_origin_refuse_each_other() {
        let image = image();
        let served = Origin::open(image.path()).unwrap();
        assert_in_use(WritableOrigin::open(image.path()));
        drop(served);
        let written = WritableOrigin::open(image.path()).unwrap();
        // The reader leaves its own process out when it looks for the holder.
        let error = Origin::open(image.path()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
        assert_in_use(WritableOrigin::open(image.path()));
        drop(written);
        Origin::open(image.path()).unwrap();
    }

    #[test]
    fn it_and_the_user_of_the_file_as_a_cow_device_refuse_each_other() {
        for exclusive in [true, false] {
            let image = image();
            let cow = File::options()
                .read(true)
                .write(true)
                .open(image.path())
                .unwrap();
            lock_cow(&cow, image.path(), exclusive).unwrap();
            assert_in_use(WritableOrigin::open(image.path()));
            drop(cow);
            let written = WritableOrigin::open(image.path()).unwrap();
            let cow = File::open(image.path()).unwrap();
            let error = lock_cow(&cow, image.path(), false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InUse);
            drop(written);
        }
    }

    /// qemu declares what it does by shared locks on bytes from 100 on, and what others may not do
    /// on those from 200 on.
    #[test]
    fn it_and_a_virtual_machine_refuse_each_other() {
        let shared = |byte| libc::flock {
            l_type: i16::try_from(libc::F_RDLCK).unwrap(),
            l_whence: 0,
            l_start: byte,
            l_len: 1,
            l_pid: 0,
        };
        let image = image();
        for byte in [100, 101, 103, 201] {
            let machine = image.reopen().unwrap();
            fcntl(&machine, FcntlArg::F_OFD_SETLK(&shared(byte))).unwrap();
            assert_in_use(WritableOrigin::open(image.path()));
            drop(machine);
            let written = WritableOrigin::open(image.path()).unwrap();
            let machine = image.reopen().unwrap();
            fcntl(&machine, FcntlArg::F_OFD_SETLK(&shared(byte))).unwrap_err();
            drop(written);
        }
    }

    #[test]
    fn what_can_not_be_written_is_refused() {
        let empty = NamedTempFile::new().unwrap();
        let error = WritableOrigin::open(empty.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        let folder = tempfile::tempdir().unwrap();
        let error = WritableOrigin::open(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        let error = WritableOrigin::open(&folder.path().join("none")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn the_same_file_is_known_by_any_name() {
        let image = image();
        let origin = WritableOrigin::open(image.path()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(image.path(), &link).unwrap();
        assert!(origin.is_same_file(&link));
        assert!(!origin.is_same_file(folder.path()));
    }
}
