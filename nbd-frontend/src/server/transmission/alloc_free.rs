//! A thousand reads, writes and flushes allocate nothing once a connection is set up.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice};

use super::{End, Transmission};
use crate::export::{Chosen, Export, Exports};
use crate::proto::consts::{CMD_FLAG_FUA, CMD_FLUSH, CMD_READ, CMD_WRITE, REQUEST_MAGIC};
use crate::proto::{Catalog, ExportInfo, MetaContexts, Negotiated, ReplyStyle};
use crate::server::Limits;
use crate::server::channel::Channel;
use crate::server::connection::Connection;
use crate::server::sender::Sender;
use crate::server::shared::Shared;

fn request(command: u16, flags: u16, index: u32, len: u32) -> Vec<u8> {
    let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(u64::from(index).to_be_bytes());
    let offset = if command == CMD_FLUSH {
        0
    } else {
        u64::from(index) * 512
    };
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

#[test]
fn reads_writes_and_flushes_allocate_nothing() {
    let device: Arc<dyn BlockDevice> = Arc::new(MemDevice::from_bytes(&[7; 4 << 20]));
    let info = ExportInfo {
        can_fua: true,
        can_flush: true,
        ..ExportInfo::new("", 4 << 20)
    };
    let exports = Arc::new(Exports::new(vec![Export::new("disk", device)]));
    let chosen = Chosen::new(&exports);
    assert!(chosen.export("disk").is_some());
    let offered = chosen.into_last().unwrap();
    for style in [ReplyStyle::Simple, ReplyStyle::Structured] {
        let negotiated = Negotiated::new(info.clone(), style, MetaContexts::NONE, true);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let channel = Arc::new(Channel::socket(ours.into()));
        let shared = Shared::new(Arc::clone(&exports), Limits::default());
        let mut receiving = theirs.try_clone().unwrap();
        let reader =
            std::thread::spawn(move || std::io::copy(&mut receiving, &mut std::io::sink()));
        let writer = std::thread::spawn(move || {
            let mut sending = theirs;
            for index in 0..1000 {
                let len = [512, 4096, 65536, 300_000][index as usize % 4];
                sending
                    .write_all(&request(CMD_READ, 0, index, len))
                    .unwrap();
                let fua = if index % 10 == 0 { CMD_FLAG_FUA } else { 0 };
                sending
                    .write_all(&request(CMD_WRITE, fua, index, len))
                    .unwrap();
                sending.write_all(&vec![9; len as usize]).unwrap();
                if index % 50 == 0 {
                    sending.write_all(&request(CMD_FLUSH, 0, index, 0)).unwrap();
                }
            }
            sending.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let connection = Arc::new(Connection::new(&shared, 1, &channel, &negotiated, &offered));
        let mut sender = Sender::new();
        let transmission =
            Transmission::new(&shared, &connection, &negotiated, &mut sender, &[]).unwrap();
        let mut end = None;
        let allocations = allocation_counter::measure(|| end = Some(transmission.run()));
        assert!(matches!(end, Some(End::Closed)), "{end:?}");
        assert_eq!(shared.counters.counts().requests, 2020);
        assert_eq!(allocations.count_total, 0, "{style:?}: {allocations:?}");
        writer.join().unwrap();
        drop((shared, channel, connection));
        assert!(reader.join().unwrap().unwrap() > 1000 * 512);
    }
}
