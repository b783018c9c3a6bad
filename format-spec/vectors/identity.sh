# A store with an identity record behind its header, which the kernel uses and leaves as it is.
origin_sectors=128 cow_sectors=64
prepare() { craft chunk=8 identity='Büro, 2. Versuch'; }
guest() {
    snapshot P 8
    put 24 8
    put 99 1
    take_down
}
