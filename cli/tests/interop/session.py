# A client's whole session: options, contexts, flags, and two connections that see the same device.
# Arguments: the export's URI, the origin's path.
import sys
import nbd

uri, origin_path = sys.argv[1:]
with open(origin_path, "rb") as file:
    model = bytearray(file.read())

# Haggling: a list, an unknown name that fails and leaves the session in haggling, then the right one.
h = nbd.NBD()
h.set_opt_mode(True)
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.add_meta_context("qemu:allocation-depth")
h.add_meta_context("x-nobody:knows-this")
h.connect_uri(uri)
names = []
assert h.opt_list(lambda name, description: names.append(name)) == 1, names
contexts = []
h.opt_list_meta_context(contexts.append)
h.set_export_name("no such export")
for refused in (h.opt_info, h.opt_go):
    try:
        refused()
        raise AssertionError("an unknown export was accepted")
    except nbd.Error:
        pass
assert h.aio_is_negotiating()
h.set_export_name(names[0])
contexts = []
h.opt_list_meta_context(contexts.append)
assert nbd.CONTEXT_BASE_ALLOCATION in contexts, contexts
assert "qemu:allocation-depth" in contexts, contexts
h.opt_info()
assert h.get_size() == len(model)
h.opt_go()
assert h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
assert h.can_meta_context("qemu:allocation-depth")
assert h.get_structured_replies_negotiated()
assert h.can_multi_conn()

# What one connection wrote and flushed, another reads.
other = nbd.NBD()
other.connect_uri(uri)


def write(offset, data, flags=0):
    h.pwrite(data, offset, flags)
    model[offset : offset + len(data)] = data


write(1000, b"\x01" * 3000)
write(len(model) - 5, b"\x02" * 5)
write(4096 * 7, b"\x03" * 4096 * 3, nbd.CMD_FLAG_FUA)
h.flush()
assert other.pread(len(model), 0) == model

# Zeros always read as zeros, whichever way they were asked for; a fast one may be refused.
for flags in (0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_FAST_ZERO):
    for offset, length in ((4096 * 7, 8192), (123, 4567), (5 << 20, 40000)):
        try:
            h.zero(length, offset, flags)
            model[offset : offset + length] = bytes(length)
        except nbd.Error as error:
            assert flags == nbd.CMD_FLAG_FAST_ZERO and error.errno == "ENOTSUP", error
        assert h.pread(length + 50, offset) == model[offset : offset + length + 50]

# A trim may leave anything in its range and nothing else anywhere.
h.trim(8192, 4096 * 8, nbd.CMD_FLAG_FUA)
model[4096 * 8 : 4096 * 10] = h.pread(8192, 4096 * 8)
h.cache(1 << 20, 0)
assert h.pread(len(model), 0) == model

# Unfragmented reads come in one piece, others cover the range exactly once.
for flags in (nbd.CMD_FLAG_DF, 0):
    pieces = []
    length = 65536 if flags else 6 << 20

    def piece(data, offset, status, error):
        pieces.append((offset, len(data)))

    assert h.pread_structured(length, 1 << 20, piece, flags) == model[1 << 20 : (1 << 20) + length]
    assert not flags or len(pieces) == 1, pieces
    assert sum(size for _, size in pieces) == length, pieces

# Status: each context answers, the extents lie end to end, one is one.
seen = {}


def extents(context, offset, entries, error):
    seen.setdefault(context, []).append((offset, entries))


h.block_status(len(model), 0, extents)
assert set(seen) == {nbd.CONTEXT_BASE_ALLOCATION, "qemu:allocation-depth"}, seen
for chunks in seen.values():
    ((offset, entries),) = chunks
    lengths = entries[::2]
    assert offset == 0 and lengths and all(lengths), entries
    assert sum(lengths[:-1]) < len(model), entries
seen = {}
h.block_status(1 << 20, 4096 * 3, extents, nbd.CMD_FLAG_REQ_ONE)
for chunks in seen.values():
    ((_, entries),) = chunks
    assert len(entries) == 2 and 0 < entries[0] <= 1 << 20, entries

# A depth of sixty-four, answered in any order.
cookies = []
for index in range(64):
    data = bytes([index]) * 5000
    model[index * 9000 : index * 9000 + 5000] = data
    cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), index * 9000))
while cookies:
    h.poll(-1)
    cookies = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]
h.flush()
assert other.pread(len(model), 0) == model

h.shutdown()
other.shutdown()

# An old client: no structured replies, no contexts.
plain = nbd.NBD()
plain.set_request_structured_replies(False)
plain.connect_uri(uri)
assert not plain.get_structured_replies_negotiated()
assert plain.pread(len(model), 0) == model
plain.shutdown()

# An older one: no fixed newstyle, so the export is asked for by EXPORT_NAME; with its zeros.
for flags in (0, nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE, nbd.HANDSHAKE_FLAG_NO_ZEROES):
    old = nbd.NBD()
    old.set_handshake_flags(flags)
    old.connect_uri(uri)
    assert old.pread(len(model), 0) == model
    old.shutdown()
print("done")
