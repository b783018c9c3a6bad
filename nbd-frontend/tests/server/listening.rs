//! Where a server listens, under which URI it is reached, and what it says of that.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use usnap_nbd::export::{Export, Exports};
use usnap_nbd::proto::client::blocking::Client;
use usnap_nbd::server::{Address, Limits, Listen, Server};

use super::support::{Style, TestDevice, TestServer, pattern};

fn exports() -> Arc<Exports> {
    let first = Export::new("first disk", TestDevice::new(8 << 20)).with_description("the one");
    let second = Export::new("second", TestDevice::new(4 << 20));
    Arc::new(Exports::new(vec![first, second]))
}

fn bind(listen: Listen) -> Server {
    Server::bind(listen, exports(), Limits::default()).unwrap()
}

#[test]
fn over_tcp_everything_is_as_on_a_unix_socket() {
    let server = bind(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))));
    let [Address::Tcp(address)] = server.addresses()[..] else {
        panic!("{:?}", server.addresses())
    };
    assert_ne!(address.port(), 0);
    let uri = format!("nbd://127.0.0.1:{}/second", address.port());
    assert_eq!(server.uri("second"), Some(uri));
    assert_eq!(server.warning(), None);
    let mut server = TestServer::running(server, tempfile::tempdir().unwrap());
    for style in Style::ALL {
        let stream = TcpStream::connect(address).unwrap();
        let mut client = Client::connect(stream, style.options()).unwrap();
        let data = pattern(3 << 20, 1);
        client.write_at(&data, 12_345, true).unwrap();
        let mut read = vec![0; data.len()];
        client.read_at(&mut read, 12_345).unwrap();
        assert!(read == data, "{style:?}");
    }
    server.stop();
    TcpStream::connect(address).unwrap_err();
}

#[test]
fn a_port_that_other_hosts_reach_is_warned_of() {
    for (address, warned) in [
        ("0.0.0.0:0", true),
        ("[::ffff:127.0.0.1]:0", false),
        ("127.0.0.2:0", false),
    ] {
        let server = bind(Listen::Tcp(address.parse().unwrap()));
        let warning = server.warning();
        assert_eq!(warning.is_some(), warned, "{address}: {warning:?}");
    }
}

#[test]
fn the_uri_of_a_unix_socket_names_the_export_and_the_absolute_path() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("a socket");
    let server = bind(Listen::Unix(path.clone()));
    assert_eq!(server.addresses(), [Address::Unix(path.clone())]);
    let escaped = path.to_str().unwrap().replace(' ', "%20");
    let uri = format!("nbd+unix:///first%20disk?socket={escaped}");
    assert_eq!(server.uri("first disk"), Some(uri));
    let default = format!("nbd+unix:///?socket={escaped}");
    assert_eq!(server.uri(""), Some(default));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn each_export_is_found_by_its_name_and_the_first_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::running(bind(Listen::Unix(dir.path().join("nbd"))), dir);
    for (name, size_bytes) in [("", 8 << 20), ("first disk", 8 << 20), ("second", 4 << 20)] {
        let mut options = Style::Extended.options();
        options.export_name = name.to_owned();
        let client = Client::connect(server.stream(), options).unwrap();
        assert_eq!(client.negotiated().size_bytes, size_bytes, "{name:?}");
    }
}

#[test]
fn a_server_that_is_dropped_without_having_run_leaves_no_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd");
    drop(bind(Listen::Unix(path.clone())));
    assert!(!path.exists());
}
