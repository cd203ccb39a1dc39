//! Read-ahead: what to bring along with a fault. Faults that form a stride start a stream; a stream that is met where it was expected doubles its reach.
//! The trend over the last faults decides, as in Leap (Maruf and Chowdhury, ATC 2020). Fresh memory that is touched in order is zero-filled ahead, likewise.
//! One table for all handlers, since any of them may answer the next fault of a stream. Pure.

use std::ops::Range;

/// The most pages that one fault brings along. Twice as many would keep a second faulting thread waiting as long as four of its own faults.
pub const REACH_PAGES: usize = 32;
const STREAMS: usize = 8;
const HISTORY: usize = 4;
/// Fresh memory is zero-filled in runs of at most this many pages: 256 KiB, so that a program that touches one page in a thousand does not get the other 999.
const FRESH_RUN_PAGES: usize = 64;

#[derive(Clone, Copy, Default)]
struct Stream {
    next_page: usize,
    stride: isize,
    reach: usize,
    used: u64,
}

#[derive(Default)]
pub struct Ahead {
    streams: [Stream; STREAMS],
    history: [usize; HISTORY],
    /// Fresh memory being touched in order: the last run of each place.
    fresh: [Fresh; STREAMS],
    clock: u64,
}

#[derive(Clone, Default)]
struct Fresh {
    pages: Range<usize>,
    used: u64,
}

/// Bring `pages` pages along, at `page + stride`, `page + 2 * stride`, ...
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    pub stride: isize,
    pub pages: usize,
}

impl Ahead {
    pub fn plan(&mut self, page: usize) -> Plan {
        self.clock += 1;
        let known = self.streams.iter_mut().find(|stream| stream.reach > 0 && page.abs_diff(stream.next_page) <= slack(stream));
        let plan = if let Some(stream) = known {
            stream.reach = (stream.reach * 2).min(REACH_PAGES);
            stream.used = self.clock;
            stream.next_page = page.wrapping_add_signed(stream.stride * (stream.reach as isize + 1));
            Plan { stride: stream.stride, pages: stream.reach }
        } else {
            self.trend(page).map_or(Plan { stride: 1, pages: 0 }, |stride| self.start(page, stride))
        };
        self.history.rotate_right(1);
        self.history[0] = page;
        plan
    }

    /// Which pages of fresh memory to fill with this one, which is the first of them, or the last where memory is touched downwards.
    pub fn fresh(&mut self, page: usize) -> Range<usize> {
        self.clock += 1;
        let grown = |run: &Fresh| (run.pages.len() * 2).min(FRESH_RUN_PAGES);
        let met = self.fresh.iter_mut().find_map(|run| {
            if run.pages.is_empty() {
                None
            } else if page == run.pages.end {
                Some((page..page + grown(run), run))
            } else if page + 1 == run.pages.start {
                Some(((page + 1).saturating_sub(grown(run))..page + 1, run))
            } else {
                None
            }
        });
        let (pages, run) = match met {
            Some(met) => met,
            None => {
                let oldest = (0..STREAMS).min_by_key(|run| self.fresh[*run].used).unwrap_or(0);
                (page..page + 1, &mut self.fresh[oldest])
            }
        };
        *run = Fresh { pages: pages.clone(), used: self.clock };
        pages
    }

    /// The stride that this fault has in common with one before it.
    fn trend(&self, page: usize) -> Option<isize> {
        let [a, b, ..] = self.history;
        let near = |stride: isize| stride != 0 && stride.unsigned_abs() <= 64;
        // Two neighbours in a row are enough for a stride of one page; others need two equal steps.
        if page == a.wrapping_add(1) {
            return Some(1);
        }
        let step = page.wrapping_sub(a) as isize;
        (near(step) && step == a.wrapping_sub(b) as isize).then_some(step)
    }

    fn start(&mut self, page: usize, stride: isize) -> Plan {
        let reach = 4;
        let clock = self.clock;
        if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.used) {
            *oldest = Stream { next_page: page.wrapping_add_signed(stride * (reach as isize + 1)), stride, reach, used: clock };
        }
        Plan { stride, pages: reach }
    }
}

/// A stream is met also when some of its next pages were at home already and did not fault.
fn slack(stream: &Stream) -> usize {
    if stream.stride == 1 { stream.reach.min(8) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequential_reader_soon_faults_once_in_33_pages() {
        let mut ahead = Ahead::default();
        let (mut page, mut faults) = (1000, 0);
        while page < 1000 + 3300 {
            page += 1 + ahead.plan(page).pages;
            faults += 1;
        }
        assert!(faults < 110, "{faults} faults");
    }

    #[test]
    fn a_backward_and_a_strided_reader_form_streams() {
        let mut ahead = Ahead::default();
        for page in [500, 490, 480] {
            ahead.plan(page);
        }
        let plan = ahead.plan(480 - 10 * 5);
        assert_eq!((plan.stride, plan.pages), (-10, 8));
    }

    #[test]
    fn memory_first_touched_in_order_is_filled_in_growing_runs_even_in_several_places() {
        let mut ahead = Ahead::default();
        let (mut up, mut down, mut lengths) = (1_000, 50_000, Vec::new());
        for _ in 0..8 {
            let run = ahead.fresh(up);
            assert_eq!(run.start, up);
            up = run.end;
            let run = ahead.fresh(down);
            assert_eq!(run.end, down + 1);
            down = run.start - 1;
            lengths.push(run.len());
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 64, 64]);
        assert_eq!(ahead.fresh(7), 7..8);
    }

    #[test]
    fn random_faults_bring_nothing_along() {
        let mut ahead = Ahead::default();
        let (mut at, mut along) = (12345usize, 0);
        for _ in 0..10_000 {
            at = at.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            along += ahead.plan((at >> 33) % 100_000).pages;
        }
        assert!(along < 500, "{along} pages for nothing");
    }

    #[test]
    fn eight_readers_at_once_each_keep_their_stream() {
        let mut ahead = Ahead::default();
        let mut at: Vec<usize> = (0..8).map(|reader| reader * 100_000).collect();
        for position in &mut at {
            for _ in 0..2 {
                *position += 1 + ahead.plan(*position).pages;
            }
        }
        for _ in 0..10 {
            for position in &mut at {
                let plan = ahead.plan(*position);
                assert!(plan.pages >= 4);
                *position += 1 + plan.pages;
            }
        }
    }
}
