# The kernel's default chunk size: the table says 0, the header gets 32 sectors. PO this time,
# which leaves no mark on disk.
origin_sectors=256 cow_sectors=192
guest() {
    snapshot PO 0
    put 96 32
    put 7 1
    put 250 6
    take_down
}
