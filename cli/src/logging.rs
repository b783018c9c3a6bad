//! The log: standard error, as text for people or as JSON for collectors.

use std::fmt::{self, Debug};
use std::io;

use clap::{Args, ValueEnum};
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};

use crate::printable::one_line;

/// What was typed about the log; the same for every command.
#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// Form of the log on standard error
    #[arg(long, value_enum, default_value_t = Format::Text, global = true, value_name = "FORM",
          help_heading = "Log")]
    log_format: Format,
    /// Log this level and the more important ones [default: info]
    #[arg(
        long,
        value_enum,
        global = true,
        value_name = "LEVEL",
        env = "USNAP_LOG",
        hide_env_values = true,
        help_heading = "Log"
    )]
    log_level: Option<Level>,
    /// Log more: -v is debug, -vv is trace (in builds for debugging)
    #[arg(short, long, action = clap::ArgAction::Count, global = true, help_heading = "Log")]
    verbose: u8,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogArgs {
    fn level(&self) -> LevelFilter {
        match (self.verbose, self.log_level) {
            // The environment may have set a level; what was typed goes before it.
            (1, _) => LevelFilter::DEBUG,
            (2.., _) => LevelFilter::TRACE,
            (0, Some(Level::Off)) => LevelFilter::OFF,
            (0, Some(Level::Error)) => LevelFilter::ERROR,
            (0, Some(Level::Warn)) => LevelFilter::WARN,
            (0, Some(Level::Info) | None) => LevelFilter::INFO,
            (0, Some(Level::Debug)) => LevelFilter::DEBUG,
            (0, Some(Level::Trace)) => LevelFilter::TRACE,
        }
    }
}

/// Starts the log of this process.
pub(crate) fn start(args: &LogArgs) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(args.level())
        .with_writer(io::stderr)
        // A line that can't be written is lost; telling so on the same standard error would panic.
        .log_internal_errors(false)
        .with_target(false);
    // A second subscriber in one process can only be a test's; its log is as good as ours.
    let _ = match args.log_format {
        // Without the time: whoever collects the lines of a service adds it.
        Format::Text => builder
            .without_time()
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .compact()
            .fmt_fields(debug_fn(write_field).delimited(" "))
            .try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// A field on the event's line. The message is text; others have their names.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    let value = one_line(&format!("{value:?}"));
    match field.name() {
        "message" => writer.write_str(&value),
        name => write!(writer, "{name}={value}"),
    }
}
