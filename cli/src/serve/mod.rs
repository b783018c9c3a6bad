//! The run of `usnap serve`: open the device, listen, say that we are ready, serve, end in order.
//!
//! The order of the end: the command of `--run` first, since it is a client; then the connections,
//! each with what it has in flight; then the timer; then one last commit, which decides the exit
//! code; then the commands of `--on-space`. A second signal leaves all that undone.

mod activation;
pub(crate) mod address;
mod child;
mod commit_timer;
mod device;
mod memory;
mod parent;
mod pid_file;
mod ready;
mod shell;
mod signals;
mod single;
pub(crate) mod space;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::oneshot;
use usnap_engine::device::BlockDevice as _;
use usnap_engine::{Discard, JournalMode};
use usnap_format::ChunkSize;
use usnap_nbd::export::Exports;
use usnap_nbd::server::{Limits, Server};

pub(crate) use self::activation::activated;
use self::child::RunCommand;
use self::commit_timer::CommitTimer;
pub(crate) use self::device::{Served, never_full};
use self::ready::Ready;
use self::signals::Signals;
use self::space::{OnSpace, Outlook, SpaceWatch};
use crate::control::Control;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};
use crate::report::Report;

/// What is to be served, how and where.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) origin: PathBuf,
    /// COW files between the origin and the changes, the lowest first.
    pub(crate) layers: Vec<PathBuf>,
    /// Serve what was not made for each other.
    pub(crate) force_origin: bool,
    pub(crate) changes: Changes,
    pub(crate) place: Place,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) run: Option<OsString>,
    pub(crate) pid_file: Option<PathBuf>,
    pub(crate) exit_with_parent: bool,
    /// `None`: only flushes commit.
    pub(crate) commit_interval: Option<Duration>,
    pub(crate) max_connections: usize,
    pub(crate) handshake_timeout: Duration,
    pub(crate) on_space: Vec<OnSpace>,
}

/// Where changes go.
#[derive(Debug)]
pub(crate) enum Changes {
    /// To a COW file.
    Cow(CowPlan),
    /// To memory: half of what there is, where no limit is given.
    Memory {
        chunk_size: ChunkSize,
        limit_bytes: Option<u64>,
        discard: Discard,
    },
    /// Nowhere: the export is read-only.
    Refused,
}

impl Changes {
    fn max_bytes(&self) -> Option<u64> {
        match self {
            Self::Cow(cow) => cow.max_bytes,
            Self::Memory { .. } | Self::Refused => None,
        }
    }
}

/// The COW file, and what it is to be if it is not there yet.
#[derive(Debug)]
pub(crate) struct CowPlan {
    pub(crate) path: PathBuf,
    /// `None`: what can never be full.
    pub(crate) size_bytes: Option<u64>,
    /// How long it may become by itself; `None`: it does not grow.
    pub(crate) max_bytes: Option<u64>,
    pub(crate) chunk_size: Option<ChunkSize>,
    pub(crate) label: String,
    pub(crate) read_only: bool,
    pub(crate) adopt: bool,
    pub(crate) every_write: bool,
    pub(crate) discard: Discard,
    pub(crate) journal: JournalMode,
}

/// Where clients connect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A unix socket in a folder of its own.
    Private,
    /// A unix socket at this path.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
    /// The sockets that the service manager passed.
    Activated,
    /// Standard input and output, for one client.
    Single,
}

/// Serves until told to end.
pub(crate) fn run(plan: &Plan) -> Result<ExitCode> {
    if plan.exit_with_parent {
        parent::follow()?;
    }
    if let Some(path) = &plan.pid_file {
        pid_file::refuse_other_files(path)?;
    }
    let served = Served::open(plan)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(serve(plan, &served));
    // After a second signal a commit may still be waiting for the disk; we do not.
    runtime.shutdown_background();
    result
}

async fn serve(plan: &Plan, served: &Served) -> Result<ExitCode> {
    let mut signals = Signals::take().context("cannot take over the signals")?;
    let exports = Arc::new(Exports::new(vec![served.export(plan)]));
    let limits = Limits {
        handshake_timeout: plan.handshake_timeout,
        max_connections: plan.max_connections,
        ..Limits::default()
    };
    let timer = match (served.store(), plan.commit_interval) {
        (Some(store), Some(interval)) => {
            Some(CommitTimer::start(Arc::clone(store), interval).context("cannot start a thread")?)
        }
        _ => None,
    };
    let watch = match served.store().filter(|store| !store.is_read_only()) {
        Some(store) => Some(
            SpaceWatch::start(Arc::clone(store), served.cow(), &plan.on_space)
                .context("cannot start a thread")?,
        ),
        None => None,
    };
    let result = if plan.place == Place::Single {
        single::serve(served, exports, limits, &mut signals).await
    } else {
        let outlook = watch.as_ref().map(SpaceWatch::outlook);
        listen(plan, served, exports, limits, outlook, &mut signals).await
    };
    if signals.interrupted() {
        timer.into_iter().for_each(CommitTimer::abandon);
        return result;
    }
    let committed = signals.or_interrupted(commit(served, timer)).await?;
    if let Some(watch) = watch {
        let ended = tokio::task::spawn_blocking(|| watch.end());
        let ended = signals.or_interrupted(ended).await?;
        ended.context("cannot end the commands of --on-space")?;
    }
    // The first failure is told; a commit that failed is never hidden by a child's success.
    match (result, committed) {
        (Ok(ExitCode::Child(code)), Ok(())) => Ok(ExitCode::Child(code)),
        (Ok(_), Ok(())) => Ok(ExitCode::Success),
        (Err(failure), Ok(())) | (Ok(_), Err(failure)) => Err(failure),
        (Err(failure), Err(second)) => {
            tracing::error!("{second}");
            Err(failure)
        }
    }
}

/// Ends the timer, commits what is left, and closes the store.
async fn commit(served: &Served, timer: Option<CommitTimer>) -> Result<()> {
    let store = served.store().cloned();
    let last = tokio::task::spawn_blocking(move || {
        drop(timer);
        store.map_or(Ok(()), |store| store.close())
    });
    let result = last.await.context("cannot commit what is left")?;
    Ok(result?)
}

async fn listen(
    plan: &Plan,
    served: &Served,
    exports: Arc<Exports>,
    limits: Limits,
    outlook: Option<Outlook>,
    signals: &mut Signals,
) -> Result<ExitCode> {
    let (listen, private) = ready::listen_at(&plan.place)?;
    let server = Server::bind(listen, exports, limits)?;
    if let Some(warning) = server.warning() {
        tracing::warn!("{warning}");
    }
    let control = served.cow().and_then(|cow| match Control::bind(cow) {
        Ok(control) => Some(control),
        Err(error) => {
            tracing::warn!("status can not ask this server: no control socket: {error}");
            None
        }
    });
    let answering = control.map(|control| {
        let store = served.store().cloned();
        let counters = server.counters();
        let max_bytes = plan.changes.max_bytes();
        let report = move || match &store {
            Some(store) => {
                let status = store.report();
                let mut report = Report::live(&status, counters.counts());
                report.cow_limit_bytes = max_bytes.filter(|max| *max > status.cow_size_bytes);
                if let Some(outlook) = &outlook {
                    report.space = Some(outlook.report(&status.space));
                }
                report.to_line()
            }
            None => String::from("{}"),
        };
        tokio::spawn(control.answer(report))
    });
    let ready = Ready::new(plan, &server);
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = tokio::spawn(server.run(async {
        // Dropping the sender is as good as sending.
        let _ = stopped.await;
    }));
    let pid_file = ready.tell(plan)?;

    let mut child = match &plan.run {
        Some(command) => Some(RunCommand::start(command, &ready.variables())?),
        None => None,
    };
    // Clients are served from here on.
    served.keep_new_cow();
    let code = tokio::select! {
        code = wait_for(&mut child) => code,
        () = signals.next() => match &mut child {
            Some(child) => signals.or_interrupted(child.end()).await?,
            None => ExitCode::Success,
        },
        // It has not been told to end: then it could not begin.
        ended = &mut serving => return Err(Failure::from(
            match ended {
                Ok(Err(error)) => anyhow::Error::new(error),
                Ok(Ok(())) => anyhow::anyhow!("cannot go on: the server ended by itself"),
                Err(error) => anyhow::Error::new(error).context("cannot go on"),
            }
        )),
    };
    ready::tell_stopping();
    drop(stop);
    let ended = signals.or_interrupted(&mut serving).await?;
    ended.context("cannot end the server in order")??;
    if let Some(answering) = answering {
        answering.abort();
        // Cancelled, as asked; its socket is removed by then.
        let _ = answering.await;
    }
    drop((pid_file, private));
    Ok(code)
}

/// The end of the command of `--run`; never, where there is none.
async fn wait_for(child: &mut Option<RunCommand>) -> ExitCode {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}
