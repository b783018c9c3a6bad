# A new store, as the kernel makes it on a device whose first four bytes are zero: it writes the
# header and area 0 and leaves the rest (bytes 0xee here) as it is.
origin_sectors=64 cow_sectors=64
prepare() { craft chunk=8 stale; }
guest() {
    snapshot P 8
    take_down
}
