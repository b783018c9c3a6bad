# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_usnap_global_optspecs
    string join \n log-format= log-level= v/verbose h/help V/version
end

function __fish_usnap_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_usnap_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_usnap_using_subcommand
    set -l cmd (__fish_usnap_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c usnap -n "__fish_usnap_needs_command" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_needs_command" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_needs_command" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_needs_command" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "serve" -d 'Serve an image over NBD, writable, keeping the changes aside'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "serve-origin" -d 'Serve an image over NBD to be written to, together with snapshots of it'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "snapshot" -d 'Add, drop and list the snapshots of an origin that is served'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "create" -d 'Create an empty COW file'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "status" -d 'Show how full a COW file is'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "check" -d 'Check a COW file for damage, changing nothing'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "dump" -d 'Print the metadata of a COW file'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "repair" -d 'Repair the metadata of a COW file'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "restore" -d 'Restore the metadata of a COW file from a dump'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "compact" -d 'Make a new, smaller COW file of the same snapshot'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "resize" -d 'Make a COW file longer or shorter'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "info" -d 'Show what a COW file is and how its chunks lie'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "merge" -d 'Merge a COW file back into its origin'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "export" -d 'Write what an image and its COW files show to one raw image'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "diff" -d 'List the byte ranges that COW files change, or write them as a diff'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "patch" -d 'Apply a diff to a copy of the image that it was made for'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "bench" -d 'Measure NBD servers, and the engine without the wire, under the same workload'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "demo" -d 'Show the main job on an image that it makes itself'
complete -c usnap -n "__fish_usnap_needs_command" -f -a "generate" -d 'Write man pages and completions into the folders man and completions of a folder'
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l layer -d 'Put this COW file between the origin and the changes, read-only; may be given several times' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l cow -d 'Keep the changes in this COW file, created when absent' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l cow-size -d 'Size of a COW file that is created; it is sparse [default: what can never be full]' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l max-cow -d 'Let the COW file grow by itself up to this size' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l chunk-size -d 'Unit of copying of a COW that is created, a power of two [default: 4K]' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l label -d 'Text of at most 64 bytes for a COW file that is created; status shows it' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l ram-limit -d 'Memory that changes may take with --transient [default: half of what there is]' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l on-space -d 'Run a shell command when so much of the room for changes is used; may be given several times' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l durability -d 'What makes a change durable: the client\'s flush, or every write as the kernel does' -r -f -a "flush\t'A flush, FUA, the commit interval'
every-write\t'Every write waits until it is durable'"
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l discard -d 'What a client\'s TRIM does to chunks that it covers whole and that were written' -r -f -a "zeroes\t'Zeros, their space kept: the kernel\'s discard_zeroes_cow'
ignore\t'Nothing'
punch\t'Zeros, their space given back to the COW\'s filesystem'"
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l journal -d 'What to do with the journal of a server that was killed, and whether to keep one' -r -f -a "auto\t'Add what it has if nothing speaks against it, else refuse; keep one'
replay\t'Add what it has although something speaks against it; keep one'
discard\t'Serve without what it has, which is lost; keep one'
off\t'As auto, but keep none: what is not flushed does not survive kill -9'"
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l commit-interval -d 'Commit changes that wait for longer than so many seconds, at least 0.01; 0 for never' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l name -d 'Name of the export; clients that ask for none get it too' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l description -d 'Description of the export, shown to clients that list exports' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve" -s U -l socket -d 'Listen on a unix socket; - for a private one with a random name, the default' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l listen -d 'Listen on TCP; without an address on 127.0.0.1, without a port on 10809' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l max-connections -d 'Close connections beyond this number' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l handshake-timeout -d 'Close connections that take longer to negotiate, in seconds' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l run -d 'Run a shell command once ready, then exit with its status' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l pid-file -d 'Write the process id to this file, once ready; nothing but a pid file is replaced' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l transient -d 'Keep the changes in memory; they are gone at exit'
complete -c usnap -n "__fish_usnap_using_subcommand serve" -s r -l read-only -d 'Refuse writes; with --cow, serve the changes that are there'
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l merge -d 'Merge the COW file into ORIGIN while it is served'
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l force-origin -d 'Serve although the origin (or a layer) is not the one that the COW was made for'
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l adopt -d 'Remember this origin in the COW, if it remembers none or with --force-origin'
complete -c usnap -n "__fish_usnap_using_subcommand serve" -s s -l single -d 'Serve one client on standard input and output, then exit'
complete -c usnap -n "__fish_usnap_using_subcommand serve" -l exit-with-parent -d 'End, as by SIGTERM, when the parent process ends'
complete -c usnap -n "__fish_usnap_using_subcommand serve" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand serve" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand serve" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l snapshot -d 'Serve a snapshot under NAME, kept in this COW file; may be given several times' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l when-full -d 'What happens when a snapshot\'s COW has no room for what the origin\'s write replaces' -r -f -a "drop\t'That snapshot is given up, says so, and answers errors; the origin goes on'
refuse\t'The origin\'s write fails with "no space left"; all snapshots stay'"
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l on-space -d 'Run a shell command when so much of the room for changes is used; may be given several times' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l durability -d 'What makes a change durable: the client\'s flush, or every write as the kernel does' -r -f -a "flush\t'A flush, FUA, the commit interval'
every-write\t'Every write waits until it is durable'"
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l discard -d 'What a client\'s TRIM does to chunks that it covers whole and that were written' -r -f -a "zeroes\t'Zeros, their space kept: the kernel\'s discard_zeroes_cow'
ignore\t'Nothing'
punch\t'Zeros, their space given back to the COW\'s filesystem'"
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l journal -d 'What to do with the journal of a server that was killed, and whether to keep one' -r -f -a "auto\t'Add what it has if nothing speaks against it, else refuse; keep one'
replay\t'Add what it has although something speaks against it; keep one'
discard\t'Serve without what it has, which is lost; keep one'
off\t'As auto, but keep none: what is not flushed does not survive kill -9'"
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l commit-interval -d 'Commit changes that wait for longer than so many seconds, at least 0.01; 0 for never' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l name -d 'Name of the origin\'s export; clients that ask for none get it too' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l description -d 'Description of the origin\'s export, shown to clients that list exports' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -s U -l socket -d 'Listen on a unix socket; - for a private one with a random name, the default' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l listen -d 'Listen on TCP; without an address on 127.0.0.1, without a port on 10809' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l max-connections -d 'Close connections beyond this number' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l handshake-timeout -d 'Close connections that take longer to negotiate, in seconds' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l run -d 'Run a shell command once ready, then exit with its status' -r
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l pid-file -d 'Write the process id to this file, once ready; nothing but a pid file is replaced' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l force-origin -d 'Serve although the origin is not the one that a COW was made for'
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l adopt -d 'Remember this origin in COWs that remember none, or with --force-origin'
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -s s -l single -d 'Serve one client on standard input and output, then exit'
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -l exit-with-parent -d 'End, as by SIGTERM, when the parent process ends'
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand serve-origin" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and not __fish_seen_subcommand_from add drop list" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and not __fish_seen_subcommand_from add drop list" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and not __fish_seen_subcommand_from add drop list" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and not __fish_seen_subcommand_from add drop list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and not __fish_seen_subcommand_from add drop list" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and not __fish_seen_subcommand_from add drop list" -f -a "add" -d 'Add a snapshot: the origin as it is at this moment'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and not __fish_seen_subcommand_from add drop list" -f -a "drop" -d 'Drop a snapshot: from now on nothing is kept for it'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and not __fish_seen_subcommand_from add drop list" -f -a "list" -d 'List the snapshots, with their URIs and how full they are'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from add" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from add" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from add" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from add" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from drop" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from drop" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from drop" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from drop" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from drop" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from list" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from list" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from list" -l json -d 'Print JSON'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from list" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand snapshot; and __fish_seen_subcommand_from list" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand create" -l size -d 'Size of the COW file in bytes; it is sparse [default: what can never be full, with --origin]' -r
complete -c usnap -n "__fish_usnap_using_subcommand create" -l chunk-size -d 'Unit of copying, a power of two of at least 512 bytes [default: 4K]' -r
complete -c usnap -n "__fish_usnap_using_subcommand create" -l origin -d 'Image that the COW file is for' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand create" -l label -d 'Text of at most 64 bytes that status shows' -r
complete -c usnap -n "__fish_usnap_using_subcommand create" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand create" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand create" -l force -d 'Make an existing COW file or block device an empty one, of the size that it has'
complete -c usnap -n "__fish_usnap_using_subcommand create" -l no-identity -d 'Leave the padding of the header zero, as the kernel does: no label, no origin remembered'
complete -c usnap -n "__fish_usnap_using_subcommand create" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand create" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand status" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand status" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand status" -l json -d 'Print JSON'
complete -c usnap -n "__fish_usnap_using_subcommand status" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand status" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand check" -l origin -d 'Image that the COW file belongs to' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand check" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand check" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand check" -l json -d 'Print JSON'
complete -c usnap -n "__fish_usnap_using_subcommand check" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand check" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand dump" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand dump" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand dump" -l json -d 'Print JSON'
complete -c usnap -n "__fish_usnap_using_subcommand dump" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand dump" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand dump" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand repair" -l origin -d 'Image that the COW file belongs to, for a new record where the old one is damaged or wiped' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand repair" -l chunk-size -d 'Chunk size of the COW file, where its header is damaged and leaves a doubt' -r
complete -c usnap -n "__fish_usnap_using_subcommand repair" -l journal -d 'What to do with the journal of a server that was killed, where it is in doubt' -r -f -a "replay\t'Commit what it has, although something speaks against it'
discard\t'Remove it: what it has is lost'"
complete -c usnap -n "__fish_usnap_using_subcommand repair" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand repair" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand repair" -s n -l dry-run -d 'Show what would be done, and change nothing; exits with 3 if there is something to do'
complete -c usnap -n "__fish_usnap_using_subcommand repair" -l revalidate -d 'Make a COW file valid again that a kernel invalidated'
complete -c usnap -n "__fish_usnap_using_subcommand repair" -l drop-damaged -d 'Remove entries that can\'t be believed, wherever they lie'
complete -c usnap -n "__fish_usnap_using_subcommand repair" -l json -d 'Print the plan as JSON'
complete -c usnap -n "__fish_usnap_using_subcommand repair" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand repair" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand repair" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand restore" -l journal -d 'What to do with the journal of a server that was killed; without it such a file is refused' -r -f -a "discard\t'Remove it: what it has is lost'"
complete -c usnap -n "__fish_usnap_using_subcommand restore" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand restore" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand restore" -l over -d 'Write over an existing COW file, keeping its data chunks'
complete -c usnap -n "__fish_usnap_using_subcommand restore" -l repack -d 'Fill the areas anew, in the order of the entries'
complete -c usnap -n "__fish_usnap_using_subcommand restore" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand restore" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand restore" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand compact" -l chunk-size -d 'Another chunk size: larger chunks are filled from the origin, smaller ones are left out where they equal it [default: the old one]' -r
complete -c usnap -n "__fish_usnap_using_subcommand compact" -l cow-size -d 'Size of the new file in bytes [default: the least; it is full then]' -r
complete -c usnap -n "__fish_usnap_using_subcommand compact" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand compact" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand compact" -l keep-equal -d 'Keep chunks that hold what the origin holds'
complete -c usnap -n "__fish_usnap_using_subcommand compact" -l force-origin -d 'Go on although the origin is not the one on record'
complete -c usnap -n "__fish_usnap_using_subcommand compact" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand compact" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand compact" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand resize" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand resize" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand resize" -l shrink -d 'Make it as short as it can be'
complete -c usnap -n "__fish_usnap_using_subcommand resize" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand resize" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand resize" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand info" -l origin -d 'Image that the COW file belongs to; all data is read and compared' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand info" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand info" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand info" -l json -d 'Print JSON'
complete -c usnap -n "__fish_usnap_using_subcommand info" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand info" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand info" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand merge" -l batch -d 'How much data is copied before the origin is flushed and the COW file\'s entries are cleared' -r
complete -c usnap -n "__fish_usnap_using_subcommand merge" -l journal -d 'What to do with the journal of a server that was killed, where it is in doubt' -r -f -a "replay\t'Merge what it has, although something speaks against it'
discard\t'Remove it: what it has is lost'"
complete -c usnap -n "__fish_usnap_using_subcommand merge" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand merge" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand merge" -l force-origin -d 'Merge although the origin is not the one that the COW file was made for'
complete -c usnap -n "__fish_usnap_using_subcommand merge" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand merge" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand merge" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand export" -l layer -d 'A COW file between ORIGIN and COW; may be given several times, the lowest first' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand export" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand export" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand export" -l force-origin -d 'Go on although the origin (or a layer) is not the one that a COW file was made for'
complete -c usnap -n "__fish_usnap_using_subcommand export" -s f -l force -d 'Replace OUT if it is there, or write to the block device that it is'
complete -c usnap -n "__fish_usnap_using_subcommand export" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand export" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand export" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand diff" -l layer -d 'A COW file between ORIGIN and COW; may be given several times, the lowest first' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand diff" -l with-data -d 'Write a diff with the data to this file; - for standard output' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand diff" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand diff" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand diff" -l force-origin -d 'Go on although the origin (or a layer) is not the one that a COW file was made for'
complete -c usnap -n "__fish_usnap_using_subcommand diff" -l top -d 'Only what COW changes, relative to what it lies on (the layers)'
complete -c usnap -n "__fish_usnap_using_subcommand diff" -l exact -d 'Leave out sectors whose content is the same; reads both sides'
complete -c usnap -n "__fish_usnap_using_subcommand diff" -s f -l force -d 'Replace OUT if it is there'
complete -c usnap -n "__fish_usnap_using_subcommand diff" -l json -d 'Print JSON'
complete -c usnap -n "__fish_usnap_using_subcommand diff" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand diff" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand diff" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand patch" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand patch" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand patch" -s n -l dry-run -d 'Check the diff and the device, and write nothing'
complete -c usnap -n "__fish_usnap_using_subcommand patch" -s f -l force -d 'Patch a device that is not the one that the diff was made for; it may be larger'
complete -c usnap -n "__fish_usnap_using_subcommand patch" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand patch" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand patch" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand bench" -s w -l workload -d 'Workloads by name, separated by commas, or all; each in every depth' -r
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l block-size -d 'Bytes of a request, instead of the workload\'s' -r
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l depth -d 'Requests in flight on a connection, instead of the workload\'s; several, separated by commas' -r
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l connections -d 'Connections (of engine: and file: threads), a thread each; one where the server does not offer several' -r
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l seconds -d 'Seconds that a sample lasts at the most' -r
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l rounds -d 'Rounds: samples of each workload over each URI' -r
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l size -d 'How much of each device is used; the size of the smallest, at most 1G' -r
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l offset -d 'Where the range begins' -r
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l seed -d 'Seed of the order of random requests, and of what is written' -r
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l fsync -d 'Flush after so many writes of a connection, when all of them were answered' -r
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l read-percent -d 'Share of reads in a mix' -r
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l timeout -d 'Give up where no answer comes for so many seconds' -r
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l json -d 'Write every sample to FILE as JSON; - for standard output, instead of the tables' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l svg -d 'Draw a chart' -r -F
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l list -d 'Show the names of the workloads and what they do'
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l write -d 'Overwrite what the devices hold: needed by every workload that writes'
complete -c usnap -n "__fish_usnap_using_subcommand bench" -l verify -d 'Compare what is read with what was written, and read back all that was written after each sample, outside of the clock'
complete -c usnap -n "__fish_usnap_using_subcommand bench" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand bench" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand bench" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand demo" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand demo" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand demo" -l pattern -d 'Make an image with a pattern, as where there is no mke2fs to make an ext4 filesystem'
complete -c usnap -n "__fish_usnap_using_subcommand demo" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand demo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand demo" -s V -l version -d 'Print version'
complete -c usnap -n "__fish_usnap_using_subcommand generate" -l log-format -d 'Form of the log on standard error' -r -f -a "text\t'Lines for people'
json\t'One JSON object a line'"
complete -c usnap -n "__fish_usnap_using_subcommand generate" -l log-level -d 'Log this level and the more important ones [default: info]' -r -f -a "off\t''
error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c usnap -n "__fish_usnap_using_subcommand generate" -s v -l verbose -d 'Log more: -v is debug, -vv is trace (in builds for debugging)'
complete -c usnap -n "__fish_usnap_using_subcommand generate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c usnap -n "__fish_usnap_using_subcommand generate" -s V -l version -d 'Print version'
