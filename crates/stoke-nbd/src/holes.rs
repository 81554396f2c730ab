//! Where an export holds nothing: runs of zeroes that need not be sent, sorted and apart.

/// The holes of an export. None of them is empty, none touches the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holes(Vec<(u64, u64)>);

/// A run of bytes that are all of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of bytes, never 0.
    pub length: u32,
    /// Whether it is a hole.
    pub hole: bool,
}

impl Holes {
    /// The holes `(begin, end)` in bytes, in any order. Those that touch or overlap become one.
    pub fn new(mut holes: Vec<(u64, u64)>) -> Self {
        holes.retain(|(begin, end)| begin < end);
        holes.sort_unstable();
        let mut apart: Vec<(u64, u64)> = Vec::with_capacity(holes.len());
        for (begin, end) in holes {
            match apart.last_mut() {
                Some(last) if begin <= last.1 => last.1 = last.1.max(end),
                _ => apart.push((begin, end)),
            }
        }
        Self(apart)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether everything is data.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What the range begins with, and for how long; `None` for an empty range.
    pub fn first_run(&self, offset: u64, length: u32) -> Option<Run> {
        if length == 0 {
            return None;
        }
        let end = offset.saturating_add(length.into());
        let run = |until: u64, hole| {
            let length = u32::try_from(until.min(end).saturating_sub(offset)).unwrap_or(length);
            Some(Run { length, hole })
        };
        let next = self.0.partition_point(|(_, hole_end)| *hole_end <= offset);
        match self.0.get(next) {
            Some((begin, hole_end)) if *begin <= offset => run(*hole_end, true),
            Some((begin, _)) => run(*begin, false),
            None => run(end, false),
        }
    }

    /// The whole range as runs, in order; neighbours differ.
    pub fn runs(&self, offset: u64, length: u32) -> impl Iterator<Item = Run> {
        let (mut at, mut left) = (offset, length);
        std::iter::from_fn(move || {
            let run = self.first_run(at, left)?;
            at = at.saturating_add(run.length.into());
            left = left.saturating_sub(run.length);
            Some(run)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn runs(holes: &Holes, offset: u64, length: u32) -> Vec<(u32, bool)> {
        holes.runs(offset, length).map(|run| (run.length, run.hole)).collect()
    }

    #[test]
    fn holes_that_touch_are_one() {
        let holes = Holes::new(vec![(30, 40), (10, 20), (20, 25), (12, 14), (50, 50)]);
        assert_eq!(holes, Holes(vec![(10, 25), (30, 40)]));
    }

    #[test]
    fn a_range_is_cut_where_data_end_and_holes_do() {
        let holes = Holes::new(vec![(10, 20), (30, 40)]);
        assert_eq!(runs(&holes, 0, 50), [(10, false), (10, true), (10, false), (10, true), (10, false)]);
        assert_eq!(runs(&holes, 12, 5), [(5, true)]);
        assert_eq!(runs(&holes, 20, 10), [(10, false)]);
        assert_eq!(runs(&holes, 5, 0), []);
        assert_eq!(runs(&Holes::default(), u64::MAX - 4, 4), [(4, false)]);
    }

    proptest! {
        #[test]
        fn runs_are_what_a_map_of_bytes_says(
            pairs in proptest::collection::vec((0_u64..200, 0_u64..200), 0..8),
            offset in 0_u64..200,
            length in 0_u32..200,
        ) {
            let in_hole = |at: u64| pairs.iter().any(|(begin, end)| (*begin..*end).contains(&at));
            let expected: Vec<bool> = (offset..offset + u64::from(length)).map(in_hole).collect();
            let found = runs(&Holes::new(pairs.clone()), offset, length);
            let flat: Vec<bool> =
                found.iter().flat_map(|(length, hole)| std::iter::repeat_n(*hole, *length as usize)).collect();
            prop_assert_eq!(flat, expected);
            prop_assert!(found.windows(2).all(|pair| pair[0].1 != pair[1].1));
        }
    }
}
