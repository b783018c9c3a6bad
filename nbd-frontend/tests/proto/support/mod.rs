//! What the tests share: messages put together and taken apart by hand (so that a mistake in the
//! crate's own encoder cannot hide one in its decoder), a server on a vector, and a stream to it.

pub(crate) mod loopback;
pub(crate) mod server;
pub(crate) mod wire;

use usnap_nbd::proto::{
    Catalog, ExportInfo, Features, Handshake, HandshakeLimits, Negotiated, Progress,
};

/// Exports "disk" (also the default), "small" and "readonly".
#[derive(Debug)]
pub(crate) struct Shelf {
    pub(crate) exports: Vec<ExportInfo>,
}

pub(crate) const DISK_BYTES: u64 = 1 << 20;

impl Default for Shelf {
    fn default() -> Self {
        let disk = full("disk", DISK_BYTES);
        let mut small = ExportInfo::new("small", 4096);
        small.can_flush = true;
        let readonly = ExportInfo {
            read_only: true,
            ..full("readonly", DISK_BYTES)
        };
        Self {
            exports: vec![disk, small, readonly],
        }
    }
}

impl Catalog for Shelf {
    fn export(&self, name: &str) -> Option<ExportInfo> {
        match name {
            "" => self.exports.first().cloned(),
            _ => self
                .exports
                .iter()
                .find(|export| export.name == name)
                .cloned(),
        }
    }

    fn list(&self) -> Vec<(String, Option<String>)> {
        self.exports
            .iter()
            .map(|it| (it.name.clone(), it.description.clone()))
            .collect()
    }
}

/// An export that can do everything.
pub(crate) fn full(name: &str, size_bytes: u64) -> ExportInfo {
    ExportInfo {
        can_flush: true,
        can_fua: true,
        can_trim: true,
        can_write_zeroes: true,
        can_fast_zero: true,
        can_cache: true,
        can_multi_conn: true,
        preferred_block_bytes: 16384,
        description: Some(format!("all of {name}")),
        ..ExportInfo::new(name, size_bytes)
    }
}

/// A handshake that has received the client's flags, and the shelf it serves.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) handshake: Handshake,
    pub(crate) shelf: Shelf,
}

impl Talk {
    /// With fixed newstyle, without zeroes.
    pub(crate) fn new() -> Self {
        Self::with(3, HandshakeLimits::default(), Features::default())
    }

    pub(crate) fn with(flags: u32, limits: HandshakeLimits, features: Features) -> Self {
        let mut talk = Self {
            handshake: Handshake::new(limits, features),
            shelf: Shelf::default(),
        };
        let (progress, output) = talk.send(&flags.to_be_bytes());
        assert_eq!(
            (progress, output.len()),
            (Progress::NeedMore, 0),
            "client flags {flags}"
        );
        talk
    }

    /// Sends bytes, all of which must be taken unless they end the session.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> (Progress, Vec<u8>) {
        let mut out = Vec::new();
        let (used, progress) = self.handshake.receive(&self.shelf, bytes, &mut out);
        if !matches!(progress, Progress::Closed(_)) {
            assert_eq!(used, bytes.len(), "bytes left over");
        }
        (progress, out)
    }

    /// Sends one option, after which the handshake must go on; returns type and data of each reply.
    pub(crate) fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let (progress, out) = self.send(&wire::option(option, data));
        assert_eq!(progress, Progress::NeedMore, "after option {option}");
        wire::option_replies(&out, option)
    }

    /// Sends one option that has one reply; returns its type.
    pub(crate) fn reply_type(&mut self, option: u32, data: &[u8]) -> u32 {
        let replies = self.option(option, data);
        assert_eq!(replies.len(), 1, "{replies:x?}");
        replies[0].0
    }

    /// Enters transmission with GO.
    pub(crate) fn go(mut self, name: &str) -> Negotiated {
        match self.send(&wire::option(7, &wire::info(name, &[]))).0 {
            Progress::Transmission(negotiated) => negotiated,
            other => panic!("GO led to {other:?}"),
        }
    }
}
