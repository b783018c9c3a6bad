# 512-byte chunks: whole-chunk first writes out of order, a run of five in one write, overwrites.
origin_sectors=64 cow_sectors=48
guest() {
    snapshot P 1
    put 40 1
    put 3 1
    put 63 1
    put 10 5
    put 3 1 write2
    put 0 1
    take_down
}
