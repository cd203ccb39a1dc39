//! The network: wires between owners and holders that carry bytes as TCP does. Covers delay, stalls, windows, cuts one way and both, resets and ends; what
//! the bytes mean is for who sends them. Within one wire order is kept and bytes are lost only with the wire.

use std::collections::{BTreeMap, VecDeque};

use ramster_core::wire::frame::Side;

use crate::clock::{Clock, Event, MS, SECOND, Who};
use crate::random::Random;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct WireId(pub u32);

/// What a socket's buffers on both sides take together.
const WINDOW_BYTES: usize = 192 << 10;
/// Segments are cut anywhere, up to this long.
const SEGMENT_BYTES: usize = 60_000;
/// Keepalive and the timeout of unacknowledged bytes, as in peer/socket.rs.
const SILENT_US: u64 = 25 * SECOND;

/// One direction.
#[derive(Default)]
struct Flow {
    segments: VecDeque<(u64, Vec<u8>)>,
    flying_bytes: usize,
    last_us: u64,
    arrived: VecDeque<u8>,
    /// The sender has closed; the receiver hears of it after all bytes.
    ends_us: Option<u64>,
    ended: bool,
    wants_room: bool,
    /// Arrived at a cut: goes on when it is healed.
    held: bool,
}

pub struct Wire {
    pub owner: Who,
    pub holder: Who,
    /// To the holder, to the owner.
    flows: [Flow; 2],
    /// The socket of this side is still there: client, server.
    open: [bool; 2],
    broken: [bool; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    Nothing,
    Bytes(usize),
    Closed,
    /// Reset: what was under way is gone.
    Broken,
}

/// How a network behaves, drawn once.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub latency_us: u64,
    pub jitter_us: u64,
    /// One segment in so many stalls, for up to this long.
    pub stall_one_in: u64,
    pub stall_us: u64,
    pub bytes_per_ms: u64,
}

pub struct Net {
    pub weather: Weather,
    pub wires: BTreeMap<WireId, Wire>,
    last_wire: u32,
    /// Cut from an owner's place to a holder's, and back: since when.
    cuts: BTreeMap<(usize, usize, bool), u64>,
    pub bytes: u64,
}

fn index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Server => 1,
    }
}

/// The flow that `side` receives.
fn towards(side: Side) -> usize {
    match side {
        Side::Server => 0,
        Side::Client => 1,
    }
}

pub fn other(side: Side) -> Side {
    match side {
        Side::Client => Side::Server,
        Side::Server => Side::Client,
    }
}

impl Net {
    pub fn new(weather: Weather) -> Self {
        Net { weather, wires: BTreeMap::new(), last_wire: 0, cuts: BTreeMap::new(), bytes: 0 }
    }

    /// The connect of an owner: whether the holder's process listens is the caller's knowledge.
    pub fn connect(&mut self, owner: Who, holder: Who) -> WireId {
        self.last_wire += 1;
        let wire = Wire { owner, holder, flows: Default::default(), open: [true; 2], broken: [false; 2] };
        self.wires.insert(WireId(self.last_wire), wire);
        WireId(self.last_wire)
    }

    pub fn is_cut(&self, owner: usize, holder: usize) -> bool {
        self.cuts.contains_key(&(owner, holder, true)) || self.cuts.contains_key(&(owner, holder, false))
    }

    /// `to_holder`: the way there; otherwise the way back.
    pub fn cut(&mut self, clock: &Clock, owner: usize, holder: usize, to_holder: bool) {
        self.cuts.entry((owner, holder, to_holder)).or_insert(clock.now_us);
    }

    pub fn heal(&mut self, clock: &mut Clock, random: &mut Random, owner: usize, holder: usize) {
        self.cuts.remove(&(owner, holder, true));
        self.cuts.remove(&(owner, holder, false));
        for (id, wire) in &mut self.wires {
            for side in [Side::Client, Side::Server] {
                let flow = &mut wire.flows[towards(side)];
                if std::mem::take(&mut flow.held) {
                    // Retransmission has backed off.
                    clock.after(random.below(SECOND), Event::Arrive(*id, side));
                }
            }
        }
    }

    /// Wires of a pair that was cut for that long are dead on both sides.
    pub fn end_silent(&mut self, clock: &mut Clock, random: &mut Random) {
        let dead: Vec<WireId> = self.wires.iter().filter(|(_, wire)| self.is_silent(clock, wire)).map(|(id, _)| *id).collect();
        for wire in dead {
            self.reset(clock, random, wire, 200 * MS);
        }
    }

    fn is_silent(&self, clock: &Clock, wire: &Wire) -> bool {
        let since = |to_holder| self.cuts.get(&(wire.owner.place, wire.holder.place, to_holder));
        [true, false].iter().any(|way| since(*way).is_some_and(|since_us| clock.now_us - since_us >= SILENT_US))
    }

    /// The wire is dead; each side sees it at a time of its own.
    pub fn reset(&mut self, clock: &mut Clock, random: &mut Random, id: WireId, within_us: u64) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        for flow in &mut wire.flows {
            flow.segments.clear();
            (flow.flying_bytes, flow.held) = (0, false);
        }
        for side in [Side::Client, Side::Server] {
            if wire.open[index(side)] && !std::mem::replace(&mut wire.broken[index(side)], true) {
                clock.after(1 + random.below(within_us), Event::Broken(id, side));
            }
        }
    }

    /// Returns how much was taken; 0 where the window is full, or the wire is dead, which the sender will see.
    pub fn send(&mut self, clock: &mut Clock, random: &mut Random, id: WireId, side: Side, bytes: &[u8]) -> usize {
        let weather = self.weather;
        let Some(wire) = self.wires.get_mut(&id) else { return 0 };
        if wire.broken[index(side)] || !wire.open[index(side)] {
            return 0;
        }
        let flow = &mut wire.flows[towards(other(side))];
        let room = WINDOW_BYTES.saturating_sub(flow.flying_bytes + flow.arrived.len());
        let taken = room.min(bytes.len());
        flow.wants_room = taken < bytes.len();
        let mut rest = &bytes[..taken];
        while !rest.is_empty() {
            let most = if random.one_in(4) { 1 + random.below(200) as usize } else { SEGMENT_BYTES };
            let (segment, after) = rest.split_at(most.min(rest.len()));
            rest = after;
            let mut delay_us = weather.latency_us + random.below(weather.jitter_us + 1);
            delay_us += segment.len() as u64 * MS / weather.bytes_per_ms;
            if weather.stall_one_in > 0 && random.one_in(weather.stall_one_in) {
                delay_us += random.below(weather.stall_us + 1);
            }
            let at_us = (clock.now_us + delay_us).max(flow.last_us);
            flow.last_us = at_us;
            flow.flying_bytes += segment.len();
            flow.segments.push_back((at_us, segment.to_vec()));
            clock.at(at_us, Event::Arrive(id, other(side)));
        }
        self.bytes += taken as u64;
        taken
    }

    /// True: `side` has something to read.
    pub fn arrive(&mut self, clock: &Clock, id: WireId, side: Side) -> bool {
        let Some(wire) = self.wires.get_mut(&id) else { return false };
        let flow = &mut wire.flows[towards(side)];
        if self.cuts.contains_key(&(wire.owner.place, wire.holder.place, side == Side::Server)) {
            flow.held = true;
            return false;
        }
        while let Some((at_us, _)) = flow.segments.front()
            && *at_us <= clock.now_us
        {
            let (_, bytes) = flow.segments.pop_front().unwrap_or_default();
            flow.flying_bytes -= bytes.len();
            flow.arrived.extend(bytes);
        }
        flow.ended |= flow.segments.is_empty() && flow.ends_us.is_some_and(|at_us| at_us <= clock.now_us);
        !flow.arrived.is_empty() || flow.ended
    }

    /// Into `space`, cut anywhere.
    pub fn receive(&mut self, clock: &mut Clock, random: &mut Random, id: WireId, side: Side, space: &mut [u8]) -> Received {
        let Some(wire) = self.wires.get_mut(&id) else { return Received::Broken };
        let flow = &mut wire.flows[towards(side)];
        if flow.arrived.is_empty() {
            return if flow.ended { Received::Closed } else { Received::Nothing };
        }
        let mut count = flow.arrived.len().min(space.len());
        if random.one_in(4) {
            count = 1 + random.below(count as u64) as usize;
        }
        space.iter_mut().zip(flow.arrived.drain(..count)).for_each(|(to, byte)| *to = byte);
        if std::mem::take(&mut flow.wants_room) {
            clock.after(self.weather.latency_us, Event::Room(id, other(side)));
        }
        Received::Bytes(count)
    }

    /// This side closes its socket. What it sent before still arrives, unless `abruptly`.
    pub fn close(&mut self, clock: &mut Clock, random: &mut Random, id: WireId, side: Side, abruptly: bool) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        wire.open[index(side)] = false;
        let peer = other(side);
        if !wire.open[index(peer)] {
            self.wires.remove(&id);
            return;
        }
        if wire.broken[index(peer)] {
            return;
        }
        if abruptly {
            wire.flows.iter_mut().for_each(|flow| flow.segments.clear());
            wire.broken[index(peer)] = true;
            clock.after(1 + self.weather.latency_us + random.below(5 * MS), Event::Broken(id, peer));
            return;
        }
        let flow = &mut wire.flows[towards(peer)];
        let at_us = (clock.now_us + self.weather.latency_us).max(flow.last_us);
        (flow.last_us, flow.ends_us) = (at_us, Some(at_us));
        clock.at(at_us, Event::Arrive(id, peer));
    }

    /// A forked child has the socket now.
    pub fn pass_on(&mut self, id: WireId, owner: Who) {
        if let Some(wire) = self.wires.get_mut(&id) {
            wire.owner = owner;
        }
    }

    pub fn is_open(&self, id: WireId, side: Side) -> bool {
        self.wires.get(&id).is_some_and(|wire| wire.open[index(side)])
    }

    pub fn wires_of(&self, which: impl Fn(&Wire) -> bool) -> Vec<WireId> {
        self.wires.iter().filter(|(_, wire)| which(wire)).map(|(id, _)| *id).collect()
    }
}
