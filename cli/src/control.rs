//! The control socket of a running server: a unix socket named by the COW's device and inode, in a
//! folder that only its owner can enter. Whoever connects sends one line, a word, and is answered
//! with one line of JSON.

use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net as std_unix;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::private_dir;

/// How long either side waits for the other. Both are on this machine, and neither computes.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longer than any word we know; a peer that sends more is not ours.
const MAX_REQUEST_BYTES: u64 = 64;
/// Longer than any answer we give.
const MAX_ANSWER_BYTES: usize = 1 << 16;
/// The word that asks for the live report.
const STATUS: &str = "status";

/// A bound control socket; removed when dropped.
pub(crate) struct Control {
    listener: std_unix::UnixListener,
    path: PathBuf,
}

impl Control {
    /// Binds the control socket of the COW file `cow`. The caller holds the lock on the COW, so a
    /// socket that is there already is one that a killed server left behind.
    pub(crate) fn bind(cow: &Path) -> io::Result<Self> {
        let name = socket_name(cow)?;
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for dir in private_dir::control_dirs() {
            match private_dir::ensure(&dir).and_then(|()| Self::bind_at(dir.join(&name))) {
                Ok(control) => return Ok(control),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn bind_at(path: PathBuf) -> io::Result<Self> {
        // A full queue is that of a server that was stopped; it is alive all the same.
        if !matches!(connect(&path), Err(error) if error.kind() != io::ErrorKind::WouldBlock) {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("another server listens on {}", path.display()),
            ));
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = std_unix::UnixListener::bind(&path)?;
        let control = Self { listener, path };
        std::fs::set_permissions(&control.path, std::fs::Permissions::from_mode(0o600))?;
        control.listener.set_nonblocking(true)?;
        Ok(control)
    }

    /// Answers with what `report` returns, one peer after the other, until dropped.
    pub(crate) async fn answer(self, report: impl Fn() -> String) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        loop {
            let (stream, _) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely; asking again at once would spin.
                    tracing::debug!("cannot accept on the control socket: {error}");
                    tokio::time::sleep(PATIENCE).await;
                    continue;
                }
            };
            match timeout(PATIENCE, answer_one(stream, &report)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("control socket: {error}"),
                Err(_) => tracing::debug!("control socket: the peer did not ask in time"),
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A file that stays behind is replaced by the next server.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer_one(stream: UnixStream, report: impl Fn() -> String) -> io::Result<()> {
    let mut stream = tokio::io::BufReader::new(stream);
    let mut word = String::new();
    (&mut stream)
        .take(MAX_REQUEST_BYTES)
        .read_line(&mut word)
        .await?;
    let mut answer = match word.trim_end() {
        STATUS => report(),
        _ => r#"{"error":"unknown request"}"#.to_owned(),
    };
    answer.push('\n');
    stream.get_mut().write_all(answer.as_bytes()).await
}

/// Asks the server that serves `cow` for its report; `None` when none answers.
pub(crate) fn ask(cow: &Path) -> Option<String> {
    let name = socket_name(cow).ok()?;
    let dirs = private_dir::control_dirs();
    // A folder that others can enter may hold anybody's socket.
    let ours = dirs
        .iter()
        .filter(|dir| private_dir::is_private(dir).unwrap_or(false));
    ours.map(|dir| dir.join(&name))
        .find_map(|path| ask_at(&path).ok())
}

fn ask_at(path: &Path) -> io::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut stream = connect(path)?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    writeln!(stream, "{STATUS}")?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while answer.last() != Some(&b'\n') {
        // Each read gets only what is left: an answer in drops is none.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        let len = match stream.read(&mut piece) {
            // With a time limit the system does not read on after a signal.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        if len == 0 || answer.len() > MAX_ANSWER_BYTES {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend(piece.iter().take(len));
    }
    String::from_utf8(answer).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Connects, or fails at once: where a server was stopped, its queue fills, and to wait for room
/// in it is to wait until it goes on.
fn connect(path: &Path) -> io::Result<std_unix::UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// The same for every name that the file has, and for no other file while this one is open.
fn socket_name(cow: &Path) -> io::Result<String> {
    let metadata = std::fs::metadata(cow)?;
    Ok(format!("{:x}-{:x}.socket", metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn the_answer_is_what_the_server_reports() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let control = Control::bind_at(path.clone()).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let asker = std::thread::spawn({
            let path = path.clone();
            move || ask_at(&path).unwrap()
        });
        runtime().block_on(async {
            let served = control.answer(|| "{\"live\":true}".to_owned());
            let waited = tokio::task::spawn_blocking(move || asker.join().unwrap());
            tokio::select! {
                result = served => panic!("the control socket ended: {result:?}"),
                answer = waited => assert_eq!(answer.unwrap(), "{\"live\":true}\n"),
            }
        });
        assert!(!path.exists(), "the socket is removed");
    }

    #[test]
    fn a_live_servers_socket_is_not_taken_and_a_dead_ones_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let live = Control::bind_at(path.clone()).unwrap();
        assert!(Control::bind_at(path.clone()).is_err());
        let Control { listener, .. } = &live;
        drop(listener.try_clone().unwrap());
        drop(live);
        drop(std_unix::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Control::bind_at(path).unwrap());
    }

    #[test]
    fn a_stopped_servers_full_queue_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _stopped = std_unix::UnixListener::bind(&path).unwrap();
        let begun = Instant::now();
        let mut waiting = Vec::new();
        while let Ok(stream) = connect(&path) {
            waiting.push(stream);
        }
        assert_eq!(ask_at(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let refused = Control::bind_at(path.clone()).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        assert!(path.exists(), "a living server's socket was removed");
    }

    #[test]
    fn an_answer_in_drops_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = std_unix::UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(PATIENCE / 8);
            }
        });
        let begun = Instant::now();
        let kind = ask_at(&path).unwrap_err().kind();
        assert!(
            matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock),
            "{kind:?}"
        );
        assert!(begun.elapsed() < PATIENCE * 2, "{:?}", begun.elapsed());
    }

    #[test]
    fn nobody_answers_for_a_file_that_is_not_served() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(ask(file.path()).is_none());
    }
}
