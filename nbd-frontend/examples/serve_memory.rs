//! Serves memory, or a file, over NBD: the smallest program around the server, for measuring it
//! and for pointing other people's clients at it.
//!
//! `serve_memory WHERE WHAT [read-only]`: WHERE is a socket's path, `tcp:ADDRESS:PORT`,
//! `activated` (`LISTEN_FDS`) or `-` (one client on stdin and stdout); WHAT is a number of bytes
//! or a file's path.

use std::error::Error;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use usnap_engine::device::{BlockDevice, FileDevice, MemDevice, ReadOnlyDevice};
use usnap_nbd::export::{Export, Exports};
use usnap_nbd::server::{Limits, Listen, Server, serve_single};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (place, what, read_only) = match args.as_slice() {
        [place, what] => (place, what, false),
        [place, what, flag] if flag == "read-only" => (place, what, true),
        _ => return Err("usage: serve_memory WHERE WHAT [read-only]".into()),
    };
    let mut device: Arc<dyn BlockDevice> = match what.parse() {
        Ok(size_bytes) => Arc::new(MemDevice::new(size_bytes)),
        Err(_) => Arc::new(FileDevice::open_read_write(Path::new(what))?),
    };
    if read_only {
        device = Arc::new(ReadOnlyDevice::new(device));
    }
    let export = Export::new("", device).with_description("an example");
    let exports = Arc::new(Exports::new(vec![export]));
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let shutdown = async move {
                terminate.recv().await;
            };
            let listen = match place.as_str() {
                "-" => {
                    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
                    let output = std::io::stdout().as_fd().try_clone_to_owned()?;
                    serve_single(input, output, exports, Limits::default(), shutdown).await?;
                    return Ok(());
                }
                "activated" => Listen::Activated,
                place => match place.strip_prefix("tcp:") {
                    Some(address) => Listen::Tcp(address.parse()?),
                    None => Listen::Unix(place.into()),
                },
            };
            let server = Server::bind(listen, exports, Limits::default())?;
            if let Some(uri) = server.uri("") {
                println!("{uri}");
            }
            server.run(shutdown).await?;
            Ok(())
        })
}
