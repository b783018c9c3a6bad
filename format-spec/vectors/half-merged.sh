# 40 exceptions, the last ones merged into the origin, then the merge target is removed. Each step
# waits 50 ms for the origin, so that there is time to do so. How far it gets varies.
origin_sectors=128 cow_sectors=64
guest() {
    insmod "/usr/lib/uml/modules/$(uname -r)/kernel/drivers/md/dm-delay.ko"
    dmsetup create --noudevsync slow --table "0 128 delay /dev/ubda 0 0 /dev/ubda 0 50"
    lower=$(dm slow)
    snapshot P 1
    for n in {0..39}; do put $((127 - 3 * n)) 1; done
    dmsetup remove --noudevsync snap
    snapshot snapshot-merge P 1
    # 43 chunks are allocated at first; down to 22, area 1 is empty and area 0 is not full.
    until [[ $(status | cut -d / -f 1) -le 22 ]]; do sleep 0.02; done
    dmsetup remove --noudevsync snap
    snapshot P 1
    take_down
}
