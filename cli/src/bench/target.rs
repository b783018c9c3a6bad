//! What is measured: as it is typed, and opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tempfile::TempDir;
use usnap_engine::device::{BlockDevice, FileDevice};
use usnap_engine::origin::Origin;
use usnap_engine::store::cow_file::{self, CreateOptions};
use usnap_engine::{Snapshot, SnapshotOptions};
use usnap_format::ChunkSize;
use usnap_nbd::proto::consts::{FLAG_CAN_MULTI_CONN, FLAG_READ_ONLY};
use usnap_nbd::proto::uri::NbdUri;

use super::cow::Counters;
use super::device;
use super::plan::{Plan, Tally};
use super::tracker::Tracker;
use super::wire::Connection;
use crate::serve::memory;
use crate::serve::never_full;
use crate::size;

/// Parts of a device, each from its first byte to the one behind its last.
pub(super) type Parts = Vec<(u64, u64)>;

/// What was typed.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    text: String,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Nbd(NbdUri),
    Engine(EngineSpec),
    File(PathBuf),
}

#[derive(Clone, Debug)]
struct EngineSpec {
    origin: PathBuf,
    cow: Option<PathBuf>,
    transient: bool,
    chunk_size: Option<ChunkSize>,
}

/// The parser of what is typed.
pub(crate) fn parse(text: &str) -> std::result::Result<Spec, String> {
    let what = match text.split_once(':') {
        Some(("nbds" | "nbds+unix", _)) => return Err("TLS is not supported".to_owned()),
        Some(("nbd" | "nbd+unix", _)) => What::Nbd(
            text.parse()
                .map_err(|error: usnap_nbd::proto::uri::UriError| error.to_string())?,
        ),
        Some(("file", path)) if !path.is_empty() => What::File(PathBuf::from(path)),
        Some(("engine", rest)) if !rest.is_empty() => What::Engine(parse_engine(rest)?),
        _ => {
            return Err(
                "not nbd://HOST:PORT/EXPORT, nbd+unix:///EXPORT?socket=PATH, \
                        engine:ORIGIN or file:PATH"
                    .to_owned(),
            );
        }
    };
    Ok(Spec {
        text: text.to_owned(),
        what,
    })
}

fn parse_engine(text: &str) -> std::result::Result<EngineSpec, String> {
    // A comma in a path is written twice.
    let text = text.replace(",,", "\0");
    let mut parts = text.split(',').map(|part| part.replace('\0', ","));
    let mut spec = EngineSpec {
        origin: PathBuf::from(parts.next().unwrap_or_default()),
        cow: None,
        transient: false,
        chunk_size: None,
    };
    for part in parts {
        match part.split_once('=') {
            None if part == "transient" => spec.transient = true,
            Some(("cow", path)) if !path.is_empty() => spec.cow = Some(PathBuf::from(path)),
            Some(("chunk-size", text)) => {
                let bytes = size::parse(text)?;
                let chunk_size = ChunkSize::from_bytes(bytes).map_err(|e| e.to_string())?;
                spec.chunk_size = Some(chunk_size);
            }
            _ => {
                return Err(format!(
                    "engine: takes cow=FILE, transient and chunk-size=SIZE, not '{part}'"
                ));
            }
        }
    }
    if spec.transient && spec.cow.is_some() {
        return Err("either cow=FILE or transient".to_owned());
    }
    Ok(spec)
}

impl Spec {
    /// As it was typed.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

/// How targets are opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    pub(super) write: bool,
    pub(super) connections: usize,
    pub(super) depth: usize,
    pub(super) verify: bool,
    pub(super) patience: Duration,
}

enum Backend {
    Wire(Vec<Connection>),
    Device(Opened),
}

/// A device in this process.
struct Opened {
    device: Arc<dyn BlockDevice>,
    snapshot: Option<Arc<Snapshot>>,
    threads: usize,
    /// Where its COW is, if that goes away with it.
    _folder: Option<TempDir>,
}

/// What is measured, opened.
pub(super) struct Target {
    pub(super) text: String,
    backend: Backend,
    counters: Counters,
    pub(super) size_bytes: u64,
    pub(super) min_block_bytes: u32,
    pub(super) max_request_bytes: u32,
    pub(super) is_read_only: bool,
    /// How many connections it has; threads, where it is in this process.
    pub(super) connections: usize,
    /// What it is, for people.
    pub(super) about: String,
    /// What is known of its blocks, and how long those are.
    pub(super) tracker: Tracker,
    pub(super) tracked_block_bytes: u32,
    /// Every block of the range was written.
    pub(super) is_filled: bool,
}

impl Target {
    /// Opens it.
    pub(super) fn open(spec: &Spec, how: &Opening) -> Result<Self> {
        match &spec.what {
            What::Nbd(uri) => Self::connect(&spec.text, uri, how),
            What::File(path) => {
                let device = if how.write {
                    FileDevice::open_read_write(path)?
                } else {
                    FileDevice::open_read_only(path)?
                };
                let opened = Opened {
                    device: Arc::new(device),
                    snapshot: None,
                    threads: how.connections,
                    _folder: None,
                };
                Ok(Self::of_device(&spec.text, opened, "file"))
            }
            What::Engine(engine) => {
                let (snapshot, folder) = open_engine(engine, how.write)?;
                let snapshot = Arc::new(snapshot);
                let opened = Opened {
                    device: Arc::clone(&snapshot) as Arc<dyn BlockDevice>,
                    snapshot: Some(Arc::clone(&snapshot)),
                    threads: how.connections,
                    _folder: folder,
                };
                let mut target = Self::of_device(&spec.text, opened, "engine");
                target.counters = Counters::Snapshot(snapshot);
                Ok(target)
            }
        }
    }

    fn of_device(text: &str, opened: Opened, kind: &str) -> Self {
        let size_bytes = opened.device.size_bytes();
        let threads = opened.threads;
        let plural = if threads == 1 { "" } else { "s" };
        Self {
            text: text.to_owned(),
            size_bytes,
            min_block_bytes: 1,
            max_request_bytes: 32 << 20,
            is_read_only: opened.device.is_read_only(),
            connections: threads,
            about: format!("{kind}, {threads} thread{plural}, depth has no meaning"),
            backend: Backend::Device(opened),
            counters: Counters::None,
            tracker: Tracker::default(),
            tracked_block_bytes: 0,
            is_filled: false,
        }
    }

    fn connect(text: &str, uri: &NbdUri, how: &Opening) -> Result<Self> {
        let first = Connection::open(uri, how)?;
        let negotiated = first.negotiated().clone();
        let many = negotiated.flags.has(FLAG_CAN_MULTI_CONN);
        let count = if many { how.connections } else { 1 };
        let mut connections = vec![first];
        while connections.len() < count {
            connections.push(Connection::open(uri, how)?);
        }
        let sizes = negotiated.block_sizes;
        let plural = if count == 1 { "" } else { "s" };
        let refused = if count < how.connections {
            " (the server does not offer more)"
        } else {
            ""
        };
        let counters = Counters::of_server(uri);
        let who = match counters {
            Counters::Server(_) => "usnap, ",
            _ => "",
        };
        Ok(Self {
            text: text.to_owned(),
            counters,
            size_bytes: negotiated.size_bytes,
            min_block_bytes: sizes.map_or(1, |sizes| sizes.minimum),
            max_request_bytes: negotiated.max_payload_bytes(),
            is_read_only: negotiated.flags.has(FLAG_READ_ONLY),
            connections: count,
            about: format!("{who}{count} connection{plural}{refused}"),
            backend: Backend::Wire(connections),
            tracker: Tracker::default(),
            tracked_block_bytes: 0,
            is_filled: false,
        })
    }

    /// Runs the plan that `make` makes of what is known of the blocks, on every connection.
    pub(super) fn load<'t>(
        &'t mut self,
        make: impl FnOnce(&'t Tracker) -> Plan<'t>,
    ) -> Result<Tally> {
        let plan = make(&self.tracker);
        let begun = Instant::now();
        let results: Vec<Result<Tally>> = match &mut self.backend {
            Backend::Wire(connections) => {
                let loads = connections
                    .iter_mut()
                    .enumerate()
                    .map(|(number, connection)| {
                        let plan = &plan;
                        move || connection.load(plan, number as u64, begun)
                    });
                together(loads.collect())
            }
            Backend::Device(opened) => {
                let device = &*opened.device;
                let loads = (0..opened.threads).map(|number| {
                    let plan = &plan;
                    move || device::load(device, plan, number as u64, begun)
                });
                together(loads.collect())
            }
        };
        let mut all = Tally::default();
        for result in results {
            all.add(&result?);
        }
        Ok(all)
    }

    /// Makes durable what was written.
    pub(super) fn flush(&mut self, patience: Duration) -> Result<()> {
        match &mut self.backend {
            Backend::Wire(connections) => match connections.first_mut() {
                Some(connection) => connection.flush(patience),
                None => Ok(()),
            },
            Backend::Device(opened) => Ok(opened.device.flush()?),
        }
    }

    /// The parts of a range that the device holds itself; `None` where nobody tells.
    pub(super) fn own_parts(
        &mut self,
        offset: u64,
        len: u64,
        patience: Duration,
    ) -> Result<Option<Parts>> {
        match &mut self.backend {
            Backend::Wire(connections) => match connections.first_mut() {
                Some(connection) => connection.own_parts(offset, len, patience),
                None => Ok(None),
            },
            Backend::Device(Opened { snapshot: None, .. }) => Ok(None),
            Backend::Device(opened) => {
                let (mut at, end) = (offset, offset + len);
                let mut parts = Parts::new();
                while at < end {
                    let extent = opened.device.extent_at(at, end - at)?;
                    let until = at + extent.len.max(1);
                    match parts.last_mut() {
                        _ if extent.depth != 1 => {}
                        Some(last) if last.1 == at => last.1 = until,
                        _ => parts.push((at, until)),
                    }
                    at = until;
                }
                Ok(Some(parts))
            }
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Ends its use in order.
    pub(super) fn close(self) -> Result<()> {
        match self.backend {
            Backend::Wire(connections) => connections.into_iter().for_each(Connection::close),
            Backend::Device(opened) => {
                if let Some(snapshot) = &opened.snapshot {
                    snapshot.close()?;
                }
            }
        }
        Ok(())
    }
}

/// Runs all of them at the same time, one on this thread; what each returned.
fn together<T: Send>(mut loads: Vec<impl FnOnce() -> Result<T> + Send>) -> Vec<Result<T>> {
    let Some(last) = loads.pop() else {
        return Vec::new();
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = loads
            .into_iter()
            .map(|load| {
                std::thread::Builder::new()
                    .name("load".to_owned())
                    .spawn_scoped(scope, load)
            })
            .collect();
        let mut results = vec![last()];
        for handle in handles {
            results.push(match handle.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(anyhow!("a thread panicked, a bug in usnap")),
                Err(error) => Err(anyhow!(error).context("cannot start a thread")),
            });
        }
        results
    })
}

/// Opens the snapshot, with a COW that goes away again unless one was named.
fn open_engine(spec: &EngineSpec, write: bool) -> Result<(Snapshot, Option<TempDir>)> {
    let origin = Arc::new(Origin::open(&spec.origin)?);
    let chunk_size = spec.chunk_size.unwrap_or_default();
    if spec.transient {
        let limit_bytes = memory::default_limit_bytes();
        return Ok((Snapshot::transient(origin, chunk_size, limit_bytes)?, None));
    }
    if let Some(cow) = &spec.cow {
        if write && !cow.try_exists().unwrap_or(true) {
            create_cow(cow, &origin, chunk_size)?;
        }
        let options = SnapshotOptions {
            read_only: !write,
            chunk_size_if_unused: chunk_size,
            ..SnapshotOptions::default()
        };
        let (snapshot, notes) = Snapshot::open(&origin, cow, &options)?;
        notes.iter().for_each(|note| tracing::warn!("{note}"));
        return Ok((snapshot, None));
    }
    let folder = crate::private_dir::create_temporary("cow");
    let folder = folder.context("cannot make a temporary folder for a COW file")?;
    let cow = folder.path().join("cow");
    create_cow(&cow, &origin, chunk_size)?;
    let (snapshot, notes) = Snapshot::open(&origin, &cow, &SnapshotOptions::default())?;
    notes.iter().for_each(|note| tracing::warn!("{note}"));
    Ok((snapshot, Some(folder)))
}

fn create_cow(path: &Path, origin: &Origin, chunk_size: ChunkSize) -> Result<()> {
    let size_bytes = never_full(origin.size_bytes(), chunk_size)
        .map_err(|failure| anyhow!(failure.message()))?;
    let options = CreateOptions {
        size_bytes,
        chunk_size,
        label: String::new(),
        origin: Some(origin.identity()?),
        identity: true,
    };
    let created = cow_file::create(path, &options)?;
    created
        .warnings
        .iter()
        .for_each(|warning| tracing::warn!("{warning}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_a_server_an_engine_or_a_file() {
        for text in [
            "nbd://localhost",
            "nbd://[::1]:10810/export",
            "nbd+unix:///?socket=/run/s",
            "file:disk.img",
            "engine:disk.img",
            "engine:disk.img,cow=a.cow",
            "engine:disk.img,transient,chunk-size=16K",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for (text, reason) in [
            ("disk.img", "not nbd://"),
            ("http://x", "not nbd://"),
            ("engine:", "not nbd://"),
            ("file:", "not nbd://"),
            ("nbds://x", "TLS"),
            ("nbd+unix:///", "socket"),
            ("engine:x,cow=a,transient", "either"),
            ("engine:x,depth=3", "'depth=3'"),
            ("engine:x,chunk-size=3K", "power of two"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let What::Engine(spec) = parse("engine:a,,b.img,cow=c,,d").unwrap().what else {
            panic!("no engine")
        };
        assert_eq!(spec.origin, Path::new("a,b.img"));
        assert_eq!(spec.cow.as_deref(), Some(Path::new("c,d")));
    }
}
