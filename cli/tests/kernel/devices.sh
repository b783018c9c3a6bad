# usnap and dm-snapshot take turns on the same two block devices, $ORIGIN and $COW. Neither may take
# a COW that the other one uses.
socket=/run/usnap.sock
table="0 $(blockdev --getsz "$ORIGIN") snapshot $ORIGIN $COW P 32"

attach() {
    rm -f /run/uri
    "$USNAP" serve "$ORIGIN" --cow "$COW" --chunk-size 16K --socket $socket > /run/uri 2>> /run/log &
    server=$!
    until [ -s /run/uri ]; do
        kill -0 $server 2> /dev/null || { cat /run/log; exit 1; }
        sleep 0.05
    done
    nbd-client -unix $socket /dev/nbd0 -b 512 > /run/attached 2>&1 || { cat /run/attached; exit 1; }
}

detach() {
    nbd-client -d /dev/nbd0 > /dev/null
    kill -TERM $server
    wait $server
}

digest() { # name device
    echo "$1 $(sha256sum < "$2" | cut -d' ' -f1)"
}

attach
dd if=/dev/urandom of=/dev/nbd0 bs=3k count=700 seek=100 conv=notrunc,fsync status=none
dd if=/dev/urandom of=/dev/nbd0 bs=512 count=3 seek=49152 conv=notrunc,fsync status=none
digest usnap.first /dev/nbd0
if echo "$table" | dmsetup create --noudevsync taken 2> /run/busy; then
    echo "dm-snapshot took a COW that usnap serves"
    exit 1
fi
detach

echo "$table" | dmsetup create --noudevsync store
digest kernel.first "$(dm store)"
echo "kernel.status $(dmsetup status store | cut -d' ' -f4-)"
dd if=/dev/urandom of="$(dm store)" bs=5k count=900 seek=2000 conv=notrunc,fsync status=none
digest kernel.second "$(dm store)"
if "$USNAP" serve "$ORIGIN" --cow "$COW" --socket $socket > /run/uri 2> /run/refused; then
    echo "usnap took a COW that dm-snapshot uses"
    exit 1
fi
echo "refused $(cat /run/refused)"
dmsetup remove --noudevsync store

echo "usnap.status $("$USNAP" status "$COW" | head -n 1)"
"$USNAP" check "$COW" --origin "$ORIGIN" > /run/check || { cat /run/check; exit 1; }
attach
digest usnap.second /dev/nbd0
detach
grep -q panicked /run/log && { cat /run/log; exit 1; }
echo "done yes"
