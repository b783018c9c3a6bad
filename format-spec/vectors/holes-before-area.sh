# The largest number is the last data chunk before area 1's place, 33: the kernel skips chunk 34,
# which is area 1 although area 0 has room.
origin_sectors=64 cow_sectors=48
prepare() { craft chunk=1 3:33 20:2; }
guest() {
    snapshot P 1
    put 50 2
    take_down
}
