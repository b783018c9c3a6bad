//! TCP addresses as people type them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The port registered for NBD.
const NBD_PORT: u16 = 10809;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Reads `ADDR:PORT`, `ADDR` or `:PORT`; names are not looked up, but for `localhost`.
///
/// # Errors
/// Says what is expected.
pub(crate) fn parse(text: &str) -> Result<SocketAddr, String> {
    let expected = || "not an address: ADDR:PORT, ADDR or :PORT, with an IP address".to_owned();
    let text = match text.strip_prefix("localhost") {
        Some(rest) if rest.is_empty() || rest.starts_with(':') => format!("127.0.0.1{rest}"),
        _ => text.to_owned(),
    };
    if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::new(LOOPBACK, port));
    }
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(&text);
    bare.parse()
        .map(|ip| SocketAddr::new(ip, NBD_PORT))
        .map_err(|_| expected())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn addresses_are_read_with_loopback_and_the_nbd_port_as_defaults() {
        let table = [
            ("127.0.0.1:10810", "127.0.0.1:10810"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("[::1]:5", "[::1]:5"),
            (":5", "127.0.0.1:5"),
            ("127.0.0.2", "127.0.0.2:10809"),
            ("::1", "[::1]:10809"),
            ("[::1]", "[::1]:10809"),
            ("localhost", "127.0.0.1:10809"),
            ("localhost:7", "127.0.0.1:7"),
        ];
        for (text, address) in table {
            assert_eq!(parse(text), Ok(address.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            ":",
            "5",
            "example.org:5",
            "127.0.0.1:",
            ":70000",
            "localhostess:5",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
