//! A log in words, so that a test can say what order it demands.

use usnap_engine::sim::Event;

/// Each event as a few words: `data 2..5` are chunks of data, `area 1` a whole area, `area 0 sector
/// 3` one sector of one, each with how many entries it holds now.
pub(crate) fn story(log: &[Event], chunk_len: usize) -> Vec<String> {
    log.iter().map(|event| sentence(event, chunk_len)).collect()
}

fn sentence(event: &Event, chunk_len: usize) -> String {
    match event {
        Event::Write { offset, data } => {
            let what = place(index(*offset), data.len(), chunk_len);
            if what.starts_with("area") {
                let entries = data.chunks(16).filter(|entry| entry[8..] != [0; 8]);
                format!("write {what}: {} entries", entries.count())
            } else {
                format!("write {what}")
            }
        }
        Event::Zero { offset, len } => {
            format!("zero {}", place(index(*offset), index(*len), chunk_len))
        }
        Event::Discard { offset, len } => {
            format!("discard {}", place(index(*offset), index(*len), chunk_len))
        }
        Event::Reserve { offset, len } => {
            format!("reserve {}", place(index(*offset), index(*len), chunk_len))
        }
        Event::Flush { .. } => "sync".to_owned(),
        Event::Mark(text) => text.clone(),
    }
}

fn index(value: u64) -> usize {
    usize::try_from(value).expect("devices of the tests fit in memory")
}

fn place(offset: usize, len: usize, chunk_len: usize) -> String {
    let stride = chunk_len / 16 + 1;
    let (chunk, within) = (offset / chunk_len, offset % chunk_len);
    let cut = if within == 0 && len.is_multiple_of(chunk_len) {
        String::new()
    } else if len == 512 {
        format!(" sector {}", within / 512)
    } else {
        format!(" bytes {within}..{}", within + len)
    };
    if chunk == 0 {
        format!("header{cut}")
    } else if chunk % stride == 1 {
        format!("area {}{cut}", chunk / stride)
    } else {
        format!("data {chunk}..{}{cut}", (offset + len).div_ceil(chunk_len))
    }
}
