//! The log: standard error, as text for people or as JSON for collectors.

use std::io;

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;

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
    #[arg(short, long, action = clap::ArgAction::Count, global = true,
          conflicts_with = "log_level", help_heading = "Log")]
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
        match (self.log_level, self.verbose) {
            (Some(Level::Off), _) => LevelFilter::OFF,
            (Some(Level::Error), _) => LevelFilter::ERROR,
            (Some(Level::Warn), _) => LevelFilter::WARN,
            (Some(Level::Info), _) | (None, 0) => LevelFilter::INFO,
            (Some(Level::Debug), _) | (None, 1) => LevelFilter::DEBUG,
            (Some(Level::Trace), _) | (None, _) => LevelFilter::TRACE,
        }
    }
}

/// Starts the log of this process.
pub(crate) fn start(args: &LogArgs) {
    let builder = tracing_subscriber::fmt()
        .with_max_level(args.level())
        .with_writer(io::stderr)
        .with_target(false);
    // A second subscriber in one process can only be a test's; its log is as good as ours.
    let _ = match args.log_format {
        // Without the time: whoever collects the lines of a service adds it.
        Format::Text => builder
            .without_time()
            .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
            .compact()
            .try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
}
