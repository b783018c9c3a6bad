# A store as kernels before 3.13 could leave it after a crash: chunk numbers are missing and out of
# order. This kernel takes it up and goes on behind the largest number.
origin_sectors=128 cow_sectors=128
prepare() { craft chunk=8 5:6 1:3 9:11 12:8; }
guest() {
    snapshot P 8
    put 16 8
    put 41 3 write2
    put 114 5
    take_down
}
