//! An NBD server that is as bad as a test wants: simple replies, a disk in memory.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;

const DISK_BYTES: usize = 4 << 20;
/// So many requests are answered well before it misbehaves.
const GOOD: u32 = 10;

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    WrongCookie,
    AnswersTwice,
    WrongMagic,
    Refuses,
    Closes,
    IsSilent,
    ClosesAtOnce,
    IsSilentAtOnce,
    /// Loses a bit of some block.
    Corrupts,
}

/// A server on a thread, which ends with the test.
pub(crate) struct Double {
    socket: PathBuf,
}

impl Double {
    pub(crate) fn start(socket: &Path, manner: Manner) -> Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let disk = Arc::new(Mutex::new(vec![0; DISK_BYTES]));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let disk = Arc::clone(&disk);
                // The end of a connection is what a test is about, not an error of its own.
                thread::spawn(move || drop(serve(stream, manner, &disk)));
            }
        });
        Ok(Self {
            socket: socket.to_owned(),
        })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

fn receive<const LEN: usize>(stream: &mut UnixStream) -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn option_reply(stream: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut reply = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
    reply.extend(option.to_be_bytes());
    reply.extend(kind.to_be_bytes());
    reply.extend(u32::try_from(data.len()).unwrap_or(0).to_be_bytes());
    reply.extend(data);
    stream.write_all(&reply)
}

fn handshake(stream: &mut UnixStream) -> io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    receive::<4>(stream)?;
    loop {
        receive::<8>(stream)?;
        let option = u32::from_be_bytes(receive(stream)?);
        let len = u32::from_be_bytes(receive(stream)?);
        let mut data = vec![0; usize::try_from(len).unwrap_or(0)];
        stream.read_exact(&mut data)?;
        if option != 7 {
            // NBD_REP_ERR_UNSUP.
            option_reply(stream, option, 0x8000_0001, &[])?;
            continue;
        }
        // NBD_INFO_EXPORT: the size, and flags: has flags, flush, trim, write zeroes.
        let mut info = vec![0, 0];
        info.extend((DISK_BYTES as u64).to_be_bytes());
        info.extend(0b110_0101_u16.to_be_bytes());
        option_reply(stream, option, 3, &info)?;
        return option_reply(stream, option, 1, &[]);
    }
}

fn serve(mut stream: UnixStream, manner: Manner, disk: &Mutex<Vec<u8>>) -> io::Result<()> {
    if manner == Manner::ClosesAtOnce {
        return Ok(());
    }
    if manner == Manner::IsSilentAtOnce {
        receive::<1>(&mut stream)?;
    }
    handshake(&mut stream)?;
    for number in 0_u32.. {
        let header = receive::<28>(&mut stream)?;
        let field = |at: usize, len: usize| {
            let bytes = header.iter().skip(at).take(len);
            bytes.fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let (command, offset, len) = (field(6, 2), field(16, 8), field(24, 4));
        let range =
            usize::try_from(offset).unwrap_or(0)..usize::try_from(offset + len).unwrap_or(0);
        let mut cookie: [u8; 8] = header[8..16].try_into().unwrap_or_default();
        let mut disk = disk.lock().unwrap_or_else(PoisonError::into_inner);
        let mut magic = 0x6744_6698_u32;
        let (mut error, mut copies) = (0_u32, 1);
        match (manner, number > GOOD) {
            (Manner::Closes, true) => return Ok(()),
            (Manner::IsSilent, true) => continue,
            (Manner::WrongCookie, true) => cookie[0] ^= 0x80,
            (Manner::AnswersTwice, true) => copies = 2,
            (Manner::WrongMagic, true) => magic ^= 1,
            (Manner::Refuses, true) => error = 5,
            _ => {}
        }
        let mut data: Vec<u8> = Vec::new();
        match command {
            0 if error == 0 => data.extend(&disk[range]),
            1 => {
                stream.read_exact(&mut disk[range.clone()])?;
                if manner == Manner::Corrupts && number % 64 == 63 {
                    disk[range.end - 1] ^= 4;
                }
            }
            2 => return Ok(()),
            _ => {}
        }
        let mut reply = magic.to_be_bytes().to_vec();
        reply.extend(error.to_be_bytes());
        reply.extend(cookie);
        reply.extend(data);
        stream.write_all(&reply.repeat(copies))?;
    }
    Ok(())
}
