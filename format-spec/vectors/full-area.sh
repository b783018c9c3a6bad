# An area exactly full: the kernel has zeroed area 1 before it committed the 32nd entry. Odd chunks
# downwards, so that no two exceptions are a run.
origin_sectors=128 cow_sectors=48
prepare() { craft chunk=1 stale; }
guest() {
    snapshot P 1
    for n in {0..31}; do put $((127 - 2 * n)) 1; done
    take_down
}
