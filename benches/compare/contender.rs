//! The servers that take part.

use std::fmt;

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// nbdkit that does nothing: what the wire costs.
    NbdkitNull,
    /// nbdkit over its own sparse array in memory.
    NbdkitMemory,
    /// nbdkit over a plain copy of the image: no copy-on-write at all.
    NbdkitFile,
    /// qemu-nbd over a plain copy of the image.
    QemuRaw,
    /// nbdkit's cow filter, at our block size; it keeps nothing and ignores flushes.
    NbdkitCow4,
    /// The same, at its own block size.
    NbdkitCow64,
    /// qemu-nbd with an overlay in qcow2, as `qemu-img create` makes it: clusters of 64 KiB.
    QemuQcow2,
    /// The same, with clusters divided in 32.
    QemuSubclusters,
    /// nbd-server with copyonwrite; it forgets when the client disconnects.
    NbdServer,
    /// usnap with a COW file, chunks of 4 KiB.
    UsnapPersistent,
    /// usnap with its changes in memory, chunks of 4 KiB.
    UsnapTransient,
    /// usnap with a COW file, chunks of 16 KiB.
    UsnapPersistent16,
    /// usnap with its changes in memory, chunks of 16 KiB.
    UsnapTransient16,
}

use Contender::{
    NbdServer, NbdkitCow4, NbdkitCow64, NbdkitFile, NbdkitMemory, NbdkitNull, QemuQcow2, QemuRaw,
    QemuSubclusters, UsnapPersistent, UsnapPersistent16, UsnapTransient, UsnapTransient16,
};

impl Contender {
    /// All, in the order of the tables' columns.
    pub(crate) const ALL: [Self; 13] = [
        NbdkitNull,
        NbdkitMemory,
        NbdkitFile,
        QemuRaw,
        NbdkitCow4,
        NbdkitCow64,
        QemuQcow2,
        QemuSubclusters,
        NbdServer,
        UsnapPersistent,
        UsnapTransient,
        UsnapPersistent16,
        UsnapTransient16,
    ];

    /// Those that the README shows.
    pub(crate) const MAIN: [Self; 7] = [
        NbdkitNull,
        NbdkitFile,
        NbdkitCow4,
        QemuQcow2,
        NbdServer,
        UsnapPersistent,
        UsnapTransient,
    ];

    /// Whether it is usnap.
    pub(crate) fn is_ours(self) -> bool {
        self.chunk_size().is_some()
    }

    /// The size of usnap's chunks, as it is typed; `None` for other servers.
    pub(crate) fn chunk_size(self) -> Option<&'static str> {
        match self {
            UsnapPersistent | UsnapTransient => Some("4K"),
            UsnapPersistent16 | UsnapTransient16 => Some("16K"),
            _ => None,
        }
    }

    /// The programs that must be installed.
    pub(crate) fn programs(self) -> &'static [&'static str] {
        match self {
            NbdkitNull | NbdkitMemory | NbdkitFile | NbdkitCow4 | NbdkitCow64 => &["nbdkit"],
            QemuRaw => &["qemu-nbd"],
            QemuQcow2 | QemuSubclusters => &["qemu-nbd", "qemu-img"],
            NbdServer => &["nbd-server"],
            UsnapPersistent | UsnapTransient | UsnapPersistent16 | UsnapTransient16 => &[],
        }
    }

    /// The name of its export.
    pub(crate) fn export(self) -> &'static str {
        // nbd-server has no default export.
        if self == NbdServer { "image" } else { "" }
    }

    /// Whether it writes into the image that it is given, which must be a copy then.
    pub(crate) fn needs_copy(self) -> bool {
        matches!(self, NbdkitFile | QemuRaw)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NbdkitNull => "nbdkit null",
            NbdkitMemory => "nbdkit memory",
            NbdkitFile => "nbdkit file",
            QemuRaw => "qemu-nbd raw",
            NbdkitCow4 => "nbdkit cow 4K",
            NbdkitCow64 => "nbdkit cow 64K",
            QemuQcow2 => "qemu-nbd qcow2",
            QemuSubclusters => "qemu-nbd qcow2 extended_l2",
            NbdServer => "nbd-server copyonwrite",
            UsnapPersistent => "usnap persistent",
            UsnapTransient => "usnap transient",
            UsnapPersistent16 => "usnap persistent 16K",
            UsnapTransient16 => "usnap transient 16K",
        })
    }
}
