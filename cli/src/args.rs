//! What can be typed. Parsing, help, man pages and completions all come from here.

use clap::builder::{TypedValueParser, ValueParser};
use clap::{Parser, Subcommand};
use usnap_format::ChunkSize;

use crate::commands::{
    bench, check, compact, create, demo, diff, dump, export, generate, info, merge, patch, repair,
    resize, restore, serve, serve_origin, snapshot, status,
};
use crate::logging::LogArgs;
use crate::size;

/// Copy-on-write block devices in userspace
///
/// Serves a read-only disk image (the origin) as a writable device over NBD. What is written goes to
/// a COW file in the format of the Linux kernel's dm-snapshot target, or to memory. No root, no
/// device-mapper, no loop devices. When the COW is full, writes that need a new chunk get "no space
/// left"; nothing is ever invalidated.
#[derive(Debug, Parser)]
#[command(name = "usnap", version, propagate_version = true, disable_help_subcommand = true,
          max_term_width = 100, after_long_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) logging: LogArgs,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 usage, 3 check found damage, or repair --dry-run something to repair; 128 and its number where a signal ended long work. A failure is one line on standard \
error, `usnap: cannot ...: cause`, and a line `hint: ...` where something can be done about it.

Sizes are bytes, or a number with K, M, G or T, powers of 1024.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(Box<serve::Args>),
    ServeOrigin(Box<serve_origin::Args>),
    Snapshot(snapshot::Args),
    Create(create::Args),
    Status(status::Args),
    Check(check::Args),
    Dump(dump::Args),
    Repair(repair::Args),
    Restore(restore::Args),
    Compact(compact::Args),
    Resize(resize::Args),
    Info(info::Args),
    Merge(merge::Args),
    Export(export::Args),
    Diff(diff::Args),
    Patch(patch::Args),
    Bench(Box<bench::Args>),
    Demo(demo::Args),
    #[command(hide = true)]
    Generate(generate::Args),
}

/// The parser of an option that is a size in bytes.
pub(crate) fn size_parser() -> ValueParser {
    ValueParser::new(size::parse)
}

/// The parser of an option that is a chunk size.
pub(crate) fn chunk_size_parser() -> impl TypedValueParser<Value = ChunkSize> {
    clap::builder::StringValueParser::new().try_map(|text| {
        let bytes = size::parse(&text)?;
        ChunkSize::from_bytes(bytes).map_err(|error| error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_begins_imperatively_and_ends_without_a_full_stop() {
        for command in Cli::command().get_subcommands() {
            let about = command.get_about().unwrap_or_default().to_string();
            assert!(
                about.starts_with(char::is_uppercase),
                "{}: {about}",
                command.get_name()
            );
            assert!(!about.ends_with('.'), "{}: {about}", command.get_name());
            for argument in command.get_arguments().filter(|a| a.get_id() != "help") {
                let help = argument.get_help().unwrap_or_default().to_string();
                assert!(
                    !help.is_empty() && !help.ends_with('.'),
                    "{}: {help}",
                    argument.get_id()
                );
            }
        }
    }

    #[test]
    fn chunk_sizes_are_powers_of_two_from_a_sector_up() {
        for (text, bytes) in [
            ("512", Some(512)),
            ("4K", Some(4096)),
            ("1M", Some(1 << 20)),
            ("3K", None),
            ("256", None),
            ("0", None),
            ("x", None),
        ] {
            let typed =
                Cli::try_parse_from(["usnap", "create", "c", "--size", "1M", "--chunk-size", text]);
            let Command::Create(args) = (match typed {
                Ok(cli) => cli.command,
                Err(_) => {
                    assert_eq!(bytes, None, "{text}");
                    continue;
                }
            }) else {
                panic!("not create")
            };
            assert_eq!(args.chunk_size().map(|c| c.bytes()), bytes, "{text}");
        }
    }
}
