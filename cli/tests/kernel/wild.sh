# Stores as they are made in the wild, each by its maker's own commands, on files in this directory.
# What each shows is printed with what the kernel says of it.
say() { # name device
    echo "$1.status $(dmsetup status "$2" | cut -d' ' -f4-)"
    echo "$1.sha256 $(sha256sum < "$(dm "$2")" | cut -d' ' -f1)"
}

change() { # device: some parts of it
    dd if=/dev/urandom of="$(dm "$1")" bs=3k count=70 seek=11 conv=notrunc,fsync status=none
    dd if=/dev/urandom of="$(dm "$1")" bs=512 count=5 seek=20001 conv=notrunc,fsync status=none
}

sz=$(( $(stat -c %s base.img) / 512 ))

# dracut, dmsquash-live: a persistent overlay in a sparse file.
truncate -s 48M dracut.cow
base=$(losetup -f -r --show base.img)
overlay=$(losetup -f --show dracut.cow)
echo "0 $sz snapshot $base $overlay PO 8" | dmsetup create --noudevsync live-rw
mkdir -p /run/live
mount -t ext4 "$(dm live-rw)" /run/live
mkdir /run/live/root
cp /etc/passwd /etc/services /run/live/root/
umount /run/live
say dracut live-rw
dmsetup remove --noudevsync live-rw

# The same, with rd.live.overlay.readonly: the overlay below one in memory.
echo "0 $sz snapshot $base $overlay P 8" | dmsetup create --noudevsync --readonly live-ro
dd if=/dev/null of=ram.cow bs=1024 count=1 seek=$((32 * 1024)) status=none
ram=$(losetup -f --show ram.cow)
echo "0 $sz snapshot $(dm live-ro) $ram PO 8" | dmsetup create --noudevsync live-rw
change live-rw
say ram live-rw
dmsetup remove --noudevsync live-rw
dmsetup remove --noudevsync live-ro
losetup -d "$ram"
losetup -d "$overlay"

# rd.live.overlay.reset, before and after the next boot.
cp dracut.cow reset.cow
overlay=$(losetup -f --show reset.cow)
dd if=/dev/zero of="$overlay" bs=64k count=1 conv=fsync status=none
losetup -d "$overlay"
cp reset.cow booted.cow
overlay=$(losetup -f --show booted.cow)
echo "0 $sz snapshot $base $overlay PO 8" | dmsetup create --noudevsync live-rw
change live-rw
say booted live-rw
dmsetup remove --noudevsync live-rw
losetup -d "$overlay"

# archiso: 256 MiB, a size that the kernel fills only once.
truncate -s 256M archiso.cow
cow=$(losetup -f --show archiso.cow)
echo "0 $sz snapshot $base $cow P 8" | dmsetup create --noudevsync arch
change arch
say archiso arch
dmsetup remove --noudevsync arch
losetup -d "$cow"
truncate -s 256M filled.cow
cow=$(losetup -f --show filled.cow)
large=$(losetup -f -r --show large.img)
large_sz=$(blockdev --getsz "$large")
echo "0 $large_sz snapshot $large $cow P 8" | dmsetup create --noudevsync arch
dd if=/dev/zero of="$(dm arch)" bs=1M oflag=direct status=none 2> /dev/null || true
echo "filled.status $(dmsetup status arch | cut -d' ' -f4-)"
dmsetup remove --noudevsync arch
losetup -d "$cow"

# Android: garbage, of which the first block is zeroed.
cow=$(losetup -f --show android.cow)
dd if=/dev/zero of="$cow" bs=4096 count=1 conv=fsync status=none
cp android.cow fresh.cow
echo "0 $sz snapshot $base $cow PO 8" | dmsetup create --noudevsync system
change system
say android system
dmsetup remove --noudevsync system
losetup -d "$cow"

# Recovery of a RAID: an overlay for each disk, so that nothing reaches the disks.
for disk in 1 2; do
    truncate -s 40M "raid$disk.cow"
    cow=$(losetup -f --show "raid$disk.cow")
    size=$(blockdev --getsz "$base")
    echo "0 $size snapshot $base $cow P 8" | dmsetup create --noudevsync "raid$disk"
    # What mdadm --create does: a superblock 4 KiB in, and the end cleared.
    dd if=/dev/urandom of="$(dm "raid$disk")" bs=512 seek=8 count=8 conv=notrunc status=none
    dd if=/dev/zero of="$(dm "raid$disk")" bs=512 seek=$((size - 16)) count=16 conv=notrunc,fsync status=none
    say "raid$disk" "raid$disk"
    dmsetup remove --noudevsync "raid$disk"
    losetup -d "$cow"
done
echo "done yes"
