//! The life of a server: open what is offered, listen, say that we are ready, serve, end in order.
//!
//! The order of the end: the command of `--run` first, since it is a client; then the connections,
//! each with what it has in flight; then the timers; then one last commit, which decides the exit
//! code; then the commands of `--on-space`. A second signal leaves all that undone.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::oneshot;
use usnap_nbd::export::Exports;
use usnap_nbd::server::{Address, Counters, Limits, Server};

use super::child::RunCommand;
use super::ready::{self, Ready};
use super::signals::Signals;
use super::{Place, Service, parent, pid_file, single};
use crate::control::Answering;
use crate::exit_code::ExitCode;
use crate::failure::{Failure, Result};

/// What is offered to clients: one device or several, with the stores behind them.
pub(super) trait Offer: Send + Sync + 'static {
    /// What clients can ask for.
    fn exports(&self) -> Arc<Exports>;

    /// The name of the export that the printed URI leads to.
    fn name(&self) -> &str;

    /// Begins what goes on in the background.
    ///
    /// # Errors
    /// Where a thread can't be started.
    fn begin(&self, service: &Service) -> Result<()>;

    /// Begins to answer other processes of the user, where there is something to answer. Called on
    /// the runtime. What is returned ends it when dropped.
    fn answer(self: Arc<Self>, listening: Listening) -> Vec<Answering>;

    /// Clients can connect: files that this run made stay.
    fn keep_new_files(&self);

    /// Ends the timers, commits what is left, and closes what was opened. Nobody uses it any more.
    ///
    /// # Errors
    /// Where that failed: then what was not flushed may be lost.
    fn close(&self) -> Result<()>;

    /// Waits for the rest: commands that still run.
    fn end(&self);

    /// Ends what goes on in the background without waiting for anything.
    fn abandon(&self);
}

/// A server that listens.
pub(super) struct Listening {
    pub(super) counters: Arc<Counters>,
    pub(super) limits: Limits,
    address: Option<Address>,
}

impl Listening {
    /// Under which clients reach the export of that name.
    pub(super) fn uri(&self, export: &str) -> Option<String> {
        self.address.as_ref().map(|address| address.uri(export))
    }
}

/// Serves what `open` opens until told to end.
pub(super) fn run<T: Offer>(
    service: &Service,
    open: impl FnOnce() -> Result<Arc<T>>,
) -> Result<ExitCode> {
    if service.exit_with_parent {
        parent::follow()?;
    }
    if let Some(path) = &service.pid_file {
        pid_file::refuse_other_files(path)?;
    }
    let offer = open()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(serve(service, &offer));
    // After a second signal a commit may still be waiting for the disk; we do not.
    runtime.shutdown_background();
    result
}

async fn serve<T: Offer>(service: &Service, offer: &Arc<T>) -> Result<ExitCode> {
    let mut signals = Signals::take().context("cannot take over the signals")?;
    let limits = Limits {
        handshake_timeout: service.handshake_timeout,
        max_connections: service.max_connections,
        ..Limits::default()
    };
    offer.begin(service)?;
    let result = if service.place == Place::Single {
        single::serve(&**offer, limits, &mut signals).await
    } else {
        listen(service, offer, limits, &mut signals).await
    };
    if signals.interrupted() {
        offer.abandon();
        return result;
    }
    let closing = {
        let offer = Arc::clone(offer);
        tokio::task::spawn_blocking(move || offer.close())
    };
    let closed = signals.or_interrupted(closing).await?;
    let closed = closed.context("cannot commit what is left")?;
    let ending = {
        let offer = Arc::clone(offer);
        tokio::task::spawn_blocking(move || offer.end())
    };
    let ended = signals.or_interrupted(ending).await?;
    ended.context("cannot end the commands of --on-space")?;
    // The first failure is told; a commit that failed is never hidden by a child's success.
    match (result, closed) {
        (Ok(ExitCode::Child(code)), Ok(())) => Ok(ExitCode::Child(code)),
        (Ok(_), Ok(())) => Ok(ExitCode::Success),
        (Err(failure), Ok(())) | (Ok(_), Err(failure)) => Err(failure),
        (Err(failure), Err(second)) => {
            tracing::error!("{second}");
            Err(failure)
        }
    }
}

async fn listen<T: Offer>(
    service: &Service,
    offer: &Arc<T>,
    limits: Limits,
    signals: &mut Signals,
) -> Result<ExitCode> {
    let (listen, private) = ready::listen_at(&service.place)?;
    let server = Server::bind(listen, offer.exports(), limits)?;
    if let Some(warning) = server.warning() {
        tracing::warn!("{warning}");
    }
    let answering = Arc::clone(offer).answer(Listening {
        counters: server.counters(),
        limits,
        address: server.addresses().into_iter().next(),
    });
    let ready = Ready::new(offer.name(), &server);
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = tokio::spawn(server.run(async {
        // Dropping the sender is as good as sending.
        let _ = stopped.await;
    }));
    let pid_file = ready.tell(service)?;

    let mut child = match &service.run {
        Some(command) => Some(RunCommand::start(command, &ready.variables())?),
        None => None,
    };
    // Clients are served from here on.
    offer.keep_new_files();
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
    drop((answering, pid_file, private));
    Ok(code)
}

/// The end of the command of `--run`; never, where there is none.
async fn wait_for(child: &mut Option<RunCommand>) -> ExitCode {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}
