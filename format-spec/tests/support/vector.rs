//! Reads `vectors/`: stores made by a real kernel, and what is in them. `vectors/README.md` says
//! what the lines of an expectation mean. Strict: a line out of place is a failure.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use sha2::{Digest, Sha256};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../format-spec/vectors");
const SECTOR: usize = 512;

/// A store and its expectation.
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) store: Vec<u8>,
    /// The origin's content.
    pub(crate) origin: Vec<u8>,
    pub(crate) kernel: String,
    pub(crate) target: String,
    pub(crate) table: String,
    pub(crate) magic: String,
    pub(crate) valid: u32,
    pub(crate) version: u32,
    pub(crate) chunk_size_sectors: u32,
    /// The identity record in hexadecimal.
    pub(crate) identity: Option<String>,
    /// Old and new chunks, in the order of the areas.
    pub(crate) exceptions: Vec<(u64, u64)>,
    pub(crate) junk_offset: Option<u64>,
    /// The kernel's status line before the device was removed.
    pub(crate) status: String,
    /// The kernel's status line once the store was activated again.
    pub(crate) reopened_status: String,
    /// Of the snapshot's content, if the kernel served it.
    pub(crate) content_sha256: Option<String>,
}

/// All vectors, by name.
pub(crate) fn all() -> Vec<Vector> {
    let mut names: Vec<String> = fs::read_dir(DIRECTORY)
        .expect("the vectors' directory")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "expect")
        })
        .map(|path| {
            path.file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort_unstable();
    names.iter().map(|name| read(name)).collect()
}

/// The vector of this name.
pub(crate) fn read(name: &str) -> Vector {
    let path = Path::new(DIRECTORY).join(name);
    let store = fs::read(path.with_extension("store")).expect("a store");
    let text = fs::read_to_string(path.with_extension("expect")).expect("an expectation");
    let mut lines = Lines {
        name,
        lines: text.lines().collect(),
        next: 0,
    };

    let kernel = lines.value("kernel");
    let target = lines.value("target");
    let table = lines.value("table");
    let origin_sectors: usize = lines.number("origin_sectors");
    let mut origin = pattern("origin", 0, origin_sectors);
    while let Some(patch) = lines.value_if("origin_patch") {
        let (sector, tag) = patch.split_once(' ').expect("sector and tag");
        let sector: usize = sector.parse().expect("a sector");
        let at = sector * SECTOR;
        origin[at..at + SECTOR].copy_from_slice(&pattern(tag, sector, 1));
    }
    assert_eq!(
        lines.value("origin_sha256"),
        sha256(&origin),
        "{name}: the origin's pattern"
    );
    assert_eq!(
        lines.value("store_sha256"),
        sha256(&store),
        "{name}: the store's file"
    );
    assert_eq!(
        lines.number::<usize>("store_sectors") * SECTOR,
        store.len(),
        "{name}"
    );
    let vector = Vector {
        name: name.to_owned(),
        store,
        origin,
        kernel,
        target,
        table,
        magic: lines.value("magic"),
        valid: lines.number("valid"),
        version: lines.number("version"),
        chunk_size_sectors: lines.number("chunk_size_sectors"),
        identity: lines.value_or_none("identity"),
        exceptions: lines.exceptions(),
        junk_offset: lines
            .value_or_none("junk_offset")
            .map(|offset| offset.parse().expect("an offset")),
        status: lines.value("status"),
        reopened_status: lines.value("reopened_status"),
        content_sha256: lines.value_or_none("content_sha256"),
    };
    assert_eq!(lines.next, lines.lines.len(), "{name}: lines are left over");
    vector
}

/// The kernel's status lines: mode, chunk size in sectors, exceptions, device sectors, the line.
pub(crate) fn status_lines() -> Vec<(String, u32, u64, u64, String)> {
    let path = Path::new(DIRECTORY).join("status-lines.lines");
    let text = fs::read_to_string(path).expect("the status lines");
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.splitn(5, ' ').collect();
            let [mode, chunk_size, exceptions, sectors, status] = words[..] else {
                panic!("not five words: {line}")
            };
            (
                mode.to_owned(),
                chunk_size.parse().expect("a chunk size"),
                exceptions.parse().expect("a count"),
                sectors.parse().expect("a size"),
                status.to_owned(),
            )
        })
        .collect()
}

/// `count` sectors of the pattern with this tag, from sector `first` on.
pub(crate) fn pattern(tag: &str, first: usize, count: usize) -> Vec<u8> {
    (first..first + count)
        .flat_map(|sector| format!("{tag} {sector:08x}\n").repeat(32).into_bytes())
        .collect()
}

/// The SHA-256 of `bytes` in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// `bytes` in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes it");
        text
    })
}

struct Lines<'a> {
    name: &'a str,
    lines: Vec<&'a str>,
    next: usize,
}

impl Lines<'_> {
    /// The value of the next line, if its key is `key`.
    fn value_if(&mut self, key: &str) -> Option<String> {
        let (found, value) = self.lines.get(self.next)?.split_once(' ')?;
        if found != key {
            return None;
        }
        self.next += 1;
        Some(value.to_owned())
    }

    fn value(&mut self, key: &str) -> String {
        let line = self.next + 1;
        self.value_if(key)
            .unwrap_or_else(|| panic!("{}: line {line} is not {key}", self.name))
    }

    fn value_or_none(&mut self, key: &str) -> Option<String> {
        Some(self.value(key)).filter(|value| value != "none")
    }

    fn number<T: FromStr>(&mut self, key: &str) -> T {
        let value = self.value(key);
        value
            .parse()
            .unwrap_or_else(|_| panic!("{}: {key} {value} is no number", self.name))
    }

    fn exceptions(&mut self) -> Vec<(u64, u64)> {
        let mut exceptions = Vec::new();
        while let Some(value) = self.value_if("exception") {
            let (old, new) = value.split_once(' ').expect("two chunks");
            exceptions.push((old.parse().expect("a chunk"), new.parse().expect("a chunk")));
        }
        exceptions
    }
}
