//! What the engine's errors are on the wire: the one place that decides it.

use usnap_engine::ErrorKind;

use crate::proto::Errno;

/// The protocol's error for an engine's, and a message for the client. The message names no path:
/// the peer may be a stranger, and the log has the whole error.
///
/// "The server SHOULD NOT return `NBD_ENOTSUP` except as documented in response to
/// `NBD_CMD_WRITE_ZEROES` when `NBD_CMD_FLAG_FAST_ZERO` is supported" (proto.md, "Error values"):
/// `fast_zero` says whether this was such a request.
pub(super) fn errno_of(kind: ErrorKind, fast_zero: bool) -> (Errno, &'static str) {
    match kind {
        ErrorKind::NoSpace => (Errno::NoSpc, "no space is left for this write"),
        ErrorKind::NotSupported if fast_zero => (Errno::NotSup, "it would not be fast"),
        ErrorKind::OutOfRange => (Errno::Inval, "outside the device"),
        ErrorKind::Usage => (Errno::Inval, "not possible on this device"),
        ErrorKind::PermissionDenied => (Errno::Perm, "the system does not allow it"),
        ErrorKind::ReadOnly => (Errno::Perm, "the device is read-only"),
        ErrorKind::Latched => (
            Errno::Io,
            "an earlier flush failed: nothing more is written",
        ),
        _ => (Errno::Io, "the device failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_device_is_told_from_a_failing_one() {
        assert_eq!(errno_of(ErrorKind::NoSpace, false).0, Errno::NoSpc);
        assert_eq!(errno_of(ErrorKind::Io, false).0, Errno::Io);
        assert_eq!(errno_of(ErrorKind::Latched, false).0, Errno::Io);
        assert_eq!(errno_of(ErrorKind::Corrupt, false).0, Errno::Io);
    }

    #[test]
    fn only_a_fast_zero_may_be_unsupported() {
        assert_eq!(errno_of(ErrorKind::NotSupported, true).0, Errno::NotSup);
        assert_eq!(errno_of(ErrorKind::NotSupported, false).0, Errno::Io);
    }
}
