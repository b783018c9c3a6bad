# P on a device that fills up: the kernel writes valid = 0, and the device's content is gone.
origin_sectors=64 cow_sectors=64
guest() {
    snapshot P 8
    for n in {0..5}; do put $((8 * n)) 8; done
    if put 48 8; then echo "the seventh chunk fits?"; exit 1; fi
    take_down
}
