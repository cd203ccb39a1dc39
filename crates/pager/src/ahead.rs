//! Read-ahead: what to bring along with a fault. Faults that form a stride start a stream; a stream that is met where it was expected doubles its reach.
//! The trend over the last faults decides, as in Leap (Maruf and Chowdhury, ATC 2020). Pure.

/// The most pages that one fault brings along. Twice as many would keep a second faulting thread waiting as long as four of its own faults.
pub const REACH_PAGES: usize = 32;
const STREAMS: usize = 8;
const HISTORY: usize = 4;

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
    clock: u64,
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
