//! Changes to inputs, without knowledge of what they do: for machines that have nothing but stable Rust, and for a few
//! seconds in every run of the tests. The same seed gives the same inputs.

/// Numbers that parsers stumble over.
const EDGES: [u32; 10] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

/// Pseudo-random numbers: xorshift (Marsaglia, 2003), good enough to choose what to change.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Numbers that begin with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or_default().checked_rem(limit).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or_default()
    }
}

/// Changes an input in some places. `other` is another input, whose parts may get in.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    for _ in 0..=dice.below(6) {
        let at = dice.below(input.len() + 1);
        match dice.below(7) {
            0 => flip(input, at, dice),
            1 => overwrite(input, at, &[dice.byte()]),
            2 => drop(input.drain(at..(at + dice.below(16)).min(input.len()))),
            3 => insert(input, at, &[dice.byte()]),
            4 => {
                let number = EDGES.get(dice.below(EDGES.len())).copied().unwrap_or_default().to_be_bytes();
                let skipped = dice.below(4);
                overwrite(input, at, number.get(skipped..).unwrap_or_default());
            }
            5 => {
                let from = dice.below(other.len());
                let end = (from + dice.below(64)).min(other.len());
                insert(input, at, other.get(from..end).unwrap_or_default());
            }
            _ => input.truncate(at),
        }
    }
}

fn flip(input: &mut [u8], at: usize, dice: &mut Dice) {
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << dice.below(8);
    }
}

fn overwrite(input: &mut [u8], at: usize, bytes: &[u8]) {
    input.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}
