# Requests that libnbd would not send by itself. Each must be answered with the error that the
# protocol names, change nothing, and leave the session usable.
# Arguments: the URI of a writable export, of a read-only one, the size of both.
import sys
import nbd

writable, read_only, size = sys.argv[1], sys.argv[2], int(sys.argv[3])


def session(uri):
    h = nbd.NBD()
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.connect_uri(uri)
    h.set_strict_mode(0)
    return h


def refused(expected, call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as error:
        assert error.errno in expected.split("/"), (expected, error.errno, call, arguments)
    else:
        raise AssertionError(("accepted", call, arguments))
    assert h.aio_is_ready(), ("the session ended", call, arguments)


def ignore(*_):
    pass


h = session(writable)
assert h.get_size() == size
before = h.pread(size, 0)

# Beyond the end: no space for what would be written, invalid for all else.
for offset in (size, size - 100, size + (1 << 40), (1 << 63) - 512, (1 << 64) - 256):
    refused("EINVAL", h.pread, 512, offset)
    refused("ENOSPC", h.pwrite, b"x" * 512, offset)
    refused("ENOSPC", h.zero, 512, offset)
    refused("EINVAL", h.trim, 512, offset)
    refused("EINVAL", h.cache, 512, offset)
    refused("EINVAL", h.block_status, 512, offset, ignore)
refused("ENOSPC", h.zero, 0xFFFFFFFF, 4096)
refused("EINVAL", h.trim, 0xFFFFFFFF, 4096)

# Flags that nobody knows, or that do not belong to the command.
for flags in (1 << 15, 1 << 9, nbd.CMD_FLAG_REQ_ONE):
    refused("EINVAL", h.pread, 512, 0, flags)
    refused("EINVAL", h.pwrite, b"x" * 512, 0, flags)
    refused("EINVAL", h.trim, 512, 0, flags)
    refused("EINVAL", h.zero, 512, 0, flags)
    refused("EINVAL", h.flush, flags)
refused("EINVAL", h.block_status, 0, 0, ignore)

# Durability may be asked of everything once it is offered.
h.pread(512, 0, nbd.CMD_FLAG_FUA)
h.flush(nbd.CMD_FLAG_FUA)
h.cache(512, 0, nbd.CMD_FLAG_FUA)
h.block_status(512, 0, ignore, nbd.CMD_FLAG_FUA)

# Lengths of zero may get any answer.
for call, arguments in (
    (h.pread, (0, 0)),
    (h.pwrite, (b"", 0)),
    (h.trim, (0, 0)),
    (h.zero, (0, 0)),
    (h.cache, (0, 0)),
):
    try:
        call(*arguments)
    except nbd.Error:
        pass
    assert h.aio_is_ready(), (call, "ended the session")

assert h.pread(size, 0) == before, "a refused request changed something"

# Nothing needs to be aligned.
h.pwrite(b"abc", 12345)
h.zero(7, 20001)
assert h.pread(3, 12345) == b"abc" and h.pread(7, 20001) == bytes(7)
h.shutdown()

h = session(read_only)
assert h.is_read_only()
before = h.pread(size, 0)
refused("EPERM", h.pwrite, b"x" * 4096, 0)
refused("EPERM", h.trim, 4096, 0)
refused("EPERM", h.zero, 4096, 0)
assert h.pread(size, 0) == before
h.shutdown()
print("done")
