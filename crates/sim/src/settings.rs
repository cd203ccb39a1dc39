//! What a seed draws before anything happens: how many of everything, how fast, how durable, and which kind of history it is. Covers those choices only.

use ramster_core::compress::Codec;

use crate::clock::{HOUR, MS, SECOND};
use crate::net::Weather;
use crate::owner::{Durability, OwnerSettings};
use crate::random::Random;

/// What may go wrong, and so what must not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing fails. Offers shrink, nodes drain, owners come, fork and go.
    Calm,
    /// One failure at a time, the next one when all is well again: with two copies or a disk nothing is ever lost.
    Single,
    /// Anything at any time: what is lost is lost loudly, and for a cause.
    Anything,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub kind: Kind,
    pub owners: Vec<OwnerSettings>,
    pub offers: Vec<u64>,
    pub weather: Weather,
    pub length_us: u64,
    /// Between two failures, or changes, on average.
    pub fault_us: u64,
    /// Every page is looked at after so many steps; what a step touched always is.
    pub look_steps: u64,
    /// Forks happen.
    pub forks: bool,
    /// This holder gives back other bytes than it was given.
    pub liar: Option<usize>,
    /// Disks change bits.
    pub rots: bool,
}

impl Settings {
    pub fn draw(random: &mut Random, hours: Option<f64>) -> Settings {
        let kind = random.pick(&[Kind::Calm, Kind::Single, Kind::Single, Kind::Anything, Kind::Anything]);
        // Some histories are dense, to bring rare moments together; most are as slow as programs are.
        let think_us = random.pick(&[200 * MS, SECOND, 3 * SECOND, 5 * SECOND]);
        let length_us = (think_us * random.between(1500, 3000)).max(HOUR / 12);
        let owners = (0..random.between(2, 4)).map(|_| Self::draw_owner(random, kind, think_us)).collect::<Vec<_>>();
        let holders = random.between(3, 6) as usize;
        let working_set: u64 = owners.iter().map(|owner| owner.objects * u64::from(owner.indexes) * 3000 * 3).sum();
        let roomy = kind == Kind::Single || random.one_in(2);
        let share = working_set / holders as u64;
        let offers = (0..holders).map(|_| if roomy { share * 3 } else { random.between(share / 4, share * 2) }).collect();
        let wild = kind == Kind::Anything;
        let latency_us = random.pick(&[60, 300, 2000, 20_000]);
        let stall_us = if wild { random.pick(&[200, 3000, 15_000]) * MS } else { 300 * MS };
        let weather = Weather {
            latency_us,
            jitter_us: latency_us * random.below(3),
            stall_one_in: random.pick(&[0, 100, 1000]),
            stall_us,
            bytes_per_ms: random.pick(&[12_000, 120_000]),
        };
        Settings {
            kind,
            owners,
            offers,
            weather,
            length_us: hours.map_or(length_us, |hours| (hours * HOUR as f64) as u64),
            fault_us: (think_us * 100).clamp(20 * SECOND, 400 * SECOND),
            look_steps: random.pick(&[64, 512, 2048]),
            forks: random.one_in(2),
            liar: (wild && random.one_in(4)).then(|| random.below(holders as u64) as usize),
            rots: wild && random.one_in(3),
        }
    }

    fn draw_owner(random: &mut Random, kind: Kind, think_us: u64) -> OwnerSettings {
        use Durability::{Auto, Copies, Disk, None};
        let durability = match kind {
            Kind::Single => random.pick(&[Copies(2), Copies(2), Copies(3), Disk, Auto, None]),
            _ => random.pick(&[None, None, Copies(2), Copies(3), Disk, Auto]),
        };
        let has_disk = durability == Disk || random.one_in(3);
        let (objects, indexes) = (random.between(1, 3), random.pick(&[12, 60, 120]));
        let limit_bytes = random.pick(&[48, 96, 200]) << 10;
        let safe = matches!(durability, Copies(_) | Disk) || (durability == Auto && has_disk);
        OwnerSettings {
            durability,
            hard: random.one_in(2),
            limit_bytes,
            codec: random.pick(&[Codec::Lz4, Codec::Lz4, Codec::Zstd(1)]),
            disk_bytes: has_disk.then(|| random.pick(&[100 << 10, 8 << 20])),
            think_us,
            objects,
            indexes,
            never_lost: kind == Kind::Calm || (kind == Kind::Single && safe),
        }
    }
}
