# 64 KiB chunks; the last chunk of the COW device is cut and never used.
origin_sectors=512 cow_sectors=600
guest() {
    snapshot P 128
    put 384 128
    put 130 2
    take_down
}
