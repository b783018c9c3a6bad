//! A server that finds no descriptor for a connection.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::support::{Holdings, alone, connect, with_server};

#[test]
fn a_server_without_descriptors_waits_and_goes_on() {
    let _alone = alone();
    with_server(|socket| {
        // The server has its own descriptors before they become scarce.
        drop(connect(socket));
        let stat = File::open("/proc/self/stat").unwrap();
        let limit = getrlimit(Resource::Nofile);
        let open = Holdings::now().descriptors;
        // Room for a few connections, which take two descriptors here: both ends are ours.
        let tight = Rlimit {
            current: Some(open + 9),
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, tight).unwrap();
        let held: Vec<_> = std::iter::from_fn(|| UnixStream::connect(socket).ok())
            .take(100)
            .collect();
        // The server finds no descriptor for the last ones, and must not stop for that.
        std::thread::sleep(Duration::from_millis(200));
        let used = processor_time(&stat);
        std::thread::sleep(Duration::from_millis(500));
        let used = processor_time(&stat) - used;
        assert!(
            used < Duration::from_millis(200),
            "{used:?} of 500 ms were spent on nothing"
        );
        drop(held);
        setrlimit(Resource::Nofile, limit).unwrap();
        let mut client = connect(socket);
        client.read_at(&mut [0; 512], 0).unwrap();
    });
}

/// User and system time of the process whose `stat` is open, in the kernel's ticks of 10 ms.
fn processor_time(stat: &File) -> Duration {
    let mut bytes = [0; 1024];
    let len = stat.read_at(&mut bytes, 0).unwrap();
    let text = String::from_utf8_lossy(&bytes[..len]);
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11..=12]
        .iter()
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    Duration::from_millis(ticks * 10)
}
