//! What the COW behind a device did, where that can be known: of a server of ours on this machine
//! through its control socket, of an engine in this process from itself.

use std::fs;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use usnap_engine::Snapshot;
use usnap_nbd::proto::uri::{Address, NbdUri};

use super::plan::Tally;
use crate::control;
use crate::report::Report;

/// Where counts come from.
pub(super) enum Counters {
    /// Nowhere.
    None,
    /// The control socket of a server of ours.
    Server(PathBuf),
    /// A snapshot in this process.
    Snapshot(Arc<Snapshot>),
}

/// Counts at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    requests: Option<u64>,
    written_bytes: Option<u64>,
    chunks_written_whole: u64,
    chunks_copied: u64,
    /// Of the COW itself: copied from the origin, and metadata.
    more_bytes: Option<u64>,
}

/// What a sample did to the COW; `null` is not known.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct CowStatistics {
    /// The share of requests to blocks that the COW had when they were made.
    pub(crate) hit_rate: Option<f64>,
    /// Writes to blocks that the COW did not have.
    pub(crate) first_writes: Option<u64>,
    /// Chunks that were written whole for the first time.
    pub(crate) chunks_written_whole: Option<u64>,
    /// Chunks that were written in part for the first time, the rest copied from the origin.
    pub(crate) chunks_copied: Option<u64>,
    /// Bytes that went to the COW, data and metadata, for each byte that clients wrote.
    pub(crate) write_amplification: Option<f64>,
    /// Requests that the server counted, the flush behind a writing sample included.
    pub(crate) server_requests: Option<u64>,
}

impl Counters {
    /// Looks for the control socket of the server that listens there, if it is ours and here.
    pub(super) fn of_server(uri: &NbdUri) -> Self {
        let found = control::ask_all().into_iter().find(|(_, answer)| {
            let report = serde_json::from_str::<Report>(answer).ok();
            let served = report.and_then(|report| report.server?.uri);
            served.is_some_and(|served| served.parse().is_ok_and(|served| is_same(uri, &served)))
        });
        found.map_or(Self::None, |(socket, _)| Self::Server(socket))
    }

    /// The counts now; `None` where nobody tells.
    pub(super) fn counts(&self) -> Option<Counts> {
        match self {
            Self::None => None,
            Self::Server(socket) => {
                let answer = control::ask_at(socket)?;
                let server = serde_json::from_str::<Report>(&answer).ok()?.server?;
                Some(Counts {
                    requests: Some(server.requests),
                    written_bytes: Some(server.written_bytes),
                    chunks_written_whole: server.chunks_written_whole,
                    chunks_copied: server.chunks_copied,
                    more_bytes: server
                        .copied_bytes
                        .zip(server.metadata_bytes)
                        .map(|(a, b)| a + b),
                })
            }
            Self::Snapshot(snapshot) => {
                let counters = snapshot.report().counters;
                Some(Counts {
                    requests: None,
                    written_bytes: None,
                    chunks_written_whole: counters.chunks_written_whole,
                    chunks_copied: counters.chunks_copied,
                    more_bytes: Some(counters.copied_bytes + counters.metadata_bytes),
                })
            }
        }
    }
}

impl CowStatistics {
    /// Of what happened between two counts, and what is known of the blocks where `knows_hits`.
    pub(super) fn between(
        counts: Option<(Counts, Counts)>,
        tally: &Tally,
        knows_hits: bool,
    ) -> Self {
        let mut this = Self::default();
        if knows_hits && tally.requests() > 0 {
            this.hit_rate = Some(tally.hits as f64 / tally.requests() as f64);
            this.first_writes = Some(tally.writes - tally.write_hits);
        }
        let Some((before, after)) = counts else {
            return this;
        };
        let between = |before: u64, after: u64| after.saturating_sub(before);
        let both = |before: Option<u64>, after: Option<u64>| {
            before
                .zip(after)
                .map(|(before, after)| between(before, after))
        };
        this.chunks_written_whole = Some(between(
            before.chunks_written_whole,
            after.chunks_written_whole,
        ));
        this.chunks_copied = Some(between(before.chunks_copied, after.chunks_copied));
        this.server_requests = both(before.requests, after.requests);
        let written = both(before.written_bytes, after.written_bytes);
        let written = written.unwrap_or(tally.written_bytes);
        this.write_amplification = both(before.more_bytes, after.more_bytes)
            .filter(|_| written > 0)
            .map(|more| (written + more) as f64 / written as f64);
        this
    }
}

/// Whether `served`, which a server on this machine printed, is what `uri` leads to.
fn is_same(uri: &NbdUri, served: &NbdUri) -> bool {
    let same_export = uri.export_name == served.export_name || uri.export_name.is_empty();
    same_export
        && match (&uri.address, &served.address) {
            (Address::Unix { socket: one }, Address::Unix { socket: other }) => {
                let file = |path: &[u8]| {
                    let found = fs::metadata(std::ffi::OsStr::from_bytes(path)).ok()?;
                    Some((found.dev(), found.ino()))
                };
                file(one).is_some_and(|one| file(other) == Some(one))
            }
            (
                Address::Tcp { host, port },
                Address::Tcp {
                    host: served_host,
                    port: served_port,
                },
            ) => port == served_port && is_same_host(host, *port, served_host),
            _ => false,
        }
}

fn is_same_host(host: &str, port: u16, served: &str) -> bool {
    let Ok(served) = served.parse::<IpAddr>() else {
        return host == served;
    };
    let resolved = (host, port).to_socket_addrs();
    resolved.is_ok_and(|mut addresses| {
        addresses.any(|address| {
            let ip = address.ip();
            ip == served || served.is_unspecified() && ip.is_loopback()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_address_and_export() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        let unix = |path: &std::path::Path, export: &str| {
            NbdUri::unix(path.as_os_str().as_bytes(), export)
        };
        assert!(is_same(&unix(&link, ""), &unix(&socket, "x")));
        assert!(!is_same(&unix(&link, "y"), &unix(&socket, "x")));
        assert!(!is_same(&unix(folder.path(), ""), &unix(&socket, "")));
        let tcp = |host: &str, port| NbdUri::tcp(host, port, "");
        assert!(is_same(&tcp("127.0.0.1", 7), &tcp("127.0.0.1", 7)));
        assert!(is_same(&tcp("127.0.0.1", 7), &tcp("0.0.0.0", 7)));
        assert!(!is_same(&tcp("127.0.0.1", 7), &tcp("127.0.0.1", 8)));
        assert!(!is_same(&tcp("127.0.0.2", 7), &tcp("127.0.0.1", 7)));
        assert!(!is_same(&tcp("127.0.0.1", 7), &unix(&socket, "")));
    }

    #[test]
    fn amplification_counts_what_was_copied_and_metadata() {
        let counts = |written, more| Counts {
            requests: Some(written / 4096),
            written_bytes: Some(written),
            more_bytes: Some(more),
            ..Counts::default()
        };
        let tally = Tally {
            writes: 10,
            write_hits: 4,
            hits: 4,
            ..Tally::default()
        };
        let pair = Some((counts(4096, 100), counts(4096 * 11, 100 + 40960)));
        let told = CowStatistics::between(pair, &tally, true);
        assert_eq!(told.write_amplification, Some(2.0));
        assert_eq!(told.server_requests, Some(10));
        assert_eq!((told.hit_rate, told.first_writes), (Some(0.4), Some(6)));
        let told = CowStatistics::between(None, &tally, false);
        assert_eq!((told.hit_rate, told.write_amplification), (None, None));
    }
}
