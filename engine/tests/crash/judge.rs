//! Judges images. The first violation is a sentence.

use std::sync::Arc;

use usnap_engine::device::{BlockDevice, MemDevice};
use usnap_engine::sim::{CrashState, Event};
use usnap_engine::{Snapshot, SnapshotOptions};

use crate::case::{Case, KERNEL_BEYOND};
use crate::operation::any_operation;
use crate::plain_kernel::{Done, PlainKernel};
use crate::plain_loader::{compose_store, load};
use crate::player::{Cut, Player};
use crate::random::Random;
use crate::stream::{FLUSH, Obedient};
use crate::values::{Values, payload};

/// How closely to look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Images of one cut: all if they are not more than this, else so many samples.
    pub(crate) images: u64,
    /// Images of each second cut.
    pub(crate) second_images: u64,
    /// What is done by us between the cuts.
    pub(crate) operations: u64,
    /// Second cuts while the kernel writes on.
    pub(crate) kernel_cuts: u64,
}

/// Judges the images of one history, and counts them.
pub(crate) struct Judge<'a> {
    case: &'a Case,
    effort: Effort,
    random: Random,
    /// How many images were judged, after the first cut and after the second.
    pub(crate) images: u64,
}

fn words(who: &'static str) -> impl Fn(String) -> String {
    move |e| format!("{who}: {e}")
}

impl<'a> Judge<'a> {
    pub(crate) fn new(case: &'a Case, effort: Effort, seed: u64) -> Self {
        Self {
            case,
            effort,
            random: Random::new(seed),
            images: 0,
        }
    }

    /// Judges what a first cut may leave.
    pub(crate) fn first_cut(&mut self, cut: &Cut<'_>) -> Result<(), String> {
        let seed = self.random.next();
        for image in cut.state.some_images(self.effort.images, seed) {
            let content = self.opens(&image, cut.values)?;
            // A kernel that takes a store with junk itself brings it alive; from our open on it is
            // gone.
            if cut.opened {
                self.kernel_writes_on(&image, &content)
                    .map_err(words("a kernel writes on"))?;
            }
            self.we_write_on(image, content)
                .map_err(words("we write on"))?;
        }
        Ok(())
    }

    /// What a second cut may leave. `by_us`: it was us who wrote, so a kernel may be next.
    fn second_cut(
        &mut self,
        state: &CrashState,
        values: &Values,
        by_us: bool,
    ) -> Result<(), String> {
        let seed = self.random.next();
        for image in state.some_images(self.effort.second_images, seed) {
            self.opens(&image, values).map_err(words("a second cut"))?;
            if by_us {
                self.kernel_fills(image)
                    .map_err(words("a second cut, then a kernel"))?;
            }
        }
        Ok(())
    }

    /// An image as it lies, and as we see it; hands back the content.
    fn opens(&mut self, image: &[u8], values: &Values) -> Result<Vec<u8>, String> {
        self.images += 1;
        let store = load(image)?;
        no_chunk_twice(&store.exceptions)?;
        let content = compose_store(&self.case.origin_bytes, image, &store)?;
        values.check(&content)?;

        let cow = Arc::new(MemDevice::from_bytes(image));
        let options = SnapshotOptions::default();
        let snapshot = Snapshot::on_devices(self.case.origin.clone(), cow.clone(), &options)
            .map_err(|e| format!("we do not open it: {e:?}"))?;
        let mut found = vec![0; content.len()];
        let read = snapshot.read_at(&mut found, 0);
        read.map_err(|e| format!("we do not read it: {e:?}"))?;
        if found != content {
            return Err("we read something else than the independent loader".to_owned());
        }
        let (chunk_len, count) = (self.case.shape.chunk_len, store.exceptions.len());
        let entries = chunk_len / 16;
        let mut area = vec![0; chunk_len];
        let start = (1 + count / entries * (entries + 1)) * chunk_len;
        let read = cow.read_at(&mut area, start as u64);
        read.map_err(|e| format!("the current area: {e:?}"))?;
        if area[count % entries * 16..].iter().any(|byte| *byte != 0) {
            return Err("we leave junk behind the terminator".to_owned());
        }
        Ok(content)
    }

    fn we_write_on(&mut self, image: Vec<u8>, content: Vec<u8>) -> Result<(), String> {
        let case = self.case;
        let mut random = Random::new(self.random.next());
        // Once it is open it is what was judged already.
        let mut on_cut = |cut: &Cut<'_>| match cut.opened {
            true => Ok(()),
            false => self.second_cut(cut.state, cut.values, false),
        };
        let mut stream = Obedient;
        let mut player = Player::open(case, image, content, false, &mut stream, &mut on_cut)?;
        let count = self.effort.operations;
        let mut on_cut = |cut: &Cut<'_>| self.second_cut(cut.state, cut.values, true);
        for n in 0..count {
            let operation = if n + 1 == count {
                crate::operation::Operation::Flush
            } else {
                any_operation(case, &mut random)
            };
            player
                .step(operation, 3 << 40 | n, &mut on_cut)
                .map_err(|e| format!("{operation:?}: {e}"))?;
        }
        Ok(())
    }

    /// A kernel takes the store and writes more than an area's worth, while the power may go.
    fn kernel_writes_on(&mut self, image: &[u8], content: &[u8]) -> Result<(), String> {
        let case = self.case;
        let chunk_len = case.shape.chunk_len;
        let mut random = Random::new(self.random.next());
        let mut kernel = PlainKernel::activate(image.to_vec())?;
        let mut state = CrashState::new(image.to_vec());
        let mut values = Values::new(content.to_vec());
        let all = kernel_chunks(case);
        // Each first write is some four calls.
        let mut cuts: Vec<u64> = (0..self.effort.kernel_cuts)
            .map(|_| random.below(4 * all as u64))
            .collect();
        let (mut calls, mut next) = (0, case.kernels);
        // One at a time, or many together, and now and then part of a chunk.
        let most = if random.below(2) == 0 { 1 } else { 40 };
        while next < case.kernels + all && kernel.has_room() {
            let stamp = 4 << 40 | next as u64;
            let mut flushed = false;
            match random.below(12) {
                0 => {
                    let origin = &case.origin_bytes[case.offset(next)..][..chunk_len];
                    let data = payload(stamp, case.offset(next), chunk_len / 2);
                    values.write(case.offset(next), &data);
                    kernel.write_part(next as u64, 0, data, origin);
                    next += 1;
                }
                1 => {
                    kernel.flush();
                    flushed = true;
                }
                2 if case.shape.exceptions > 1 => {
                    let data = payload(stamp, case.offset(1), chunk_len);
                    values.write(case.offset(1), &data);
                    kernel.write(vec![(1, data)]);
                }
                _ => {
                    let mut batch = Vec::new();
                    let room = if case.shape.room.is_some() { 1 } else { most };
                    let end = next + 1 + usize::try_from(random.below(room)).expect("small");
                    while next < end.min(case.kernels + all) {
                        let data = payload(stamp, case.offset(next), chunk_len);
                        values.write(case.offset(next), &data);
                        batch.push((next as u64, data));
                        next += 1;
                    }
                    kernel.write(batch);
                }
            }
            if !kernel.ends_where_it_should() {
                return Err("a stale entry comes alive".to_owned());
            }
            for done in kernel.take_done() {
                state.add(&event_of(done));
                calls += 1;
                if cuts.contains(&calls) {
                    cuts.retain(|cut| *cut != calls);
                    self.second_cut(&state, &values, false)?;
                }
            }
            if flushed {
                values.flush();
            }
        }
        if case.shape.room.is_none() && next < case.kernels + all {
            return Err(format!("it is full after {next} chunks"));
        }
        end_of_kernel(case, &kernel, values.now())
    }

    /// The same in short, and without a cut.
    fn kernel_fills(&mut self, image: Vec<u8>) -> Result<(), String> {
        let case = self.case;
        let mut kernel = PlainKernel::activate(image)?;
        for next in case.kernels..case.kernels + kernel_chunks(case) - KERNEL_BEYOND / 2 {
            if !kernel.has_room() {
                break;
            }
            kernel.write(vec![(next as u64, vec![7; case.shape.chunk_len])]);
            if !kernel.ends_where_it_should() {
                return Err("a stale entry comes alive".to_owned());
            }
        }
        Ok(())
    }
}

/// How many chunks a kernel takes: more than an area's worth.
fn kernel_chunks(case: &Case) -> usize {
    case.shape.chunk_len / 16 + KERNEL_BEYOND
}

fn event_of(done: Done) -> Event {
    match done {
        Done::Write { offset, data } => Event::Write {
            offset: offset as u64,
            data,
        },
        Done::Flush => FLUSH,
    }
}

/// What a kernel leaves is a store with exactly what it wrote.
fn end_of_kernel(case: &Case, kernel: &PlainKernel, wanted: &[u8]) -> Result<(), String> {
    let store = load(kernel.image())?;
    no_chunk_twice(&store.exceptions)?;
    let content = compose_store(&case.origin_bytes, kernel.image(), &store)?;
    if content != wanted {
        return Err("it shows something else than was there and was written".to_owned());
    }
    Ok(())
}

fn no_chunk_twice(exceptions: &[(u64, u64)]) -> Result<(), String> {
    for pick in [|e: &(u64, u64)| e.0, |e: &(u64, u64)| e.1] {
        let mut chunks: Vec<u64> = exceptions.iter().map(pick).collect();
        chunks.sort_unstable();
        if let Some(twice) = chunks.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("chunk {} is there twice", twice[0]));
        }
    }
    Ok(())
}
