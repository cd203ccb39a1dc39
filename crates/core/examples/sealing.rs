//! What sealing a page and opening it again cost, in microseconds, by its length: medians of many. No arguments; prints one JSON object.

use std::time::Instant;

use ramster_core::handle::{Handle, ObjectId, OwnerId, PoolId};
use ramster_core::seal::{Context, KEY_BYTES, Key, TAG_BYTES};

const ROUNDS: usize = 101;
const PAGES: u32 = 200;

fn context(version: u32) -> Context {
    let handle = Handle { pool: PoolId(1), object: ObjectId([2, 3, 4]), index: version };
    Context { owner: OwnerId { node: 6, client: 7, incarnation: 8 }, handle, version, kind: 3 }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let key = Key::new([1; KEY_BYTES]);
    let mut found = Vec::new();
    for length in [750, 1500, 4096] {
        let (mut seal_us, mut open_us) = (Vec::new(), Vec::new());
        let mut buffer = vec![0x5a; length + TAG_BYTES];
        for _ in 0..ROUNDS {
            let (mut sealing, mut opening) = (0.0, 0.0);
            for version in 0..PAGES {
                let start = Instant::now();
                let tag = key.seal(&context(version), &mut buffer[..length]);
                buffer[length..].copy_from_slice(&tag.0);
                let sealed = Instant::now();
                key.open(&context(version), &mut buffer).expect("our own page");
                sealing += (sealed - start).as_secs_f64();
                opening += sealed.elapsed().as_secs_f64();
            }
            seal_us.push(sealing * 1e6 / f64::from(PAGES));
            open_us.push(opening * 1e6 / f64::from(PAGES));
        }
        found.push(format!(r#""{length}": {{"seal_us": {:.3}, "open_us": {:.3}}}"#, median(seal_us), median(open_us)));
    }
    println!("{{{}}}", found.join(", "));
}
