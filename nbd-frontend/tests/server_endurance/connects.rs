//! Connections of every kind, ten thousand of them.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use usnap_nbd::proto::RequestKind;

use super::support::{Holdings, alone, connect, with_server};

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    let _alone = alone();
    with_server(|socket| {
        // What a process allocates for its first threads stays; measure behind that.
        for index in 0..500 {
            connect_and_end(socket, index);
        }
        let before = holdings_at_rest();
        for index in 0..10_000 {
            connect_and_end(socket, index);
        }
        let after = holdings_at_rest();
        assert_eq!(after.descriptors, before.descriptors);
        assert_eq!(after.threads, before.threads);
        let grown_kib = after.resident_kib.saturating_sub(before.resident_kib);
        // An allocator keeps some megabytes for each of its arenas; 4 KiB lost with each
        // connection would be 40 MiB.
        assert!(grown_kib < 32 << 10, "{grown_kib} KiB more than before");
    });
}

/// Connects and goes away, each time in another way.
fn connect_and_end(socket: &Path, index: u64) {
    match index % 5 {
        0 => drop(UnixStream::connect(socket).unwrap()),
        1 => {
            // Half an option.
            let mut stream = UnixStream::connect(socket).unwrap();
            stream.write_all(b"\0\0\0\x03IHAVE").unwrap();
        }
        2 => drop(connect(socket).disconnect().unwrap()),
        3 => {
            let mut client = connect(socket);
            let mut data = [0; 4096];
            client.read_at(&mut data, 0).unwrap();
            client.write_at(&data, 8192, true).unwrap();
        }
        _ => {
            // With a reply in flight.
            let mut client = connect(socket);
            let read = RequestKind::Read {
                len: 65536,
                dont_fragment: false,
            };
            client.submit(0, read, &[]).unwrap();
        }
    }
}

/// What the process holds when the server has noticed that everybody is gone: for a while there
/// are neither fewer descriptors nor fewer threads.
fn holdings_at_rest() -> Holdings {
    let end = Instant::now() + Duration::from_secs(20);
    let mut last = Holdings::now();
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_millis(300) {
        assert!(Instant::now() < end, "connections keep ending");
        std::thread::sleep(Duration::from_millis(10));
        let now = Holdings::now();
        if (now.descriptors, now.threads) != (last.descriptors, last.threads) {
            (last, since) = (now, Instant::now());
        }
    }
    last
}
