//! `NAME=COW[,OPTION...]`: a snapshot as people type it, and as one process tells it another.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use usnap_format::ChunkSize;

use crate::size;

/// What is typed, for help and messages.
pub(crate) const FORM: &str =
    "NAME=COW[,chunk-size=SIZE][,cow-size=SIZE][,max-cow=SIZE][,label=TEXT][,read-only]";
/// The longest name that a client can be told (proto.md, "Conventions").
const MAX_NAME_BYTES: usize = 4096;

/// A snapshot to be served: its name, its COW, and what that is to be if it is not there yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotSpec {
    pub(crate) name: String,
    pub(crate) cow: PathBuf,
    pub(crate) chunk_size_bytes: Option<u64>,
    pub(crate) cow_size_bytes: Option<u64>,
    pub(crate) max_cow_bytes: Option<u64>,
    pub(crate) label: String,
    /// Whether clients may only read it.
    pub(crate) read_only: bool,
}

impl SnapshotSpec {
    /// What is wrong with it, whoever made it.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.name.is_empty() {
            return Err("the snapshot's name is empty".to_owned());
        }
        if self.name.len() > MAX_NAME_BYTES {
            return Err(format!(
                "the snapshot's name has {} bytes, and NBD allows {MAX_NAME_BYTES}",
                self.name.len()
            ));
        }
        if self.name.contains('\0') {
            return Err("the snapshot's name has a NUL character".to_owned());
        }
        if self.cow.as_os_str().is_empty() {
            return Err("the path of the COW is empty".to_owned());
        }
        if let (Some(size), Some(max)) = (self.cow_size_bytes, self.max_cow_bytes)
            && size > max
        {
            return Err("cow-size is larger than max-cow".to_owned());
        }
        self.chunk_size().map(drop)
    }

    /// The chunk size, where one is given.
    pub(crate) fn chunk_size(&self) -> Result<Option<ChunkSize>, String> {
        self.chunk_size_bytes
            .map(|bytes| ChunkSize::from_bytes(bytes).map_err(|error| error.to_string()))
            .transpose()
    }
}

/// Reads what was typed. Two commas are one of the path or the label.
///
/// # Errors
/// Says what is expected.
pub(crate) fn parse(text: &OsStr) -> Result<SnapshotSpec, String> {
    let expected = || format!("not {FORM}");
    let bytes = text.as_bytes();
    let equals = bytes.iter().position(|&byte| byte == b'=');
    let (name, rest) = equals
        .and_then(|at| bytes.split_at_checked(at))
        .ok_or_else(expected)?;
    let mut parts = parts(rest.get(1..).unwrap_or_default()).into_iter();
    let mut spec = SnapshotSpec {
        name: String::from_utf8(name.to_vec())
            .map_err(|_| "the snapshot's name is not UTF-8".to_owned())?,
        cow: PathBuf::from(OsString::from_vec(parts.next().unwrap_or_default())),
        chunk_size_bytes: None,
        cow_size_bytes: None,
        max_cow_bytes: None,
        label: String::new(),
        read_only: false,
    };
    let mut seen = Vec::new();
    for part in parts {
        let text = String::from_utf8(part).map_err(|_| "an option is not UTF-8".to_owned())?;
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (text.as_str(), None),
        };
        if seen.iter().any(|other| other == key) {
            return Err(format!("{key} is given twice"));
        }
        let size = |value: &str| {
            size::parse(value)
                .map(Some)
                .map_err(|e| format!("{key}: {e}"))
        };
        match (key, value) {
            ("chunk-size", Some(value)) => spec.chunk_size_bytes = size(value)?,
            ("cow-size", Some(value)) => spec.cow_size_bytes = size(value)?,
            ("max-cow", Some(value)) => spec.max_cow_bytes = size(value)?,
            ("label", Some(value)) => value.clone_into(&mut spec.label),
            ("read-only", None) => spec.read_only = true,
            _ => {
                return Err(format!(
                    "{text:?} is no option of a snapshot: {FORM}; a comma of a path is written \
                     as two"
                ));
            }
        }
        seen.push(key.to_owned());
    }
    spec.check()?;
    Ok(spec)
}

/// What single commas separate; two are one.
fn parts(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut rest = bytes.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        let separates = byte == b',' && rest.next_if_eq(&b',').is_none();
        match parts.last_mut() {
            Some(part) if !separates => part.push(byte),
            _ => parts.push(Vec::new()),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::{SnapshotSpec, parse};

    fn typed(text: &str) -> Result<SnapshotSpec, String> {
        parse(text.as_ref())
    }

    #[test]
    fn a_snapshot_is_read_with_all_that_its_cow_is_to_be() {
        let plain = typed("monday=a b.cow").unwrap();
        assert_eq!(
            (&*plain.name, plain.cow.to_str()),
            ("monday", Some("a b.cow"))
        );
        assert_eq!((plain.chunk_size_bytes, plain.read_only), (None, false));
        let full = typed("m=/c,chunk-size=16K,cow-size=1G,max-cow=2G,label=x=y,read-only").unwrap();
        assert_eq!(full.chunk_size_bytes, Some(16 << 10));
        assert_eq!(full.cow_size_bytes, Some(1 << 30));
        assert_eq!(full.max_cow_bytes, Some(2 << 30));
        assert_eq!((&*full.label, full.read_only), ("x=y", true));
        let commas = typed("a,b=c,,d,,=e,label=f,,g").unwrap();
        assert_eq!(commas.name, "a,b");
        assert_eq!(commas.cow.to_str(), Some("c,d,=e"));
        assert_eq!(commas.label, "f,g");
        let line = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<SnapshotSpec>(&line).unwrap(), full);
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        for (text, said) in [
            ("", "not NAME=COW"),
            ("monday", "not NAME=COW"),
            ("=c", "name is empty"),
            ("m=", "path of the COW is empty"),
            ("m=,read-only", "path of the COW is empty"),
            ("m=c,", "no option"),
            ("m=c,chunksize=4K", "no option"),
            ("m=c,chunk-size", "no option"),
            ("m=c,read-only=yes", "no option"),
            ("m=c,chunk-size=5K", "power of two"),
            ("m=c,cow-size=1X", "cow-size: "),
            ("m=c,cow-size=2M,max-cow=1M", "larger than max-cow"),
            ("m=c,label=a,label=b", "given twice"),
            (&format!("{}=c", "x".repeat(4097)), "4097 bytes"),
        ] {
            let error = typed(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        assert!(typed(&format!("{}=c", "x".repeat(4096))).is_ok());
    }
}
