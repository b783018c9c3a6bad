//! What each option does, once it is whole and may be answered: the middle of the server's
//! handshake.

use super::catalog::{BlockSizes, Catalog, ExportInfo};
use super::consts::{
    EXPORT_NAME_ZEROES, INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_EXPORT, INFO_NAME,
    MAX_STRING_BYTES, REP_ACK, REP_INFO, REP_META_CONTEXT, REP_SERVER,
};
use super::handshake::{CloseReason, Features, Progress, Step};
use super::meta_context::{Context, MetaContexts, QueryUse, query};
use super::option::{
    InfoQuery, Malformed, MetaQuery, OptionCode, OptionError, reply, reply_error, string,
};
use super::session::{Negotiated, ReplyStyle};
use super::wire::{truncated, wire_len};

/// What client and server agreed on so far.
#[derive(Debug)]
pub(super) struct Agreement {
    features: Features,
    max_name_bytes: usize,
    /// From the client's flags; not an option, so TLS does not reset it.
    pub(super) no_zeroes: bool,
    session: SessionState,
}

/// Everything options changed: what STARTTLS has to forget ("the server MUST NOT preserve any
/// negotiation state").
#[derive(Debug, Default)]
struct SessionState {
    structured: bool,
    extended: bool,
    /// The contexts of the last SET_META_CONTEXT, and the export it named.
    contexts: Option<(MetaContexts, String)>,
}

impl SessionState {
    const fn reply_style(&self) -> ReplyStyle {
        match (self.extended, self.structured) {
            // "When successful, this option takes precedence over structured replies" (proto.md,
            // extended headers).
            (true, _) => ReplyStyle::Extended,
            (false, true) => ReplyStyle::Structured,
            (false, false) => ReplyStyle::Simple,
        }
    }
}

/// The answer to an option that failed.
struct Failed {
    error: OptionError,
    message: String,
}

impl From<Malformed> for Failed {
    fn from((error, message): Malformed) -> Self {
        Self {
            error,
            message: message.to_owned(),
        }
    }
}

impl Agreement {
    pub(super) fn new(features: Features, max_name_bytes: usize) -> Self {
        Self {
            features,
            max_name_bytes,
            no_zeroes: false,
            session: SessionState::default(),
        }
    }

    pub(super) fn forget_contexts(&mut self) {
        self.session.contexts = None;
    }

    /// Answers an option that was too long to keep.
    pub(super) fn too_big(&self, option: OptionCode, out: &mut Vec<u8>) {
        if self.knows(option) {
            reply_error(out, option, OptionError::TooBig, "the option is too long");
        } else {
            unsupported(option, out);
        }
    }

    /// Answers an option.
    pub(super) fn option(
        &mut self,
        catalog: &dyn Catalog,
        option: OptionCode,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Step {
        if !self.knows(option) {
            unsupported(option, out);
            return Step::Next;
        }
        let result = match option {
            OptionCode::ExportName => return Step::Finished(self.export_name(catalog, data, out)),
            OptionCode::Go => match self.info(catalog, option, data, out) {
                Ok(negotiated) => {
                    reply(out, option, REP_ACK, &[]);
                    return Step::Finished(Progress::Transmission(negotiated));
                }
                Err(failed) => Err(failed),
            },
            OptionCode::Info => self.info(catalog, option, data, out).map(|_| ()),
            OptionCode::List => list(catalog, option, data, out),
            OptionCode::ListMetaContext => self.list_meta_context(catalog, option, data, out),
            OptionCode::SetMetaContext => self.set_meta_context(catalog, option, data, out),
            OptionCode::StructuredReply => self.structured_reply(data),
            OptionCode::ExtendedHeaders => self.extended_headers(data),
            OptionCode::Abort
            | OptionCode::PeekExport
            | OptionCode::StartTls
            | OptionCode::Unknown(_) => {
                unsupported(option, out);
                return Step::Next;
            }
        };
        match result {
            Ok(()) => reply(out, option, REP_ACK, &[]),
            Err(failed) => {
                let message = truncated(&failed.message, MAX_STRING_BYTES);
                reply_error(out, option, failed.error, message);
            }
        }
        Step::Next
    }

    /// Whether an option is known, given what the server owns up to.
    const fn knows(&self, option: OptionCode) -> bool {
        match option {
            OptionCode::Abort
            | OptionCode::ExportName
            | OptionCode::Go
            | OptionCode::Info
            | OptionCode::List => true,
            OptionCode::StructuredReply => self.features.structured_replies,
            OptionCode::ExtendedHeaders => self.features.extended_headers,
            OptionCode::ListMetaContext | OptionCode::SetMetaContext => self.features.meta_contexts,
            // "`NBD_REP_ERR_UNSUP` (if it does not support the `NBD_OPT_STARTTLS` option at all)"
            // (proto.md, "NOTLS mode").
            OptionCode::PeekExport | OptionCode::StartTls | OptionCode::Unknown(_) => false,
        }
    }

    /// `NBD_OPT_EXPORT_NAME`: "If the server is unwilling to allow the export, it MUST terminate
    /// the session".
    fn export_name(&mut self, catalog: &dyn Catalog, data: &[u8], out: &mut Vec<u8>) -> Progress {
        if self.session.extended {
            return Progress::Closed(CloseReason::ExportNameAfterExtendedHeaders);
        }
        let Ok(name) = string(data, self.max_name_bytes) else {
            return Progress::Closed(CloseReason::ExportNameInvalid);
        };
        let Some(export) = catalog.export(name) else {
            return Progress::Closed(CloseReason::UnknownExport);
        };
        let negotiated = self.negotiated(export, name);
        out.extend_from_slice(&negotiated.export.size_bytes.to_be_bytes());
        out.extend_from_slice(&negotiated.transmission_flags().0.to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; EXPORT_NAME_ZEROES]);
        }
        Progress::Transmission(negotiated)
    }

    /// `NBD_OPT_INFO` and `NBD_OPT_GO`, all but the final acknowledgement.
    fn info(
        &self,
        catalog: &dyn Catalog,
        option: OptionCode,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Negotiated, Failed> {
        let query = InfoQuery::decode(data, self.max_name_bytes)?;
        let export = find(catalog, query.name)?;
        let negotiated = self.negotiated(export, query.name);
        let export = &negotiated.export;
        let info = |out: &mut Vec<u8>, kind: u16, parts: &[&[u8]; 3]| {
            let [a, b, c] = parts;
            reply(out, option, REP_INFO, &[&kind.to_be_bytes(), a, b, c]);
        };
        // "the server MUST send at least one `NBD_REP_INFO`, with an `NBD_INFO_EXPORT` information
        // type".
        let flags = negotiated.transmission_flags().0.to_be_bytes();
        info(
            out,
            INFO_EXPORT,
            &[&export.size_bytes.to_be_bytes(), &flags, &[]],
        );
        // "The server MUST ignore any information requests it does not understand": only these are
        // looked for.
        if query.requests(INFO_NAME) {
            info(
                out,
                INFO_NAME,
                &[
                    truncated(&export.name, MAX_STRING_BYTES).as_bytes(),
                    &[],
                    &[],
                ],
            );
        }
        if let Some(text) = export
            .description
            .as_deref()
            .filter(|_| query.requests(INFO_DESCRIPTION))
        {
            info(
                out,
                INFO_DESCRIPTION,
                &[truncated(text, MAX_STRING_BYTES).as_bytes(), &[], &[]],
            );
        }
        let sizes = export.block_sizes();
        if query.requests(INFO_BLOCK_SIZE) || sizes.are_stricter_than_default() {
            let BlockSizes {
                minimum,
                preferred,
                max_payload,
            } = sizes;
            let (minimum, preferred) = (minimum.to_be_bytes(), preferred.to_be_bytes());
            info(
                out,
                INFO_BLOCK_SIZE,
                &[&minimum, &preferred, &max_payload.to_be_bytes()],
            );
        }
        Ok(negotiated)
    }

    /// "The client MUST NOT send any additional data with the option, and the server SHOULD reject
    /// a request that includes data with `NBD_REP_ERR_INVALID`" (proto.md, "Option types").
    fn structured_reply(&mut self, data: &[u8]) -> Result<(), Failed> {
        no_data(data)?;
        if self.session.extended {
            // "The client has already successfully negotiated extended headers, which takes
            // precedence over this option" (proto.md, extended headers, of
            // `NBD_REP_ERR_EXT_HEADER_REQD`).
            let text = "extended headers are in use already";
            return Err((OptionError::ExtendedHeadersRequired, text).into());
        }
        self.session.structured = true;
        Ok(())
    }

    fn extended_headers(&mut self, data: &[u8]) -> Result<(), Failed> {
        no_data(data)?;
        self.session.extended = true;
        Ok(())
    }

    fn list_meta_context(
        &self,
        catalog: &dyn Catalog,
        option: OptionCode,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let (contexts, _) = self.meta_query(catalog, data, QueryUse::List)?;
        for (_, context) in contexts.iter() {
            // "The metadata context ID in these replies is reserved and SHOULD be set to zero".
            meta_context(out, option, 0, context);
        }
        Ok(())
    }

    fn set_meta_context(
        &mut self,
        catalog: &dyn Catalog,
        option: OptionCode,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let (contexts, name) = self.meta_query(catalog, data, QueryUse::Select)?;
        for (id, context) in contexts.iter() {
            meta_context(out, option, id, context);
        }
        self.session.contexts = Some((contexts, name.to_owned()));
        Ok(())
    }

    /// The contexts that a client's queries stand for, and the export it named.
    fn meta_query<'a>(
        &self,
        catalog: &dyn Catalog,
        data: &'a [u8],
        query_use: QueryUse,
    ) -> Result<(MetaContexts, &'a str), Failed> {
        if !self.session.reply_style().has_chunks() {
            // "If a client attempts to do so, a server SHOULD send `NBD_REP_ERR_INVALID`"
            // (proto.md, "Option types").
            let text = "structured replies or extended headers come first";
            return Err((OptionError::Invalid, text).into());
        }
        let queries = MetaQuery::decode(data, self.max_name_bytes)?;
        let mut contexts = MetaContexts::NONE;
        queries.queries(|text| {
            let selected = query(text, query_use)
                .ok_or((OptionError::Invalid, "a query has no namespace and colon"))?;
            contexts.extend(selected);
            Ok(())
        })?;
        find(catalog, queries.name)?;
        if queries.count == 0 && query_use == QueryUse::List {
            // "If zero queries are sent, then the server MUST return all the metadata contexts"; of
            // a selection: "the server MUST select no metadata contexts".
            contexts = MetaContexts::all();
        }
        Ok((contexts, queries.name))
    }

    /// The agreement as it stands, for an export asked for as `name`.
    fn negotiated(&self, export: ExportInfo, name: &str) -> Negotiated {
        // "where the final time it was sent, it referred to the same export name that was
        // ultimately selected for transmission phase" (proto.md, "Option types").
        let contexts = match &self.session.contexts {
            Some((contexts, set_for)) if set_for == name => *contexts,
            _ => MetaContexts::NONE,
        };
        Negotiated::new(export, self.session.reply_style(), contexts, self.no_zeroes)
    }
}

/// "Servers that receive messages which they do not implement MUST reply to them with
/// `NBD_REP_ERR_UNSUP`, and MUST NOT fail to parse the next message received" (proto.md,
/// "Baseline").
fn unsupported(option: OptionCode, out: &mut Vec<u8>) {
    let text = format!("{option} is not supported");
    reply_error(out, option, OptionError::Unsupported, &text);
}

/// `NBD_OPT_LIST`, all but the final acknowledgement.
fn list(
    catalog: &dyn Catalog,
    option: OptionCode,
    data: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Failed> {
    no_data(data)?;
    for (name, description) in catalog.list() {
        // A name no client could send back is of no use to any.
        if name.len() > MAX_STRING_BYTES || name.contains('\0') {
            continue;
        }
        let description = truncated(description.as_deref().unwrap_or_default(), MAX_STRING_BYTES);
        let name_len = wire_len(name.len()).to_be_bytes();
        let parts: [&[u8]; 3] = [&name_len, name.as_bytes(), description.as_bytes()];
        reply(out, option, REP_SERVER, &parts);
    }
    Ok(())
}

fn meta_context(out: &mut Vec<u8>, option: OptionCode, id: u32, context: Context) {
    reply(
        out,
        option,
        REP_META_CONTEXT,
        &[&id.to_be_bytes(), context.name().as_bytes()],
    );
}

fn find(catalog: &dyn Catalog, name: &str) -> Result<ExportInfo, Failed> {
    catalog.export(name).ok_or_else(|| Failed {
        error: OptionError::UnknownExport,
        message: match name {
            "" => "there is no default export".to_owned(),
            _ => format!("there is no export named {:?}", truncated(name, 256)),
        },
    })
}

fn no_data(data: &[u8]) -> Result<(), Malformed> {
    if data.is_empty() {
        Ok(())
    } else {
        Err((OptionError::Invalid, "the option must have no data"))
    }
}
