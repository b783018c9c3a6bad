# LVM makes a volume and a snapshot of it by its own commands; both are written. $PV is the disk.
# There is no udev here, so LVM makes its nodes itself.
export LVM_SUPPRESS_FD_WARNINGS=1
export LVM_SYSTEM_DIR=/run/lvm-settings
mkdir -p $LVM_SYSTEM_DIR /run/lock/lvm
cat > $LVM_SYSTEM_DIR/lvm.conf <<'C'
devices { dir = "/dev" scan = ["/dev"] types = ["ubd", 16] use_devicesfile = 0 obtain_device_list_from_udev = 0 }
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }
backup { backup = 0 archive = 0 }
global { use_lvmpolld = 0 event_activation = 0 }
C
quietly() { "$@" > /run/said 2>&1 || { cat /run/said; exit 1; }; }

quietly pvcreate -y "$PV"
quietly vgcreate -y vg "$PV"
quietly lvcreate -y -W n -Z n -L 24M -n root vg
dd if=base.img of=/dev/mapper/vg-root bs=1M conv=notrunc,fsync status=none
quietly lvcreate -y -s -L 12M -n snap vg/root
echo "table $(dmsetup table vg-snap | cut -d' ' -f3,6-)"
echo "devices $(dmsetup ls | cut -f1 | sort | tr '\n' ' ')"
# The origin is written, so the snapshot keeps what was there; then the snapshot itself.
dd if=/dev/urandom of=/dev/mapper/vg-root bs=3k count=100 seek=40 conv=notrunc,fsync status=none
dd if=/dev/urandom of=/dev/mapper/vg-snap bs=5k count=90 seek=700 conv=notrunc,fsync status=none
echo "percent $(lvs --noheadings -o snap_percent vg/snap | tr -d ' ')"
echo "lvm.status $(dmsetup status vg-snap | cut -d' ' -f4-)"
echo "lvm.sha256 $(sha256sum < /dev/mapper/vg-snap | cut -d' ' -f1)"
dd if=/dev/mapper/vg-root-real of=lvm.img bs=1M status=none
dd if=/dev/mapper/vg-snap-cow of=lvm.cow bs=1M status=none
quietly vgchange -an vg
echo "done yes"
