# An origin of 2 chunks and 3 sectors. A write to its last, cut chunk copies what the origin has and
# leaves stale bytes (0xee) in the rest of the COW chunk.
origin_sectors=19 cow_sectors=53
prepare() { craft chunk=8 stale; }
guest() {
    snapshot P 8
    put 17 1
    put 8 8
    take_down
}
