//! Bytes and what they mean: requests, replies, entries, areas.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use usnap_engine::parts::encode_whole_area;
use usnap_format::{AreaView, Exception, NewChunk, OldChunk};
use usnap_nbd::proto::client::ClientNegotiated;
use usnap_nbd::proto::consts::EXTENDED_REQUEST_LEN;
use usnap_nbd::proto::{
    Cookie, ExportInfo, MAX_REPLY_HEADER, MetaContexts, Negotiated, ReplyStyle, Request,
    RequestKind,
};

use crate::stores::{CHUNK, chunk_size, new_chunk};

const STYLES: [(&str, ReplyStyle); 3] = [
    ("simple", ReplyStyle::Simple),
    ("structured", ReplyStyle::Structured),
    ("extended", ReplyStyle::Extended),
];

pub(crate) fn all(c: &mut Criterion) {
    requests(c);
    replies(c);
    entries(c);
}

fn read_request() -> Request {
    Request {
        cookie: Cookie(77),
        offset: 123 * CHUNK,
        kind: RequestKind::Read {
            len: 4096,
            dont_fragment: false,
        },
    }
}

fn negotiated(style: ReplyStyle) -> Negotiated {
    let export = ExportInfo::new("bench", 1 << 40);
    Negotiated::new(export, style, MetaContexts::NONE, true)
}

/// A client's side of the same.
fn client(style: ReplyStyle) -> ClientNegotiated {
    let ours = negotiated(style);
    ClientNegotiated {
        size_bytes: ours.export.size_bytes,
        flags: ours.transmission_flags(),
        block_sizes: None,
        reply_style: style,
        contexts: Vec::new(),
        canonical_name: None,
        description: None,
    }
}

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec/request decode");
    group.throughput(Throughput::Elements(1));
    for (name, style) in STYLES {
        let server = negotiated(style);
        let mut header = [0; EXTENDED_REQUEST_LEN];
        let encoded = client(style).encode_request(&mut header, &read_request());
        let len = encoded.expect("a short request");
        group.bench_function(name, |b| {
            b.iter(|| server.decode_request(black_box(&header[..len])));
        });
    }
    group.finish();
}

fn replies(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec/reply encode");
    group.throughput(Throughput::Elements(1));
    for (name, style) in STYLES {
        let replies = negotiated(style).replies();
        let mut header = [0; MAX_REPLY_HEADER];
        let request = read_request();
        group.bench_function(format!("read, {name}"), |b| {
            b.iter(|| {
                let tag = (black_box(request.cookie), request.offset);
                let len = replies.read_data_header(&mut header, tag, request.offset, 4096, true);
                black_box(&header[..len]).len()
            });
        });
        group.bench_function(format!("done, {name}"), |b| {
            b.iter(|| {
                let len = replies.done(&mut header, black_box(request.cookie), request.offset);
                black_box(&header[..len]).len()
            });
        });
    }
    group.finish();
}

/// One area of 4 KiB: 256 entries.
fn entries(c: &mut Criterion) {
    let exceptions: Vec<Exception> = (0..chunk_size().exceptions_per_area())
        .map(|number| Exception {
            old_chunk: OldChunk(number * 977),
            new_chunk: NewChunk(new_chunk(number)),
        })
        .collect();
    let mut group = c.benchmark_group("codec/area");
    group.throughput(Throughput::Elements(exceptions.len() as u64));
    let mut area = Vec::new();
    group.bench_function("encode", |b| {
        b.iter(|| encode_whole_area(chunk_size(), &mut area, black_box(&exceptions)));
    });
    group.bench_function("decode", |b| {
        b.iter(|| {
            let view = AreaView::new(black_box(&area), chunk_size()).expect("one chunk");
            let sum = |sum: u64, it: Exception| sum.wrapping_add(it.old_chunk.0 ^ it.new_chunk.0);
            view.exceptions().fold(0, sum)
        });
    });
    group.finish();
}
