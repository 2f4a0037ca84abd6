//! zlib streams (RFC 1950, 1951) for a client's frames: LZ77 with short hash chains, in blocks with the fixed Huffman code
//! or one of their own, whichever is shorter. In wasm a fifth of `miniz_oxide`'s compressor; time and memory grow linearly
//! with the text.

mod huffman;

use self::huffman::{Code, codes, lengths};
use super::{
    adler::Adler,
    inflate::{SYMBOLS, fixed_lengths},
    zlib::{MAX_MATCH, WINDOW},
};

/// Matches have at least the bytes that are hashed.
const MIN_MATCH: usize = 4;

const HASH_BITS: u32 = 13;

/// Candidates compared for one match.
const CHAIN: usize = 8;

/// Literals and matches of one block, at most.
const BLOCK: usize = 16 * 1024;

const END: usize = 256;

const DISTANCES: usize = 30;

/// The code that the lengths of a block's own codes are written in, always the same one: 4 bits for those that come often.
const LENGTHS: [u8; 19] = [4, 5, 5, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 4, 4];

/// The order in which those are written.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Where earlier bytes are found again. Positions are counted from 1; 0 is none.
pub(super) struct Deflater {
    /// By hash: the last position.
    heads: Vec<u32>,
    /// By position modulo the window: the position before with the same hash.
    chain: Vec<u32>,
    /// The block being collected: a byte, or a length and a distance.
    block: Vec<(u16, u16)>,
}

impl Deflater {
    pub(super) fn new() -> Self {
        Self { heads: vec![0; 1 << HASH_BITS], chain: vec![0; WINDOW], block: Vec::new() }
    }

    /// The stream, or nothing when `plain` is not longer.
    pub(super) fn deflate(&mut self, plain: &[u8]) -> Option<Vec<u8>> {
        self.heads.fill(0);
        self.block.clear();
        let mut out = Bits { bytes: Vec::with_capacity(plain.len() / 2), waiting: 0, count: 0 };
        // 32 KiB window, no dictionary.
        out.bytes.extend_from_slice(&[super::ZLIB_MARK, 0x5e]);
        let mut at = 0;
        while let Some(&byte) = plain.get(at) {
            let (length, distance) = self.longest(plain, at);
            if length < MIN_MATCH {
                self.block.push((byte.into(), 0));
                at += 1;
            } else {
                self.block.push((length as u16, distance as u16));
                for skipped in at + 1..at + length {
                    self.insert(plain, skipped);
                }
                at += length;
            }
            if self.block.len() == BLOCK {
                out.block(&self.block, false);
                self.block.clear();
                if out.bytes.len() >= plain.len() {
                    return None;
                }
            }
        }
        out.block(&self.block, true);
        out.put(0, 7);
        let mut sum = Adler::default();
        sum.add(plain);
        out.bytes.extend_from_slice(&sum.value().to_be_bytes());
        (out.bytes.len() < plain.len()).then_some(out.bytes)
    }

    /// The longest match for what is at `at`, which becomes known: its length and its distance.
    fn longest(&mut self, plain: &[u8], at: usize) -> (usize, usize) {
        let mut candidate = self.insert(plain, at) as usize;
        let (mut length, mut distance) = (0, 0);
        for _ in 0..CHAIN {
            if candidate == 0 || at + 1 - candidate > WINDOW {
                break;
            }
            let common = common(plain, candidate - 1, at);
            if common > length {
                (length, distance) = (common, at + 1 - candidate);
            }
            let before = self.chain.get(candidate % WINDOW).copied().unwrap_or_default() as usize;
            // The place may have been taken by a later position.
            candidate = if before < candidate { before } else { 0 };
        }
        (length, distance)
    }

    /// Makes the position known; the last one with the same hash.
    fn insert(&mut self, plain: &[u8], at: usize) -> u32 {
        let Some(bytes) = plain.get(at..).and_then(<[u8]>::first_chunk::<MIN_MATCH>) else { return 0 };
        let hash = u32::from_le_bytes(*bytes).wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS);
        let position = at + 1;
        let (Some(head), Some(link)) = (self.heads.get_mut(hash as usize), self.chain.get_mut(position % WINDOW))
        else {
            return 0;
        };
        *link = *head;
        std::mem::replace(head, position as u32)
    }
}

/// How many bytes from `before` on are the same as from `now` on.
fn common(plain: &[u8], before: usize, now: usize) -> usize {
    let (Some(before), Some(now)) = (plain.get(before..), plain.get(now..)) else { return 0 };
    let mut count = 0;
    while count < MAX_MATCH && count < now.len() && before.get(count) == now.get(count) {
        count += 1;
    }
    count
}

/// The code of a length or a distance: its symbol, and the value and the number of its extra bits.
type Coded = (usize, u32, u32);

fn coded_length(length: u16) -> Coded {
    if usize::from(length) == MAX_MATCH {
        return (285, 0, 0);
    }
    let value = u32::from(length) - 3;
    let extra = (value | 4).ilog2() - 2;
    ((257 + 4 * extra + (value >> extra)) as usize, value & ((1 << extra) - 1), extra)
}

fn coded_distance(distance: u16) -> Coded {
    let value = u32::from(distance) - 1;
    let extra = (value | 2).ilog2() - 1;
    ((2 * extra + (value >> extra)) as usize, value & ((1 << extra) - 1), extra)
}

/// Bits, the first one lowest.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    waiting: u32,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, bits: u32) {
        self.waiting |= value << self.count;
        self.count += bits;
        while self.count >= 8 {
            self.bytes.push(self.waiting as u8);
            self.waiting >>= 8;
            self.count -= 8;
        }
    }

    fn symbol(&mut self, code: &[Code], symbol: usize) {
        let Code { bits, length } = code.get(symbol).copied().unwrap_or_default();
        self.put(bits.into(), length.into());
    }

    /// Writes a block.
    fn block(&mut self, block: &[(u16, u16)], last: bool) {
        let (mut symbols, mut distances) = ([0; SYMBOLS], [0; DISTANCES]);
        symbols[END] = 1;
        for &(value, distance) in block {
            if distance == 0 {
                add(&mut symbols, value.into());
            } else {
                add(&mut symbols, coded_length(value).0);
                add(&mut distances, coded_distance(distance).0);
            }
        }
        let own = [lengths(&symbols), lengths(&distances)];
        let fixed = fixed_lengths();
        let (left, right) = fixed.split_at(SYMBOLS);
        let fixed = [left.to_vec(), right.to_vec()];
        let bits = |[left, right]: &[Vec<u8>; 2]| -> u32 {
            let counts = symbols.iter().chain(&distances);
            counts.zip(left.iter().chain(right)).map(|(count, length)| count * u32::from(*length)).sum()
        };
        let mut header = Self::default();
        header.lengths(&own);
        let is_own = bits(&own) + header.bytes.len() as u32 * 8 < bits(&fixed);
        self.put(last.into(), 1);
        let [symbols, distances] = if is_own {
            self.put(0b10, 2);
            for &byte in &header.bytes {
                self.put(byte.into(), 8);
            }
            self.put(header.waiting, header.count);
            own
        } else {
            self.put(0b01, 2);
            fixed
        };
        let (symbols, distances) = (codes(&symbols), codes(&distances));
        for &(value, distance) in block {
            if distance == 0 {
                self.symbol(&symbols, value.into());
            } else {
                let (symbol, value, extra) = coded_length(value);
                self.symbol(&symbols, symbol);
                self.put(value, extra);
                let (symbol, value, extra) = coded_distance(distance);
                self.symbol(&distances, symbol);
                self.put(value, extra);
            }
        }
        self.symbol(&symbols, END);
    }

    /// Writes the lengths of a block's own codes.
    fn lengths(&mut self, [symbols, distances]: &[Vec<u8>; 2]) {
        self.put(29, 5);
        self.put(29, 5);
        self.put(15, 4);
        for symbol in ORDER {
            self.put(LENGTHS.get(symbol).copied().unwrap_or_default().into(), 3);
        }
        let code = codes(&LENGTHS);
        let mut zeros = 0;
        for &length in symbols.iter().take(286).chain(distances) {
            if length == 0 {
                zeros += 1;
                if zeros < 138 {
                    continue;
                }
            }
            self.zeros(&code, &mut zeros);
            if length > 0 {
                self.symbol(&code, length.into());
            }
        }
        self.zeros(&code, &mut zeros);
    }

    /// Writes that so many symbols have no code.
    fn zeros(&mut self, code: &[Code], zeros: &mut u32) {
        match *zeros {
            count @ 11.. => {
                self.symbol(code, 18);
                self.put(count - 11, 7);
            }
            count @ 3.. => {
                self.symbol(code, 17);
                self.put(count - 3, 3);
            }
            count => (0..count).for_each(|_| self.symbol(code, 0)),
        }
        *zeros = 0;
    }
}

fn add(counts: &mut [u32], symbol: usize) {
    if let Some(count) = counts.get_mut(symbol) {
        *count += 1;
    }
}
