//! The numbers of the protocol, under the names proto.md gives them less the prefix `NBD_`.
//!
//! Every one of them is accounted for in PROTOCOL.md, and a test compares the two.

/// First magic of the greeting, the ASCII bytes `NBDMAGIC`.
pub const INIT_PASSWD: u64 = 0x4e42_444d_4147_4943;
/// Second magic of the greeting and the magic of each option, the ASCII bytes `IHAVEOPT`.
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// Second magic of the oldstyle greeting, which is not supported.
pub const CLISERV_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Magic of each reply to an option.
pub const REP_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Magic of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Magic of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Magic of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Magic of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Magic of an extended reply chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Handshake flag: the server speaks fixed newstyle.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag: the server can leave out the 124 zeroes after `NBD_OPT_EXPORT_NAME`.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;
/// Client flag: the client speaks fixed newstyle.
pub const FLAG_C_FIXED_NEWSTYLE: u32 = 1 << 0;
/// Client flag: the client does not want the 124 zeroes.
pub const FLAG_C_NO_ZEROES: u32 = 1 << 1;

/// Transmission flag that is always set.
pub const FLAG_HAS_FLAGS: u16 = 1 << 0;
/// Transmission flag: writes fail with `NBD_EPERM`.
pub const FLAG_READ_ONLY: u16 = 1 << 1;
/// Transmission flag: `NBD_CMD_FLUSH` is supported.
pub const FLAG_SEND_FLUSH: u16 = 1 << 2;
/// Transmission flag: `NBD_CMD_FLAG_FUA` is supported.
pub const FLAG_SEND_FUA: u16 = 1 << 3;
/// Transmission flag: the export is a rotational medium.
pub const FLAG_ROTATIONAL: u16 = 1 << 4;
/// Transmission flag: `NBD_CMD_TRIM` is supported.
pub const FLAG_SEND_TRIM: u16 = 1 << 5;
/// Transmission flag: `NBD_CMD_WRITE_ZEROES` and `NBD_CMD_FLAG_NO_HOLE` are supported.
pub const FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: `NBD_CMD_FLAG_DF` is supported.
pub const FLAG_SEND_DF: u16 = 1 << 7;
/// Transmission flag: flush and FUA cover all connections to the export.
pub const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// Transmission flag of the experimental resize extension.
pub const FLAG_SEND_RESIZE: u16 = 1 << 9;
/// Transmission flag: `NBD_CMD_CACHE` is supported.
pub const FLAG_SEND_CACHE: u16 = 1 << 10;
/// Transmission flag: `NBD_CMD_FLAG_FAST_ZERO` is supported.
pub const FLAG_SEND_FAST_ZERO: u16 = 1 << 11;
/// Transmission flag: `NBD_CMD_BLOCK_STATUS` takes a payload (extended headers).
pub const FLAG_BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;

/// Option: enter transmission with the named export; cannot fail but by a disconnect.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: end the session.
pub const OPT_ABORT: u32 = 2;
/// Option: list the exports.
pub const OPT_LIST: u32 = 3;
/// Option of a withdrawn extension.
pub const OPT_PEEK_EXPORT: u32 = 4;
/// Option: go over to TLS.
pub const OPT_STARTTLS: u32 = 5;
/// Option: describe an export.
pub const OPT_INFO: u32 = 6;
/// Option: describe an export and enter transmission.
pub const OPT_GO: u32 = 7;
/// Option: use structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Option: list metadata contexts.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Option: select metadata contexts.
pub const OPT_SET_META_CONTEXT: u32 = 10;
/// Option: use extended headers.
pub const OPT_EXTENDED_HEADERS: u32 = 11;

/// Option reply: done.
pub const REP_ACK: u32 = 1;
/// Option reply: an export's name and description.
pub const REP_SERVER: u32 = 2;
/// Option reply: one piece of information on an export.
pub const REP_INFO: u32 = 3;
/// Option reply: a metadata context.
pub const REP_META_CONTEXT: u32 = 4;
/// The bit that makes an option reply an error.
pub const REP_FLAG_ERROR: u32 = 1 << 31;
/// Option error: unknown option.
pub const REP_ERR_UNSUP: u32 = REP_FLAG_ERROR | 1;
/// Option error: forbidden.
pub const REP_ERR_POLICY: u32 = REP_FLAG_ERROR | 2;
/// Option error: malformed or out of place.
pub const REP_ERR_INVALID: u32 = REP_FLAG_ERROR | 3;
/// Option error: not on this platform.
pub const REP_ERR_PLATFORM: u32 = REP_FLAG_ERROR | 4;
/// Option error: TLS first.
pub const REP_ERR_TLS_REQD: u32 = REP_FLAG_ERROR | 5;
/// Option error: no such export.
pub const REP_ERR_UNKNOWN: u32 = REP_FLAG_ERROR | 6;
/// Option error: the server is going down.
pub const REP_ERR_SHUTDOWN: u32 = REP_FLAG_ERROR | 7;
/// Option error: the client has to ask for block sizes first.
pub const REP_ERR_BLOCK_SIZE_REQD: u32 = REP_FLAG_ERROR | 8;
/// Option error: option or answer too large.
pub const REP_ERR_TOO_BIG: u32 = REP_FLAG_ERROR | 9;
/// Option error: extended headers first, or they exclude this option.
pub const REP_ERR_EXT_HEADER_REQD: u32 = REP_FLAG_ERROR | 10;

/// Information: size and transmission flags.
pub const INFO_EXPORT: u16 = 0;
/// Information: canonical name.
pub const INFO_NAME: u16 = 1;
/// Information: description for people.
pub const INFO_DESCRIPTION: u16 = 2;
/// Information: minimum and preferred block size, maximum payload.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Command: read.
pub const CMD_READ: u16 = 0;
/// Command: write.
pub const CMD_WRITE: u16 = 1;
/// Command: end the session; has no reply.
pub const CMD_DISC: u16 = 2;
/// Command: make earlier writes durable.
pub const CMD_FLUSH: u16 = 3;
/// Command: the range is no longer needed.
pub const CMD_TRIM: u16 = 4;
/// Command: the range will be needed soon.
pub const CMD_CACHE: u16 = 5;
/// Command: make the range read as zeroes.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// Command: describe the range in each selected metadata context.
pub const CMD_BLOCK_STATUS: u16 = 7;
/// Command of the experimental resize extension.
pub const CMD_RESIZE: u16 = 8;

/// Command flag: reply only when durable.
pub const CMD_FLAG_FUA: u16 = 1 << 0;
/// Command flag of write zeroes: keep the range allocated.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Command flag of read: one content chunk at most.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// Command flag of block status: one extent a context.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Command flag of write zeroes: fail with `NBD_ENOTSUP` unless faster than writing.
pub const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;
/// Command flag of extended requests: the length is that of a payload which follows.
pub const CMD_FLAG_PAYLOAD_LEN: u16 = 1 << 5;

/// Reply flag: the last chunk of the reply.
pub const REPLY_FLAG_DONE: u16 = 1 << 0;
/// Chunk type: no payload, success unless an error chunk came before.
pub const REPLY_TYPE_NONE: u16 = 0;
/// Chunk type: an offset and the data there.
pub const REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// Chunk type: an offset and how many zeroes are there.
pub const REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Chunk type: extents of one metadata context, 32-bit.
pub const REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// Chunk type: extents of one metadata context, 64-bit (extended headers).
pub const REPLY_TYPE_BLOCK_STATUS_EXT: u16 = 6;
/// The bit that makes a chunk an error chunk.
pub const REPLY_TYPE_ERROR_BIT: u16 = 1 << 15;
/// Chunk type: an error of the whole request.
pub const REPLY_TYPE_ERROR: u16 = REPLY_TYPE_ERROR_BIT | 1;
/// Chunk type: an error at an offset.
pub const REPLY_TYPE_ERROR_OFFSET: u16 = REPLY_TYPE_ERROR_BIT | 2;

/// Status bit of `base:allocation`: not allocated.
pub const STATE_HOLE: u32 = 1 << 0;
/// Status bit of `base:allocation`: reads as zeroes.
pub const STATE_ZERO: u32 = 1 << 1;

/// The longest string anybody may send, in bytes (proto.md, "Conventions").
pub const MAX_STRING_BYTES: usize = 4096;
/// Length in bytes of a compact request.
pub const REQUEST_LEN: usize = 28;
/// Length in bytes of an extended request.
pub const EXTENDED_REQUEST_LEN: usize = 32;
/// Length in bytes of a simple reply.
pub const SIMPLE_REPLY_LEN: usize = 16;
/// Length in bytes of the header of a structured reply chunk.
pub const STRUCTURED_REPLY_LEN: usize = 20;
/// Length in bytes of the header of an extended reply chunk.
pub const EXTENDED_REPLY_LEN: usize = 32;
/// Length in bytes of the header of an option.
pub const OPTION_HEADER_LEN: usize = 16;
/// Length in bytes of the header of a reply to an option.
pub const OPTION_REPLY_HEADER_LEN: usize = 20;
/// Zeroes that end the answer to `NBD_OPT_EXPORT_NAME` unless the client waived them.
pub const EXPORT_NAME_ZEROES: usize = 124;
/// The IANA's port for NBD.
pub const DEFAULT_PORT: u16 = 10809;
