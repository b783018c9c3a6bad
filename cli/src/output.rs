//! Standard output: results only, and quiet when whoever reads them has gone. Standard error: what
//! can't be written there is lost, and nothing else.

use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::printable;

/// Buffered standard output. `finish` must be called: it shows whether everything was written.
pub(crate) fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::new(io::stdout().lock())
}

/// The failure of a write to standard output: none at all where the pipe was closed.
pub(crate) fn failed(error: io::Error) -> Failure {
    if error.kind() == ErrorKind::BrokenPipe {
        return Failure::quiet();
    }
    Failure::from(anyhow::Error::new(error).context("cannot write to standard output"))
}

/// Prints one result, which may be several lines.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| {
            if text.ends_with('\n') {
                Ok(())
            } else {
                out.write_all(b"\n")
            }
        })
        .and_then(|()| out.flush())
        .map_err(failed)
}

/// Prints a result as JSON, indented for people.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| anyhow::Error::new(error).context("cannot write the result as JSON"))?;
    print(&printable::json(&text))
}

/// Says something on standard error. Where nobody can hear it (a pipe whose reader has gone, a full
/// disk) that is no reason to fail, and none to panic.
pub(crate) fn say(text: impl std::fmt::Display) {
    let _nobody_hears_it = writeln!(io::stderr(), "{text}");
}

/// Standard output for what is large and binary, and what came of writing to it.
pub(crate) struct Stream {
    out: BufWriter<StdoutLock<'static>>,
    error: Option<io::Error>,
}

impl Stream {
    pub(crate) fn new() -> Self {
        Self {
            out: BufWriter::with_capacity(1 << 16, io::stdout().lock()),
            error: None,
        }
    }

    /// Ends it with what came of the work.
    pub(crate) fn ended(mut self, result: usnap_engine::Result<()>) -> Result<()> {
        let result = result.map_err(Failure::from);
        let flushed = match result {
            Ok(()) => self.out.flush(),
            Err(_) => Ok(()),
        };
        match self.error.take().or(flushed.err()) {
            Some(error) => {
                // A result that is half there is no result: unlike a list, it is not enough.
                let error = anyhow::Error::new(error);
                Err(error.context("cannot write to standard output").into())
            }
            None => result,
        }
    }

    /// Keeps the failure itself aside: it says more than what is made of it.
    fn keep<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let kind = error.kind();
            self.error = Some(error);
            kind.into()
        })
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.keep(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.keep(flushed)
    }
}
