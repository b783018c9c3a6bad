# An entry behind the terminator, as a torn write can leave it. The kernel keeps it when it rewrites
# the area: once entry 2 is filled in, 9 -> 7 is live.
origin_sectors=128 cow_sectors=128
prepare() { craft chunk=8 5:2 end end 9:7; }
guest() {
    snapshot P 8
    put 56 8
    take_down
}
