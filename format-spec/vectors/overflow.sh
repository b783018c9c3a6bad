# PO on a device that fills up: the header stays valid, the device can be read.
origin_sectors=64 cow_sectors=24
guest() {
    snapshot PO 1
    for n in {0..21}; do put $((2 * n + 1)) 1; done
    if put 60 1; then echo "the 23rd chunk fits?"; exit 1; fi
    take_down
}
