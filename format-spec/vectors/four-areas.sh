# 100 exceptions of 512 bytes: three full areas and four entries in the fourth, written in single
# chunks and in runs, one of which crosses from area 0 to area 1.
origin_sectors=256 cow_sectors=128
guest() {
    snapshot P 1
    for n in {0..29}; do put $((7 * n)) 1; done
    put 211 8
    for n in {0..49}; do put $((4 * n + 1)) 1; done
    put 221 19
    take_down
}
