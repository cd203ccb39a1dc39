//! How densely the store keeps the pages of a file, and what it costs: one JSON line. `bench/density.py` makes the files and asks zram the same.
//! Usage: density FILE [lz4|zstd LEVEL]

use ramster_core::backend::Keep;
use ramster_core::compress::{Codec, Kind, Packed, Packer};
use ramster_core::handle::{Handle, ObjectId, PoolKind};
use ramster_core::page::{Digest, PAGE_BYTES, Page};
use ramster_core::store::{HeapSlabs, SLAB_BYTES};
use ramster_core::tmem::{Answer, Copied, Tmem};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: density FILE [lz4|zstd LEVEL]")?;
    let codec = match arguments.next().as_deref() {
        None | Some("lz4") => Codec::Lz4,
        Some("zstd") => Codec::Zstd(arguments.next().unwrap_or_default().parse().unwrap_or(1)),
        Some(other) => return Err(format!("no codec {other}").into()),
    };
    let bytes = std::fs::read(&path)?;
    let (pages, _) = bytes.as_chunks::<PAGE_BYTES>();
    let slabs = bytes.len() / SLAB_BYTES * 4 + 1024;
    let mut tmem = Tmem::new(HeapSlabs::new(u32::try_from(slabs)?), 1, u64::MAX);
    let pool = tmem.new_pool(PoolKind::Persistent).map_err(|_| "no pool")?;
    let handle = |index: usize| Handle { pool, object: ObjectId([0; 3]), index: index as u32 };
    let mut packer = Packer::new(1);
    let mut packed = Vec::new();
    let pack_ns = timed(pages.len(), |index| {
        let one = packer.pack(&pages[index], codec);
        packed.push((one.kind, one.digest, one.bytes.to_vec()));
    });
    let put = |tmem: &mut Tmem<HeapSlabs>, index: usize| {
        let (kind, digest, bytes) = &packed[index];
        tmem.put(&handle(index), Packed { kind: *kind, digest: *digest, bytes });
    };
    let put_ns = timed(pages.len(), |index| put(&mut tmem, index));
    let filled = tmem.gauges();
    let (get_ns, unpack_ns) = read_all(&mut tmem, &mut packer, pages, &handle)?;
    // A quarter goes and comes again: a put into holes, whose frames have memory.
    (0..pages.len()).step_by(4).for_each(|index| tmem.flush_page(&handle(index)));
    let put_again_ns = timed(pages.len() / 4, |index| put(&mut tmem, index * 4));
    // Three quarters go, scattered: what holes cost, and what compaction gets back.
    for index in (0..pages.len()).filter(|index| !((index * 2_654_435_761) >> 7).is_multiple_of(4)) {
        tmem.flush_page(&handle(index));
    }
    let holey = tmem.gauges();
    let start = Instant::now();
    let compacted = tmem.compact(usize::MAX);
    let compact_ns = start.elapsed().as_nanos();
    let dense = tmem.gauges();
    println!(
        "{{\"pages\": {}, \"pages_same\": {}, \"packed_bytes\": {}, \"used_bytes\": {}, \"metadata_bytes\": {}, \"pack_ns\": {}, \
         \"put_ns\": {}, \"put_again_ns\": {}, \"get_ns\": {}, \"unpack_ns\": {}, \"quarter_packed_bytes\": {}, \"quarter_used_bytes\": {}, \
         \"compacted_used_bytes\": {}, \"compact_moved_bytes\": {}, \"compact_ms\": {:.1}}}",
        pages.len(),
        filled.pages_same,
        filled.bytes_stored,
        filled.bytes_used,
        filled.bytes_metadata,
        pack_ns,
        put_ns,
        put_again_ns,
        get_ns,
        unpack_ns,
        holey.bytes_stored,
        holey.bytes_used,
        dense.bytes_used,
        compacted.moved_bytes,
        compact_ns as f64 / 1e6,
    );
    Ok(())
}

/// Nanoseconds for one: the median of runs of 64, so that neither the clock nor a neighbour's turn on the core counts.
fn timed(count: usize, mut one: impl FnMut(usize)) -> u128 {
    let mut runs = Vec::new();
    for first in (0..count).step_by(RUN) {
        let start = Instant::now();
        (first..count.min(first + RUN)).for_each(&mut one);
        runs.push(start.elapsed().as_nanos() / RUN as u128);
    }
    median(runs)
}

fn read_all(
    tmem: &mut Tmem<HeapSlabs>,
    packer: &mut Packer,
    pages: &[Page],
    handle: &dyn Fn(usize) -> Handle,
) -> Result<(u128, u128), String> {
    let mut kept: Vec<(Answer, Copied)> = (0..RUN).map(|_| (Answer::Miss, Copied::default())).collect();
    let mut wrong = None;
    let mut unpack_runs = Vec::new();
    let mut get_runs = Vec::new();
    for first in (0..pages.len()).step_by(RUN) {
        let indexes: Vec<usize> = (first..pages.len().min(first + RUN)).map(|step| step * 7919 % pages.len()).collect();
        let start = Instant::now();
        for (index, (answer, copied)) in indexes.iter().zip(&mut kept) {
            *answer = tmem.get(&handle(*index), Keep::Keep, copied);
        }
        let got = Instant::now();
        for (index, (answer, copied)) in indexes.iter().zip(&kept) {
            let mut page = [0; PAGE_BYTES];
            let unpacked = match answer {
                Answer::Local => packer.unpack(copied.packed(), &mut page).is_ok(),
                Answer::Same(value) => {
                    packer.unpack(Packed { kind: Kind::Same(*value), digest: Digest::default(), bytes: &[] }, &mut page).is_ok()
                }
                _ => false,
            };
            if !unpacked || page != pages[*index] {
                wrong = Some(*index);
            }
        }
        get_runs.push((got - start).as_nanos() / RUN as u128);
        unpack_runs.push(got.elapsed().as_nanos() / RUN as u128);
    }
    if let Some(index) = wrong {
        return Err(format!("page {index} came back different"));
    }
    Ok((median(get_runs), median(unpack_runs)))
}

fn median(mut runs: Vec<u128>) -> u128 {
    runs.sort_unstable();
    runs.get(runs.len() / 2).copied().unwrap_or_default()
}

const RUN: usize = 64;
