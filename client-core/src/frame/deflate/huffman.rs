//! Huffman codes as RFC 1951 has them: given by the lengths of their symbols' codes, in the order of the symbols.

/// The longest code of a symbol; bits.
const MAX_LENGTH: u8 = 15;

/// One symbol's code, to be written from its lowest bit.
#[derive(Clone, Copy, Default)]
pub(super) struct Code {
    pub(super) bits: u16,
    pub(super) length: u8,
}

/// The codes of these lengths.
pub(super) fn codes(lengths: &[u8]) -> Vec<Code> {
    let mut codes = vec![Code::default(); lengths.len()];
    let mut next = 0u32;
    for length in 1..=MAX_LENGTH {
        next <<= 1;
        for (code, _) in codes.iter_mut().zip(lengths).filter(|(_, one)| **one == length) {
            *code = Code { bits: (next.reverse_bits() >> (32 - u32::from(length))) as u16, length };
            next += 1;
        }
    }
    codes
}

/// The lengths that make a text with these counts of symbols short; 0 for a symbol that does not come. The first two
/// symbols always have a code, so that no code is without bits.
pub(super) fn lengths(counts: &[u32]) -> Vec<u8> {
    let mut weights = counts.to_vec();
    for weight in weights.iter_mut().take(2) {
        *weight = (*weight).max(1);
    }
    loop {
        let depths = depths(&weights);
        if depths.iter().all(|depth| *depth <= MAX_LENGTH) {
            return depths;
        }
        // Flatter, and still with a weight for each that has one.
        for weight in &mut weights {
            *weight = weight.div_ceil(2);
        }
    }
}

/// How deep each symbol is in the tree that puts the lightest together first.
fn depths(weights: &[u32]) -> Vec<u8> {
    // Nodes of the tree: the symbols, then pairs of nodes, which have higher numbers than their parts.
    let mut parents = vec![0; weights.len()];
    let mut free: Vec<(u32, usize)> = weights.iter().copied().zip(0..).filter(|(weight, _)| *weight > 0).collect();
    while let Some((light, one)) = pop_lightest(&mut free)
        && let Some((heavy, other)) = pop_lightest(&mut free)
    {
        let pair = parents.len();
        for part in [one, other] {
            if let Some(parent) = parents.get_mut(part) {
                *parent = pair;
            }
        }
        parents.push(0);
        free.push((light + heavy, pair));
    }
    let mut depths = vec![0u8; parents.len()];
    for (node, &parent) in parents.iter().enumerate().rev().filter(|(_, parent)| **parent > 0) {
        let above = depths.get(parent).copied().unwrap_or_default();
        if let Some(depth) = depths.get_mut(node) {
            *depth = above.saturating_add(1);
        }
    }
    depths.truncate(weights.len());
    depths
}

fn pop_lightest(free: &mut Vec<(u32, usize)>) -> Option<(u32, usize)> {
    let (at, _) = free.iter().enumerate().min_by_key(|(_, node)| **node)?;
    Some(free.swap_remove(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a whole code: the sum is 1.
    fn check(counts: &[u32]) -> Vec<u8> {
        let lengths = lengths(counts);
        let used: Vec<u8> = lengths.iter().copied().filter(|length| *length > 0).collect();
        assert_eq!(used.iter().map(|length| 1u32 << (MAX_LENGTH - length)).sum::<u32>(), 1 << MAX_LENGTH, "{counts:?}");
        assert!(counts.iter().zip(&lengths).all(|(count, length)| *count == 0 || *length > 0), "{counts:?}");
        lengths
    }

    #[test]
    fn frequent_symbols_have_short_codes_and_no_code_is_too_long() {
        assert_eq!(check(&[0, 0, 0]), [1, 1, 0]);
        assert_eq!(check(&[0, 0, 9]), [2, 2, 1]);
        assert_eq!(check(&[1, 1, 2, 4]), [3, 3, 2, 1]);
        let mut fibonacci = vec![1, 1];
        for at in 2..30 {
            fibonacci.push(fibonacci[at - 1] + fibonacci[at - 2]);
        }
        check(&fibonacci[..15]);
        check(&fibonacci[..17]);
        check(&fibonacci);
        check(&[1; 286]);
    }

    #[test]
    fn codes_are_those_of_the_standard() {
        let codes: Vec<_> = codes(&[3, 3, 3, 3, 3, 2, 4, 4]).iter().map(|code| (code.bits, code.length)).collect();
        assert_eq!(
            codes.iter().map(|code| code.0).collect::<Vec<_>>(),
            [0b010, 0b110, 0b001, 0b101, 0b011, 0b00, 0b0111, 0b1111]
        );
    }
}
