#!/usr/bin/env python3
"""Reads and writes dm-snapshot stores for make.sh, independently of the crate that is tested.

  store.py craft COW chunk=SECTORS [stale] [OLD:NEW | end]... [identity=LABEL]
      writes a header and areas by hand; `end` is a terminator, so that what follows lies behind
      it. Data chunks are filled with the pattern, tag `before`. `stale` first fills the whole
      device with bytes 0xee.
  store.py expect DIRECTORY
      prints the expectation of the store that make.sh has left in DIRECTORY.
"""

import hashlib
import pathlib
import struct
import sys
import zlib

SECTOR = 512
MAGIC = b"SnAp"
IDENTITY_MAGIC = b"usnap-id"
IDENTITY_LEN = 240


def pattern(tag, sector):
    return b"%s %08x\n" % (tag.encode(), sector) * 32


def area_chunk(area, chunk_bytes):
    return 1 + area * (chunk_bytes // 16 + 1)


def identity_record(label, origin_bytes):
    """A record of version 1 with an origin, fixed numbers in the other fields, and a label."""
    record = struct.pack(
        "<8sHHIQqII16s16s64s100x",
        IDENTITY_MAGIC, 1, 1, 3, origin_bytes, -2, 999_999_999, 0x01020304,
        bytes(range(16)), bytes(range(16, 32)), label.encode(),
    )
    return record + struct.pack("<I", zlib.crc32(record))


def craft(path, arguments):
    device = bytearray(path.stat().st_size)
    chunk_bytes, entries, label = 0, [], None
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "chunk":
            chunk_bytes = int(value) * SECTOR
        elif key == "identity":
            label = value
        elif key == "stale":
            device[:] = b"\xee" * len(device)
        elif key == "end":
            entries.append((0, 0))
        else:
            entries.append(tuple(int(number) for number in key.split(":")))
    per_area = chunk_bytes // 16
    if entries or label is not None:
        header = MAGIC + struct.pack("<III", 1, 1, chunk_bytes // SECTOR)
        device[:chunk_bytes] = header.ljust(chunk_bytes, b"\0")
        for area in range(len(entries) // per_area + 1):
            at = area_chunk(area, chunk_bytes) * chunk_bytes
            device[at : at + chunk_bytes] = bytes(chunk_bytes)
    else:
        device[:4] = bytes(4)  # no magic: the kernel makes a new store
    for index, (old, new) in enumerate(entries):
        at = area_chunk(index // per_area, chunk_bytes) * chunk_bytes + index % per_area * 16
        device[at : at + 16] = struct.pack("<QQ", old, new)
        if new:
            first = old * chunk_bytes // SECTOR
            data = [pattern("before", first + n) for n in range(chunk_bytes // SECTOR)]
            device[new * chunk_bytes : (new + 1) * chunk_bytes] = b"".join(data)
    if label is not None:
        origin_bytes = path.with_name("origin").stat().st_size
        device[16 : 16 + IDENTITY_LEN] = identity_record(label, origin_bytes)
    path.write_bytes(device)


def entries_of(store, chunk_bytes):
    """All live entries, and the offset in the last area of the first junk byte behind them."""
    live, area = [], 0
    while True:
        at = area_chunk(area, chunk_bytes) * chunk_bytes
        for offset in range(0, chunk_bytes, 16):
            old, new = struct.unpack_from("<QQ", store, at + offset)
            if new == 0:
                rest = store[at + offset : at + chunk_bytes]
                junk = len(rest) - len(rest.lstrip(b"\0"))
                return live, offset + junk if junk < len(rest) else None
            live.append((old, new))
        area += 1


def expect(directory):
    def said(name):
        return (directory / name).read_text().strip()

    origin, store = ((directory / name).read_bytes() for name in ("origin", "store"))
    valid, version, chunk_sectors = struct.unpack_from("<III", store, 4)
    print(f"kernel {said('kernel')}")
    print(f"target {said('target')}")
    print(f"table {said('table')}")
    print(f"origin_sectors {len(origin) // SECTOR}")
    for sector in range(len(origin) // SECTOR):
        found = origin[sector * SECTOR : (sector + 1) * SECTOR]
        if found != pattern("origin", sector):
            tag = found[:6].decode()
            assert found == pattern(tag, sector), f"origin sector {sector} is of no pattern"
            print(f"origin_patch {sector} {tag}")
    print(f"origin_sha256 {hashlib.sha256(origin).hexdigest()}")
    print(f"store_sha256 {hashlib.sha256(store).hexdigest()}")
    print(f"store_sectors {len(store) // SECTOR}")
    print(f"magic {store[:4].decode()}")
    print(f"valid {valid}")
    print(f"version {version}")
    print(f"chunk_size_sectors {chunk_sectors}")
    identity = store[16 : 16 + IDENTITY_LEN]
    print(f"identity {identity.hex() if identity.startswith(IDENTITY_MAGIC) else 'none'}")
    live, junk = entries_of(store, chunk_sectors * SECTOR)
    for old, new in live:
        print(f"exception {old} {new}")
    print(f"junk_offset {'none' if junk is None else junk}")
    print(f"status {said('status')}")
    print(f"reopened_status {said('reopened_status')}")
    print(f"content_sha256 {said('content')}")


if sys.argv[1] == "craft":
    craft(pathlib.Path(sys.argv[2]), sys.argv[3:])
else:
    expect(pathlib.Path(sys.argv[2]))
