# The guest mounts an export of usnap: $USNAP serves $ORIGIN with changes in $COW, nbd-client attaches
# it, ext4 lives on it. $FILES is a directory to copy in, $REMOVED one inside the image to remove.
socket=/run/usnap.sock
point=/run/mnt
mkdir -p $point

attach() {
    rm -f /run/uri
    "$USNAP" serve "$ORIGIN" --cow "$COW" --socket $socket > /run/uri 2>> /run/log &
    server=$!
    until [ -s /run/uri ]; do
        kill -0 $server 2> /dev/null || { cat /run/log; exit 1; }
        sleep 0.05
    done
    nbd-client -unix $socket /dev/nbd0 > /run/attached 2>&1 || { cat /run/attached; exit 1; }
}

detach() {
    nbd-client -d /dev/nbd0 > /dev/null
    kill -TERM $server
    wait $server
    [ ! -e $socket ]
}

attach
echo "read-only $(cat /sys/block/nbd0/ro)"
echo "write-cache $(cat /sys/block/nbd0/queue/write_cache)"
mount -t ext4 /dev/nbd0 $point
cp -a "$FILES" $point/copied-in
head -c 48M /dev/urandom > $point/copied-in/large
sync
rm -r "$point/$REMOVED"
(cd $point/copied-in && find . -type f -print0 | sort -z | xargs -0 sha256sum) > /run/manifest
echo "files $(wc -l < /run/manifest)"
umount $point
e2fsck -fn /dev/nbd0 > /run/fsck 2>&1 || { cat /run/fsck; exit 1; }
detach

attach
mount -t ext4 /dev/nbd0 $point
(cd $point/copied-in && sha256sum --check --quiet /run/manifest)
[ ! -e "$point/$REMOVED" ]
echo remounted > $point/after-the-restart
umount $point
e2fsck -fn /dev/nbd0 > /run/fsck 2>&1 || { cat /run/fsck; exit 1; }
echo "sha256 $(sha256sum < /dev/nbd0 | cut -d' ' -f1)"
detach
grep -q panicked /run/log && { cat /run/log; exit 1; }
echo "done yes"
