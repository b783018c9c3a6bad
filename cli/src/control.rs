//! The control socket of a running server: a unix socket named by the device and inode of the file
//! it is about (a COW, or an origin served with its snapshots), in a folder that only its owner can
//! enter. Whoever connects sends one line, a word or JSON, and is answered with one line of JSON.

use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net as std_unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::private_dir;

/// How long either side waits for the other to send. Both are on this machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// Longer than any request we know: a path and a name, each character of which JSON may write as
/// six; a peer that sends more is not ours.
const MAX_REQUEST_BYTES: u64 = 1 << 16;
/// Longer than any answer we give: 1000 snapshots whose names and paths are long.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// How many peers are answered at once: some wait for a disk.
const PEERS: usize = 8;
/// The word that asks for the live report.
pub(crate) const STATUS: &str = "status";

/// A bound control socket; removed when dropped.
pub(crate) struct Control {
    listener: std_unix::UnixListener,
    path: SocketPath,
}

/// A control socket that is answered on; nobody is answered any more when it is dropped.
pub(crate) struct Answering {
    task: JoinHandle<()>,
    _path: SocketPath,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The path of a socket; removed when dropped.
struct SocketPath(PathBuf);

impl Drop for SocketPath {
    fn drop(&mut self) {
        // A file that stays behind is replaced by the next server.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Control {
    /// Binds the control socket of `file`, a COW or an origin. The caller holds the lock on it, so a
    /// socket that is there already is one that a killed server left behind.
    pub(crate) fn bind(file: &Path) -> io::Result<Self> {
        let name = socket_name(file)?;
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
        let path = SocketPath(path);
        std::fs::set_permissions(&path.0, std::fs::Permissions::from_mode(0o600))?;
        let control = Self { listener, path };
        control.listener.set_nonblocking(true)?;
        Ok(control)
    }

    /// Answers each request with what `respond` returns, until what is returned is dropped; `None`
    /// is a request that it does not know. It is called on a thread where it may take its time.
    /// Must be called on a tokio runtime.
    pub(crate) fn answer(
        self,
        respond: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> io::Result<Answering> {
        let listener = UnixListener::from_std(self.listener)?;
        let respond: Arc<Respond> = Arc::new(respond);
        Ok(Answering {
            task: tokio::spawn(accept(listener, respond)),
            _path: self.path,
        })
    }
}

/// What is answered to a request.
type Respond = dyn Fn(&str) -> Option<String> + Send + Sync;

async fn accept(listener: UnixListener, respond: Arc<Respond>) {
    let peers = Arc::new(Semaphore::new(PEERS));
    loop {
        // Fails only if the semaphore was closed, which nobody does.
        let place = Arc::clone(&peers).acquire_owned().await;
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely; asking again at once would spin.
                tracing::debug!("cannot accept on the control socket: {error}");
                tokio::time::sleep(PATIENCE).await;
                continue;
            }
        };
        let respond = Arc::clone(&respond);
        tokio::spawn(async move {
            if let Err(error) = answer_one(stream, respond).await {
                tracing::debug!("control socket: {error}");
            }
            drop(place);
        });
    }
}

async fn answer_one(stream: UnixStream, respond: Arc<Respond>) -> io::Result<()> {
    let mut stream = tokio::io::BufReader::new(stream);
    let mut request = String::new();
    let mut limited = (&mut stream).take(MAX_REQUEST_BYTES);
    timeout(PATIENCE, limited.read_line(&mut request)).await??;
    let respond = move || match request.strip_suffix('\n') {
        Some(request) => respond(request),
        // Cut off, by the peer or by the limit.
        None => None,
    };
    let answer = tokio::task::spawn_blocking(respond).await?;
    let mut answer = answer.unwrap_or_else(|| r#"{"error":"unknown request"}"#.to_owned());
    answer.push('\n');
    timeout(PATIENCE, stream.get_mut().write_all(answer.as_bytes())).await?
}

/// Asks the server of `file`, a COW or an origin, for its report; `None` when none answers.
pub(crate) fn ask(file: &Path) -> Option<String> {
    request(file, STATUS, PATIENCE).ok()
}

/// Asks every server of this user for its report; where each answered, and what.
pub(crate) fn ask_all() -> Vec<(PathBuf, String)> {
    let dirs = private_dir::control_dirs();
    // A folder that others can enter may hold anybody's socket.
    let ours = dirs
        .iter()
        .filter(|dir| private_dir::is_private(dir).unwrap_or(false));
    let entries = ours.filter_map(|dir| std::fs::read_dir(dir).ok()).flatten();
    let sockets = entries.flatten().map(|entry| entry.path());
    let sockets = sockets.filter(|path| path.extension().is_some_and(|end| end == "socket"));
    sockets
        .filter_map(|path| ask_at(&path).map(|answer| (path, answer)))
        .collect()
}

/// Asks the server with that control socket for its report; `None` when it does not answer.
pub(crate) fn ask_at(socket: &Path) -> Option<String> {
    request_at(socket, STATUS, PATIENCE).ok()
}

/// Sends a line to the server of `file` and returns its answer, if that comes in time.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` where there is no server.
pub(crate) fn request(file: &Path, line: &str, patience: Duration) -> io::Result<String> {
    let name = socket_name(file)?;
    let dirs = private_dir::control_dirs();
    // A folder that others can enter may hold anybody's socket.
    let ours = dirs
        .iter()
        .filter(|dir| private_dir::is_private(dir).unwrap_or(false));
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for dir in ours {
        match request_at(&dir.join(&name), line, patience) {
            Ok(answer) => return Ok(answer),
            // What a server answered counts more than that another folder has none.
            Err(error) if failure.kind() == io::ErrorKind::NotFound => failure = error,
            Err(_) => {}
        }
    }
    Err(failure)
}

fn request_at(path: &Path, line: &str, patience: Duration) -> io::Result<String> {
    let deadline = Instant::now() + patience;
    let mut stream = connect(path)?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(patience))?;
    // In one piece: the other side waits for the end of it only so long.
    stream.write_all(format!("{line}\n").as_bytes())?;
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
fn socket_name(file: &Path) -> io::Result<String> {
    let metadata = std::fs::metadata(file)?;
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
            move || {
                let ask = |line: &str| request_at(&path, line, PATIENCE).unwrap();
                [ask(STATUS), ask("nonsense"), ask(&"x".repeat(1 << 16))]
            }
        });
        runtime().block_on(async {
            let answering =
                control.answer(|request| (request == STATUS).then(|| "{\"live\":true}".to_owned()));
            let waited = tokio::task::spawn_blocking(move || asker.join().unwrap());
            let unknown = "{\"error\":\"unknown request\"}\n";
            let expected = ["{\"live\":true}\n", unknown, unknown];
            assert_eq!(waited.await.unwrap(), expected);
            drop(answering);
        });
        assert!(!path.exists(), "the socket is removed");
    }

    #[test]
    fn a_request_that_takes_its_time_holds_up_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let control = Control::bind_at(path.clone()).unwrap();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        runtime().block_on(async {
            let _answering = control.answer(move |request| {
                if request == "slow" {
                    _ = held.lock().unwrap().recv();
                }
                Some(request.to_owned())
            });
            let ask = |line: &'static str| {
                let path = path.clone();
                tokio::task::spawn_blocking(move || request_at(&path, line, 5 * PATIENCE).unwrap())
            };
            let slow = ask("slow");
            assert_eq!(ask("quick").await.unwrap(), "quick\n");
            release.send(()).unwrap();
            assert_eq!(slow.await.unwrap(), "slow\n");
        });
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
        let kind = request_at(&path, STATUS, PATIENCE).unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::WouldBlock);
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
        let kind = request_at(&path, STATUS, PATIENCE).unwrap_err().kind();
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
