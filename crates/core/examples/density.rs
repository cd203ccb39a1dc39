//! How densely the store keeps the pages of a file, and what it costs: one JSON line. `bench/density.py` makes the files and asks zram the same.
//! Usage: density FILE [lz4|zstd LEVEL]

use ramster_core::compress::{Codec, Packer};
use ramster_core::handle::{Handle, ObjectId, PoolKind};
use ramster_core::page::{PAGE_BYTES, Page};
use ramster_core::store::{HeapSlabs, SLAB_BYTES};
use ramster_core::tmem::Tmem;
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
    let (mut pack_ns, mut put_ns) = (Vec::new(), Vec::new());
    for (index, page) in pages.iter().enumerate() {
        let start = Instant::now();
        let packed = packer.pack(page, codec);
        let packed_at = Instant::now();
        tmem.put(&handle(index), packed);
        pack_ns.push((packed_at - start).as_nanos());
        put_ns.push(packed_at.elapsed().as_nanos());
    }
    let filled = tmem.gauges();
    let (get_ns, unpack_ns) = read_all(&mut tmem, &mut packer, pages, &handle)?;
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
         \"put_ns\": {}, \"get_ns\": {}, \"unpack_ns\": {}, \"quarter_packed_bytes\": {}, \"quarter_used_bytes\": {}, \
         \"compacted_used_bytes\": {}, \"compact_moved_bytes\": {}, \"compact_ms\": {:.1}}}",
        pages.len(),
        filled.pages_same,
        filled.bytes_stored,
        filled.bytes_used,
        filled.bytes_metadata,
        median(pack_ns),
        median(put_ns),
        median(get_ns),
        median(unpack_ns),
        holey.bytes_stored,
        holey.bytes_used,
        dense.bytes_used,
        compacted.moved_bytes,
        compact_ns as f64 / 1e6,
    );
    Ok(())
}

fn median(mut times: Vec<u128>) -> u128 {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn read_all(
    tmem: &mut Tmem<HeapSlabs>,
    packer: &mut Packer,
    pages: &[Page],
    handle: &dyn Fn(usize) -> Handle,
) -> Result<(Vec<u128>, Vec<u128>), String> {
    use ramster_core::backend::Keep;
    use ramster_core::tmem::{Answer, Copied};
    let (mut copied, mut page) = (Copied::default(), [0; PAGE_BYTES]);
    let (mut get_ns, mut unpack_ns) = (Vec::new(), Vec::new());
    for step in 0..pages.len() {
        let index = step * 7919 % pages.len();
        let start = Instant::now();
        let answer = tmem.get(&handle(index), Keep::Keep, &mut copied);
        let got = Instant::now();
        match answer {
            Answer::Local => packer.unpack(copied.packed(), &mut page).map_err(|why| format!("page {index}: {why:?}"))?,
            Answer::Same(value) => ramster_core::compress::fill(&mut page, value),
            other => return Err(format!("page {index}: {other:?}")),
        }
        get_ns.push((got - start).as_nanos());
        unpack_ns.push(got.elapsed().as_nanos());
        if page != pages[index] {
            return Err(format!("page {index} came back different"));
        }
    }
    Ok((get_ns, unpack_ns))
}
