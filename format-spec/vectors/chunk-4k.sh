# 4 KiB chunks: whole chunks, parts of chunks (the rest is copied from the origin), and a write
# over four chunks that begins and ends inside one.
origin_sectors=256 cow_sectors=128
guest() {
    snapshot P 8
    put 80 8
    put 17 3
    put 100 20
    put 82 2 write2
    put 248 8
    take_down
}
