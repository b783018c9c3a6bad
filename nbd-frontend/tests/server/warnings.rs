//! What whoever runs the server has to know is in its log, and clients can't fill it.

use std::io::Read;

use usnap_engine::ErrorKind;
use usnap_nbd::proto::Errno;
use usnap_nbd::proto::client::blocking::ClientError;
use usnap_nbd::server::Limits;

use super::support::{
    Call, Style, TestDevice, TestServer, collect_warnings, pattern, wait_until, warnings_with,
};

const MIB: u64 = 1 << 20;

#[test]
fn connections_turned_away_are_warned_of_once_with_the_option_that_helps() {
    collect_warnings();
    // No other test has such a limit.
    let limits = Limits {
        max_connections: 7,
        ..Limits::default()
    };
    let server = TestServer::with_limits(TestDevice::new(MIB), limits);
    let clients: Vec<_> = (0..7).map(|_| server.client(Style::Simple)).collect();
    for _ in 0..20 {
        let mut rest = Vec::new();
        assert_eq!(server.stream().read_to_end(&mut rest).unwrap(), 0);
    }
    wait_until("all to be turned away", || {
        server.counters().counts().turned_away == 20
    });
    let warnings = warnings_with("limit=7");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("WARN"), "{warnings:?}");
    assert!(warnings[0].contains("--max-connections"), "{warnings:?}");
    drop(clients);
}

#[test]
fn a_full_device_is_warned_of_once_for_all_connections_with_what_to_do() {
    collect_warnings();
    // No other test writes there.
    const OFFSET: u64 = 987_654;
    let device = TestDevice::with_hook(MIB, |call| {
        matches!(*call, Call::Write { offset: OFFSET, .. }).then_some(ErrorKind::NoSpace)
    });
    let server = TestServer::new(device);
    for style in Style::ALL {
        let mut client = server.client(style);
        for _ in 0..10 {
            let error = client
                .write_at(&pattern(512, 1), OFFSET, false)
                .unwrap_err();
            let ClientError::Refused(refusal) = error else {
                panic!("{error}")
            };
            assert_eq!(refusal.errno, Errno::NoSpc);
            client.write_at(&pattern(512, 1), 0, false).unwrap();
        }
        // What the client did wrong is none of the device's.
        client.write_at(&pattern(512, 1), MIB, false).unwrap_err();
    }
    let warnings = warnings_with("offset: 987654");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("WARN"), "{warnings:?}");
    for part in ["the COW device is full", "was made to fail", "make room"] {
        assert!(warnings[0].contains(part), "{part}: {warnings:?}");
    }
}
