//! The handshake. Three ways, chosen by the first byte: a client's bytes for the server, a server's
//! bytes for the client, and the two with each other over a line that cuts where it likes.

use usnap_nbd::proto::client::{ClientHandshake, ClientOptions, ClientProgress};
use usnap_nbd::proto::{
    Catalog, ExportInfo, Features, Handshake, HandshakeLimits, Negotiated, Progress, ReplyStyle,
};

use crate::input::Input;

const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Two exports, of which one is the default.
struct Exports(Vec<ExportInfo>);

impl Exports {
    fn new() -> Self {
        let plain = ExportInfo::new("disk", 1 << 20);
        let full = ExportInfo {
            can_flush: true,
            can_fua: true,
            can_trim: true,
            can_write_zeroes: true,
            description: Some("all it can".to_owned()),
            ..ExportInfo::new("other", 12345)
        };
        Self(vec![plain, full])
    }
}

impl Catalog for Exports {
    fn export(&self, name: &str) -> Option<ExportInfo> {
        let wanted = |export: &&ExportInfo| name.is_empty() || export.name == name;
        self.0.iter().find(wanted).cloned()
    }

    fn list(&self) -> Vec<(String, Option<String>)> {
        let entry = |export: &ExportInfo| (export.name.clone(), export.description.clone());
        self.0.iter().map(entry).collect()
    }
}

fn server(input: &mut Input<'_>) -> Handshake {
    let limits = HandshakeLimits {
        max_option_bytes: 64 + u32::from(input.u16()),
        max_options: 1 + u32::from(input.u8()),
        max_name: u32::from(input.u8()),
    };
    let features = Features {
        structured_replies: input.flag(),
        extended_headers: input.flag(),
        meta_contexts: input.flag(),
    };
    let mut handshake = Handshake::new(limits, features);
    if input.u8() == 255 {
        handshake.set_shutdown();
    }
    handshake
}

/// Feeds `bytes` in pieces, as a socket would; what was said, how it ended, and how much was used.
fn feed(
    mut handshake: Handshake,
    bytes: &[u8],
    mut piece: impl FnMut() -> usize,
) -> (Vec<u8>, Progress, usize) {
    let (mut out, mut used, mut have) = (Vec::new(), 0, 0);
    loop {
        have = (have + piece().max(1)).min(bytes.len());
        let input = &bytes[used..have];
        let (taken, progress) = handshake.receive(&Exports::new(), input, &mut out);
        assert!(taken <= input.len());
        used += taken;
        if progress != Progress::NeedMore {
            let (taken, after) = handshake.receive(&Exports::new(), &bytes[used..], &mut out);
            assert!(
                taken == 0 && matches!(after, Progress::Closed(_)),
                "it is over"
            );
            return (out, progress, used);
        }
        if have == bytes.len() {
            return (out, progress, used);
        }
    }
}

fn be(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// Reads the server's output as a client would: option replies, one final for each option.
fn assert_replies_are_whole(mut out: &[u8], is_export_name: bool) {
    while out.len() >= 20 && be(&out[..8]) == REPLY_MAGIC {
        let len = usize::try_from(be(&out[16..20])).expect("32 bits");
        assert!(out.len() >= 20 + len, "a reply is cut");
        out = &out[20 + len..];
    }
    // What EXPORT_NAME is answered with has no magic: size, flags, and zeroes or not.
    let tail = if is_export_name {
        [10, 134].contains(&out.len())
    } else {
        out.is_empty()
    };
    assert!(tail, "{} bytes that are no reply", out.len());
}

fn assert_sensible(negotiated: &Negotiated) {
    assert!(
        Exports::new()
            .0
            .iter()
            .any(|e| e.name == negotiated.export.name)
    );
    let extended = negotiated.reply_style == ReplyStyle::Extended;
    assert!(negotiated.header_len() == if extended { 32 } else { 28 });
    assert!(negotiated.reply_style.has_chunks() || negotiated.contexts.is_empty());
    let sizes = negotiated.export.block_sizes();
    assert!(sizes.minimum.is_power_of_two() && sizes.preferred.is_power_of_two());
    assert!(sizes.minimum <= sizes.preferred);
}

fn client_bytes(mut input: Input<'_>) -> &'static str {
    let seed = input.u8();
    let make = {
        let settings = input.bytes(8);
        move || server(&mut Input::new(settings))
    };
    let bytes = input.rest();
    let (out, progress, used) = feed(make(), bytes, || bytes.len());
    let mut random = u32::from(seed);
    let pieces = || {
        random = random.wrapping_mul(1_103_515_245).wrapping_add(12345);
        (random >> 16) as usize % 23
    };
    let split = feed(make(), bytes, pieces);
    // Many options sent at once are cut off by how much their answers are together.
    let is_long = out.len() > 1 << 20 || split.0.len() > 1 << 20;
    assert!(
        is_long || split == (out.clone(), progress.clone(), used),
        "depends on the split"
    );
    let is_export_name =
        matches!(progress, Progress::Transmission(_)) && out.len() >= 10 && !ends_with_ack(&out);
    assert_replies_are_whole(&out, is_export_name);
    match progress {
        Progress::NeedMore => "server wants more",
        Progress::Closed(_) => "server closed",
        Progress::Transmission(negotiated) => {
            assert_sensible(&negotiated);
            "server ready"
        }
    }
}

/// Whether the last reply is an empty ACK, which GO ends with.
fn ends_with_ack(out: &[u8]) -> bool {
    out.len() >= 20
        && be(&out[out.len() - 20..][..8]) == REPLY_MAGIC
        && be(&out[out.len() - 8..]) == 1 << 32
}

fn client_options(input: &mut Input<'_>) -> ClientOptions {
    let contexts = ["base:allocation", "qemu:allocation-depth", "x:y"];
    let wanted = input.u8();
    let chosen = (0..3).filter(|i| wanted >> i & 1 == 1);
    ClientOptions {
        export_name: ["", "disk", "other", "none"][usize::from(input.u8() % 4)].to_owned(),
        structured: input.flag(),
        extended: input.flag(),
        contexts: chosen.map(|i| contexts[i].to_owned()).collect(),
        use_go: input.flag(),
    }
}

fn server_bytes(mut input: Input<'_>) -> &'static str {
    let mut client = ClientHandshake::new(client_options(&mut input));
    let mut bytes = Vec::new();
    if input.flag() {
        bytes.extend_from_slice(b"NBDMAGICIHAVEOPT\0\x03");
    }
    bytes.extend_from_slice(input.rest());
    let mut out = Vec::new();
    let mut used = 0;
    for have in 0..=bytes.len() {
        let (taken, progress) = client.receive(&bytes[used..have], &mut out);
        used += taken;
        assert!(used <= have);
        match progress {
            ClientProgress::NeedMore => {}
            ClientProgress::Ready(_) => return "client ready",
            ClientProgress::Failed(_) => return "client failed",
        }
        assert!(out.len() < 1 << 20, "talks without end");
    }
    "client wants more"
}

/// Our client and our server: whatever both can do, they find it, however the line cuts.
fn both(mut input: Input<'_>) -> &'static str {
    let options = client_options(&mut input);
    let limits = HandshakeLimits::default();
    let features = Features {
        structured_replies: input.flag(),
        extended_headers: input.flag(),
        meta_contexts: input.flag(),
    };
    let (mut server, mut client) = (
        Handshake::new(limits, features),
        ClientHandshake::new(options.clone()),
    );
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    server.greeting(&mut to_client);
    let (mut at_server, mut at_client) = (None, None);
    for _ in 0..10_000 {
        let piece = 1 + usize::from(input.u8() % 60);
        if at_client.is_none() && !to_client.is_empty() {
            let piece = piece.min(to_client.len());
            // The whole of what is there if a piece of it holds no message.
            for len in [piece, to_client.len()] {
                let (taken, progress) = client.receive(&to_client[..len], &mut to_server);
                to_client.drain(..taken);
                match progress {
                    ClientProgress::NeedMore if taken == 0 => continue,
                    ClientProgress::NeedMore => {}
                    ended => at_client = Some(ended),
                }
                break;
            }
        }
        if at_server.is_none() && !to_server.is_empty() {
            let exports = Exports::new();
            let (taken, progress) = server.receive(&exports, &to_server, &mut to_client);
            to_server.drain(..taken);
            if progress != Progress::NeedMore {
                at_server = Some(progress);
            }
        }
        let server_left = at_server.is_some() && to_client.is_empty();
        if at_client.is_some() || server_left {
            break;
        }
    }
    let found = Exports::new().export(&options.export_name);
    match (at_client, at_server, found) {
        (Some(ClientProgress::Ready(client)), Some(Progress::Transmission(server)), Some(_)) => {
            assert!(client.size_bytes == server.export.size_bytes);
            assert!(client.reply_style == server.reply_style);
            assert!(client.flags == server.transmission_flags());
            assert!(client.contexts.len() == server.contexts.len());
            "both ready"
        }
        (Some(ClientProgress::Failed(_)), _, None) => "both know that there is none",
        // EXPORT_NAME has no other answer.
        (None, Some(Progress::Closed(_)), None) => "server closed",
        (client, server, found) => panic!("{client:?}, {server:?}, {found:?}"),
    }
}

/// Plays a handshake.
///
/// # Panics
/// Where what is said depends on how it was cut, is no reply, or makes no sense.
pub fn nbd_handshake(data: &[u8]) -> &'static str {
    let mut input = Input::new(data);
    match input.u8() % 4 {
        0 | 1 => client_bytes(input),
        2 => server_bytes(input),
        _ => both(input),
    }
}
