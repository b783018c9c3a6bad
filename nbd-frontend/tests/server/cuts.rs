//! Work that nobody waits for any more is not done: the client is gone, or the server ends and its
//! time is up. Devices are slow here, so that doing it all the same would take minutes.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use usnap_engine::device::BlockDevice;
use usnap_nbd::proto::RequestKind;
use usnap_nbd::server::Limits;

use super::support::{Call, Style, TestDevice, TestServer, pattern, wait_until};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Longer than anything here takes, much shorter than all the work.
const SOON: Duration = Duration::from_secs(5);

/// Little patience at the end.
fn hasty() -> Limits {
    Limits {
        shutdown_grace: Duration::from_millis(50),
        shutdown_timeout: Duration::from_millis(150),
        ..Limits::default()
    }
}

/// A device of which each call takes a moment.
fn slow(size_bytes: u64, pause: Duration) -> Arc<TestDevice> {
    TestDevice::with_hook(size_bytes, move |_| {
        std::thread::sleep(pause);
        None
    })
}

fn zero(len: u64) -> RequestKind {
    RequestKind::WriteZeroes {
        len,
        fua: false,
        no_hole: false,
        fast_zero: false,
    }
}

/// Stops the server and asserts that it does not take long.
fn expect_soon(mut server: TestServer, what: &str) {
    let begin = Instant::now();
    server.stop();
    let took = begin.elapsed();
    assert!(took < SOON, "{what}: the end took {took:?}");
}

#[test]
fn what_a_client_that_is_gone_wanted_cached_is_not_read() {
    let device = slow(64 * MIB, Duration::from_millis(1));
    let server = TestServer::new(device);
    let mut client = server.raw_client(Style::Extended);
    let mut bytes = Vec::new();
    for cookie in 1..=7000 {
        bytes.extend(client.encode(cookie, 0, RequestKind::Cache { len: 64 * MIB }));
    }
    client.send_bytes(&bytes);
    drop(client);
    let begin = Instant::now();
    server.wait_for_connected(0);
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
}

#[test]
fn reads_that_were_on_their_way_to_a_worker_are_dropped_with_their_client() {
    let (release, held) = channel::<()>();
    let held = std::sync::Mutex::new(held);
    let device = TestDevice::with_hook(MIB, move |_| {
        // Every call waits until the test drops its end.
        _ = held.lock().unwrap().recv();
        None
    });
    device
        .cold
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let server = TestServer::new(device.clone());
    let mut client = server.raw_client(Style::Simple);
    for cookie in 1..=100 {
        let read = RequestKind::Read {
            len: 512,
            dont_fragment: false,
        };
        client.send(cookie, 0, read);
    }
    wait_until("the device to be called", || {
        !device.take_calls().is_empty()
    });
    std::thread::sleep(Duration::from_millis(50));
    drop(client);
    drop(release);
    server.wait_for_connected(0);
    let calls = device.take_calls().len();
    assert!(calls < 50, "{calls} reads for nobody");
}

#[test]
fn a_long_batch_ends_when_the_time_of_the_server_is_up() {
    let pause = Duration::from_millis(20);
    let read = RequestKind::Read {
        len: 512,
        dont_fragment: false,
    };
    let trim = RequestKind::Trim {
        len: 512,
        fua: false,
    };
    for kind in [read, trim, zero(512), RequestKind::Cache { len: 512 }] {
        let server = TestServer::with_limits(slow(MIB, pause), hasty());
        let mut client = server.raw_client(Style::Structured);
        let mut bytes = Vec::new();
        for cookie in 1..=7000 {
            bytes.extend(client.encode(cookie, 0, kind));
        }
        client.send_bytes(&bytes);
        std::thread::sleep(Duration::from_millis(50));
        expect_soon(server, &format!("{kind:?}"));
    }
}

#[test]
fn one_long_request_ends_when_the_time_of_the_server_is_up() {
    let trim = RequestKind::Trim {
        len: 4 * GIB,
        fua: false,
    };
    let cache = RequestKind::Cache { len: 256 * MIB };
    let read = RequestKind::Read {
        len: 64 << 20,
        dont_fragment: false,
    };
    for kind in [trim, zero(4 * GIB), cache, read] {
        let device = slow(4 * GIB, Duration::from_millis(200));
        let server = TestServer::with_limits(device, hasty());
        let mut client = server.raw_client(Style::Extended);
        client.send(1, 0, kind);
        std::thread::sleep(Duration::from_millis(50));
        expect_soon(server, &format!("{kind:?}"));
    }
}

#[test]
fn a_long_block_status_ends_when_the_time_of_the_server_is_up() {
    let device = slow(40 * MIB, Duration::from_millis(5));
    // Every other page is data.
    for offset in (0..40 * MIB).step_by(8192) {
        device.memory.write_at(&[1], offset).unwrap();
    }
    let server = TestServer::with_limits(device, hasty());
    let mut client = server.raw_client(Style::Structured);
    let status = RequestKind::BlockStatus {
        len: 40 * MIB,
        req_one: false,
    };
    client.send(1, 0, status);
    std::thread::sleep(Duration::from_millis(50));
    let begin = Instant::now();
    drop(server);
    // Before the server would stop waiting for it.
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(2), "the end took {took:?}");
}

#[test]
fn a_device_that_hangs_does_not_keep_the_server_from_its_end() {
    let (release, held) = channel::<()>();
    let held = std::sync::Mutex::new(held);
    let device = TestDevice::with_hook(MIB, move |_| {
        _ = held.lock().unwrap().recv();
        None
    });
    let server = TestServer::with_limits(device.clone(), hasty());
    let mut client = server.raw_client(Style::Simple);
    let write = RequestKind::Write {
        len: 512,
        fua: true,
    };
    let mut bytes = client.encode(1, 0, write);
    bytes.extend(pattern(512, 1));
    client.send_bytes(&bytes);
    wait_until("the device to be called", || {
        !device.take_calls().is_empty()
    });
    expect_soon(server, "a write that hangs");
    // It was promised nothing.
    assert_eq!(client.chunk(), None);
    drop(release);
}

#[test]
fn what_a_client_had_changed_before_it_closed_is_changed() {
    let device = slow(4 * GIB, Duration::from_millis(5));
    let server = TestServer::new(device.clone());
    let mut client = server.raw_client(Style::Extended);
    let mut bytes = Vec::new();
    for cookie in 1..=20 {
        bytes.extend(client.encode(cookie, 0, zero(GIB)));
    }
    bytes.extend(client.encode(99, 0, RequestKind::Disconnect));
    client.send_bytes(&bytes);
    drop(client);
    server.wait_for_connected(1);
    server.wait_for_connected(0);
    let zeroed: u64 = device
        .take_calls()
        .into_iter()
        .map(|call| match call {
            Call::Zero { len, .. } => len,
            _ => 0,
        })
        .sum();
    assert_eq!(zeroed, 20 * GIB);
}
