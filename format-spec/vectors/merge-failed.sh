# A merge that ends because the origin cannot be written at sector 32 (chunk 4). What the kernel says
# then is in the expectation; what is on disk is a half-merged store.
origin_sectors=128 cow_sectors=128
guest() {
    dmsetup create --noudevsync broken <<TABLE
0 32 linear /dev/ubda 0
32 8 error
40 88 linear /dev/ubda 40
TABLE
    snapshot P 8
    for chunk in 1 9 4 12 15 7; do put $((8 * chunk)) 8; done
    dmsetup remove --noudevsync snap
    lower=$(dm broken)
    snapshot snapshot-merge P 8
    until [[ $(status) = "Merge failed" ]]; do sleep 0.02; done
    take_down
}
