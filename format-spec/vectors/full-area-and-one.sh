# One exception more than an area holds: the 33rd is entry 0 of area 1, its data chunk 35.
origin_sectors=128 cow_sectors=48
prepare() { craft chunk=1 stale; }
guest() {
    snapshot P 1
    for n in {0..32}; do put $((127 - 2 * n)) 1; done
    take_down
}
