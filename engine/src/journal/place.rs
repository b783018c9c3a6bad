//! Where journal files lie, and how they are made, found and removed.
//!
//! The name has the session, 128 random bits that the COW device names too, so a journal is never
//! taken for another store's. First choice is the COW file's own directory: it is the same for
//! everybody who opens the file, and it outlives a container. Then memory: the user's runtime
//! directory, then `/dev/shm`.
//!
//! Nothing that lies at such a name is followed, waited for, changed or removed unless it is what
//! we make: a regular file of this user's, with one name, that nobody else may open.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, Stat, fallocate, fchmod, fstat, fstatfs,
    mkdirat, openat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::Session;
use super::layout::{HEADER_WORDS, Header, SLOTS_MAX, words_for};
use super::mapped::MappedFile;
use super::memory::{HeapMemory, JournalMemory};
use super::witness::Witness;
use crate::error::{Error, ErrorKind, Result};
use crate::num::to_usize;

pub(super) const BTRFS: u64 = 0x9123_683e;
pub(super) const EXT4: u64 = 0xef53;
pub(super) const TMPFS: u64 = 0x0102_1994;
pub(super) const XFS: u64 = 0x5846_5342;

/// Filesystems where a block, once allocated, is written in place: a store to a mapped page can't
/// run out of space there. It can on btrfs, f2fs and the like, and ends the process.
const WRITTEN_IN_PLACE: [u64; 3] = [EXT4, XFS, TMPFS];

const OURS_ALONE: Mode = Mode::RUSR.union(Mode::WUSR);
const ALL_MODES: u32 = 0o7777;

/// A directory that may hold journals.
#[derive(Clone, Debug)]
struct Place {
    directory: PathBuf,
    /// A directory of this name inside it, ours alone, in memory; made when it is needed.
    private: Option<String>,
}

/// The places, in the order in which they are tried.
fn places(cow: &Path, is_block: bool) -> Vec<Place> {
    let uid = geteuid().as_raw();
    let in_memory = |directory: PathBuf, name: String| Place {
        directory,
        private: Some(name),
    };
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let mut places = Vec::new();
    if !is_block {
        let resolved = std::fs::canonicalize(cow).unwrap_or_else(|_| cow.to_owned());
        places.extend(resolved.parent().map(|directory| Place {
            directory: directory.to_owned(),
            private: None,
        }));
    }
    places.extend(
        runtime
            .filter(|directory| directory.is_absolute())
            .map(|directory| in_memory(directory, "usnap".to_owned())),
    );
    places.push(in_memory("/dev/shm".into(), format!("usnap-{uid}")));
    places
}

/// Also looked at: where a user's runtime directory is when nobody says so, as for `sudo` and cron.
fn places_to_search(cow: &Path) -> Vec<Place> {
    let mut places = places(cow, false);
    places.push(Place {
        directory: format!("/run/user/{}", geteuid().as_raw()).into(),
        private: Some("usnap".to_owned()),
    });
    places
}

/// Says that a session's journal is not there, in a sentence without its beginning: how it is
/// called, and where it was searched.
pub(crate) fn not_to_be_found(cow: &Path, session: Session) -> String {
    let mut searched: Vec<String> = Vec::new();
    for place in places_to_search(cow) {
        let path = place.path().display().to_string();
        if !searched.contains(&path) {
            searched.push(path);
        }
    }
    format!(
        "{} is not to be found (searched: {})",
        file_name(session),
        searched.join(", ")
    )
}

fn file_name(session: Session) -> String {
    let digits = u128::from_be_bytes(session.0);
    format!(".usnap-{digits:032x}.journal")
}

/// Makes a journal file with so many slots in each segment, filled with zeros, its space allocated.
///
/// # Errors
/// For every place a sentence why it can't be there.
pub(crate) fn create(
    cow: &Path,
    is_block: bool,
    session: Session,
    slots: u64,
) -> std::result::Result<(Arc<dyn JournalMemory>, PathBuf), Vec<String>> {
    create_in(&places(cow, is_block), session, slots)
}

fn create_in(
    places: &[Place],
    session: Session,
    slots: u64,
) -> std::result::Result<(Arc<dyn JournalMemory>, PathBuf), Vec<String>> {
    let mut reasons = Vec::new();
    for place in places {
        match place.create(&file_name(session), words_for(slots.min(SLOTS_MAX))) {
            Ok((memory, path)) => return Ok((Arc::new(memory), path)),
            Err(error) => reasons.push(format!("{error:?}")),
        }
    }
    Err(reasons)
}

/// Finds a session's journal, to be replayed.
///
/// # Errors
/// Where something lies at its name that can't be used: a foreign file, or one that can't be read.
pub(crate) fn find(
    cow: &Path,
    session: Session,
) -> Result<Option<(PathBuf, Arc<dyn JournalMemory>)>> {
    find_in(&places_to_search(cow), session)
}

fn find_in(
    places: &[Place],
    session: Session,
) -> Result<Option<(PathBuf, Arc<dyn JournalMemory>)>> {
    let found = open_first(places, session, OFlags::RDWR)?;
    let Some((path, file, len_words)) = found else {
        return Ok(None);
    };
    if len_words == 0 {
        // Its maker was killed before it had allocated it.
        return Ok(Some((path, Arc::new(HeapMemory::default()))));
    }
    let mapped = MappedFile::new(&file, len_words).map_err(|e| cannot("map", &path, e))?;
    Ok(Some((path, Arc::new(mapped))))
}

/// Finds a session's journal, to be looked at only: what it holds now is copied.
///
/// # Errors
/// As `find`.
pub(crate) fn find_read_only(
    cow: &Path,
    session: Session,
) -> Result<Option<(PathBuf, HeapMemory)>> {
    let found = open_first(&places_to_search(cow), session, OFlags::RDONLY)?;
    let Some((path, file, len_words)) = found else {
        return Ok(None);
    };
    let mut bytes = vec![0; len_words.saturating_mul(8)];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|e| cannot("read", &path, e))?;
    let (words, _) = bytes.as_chunks();
    let words = HeapMemory::from_words(words.iter().copied().map(u64::from_ne_bytes));
    Ok(Some((path, words)))
}

fn open_first(
    places: &[Place],
    session: Session,
    access: OFlags,
) -> Result<Option<(PathBuf, File, usize)>> {
    let name = file_name(session);
    for place in places {
        if let Some(found) = place.open_file(&name, access)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Removes a journal; not what only has a journal's name.
pub(crate) fn remove(path: &Path) {
    let removed = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| format!("{e}"))
        .and_then(|stat| refuse_if_foreign(&stat, false))
        .and_then(|()| unlinkat(CWD, path, AtFlags::empty()).map_err(|e| format!("{e}")));
    if let Err(why) = removed {
        tracing::warn!("cannot remove the journal {}: {why}", path.display());
    }
}

/// Removes journals beside a COW file that were made for it and that it does not name: a process
/// was killed while one session followed the other. `session` is the file's, `now` what it is seen
/// to be. The caller holds its lock, so nobody else keeps a journal for it.
pub(crate) fn remove_left_over(cow: &Path, session: Session, now: &Witness) {
    let beside = places(cow, now.is_block).into_iter().next();
    let Some(place) = beside.filter(|place| place.private.is_none()) else {
        return;
    };
    let Ok(entries) = std::fs::read_dir(&place.directory) else {
        return;
    };
    let own = file_name(session);
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_other = |name: &&str| is_file_name(name) && **name != *own;
        let Some(name) = name.to_str().filter(is_other) else {
            continue;
        };
        let Ok(Some((path, file, len_words))) = place.open_file(name, OFlags::RDWR) else {
            continue;
        };
        let head = Head::read(&file, len_words);
        if Header::load(&head).is_ok_and(|header| now.has_left(&header.witness)) {
            tracing::debug!("removing the journal {}, left over", path.display());
            remove(&path);
        }
    }
}

fn is_file_name(name: &str) -> bool {
    let digits = name
        .strip_prefix(".usnap-")
        .and_then(|rest| rest.strip_suffix(".journal"));
    digits.is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A journal's header without the rest of it.
struct Head {
    words: Vec<u64>,
    len_words: usize,
}

impl Head {
    fn read(file: &File, len_words: usize) -> Self {
        let mut bytes = [0; 8 * HEADER_WORDS];
        let is_read = file.read_exact_at(&mut bytes, 0).is_ok();
        let (words, _) = bytes.as_chunks();
        let words = words.iter().copied().map(u64::from_ne_bytes);
        Self {
            words: words.filter(|_| is_read).collect(),
            len_words,
        }
    }
}

impl JournalMemory for Head {
    fn len_words(&self) -> usize {
        self.len_words
    }

    fn load(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }

    fn store(&self, _index: usize, _value: u64) {}

    fn add(&self, _index: usize, _change: i64) {}
}

#[cold]
fn cannot(verb: &str, path: &Path, cause: impl Into<std::io::Error>) -> Error {
    let context = format!("cannot {verb} the journal {}", path.display());
    Error::io(context, cause.into())
}

#[cold]
fn refused(verb: &str, path: &Path, why: &str) -> Error {
    let context = format!("cannot {verb} a journal at {}: {why}", path.display());
    Error::new(ErrorKind::PermissionDenied, context)
}

/// Whether this is a journal of ours, by what can be seen from outside; if not, what is wrong.
/// Root may look at everybody's.
fn refuse_if_foreign(stat: &Stat, to_look_at: bool) -> std::result::Result<(), String> {
    let uid = geteuid();
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("it is not a regular file".to_owned());
    }
    if stat.st_uid != uid.as_raw() && !(to_look_at && uid.is_root()) {
        return Err(format!("it belongs to user {}", stat.st_uid));
    }
    if stat.st_nlink != 1 {
        return Err("it has another name too".to_owned());
    }
    if stat.st_mode & ALL_MODES != OURS_ALONE.bits() {
        return Err("others may open it".to_owned());
    }
    let size_max = words_for(SLOTS_MAX).saturating_mul(8);
    if u64::try_from(stat.st_size).map_or(usize::MAX, to_usize) > size_max {
        return Err("it is longer than a journal can be".to_owned());
    }
    Ok(())
}

/// Whether an error says nothing of what lies there, and another try may find it.
fn is_passing(error: Errno) -> bool {
    matches!(
        error,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO | Errno::INTR
    )
}

impl Place {
    fn path(&self) -> PathBuf {
        match &self.private {
            Some(name) => self.directory.join(name),
            None => self.directory.clone(),
        }
    }

    fn create(&self, name: &str, len_words: usize) -> Result<(MappedFile, PathBuf)> {
        let path = self.path().join(name);
        let directory = self.open_directory(true)?.ok_or_else(|| {
            let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
            cannot("make", &path, gone)
        })?;
        let filesystem = filesystem(&directory);
        if !WRITTEN_IN_PLACE.contains(&filesystem) {
            let why = "on this filesystem a mapped file may run out of space";
            return Err(refused("make", &path, why).with_kind(ErrorKind::NotSupported));
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&directory, name, flags, OURS_ALONE)
            .map(File::from)
            .map_err(|e| cannot("make", &path, e))?;
        let made = fill(&file, len_words).map_err(|e| cannot("make", &path, e));
        let made = made.and_then(|()| {
            // What can't be found again is of no use.
            let stat = fstat(&file).map_err(|e| cannot("make", &path, e))?;
            refuse_if_foreign(&stat, false).map_err(|why| refused("make", &path, &why))?;
            MappedFile::new(&file, len_words).map_err(|e| cannot("map", &path, e))
        });
        if made.is_err() {
            let _best_effort = unlinkat(&directory, name, AtFlags::empty());
        }
        Ok((made?, path))
    }

    /// Opens the journal of this name and says how many words it has.
    fn open_file(&self, name: &str, access: OFlags) -> Result<Option<(PathBuf, File, usize)>> {
        let path = self.path().join(name);
        let Some(directory) = self.open_directory(false)? else {
            return Ok(None);
        };
        let to_look_at = access == OFlags::RDONLY;
        let check = |stat: &Stat| {
            refuse_if_foreign(stat, to_look_at).map_err(|why| {
                refused("use", &path, &why).with_hint(
                    "nothing was changed; if it is another user's, let that user open the store; \
                     `--journal=discard` does without it",
                )
            })
        };
        // Looked at before it is opened: opening a pipe waits, opening a device may do anything.
        match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => check(&stat)?,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(cannot("find", &path, e)),
        }
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(&directory, name, access | flags, Mode::empty())
            .map(File::from)
            .map_err(|e| cannot("open", &path, e))?;
        // And again: it may have been replaced.
        let stat = fstat(&file).map_err(|e| cannot("open", &path, e))?;
        check(&stat)?;
        let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Some((path, file, to_usize(size_bytes / 8))))
    }

    /// Opens the directory, `None` where there is none, or none that could have a journal of ours.
    fn open_directory(&self, to_create: bool) -> Result<Option<OwnedFd>> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let path = self.path();
        let outer = match openat(CWD, &self.directory, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(e) if self.private.is_some() && !to_create && !is_passing(e) => return Ok(None),
            // A directory that may be searched but not listed.
            Err(Errno::ACCESS) => openat(CWD, &self.directory, flags | OFlags::PATH, Mode::empty())
                .map_err(|e| cannot("open the directory of", &path, e))?,
            Err(e) => return Err(cannot("open the directory of", &path, e)),
        };
        let Some(name) = &self.private else {
            return Ok(Some(outer));
        };
        if to_create && filesystem(&outer) == TMPFS {
            match mkdirat(&outer, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(cannot("make the directory of", &path, e)),
            }
        }
        let inner = match openat(&outer, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(inner) => inner,
            Err(e) if !to_create && !is_passing(e) => return Ok(None),
            Err(e) => return Err(cannot("open the directory of", &path, e)),
        };
        let stat = fstat(&inner).map_err(|e| cannot("open the directory of", &path, e))?;
        let is_ours = stat.st_uid == geteuid().as_raw() && stat.st_mode & 0o077 == 0;
        if !is_ours || filesystem(&inner) != TMPFS {
            if to_create {
                let why = "its directory is not this user's alone, or not in memory";
                return Err(refused("make", &path, why));
            }
            return Ok(None);
        }
        Ok(Some(inner))
    }
}

/// What kind of filesystem a file is on, by its magic number (`linux/magic.h`); 0: not known.
pub(super) fn filesystem(file: &impl AsFd) -> u64 {
    fstatfs(file).map_or(0, |found| found.f_type.cast_unsigned())
}

/// Allocates the file whole: what is mapped without blocks may find none later, which ends the
/// process. The library's way would fall back to writing, and hide that there is no such call.
fn fill(file: &File, len_words: usize) -> std::io::Result<()> {
    fchmod(file, OURS_ALONE)?;
    let len = (len_words as u64).saturating_mul(8);
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
