# A device of 34 chunks, where 34 mod 33 = 1: the 32nd data chunk fits, the area that its entry opens
# does not, and the kernel invalidates the store, PO or not. Rewriting the header wipes our record.
origin_sectors=64 cow_sectors=34
prepare() { craft chunk=1 identity=poisoned; }
guest() {
    snapshot PO 1
    for n in {0..30}; do put $((2 * n + 1)) 1; done
    if put 0 1; then echo "the 32nd chunk fits?"; exit 1; fi
    take_down
}
