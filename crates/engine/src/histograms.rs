//! How long things take: histograms of fixed buckets in the stat block, shared by a process tree like its counters. Covers their layout and one
//! observation, which is two additions; who observes what, and how often the clock is read for it, is with whoever does the work.

/// Each bucket's upper end is twice the one before. With 24 of them a histogram spans from one unit to 4 million of them.
pub const BUCKETS: usize = 24;
/// The buckets, then the sum in nanoseconds.
pub const HISTOGRAM_WORDS: usize = BUCKETS + 1;

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timed {
    /// A page of this machine's store, looked up and unpacked; one get, or run of gets, in [`SAMPLE`].
    GetLocal,
    /// A page of a holder, from the request to its bytes in the getter's hands.
    GetRemote,
    /// A page packed and stored: the average of each run of pages of the reclaimer; of the other puts one in [`SAMPLE`].
    Put,
    /// A holder wanted pages taken away, until that much had gone.
    Recall,
    /// Copies were lost, until every page had as many as it should again.
    Rebuild,
}

/// Of what is too quick to read the clock twice for, one in so many is timed.
pub const SAMPLE: u64 = 64;

/// Names and the upper end of the first bucket in microseconds, in the order of [`Timed`]. The last bucket has no end.
pub const HISTOGRAMS: &[(&str, u64)] =
    &[("get_local", 1), ("get_remote", 8), ("put", 1), ("recall", 1 << 10), ("rebuild", 1 << 10)];

/// The upper ends of a histogram's buckets in seconds, but for the last one.
pub fn ends_s(first_us: u64) -> Vec<f64> {
    (0..BUCKETS - 1).map(|bucket| (first_us << bucket) as f64 / 1e6).collect()
}

impl Timed {
    /// The bucket of something that took so long.
    pub fn bucket(self, ns: u64) -> usize {
        let units = ns.div_ceil(1000).div_ceil(HISTOGRAMS[self as usize].1).max(1);
        (units.next_power_of_two().trailing_zeros() as usize).min(BUCKETS - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_what_took_at_most_its_upper_end_and_more_than_the_one_before() {
        for (us, bucket) in
            [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1 << 22, 22), ((1 << 22) + 1, 23), (u64::MAX / 1000, 23)]
        {
            assert_eq!(Timed::GetLocal.bucket(us * 1000), bucket, "{us} us");
        }
        assert_eq!((Timed::GetLocal.bucket(1001), Timed::GetLocal.bucket(999)), (1, 0));
        assert_eq!((Timed::GetRemote.bucket(8_000), Timed::GetRemote.bucket(8_001), Timed::GetRemote.bucket(17_000)), (0, 1, 2));
        assert_eq!((Timed::Recall.bucket(1), Timed::Recall.bucket(1_024_001)), (0, 1));
        assert_eq!(Timed::Rebuild.bucket(u64::MAX), BUCKETS - 1);
    }
}
