# libnbd starts the server: over a pair of pipes or a socket as its standard input and output, and
# by handing it a listening socket. Arguments: the program, the origin, the COW.
import sys
import nbd

program, origin, cow = sys.argv[1:]
serve = [program, "serve", origin, "--cow", cow]


def single(h):
    h.connect_command(serve + ["--single"])


def activated(h):
    h.connect_systemd_socket_activation(serve)


expected = {}
for number, connect in enumerate((single, activated, single, activated), start=1):
    h = nbd.NBD()
    connect(h)
    for offset, data in expected.items():
        assert h.pread(len(data), offset) == data, (number, offset)
    data = bytes([number]) * 10000
    offset = number * 100_000
    h.pwrite(data, offset)
    expected[offset] = data
    h.flush()
    h.shutdown()
    del h
print("done")
