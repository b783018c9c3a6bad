//! What waits for a disk is answered by workers: it holds up nobody, and nothing is lost with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use usnap_engine::ErrorKind;
use usnap_engine::device::BlockDevice;
use usnap_nbd::proto::client::blocking::Answer;
use usnap_nbd::proto::{Errno, RequestKind};

use super::support::{Call, Style, TestDevice, TestServer, pattern, wait_until};

const MIB: u64 = 1 << 20;
/// Reads from here on are held by a gate.
const HELD: u64 = MIB;

/// What calls wait behind until it is opened.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicU64,
}

impl Gate {
    fn wait(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        drop(
            self.opened
                .wait_while(self.open.lock().unwrap(), |open| !*open)
                .unwrap(),
        );
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn wait_for(&self, count: u64) {
        wait_until("calls at the gate", || {
            self.waiting.load(Ordering::SeqCst) == count
        });
    }
}

/// A cold device whose reads from `HELD` on, and whose flushes, wait at a gate.
fn gated() -> (Arc<TestDevice>, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let device = TestDevice::with_hook(4 * MIB, move |call| {
        if matches!(*call, Call::Read { offset, .. } if offset >= HELD) {
            held.wait();
        }
        None
    });
    device.cold.store(true, Ordering::Relaxed);
    device.memory.write_at(&pattern(4 << 20, 1), 0).unwrap();
    (device, gate)
}

fn read(len: u32) -> RequestKind {
    RequestKind::Read {
        len,
        dont_fragment: false,
    }
}

#[test]
fn a_cold_read_holds_up_no_other_request() {
    for style in Style::ALL {
        let (device, gate) = gated();
        let server = TestServer::new(device);
        let mut client = server.raw_client(style);
        client.send(1, HELD, read(512));
        gate.wait_for(1);
        client.send(2, 0, read(512));
        client.send(3, 0, RequestKind::Flush);
        let mut early = [client.expect_chunk().cookie, client.expect_chunk().cookie];
        early.sort_unstable();
        assert_eq!(early, [2, 3], "{style:?}");
        gate.open();
        let late = client.reply();
        assert_eq!(late[0].cookie, 1);
        assert!(late[0].payload == pattern(4 << 20, 1)[1 << 20..][..512]);
    }
}

#[test]
fn more_cold_reads_than_workers_are_all_answered_right() {
    let data = pattern(4 << 20, 1);
    for style in Style::ALL {
        let (device, gate) = gated();
        gate.open();
        let server = TestServer::new(device);
        let mut client = server.client(style);
        let mut offsets = std::collections::HashMap::new();
        for index in 0..100 {
            let offset = index * 40_000;
            // Longer than a piece now and then, to get between the others.
            let len = if index % 10 == 3 {
                (1 << 20) + 4096
            } else {
                512 + u32::try_from(index).unwrap()
            };
            let offset = offset.min(4 * MIB - u64::from(len));
            offsets.insert(
                client.submit(offset, read(len), &[]).unwrap(),
                (offset, len),
            );
        }
        while client.in_flight() > 0 {
            let completion = client.reap().unwrap();
            let (offset, len) = offsets.remove(&completion.cookie).unwrap();
            let at = usize::try_from(offset).unwrap();
            let Ok(Answer::Data(found)) = completion.result else {
                panic!("no data")
            };
            assert!(
                found == data[at..at + len as usize],
                "{style:?}: {offset}+{len}"
            );
        }
        assert!(offsets.is_empty());
        assert_eq!(server.counters().counts().requests, 100);
    }
}

#[test]
fn a_connection_whose_reads_are_stuck_holds_up_no_other() {
    let (device, gate) = gated();
    let server = TestServer::new(device);
    let mut stuck = server.raw_client(Style::Simple);
    for cookie in 1..=40 {
        stuck.send(cookie, HELD, read(512));
    }
    // Half of the workers, and the connection's own thread.
    gate.wait_for(17);
    let mut other = server.client(Style::Structured);
    other.read_at(&mut [0; 4096], 0).unwrap();
    // Half of what is left, and so on.
    let mut second = server.raw_client(Style::Simple);
    for cookie in 1..=40 {
        second.send(cookie, HELD, read(512));
    }
    gate.wait_for(17 + 9);
    gate.open();
    for _ in 1..=40 {
        assert!(stuck.expect_chunk().is_success() && second.expect_chunk().is_success());
    }
}

#[test]
fn a_client_that_never_reads_its_replies_leaves_others_workers() {
    let device = TestDevice::with_hook(4 * MIB, |call| {
        if matches!(*call, Call::Read { offset, .. } if offset >= HELD) {
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    });
    device.cold.store(true, Ordering::Relaxed);
    let server = TestServer::new(device.clone());
    let mut deaf = server.raw_client(Style::Simple);
    for cookie in 1..=200 {
        deaf.send(cookie, 0, read(1 << 20));
    }
    // Until all that it gets are stuck.
    let mut calls = 0;
    loop {
        std::thread::sleep(Duration::from_millis(100));
        match device.take_calls().len() {
            0 if calls > 0 => break,
            count => calls += count,
        }
    }
    assert!(calls < 100, "{calls} replies were sent to nobody");
    let mut other = server.raw_client(Style::Simple);
    let begin = Instant::now();
    for cookie in 1..=8 {
        other.send(cookie, HELD, read(4096));
    }
    for _ in 1..=8 {
        assert!(other.expect_chunk().is_success());
    }
    let took = begin.elapsed();
    assert!(
        took < Duration::from_millis(200),
        "8 reads of 50 ms took {took:?}: they did not wait together"
    );
}

#[test]
fn cold_reads_wait_together() {
    let device = TestDevice::with_hook(MIB, |call| {
        if matches!(call, Call::Read { .. }) {
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    });
    device.cold.store(true, Ordering::Relaxed);
    let server = TestServer::new(device);
    let mut client = server.raw_client(Style::Extended);
    let begin = Instant::now();
    for cookie in 1..=16 {
        client.send(cookie, cookie * 4096, read(4096));
    }
    for _ in 1..=16 {
        assert!(client.expect_chunk().done);
    }
    let took = begin.elapsed();
    assert!(
        took < Duration::from_millis(400),
        "16 reads of 50 ms took {took:?}"
    );
}

#[test]
fn a_slow_flush_holds_up_no_other_request() {
    let gate = Arc::new(Gate::default());
    let held = Arc::clone(&gate);
    let flushes = AtomicU64::new(0);
    let device = TestDevice::with_hook(MIB, move |call| {
        if *call == Call::Flush {
            match flushes.fetch_add(1, Ordering::SeqCst) {
                // From here on it is known to be slow.
                0 => std::thread::sleep(Duration::from_millis(5)),
                _ => held.wait(),
            }
        }
        None
    });
    let server = TestServer::new(device);
    let mut client = server.raw_client(Style::Structured);
    client.send(1, 0, RequestKind::Flush);
    assert!(client.expect_chunk().is_success());
    let mut bytes = client.encode(
        2,
        0,
        RequestKind::Write {
            len: 512,
            fua: true,
        },
    );
    bytes.extend(pattern(512, 2));
    client.send_bytes(&bytes);
    gate.wait_for(1);
    client.send(3, 0, read(512));
    let overtaking = client.reply();
    assert_eq!(
        (overtaking[0].cookie, &overtaking[0].payload),
        (3, &pattern(512, 2))
    );
    gate.open();
    let durable = client.expect_chunk();
    assert!(durable.is_success() && durable.cookie == 2);
}

#[test]
fn a_disconnect_waits_for_what_workers_have_in_hand() {
    let (device, gate) = gated();
    let server = TestServer::new(device);
    let mut client = server.raw_client(Style::Simple);
    client.send(1, HELD, read(512));
    client.send(2, 0, RequestKind::Disconnect);
    gate.wait_for(1);
    std::thread::sleep(Duration::from_millis(20));
    gate.open();
    let reply = client.expect_chunk();
    assert!(reply.cookie == 1 && reply.is_success());
    client.expect_closed();
}

#[test]
fn the_end_of_the_server_waits_for_what_workers_have_in_hand() {
    let (device, gate) = gated();
    let mut server = TestServer::new(device);
    let mut client = server.raw_client(Style::Structured);
    client.send(1, HELD, read(512));
    gate.wait_for(1);
    server.begin_stop();
    wait_until("the socket to go", || !server.socket().exists());
    std::thread::sleep(Duration::from_millis(50));
    assert!(!server.has_stopped());
    gate.open();
    let reply = client.expect_chunk();
    assert!(reply.cookie == 1 && reply.done && reply.payload.len() == 512);
    client.expect_closed();
    server.stop();
}

#[test]
fn an_error_or_a_panic_of_a_worker_is_its_connections_and_nobody_elses() {
    for style in Style::ALL {
        let device = TestDevice::with_hook(MIB, |call| match call {
            Call::Read { offset: 666, .. } => panic!("this panic belongs to a test"),
            Call::Read { offset: 4096, .. } => Some(ErrorKind::Io),
            _ => None,
        });
        device.cold.store(true, Ordering::Relaxed);
        let server = TestServer::new(device);
        let mut other = server.raw_client(style);
        let mut client = server.raw_client(style);
        client.send(1, 4096, read(512));
        assert_eq!(client.reply()[0].errno(), Some(Errno::Io));
        client.send(2, 0, RequestKind::Cache { len: 512 });
        assert!(client.reply()[0].is_success());
        client.send(3, 666, read(512));
        client.expect_closed();
        for cookie in 1..=20 {
            other.send(cookie, 0, read(512));
            assert_eq!(other.reply()[0].payload.len(), 512, "{style:?}");
        }
    }
}
