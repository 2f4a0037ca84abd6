//! Inflates zlib streams (RFC 1950, 1951) into one buffer, which is its own window. In wasm a quarter of `miniz_oxide`, and
//! as fast.

use super::{
    ZLIB_MARK,
    adler::Adler,
    zlib::{Inflate, MAX_MATCH},
};

/// Codes up to this length are found by one look-up; bits. Short messages have shorter codes, of which a table costs less.
const FAST: usize = 10;

/// The longest code of a symbol; bits.
const MAX_LENGTH: usize = 15;

/// Literals, the end of a block, and lengths, of which the last two mean nothing.
pub(super) const SYMBOLS: usize = 288;

const END: usize = 256;

/// Of which the last two mean nothing.
const DISTANCES: usize = 32;

/// The order in which the lengths of the code of lengths are written.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// The context.
pub(super) struct Inflater {
    bits: Bits,
    block: Block,
    /// Whether the block is the stream's last.
    last: bool,
    sum: Adler,
    /// Of literals and lengths, and of distances.
    codes: Box<[Code; 2]>,
}

/// Where in the stream the reader is.
#[derive(Clone, Copy)]
enum Block {
    /// Before the first one.
    Header,
    /// Between two.
    Next,
    /// Bytes that are left of a block without compression.
    Stored(usize),
    Coded,
    /// After the last one and its checksum.
    End,
}

impl Inflate for Inflater {
    fn reset(&mut self) {
        self.bits = Bits::default();
        self.block = Block::Header;
        self.sum = Adler::default();
    }

    fn finished(&self) -> bool {
        matches!(self.block, Block::End)
    }

    fn step(&mut self, stream: &[u8], out: &mut [u8], at: usize) -> Option<usize> {
        let mut end = at;
        while end + MAX_MATCH <= out.len() {
            match self.block {
                Block::Header => {
                    self.header(stream)?;
                    self.block = Block::Next;
                }
                Block::Next if self.last => {
                    self.block = Block::End;
                    break;
                }
                Block::Next => self.begin(stream)?,
                Block::Stored(0) => self.block = Block::Next,
                Block::Stored(left) => {
                    let count = left.min(out.len() - end);
                    let bytes = stream.get(self.bits.at..)?.get(..count)?;
                    out.get_mut(end..end + count)?.copy_from_slice(bytes);
                    self.bits.at += count;
                    self.block = Block::Stored(left - count);
                    end += count;
                }
                Block::Coded => end = self.decode(stream, out, end)?,
                Block::End => break,
            }
        }
        self.sum.add(out.get(at..end)?);
        if self.finished() {
            self.bits.align();
            let sum = self.bits.take(stream, 32)?.swap_bytes();
            return (sum == self.sum.value()).then_some(end);
        }
        Some(end)
    }
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self {
            bits: Bits::default(),
            block: Block::Header,
            last: false,
            sum: Adler::default(),
            codes: Box::new([Code::new(), Code::new()]),
        }
    }

    /// Reads the two bytes before the first block: a window of 32 KiB at most, no dictionary.
    fn header(&mut self, stream: &[u8]) -> Option<()> {
        let (method, flags) = (self.bits.take(stream, 8)?, self.bits.take(stream, 8)?);
        self.last = false;
        (method == u32::from(ZLIB_MARK) && flags & 0x20 == 0 && (method << 8 | flags) % 31 == 0).then_some(())
    }

    /// Begins a block.
    fn begin(&mut self, stream: &[u8]) -> Option<()> {
        self.last = self.bits.take(stream, 1)? == 1;
        let mut lengths = [0; SYMBOLS + DISTANCES];
        let count = match self.bits.take(stream, 2)? {
            0 => {
                self.bits.align();
                let (count, complement) = (self.bits.take(stream, 16)?, self.bits.take(stream, 16)?);
                self.bits.unread();
                self.block = Block::Stored(count as usize);
                return (count ^ complement == 0xffff).then_some(());
            }
            1 => {
                lengths = fixed_lengths();
                SYMBOLS
            }
            2 => self.lengths(stream, &mut lengths)?,
            _ => return None,
        };
        let (symbols, distances) = lengths.split_at_checked(count)?;
        self.codes[0].build(symbols)?;
        self.codes[1].build(distances)?;
        self.block = Block::Coded;
        Some(())
    }

    /// Reads the lengths of a block's own codes: how many are for literals and lengths.
    fn lengths(&mut self, stream: &[u8], lengths: &mut [u8]) -> Option<usize> {
        let bits = &mut self.bits;
        let symbols = bits.take(stream, 5)? as usize + 257;
        let distances = bits.take(stream, 5)? as usize + 1;
        let count = bits.take(stream, 4)? as usize + 4;
        if symbols > SYMBOLS - 2 || distances > DISTANCES - 2 {
            return None;
        }
        let mut own = [0; ORDER.len()];
        for &symbol in ORDER.get(..count)? {
            *own.get_mut(symbol)? = bits.take(stream, 3)? as u8;
        }
        let code = &mut self.codes[0];
        if !code.build(&own)? {
            return None;
        }
        let lengths = lengths.get_mut(..symbols + distances)?;
        let (mut at, mut before) = (0, None);
        while at < lengths.len() {
            bits.refill(stream);
            let (times, length) = match code.next(bits)? {
                16 => (3 + bits.take(stream, 2)?, before?),
                17 => (3 + bits.take(stream, 3)?, 0),
                18 => (11 + bits.take(stream, 7)?, 0),
                length => (1, length as u8),
            };
            let end = at + times as usize;
            lengths.get_mut(at..end)?.fill(length);
            (at, before) = (end, Some(length));
        }
        // A block has an end.
        (*lengths.get(END)? > 0).then_some(symbols)
    }

    /// Reads symbols until the block ends or there is too little room: where the bytes end then.
    fn decode(&mut self, stream: &[u8], out: &mut [u8], mut end: usize) -> Option<usize> {
        let mut bits = self.bits;
        let [symbols, distances] = &*self.codes;
        while end + MAX_MATCH <= out.len() {
            // Enough for a length and a distance.
            bits.refill(stream);
            let symbol = symbols.next(&mut bits)?;
            if symbol < END {
                *out.get_mut(end)? = symbol as u8;
                end += 1;
                continue;
            }
            if symbol == END {
                self.block = Block::Next;
                break;
            }
            let length = match symbol - END - 1 {
                28 => MAX_MATCH,
                symbol @ ..28 => bits.value(symbol, 2)? + 3,
                _ => return None,
            };
            let distance = match distances.next(&mut bits)? {
                symbol @ ..30 => bits.value(symbol, 1)? + 1,
                _ => return None,
            };
            let both = out.get_mut(end.checked_sub(distance)?..end + length)?;
            let mut at = 0;
            // Eight that do not overlap at a time.
            while distance >= 8 && at + 8 <= length {
                let eight: [u8; 8] = *both.get(at..)?.first_chunk()?;
                *both.get_mut(at + distance..)?.first_chunk_mut()? = eight;
                at += 8;
            }
            while at < length {
                *both.get_mut(at + distance)? = *both.get(at)?;
                at += 1;
            }
            end += length;
        }
        self.bits = bits;
        Some(end)
    }
}

/// The lengths of the fixed codes: of literals and lengths, then of distances.
pub(super) fn fixed_lengths() -> [u8; SYMBOLS + DISTANCES] {
    let mut lengths = [8; SYMBOLS + DISTANCES];
    for (symbol, length) in lengths.iter_mut().enumerate() {
        match symbol {
            144..256 => *length = 9,
            256..280 => *length = 7,
            SYMBOLS.. => *length = 5,
            _ => {}
        }
    }
    lengths
}

/// The bits of a stream, the first one lowest.
#[derive(Clone, Copy, Default)]
struct Bits {
    /// The next byte to read.
    at: usize,
    /// Bits that have been read.
    waiting: u64,
    count: u32,
}

impl Bits {
    /// Reads until there are 56 bits, or all.
    #[inline(always)]
    fn refill(&mut self, stream: &[u8]) {
        let rest = stream.get(self.at..).unwrap_or_default();
        if let Some(bytes) = rest.first_chunk() {
            // Beyond `count` are bits that will be read again.
            self.waiting |= u64::from_le_bytes(*bytes) << self.count;
            let read = (63 - self.count) / 8;
            self.at += read as usize;
            self.count += 8 * read;
        } else {
            self.refill_last(rest);
        }
    }

    #[cold]
    fn refill_last(&mut self, rest: &[u8]) {
        for &byte in rest {
            if self.count > 56 {
                break;
            }
            self.waiting |= u64::from(byte) << self.count;
            self.at += 1;
            self.count += 8;
        }
    }

    fn skip(&mut self, count: u32) -> Option<()> {
        self.count = self.count.checked_sub(count)?;
        self.waiting >>= count;
        Some(())
    }

    /// At most 32 bits, out of those that have been read.
    fn pop(&mut self, count: u32) -> Option<u32> {
        let value = self.waiting & ((1 << count) - 1);
        self.skip(count)?;
        Some(value as u32)
    }

    /// At most 32 bits.
    fn take(&mut self, stream: &[u8], count: u32) -> Option<u32> {
        self.refill(stream);
        self.pop(count)
    }

    /// The meaning of a symbol for lengths or distances: itself, or its last `bits` bits behind a one, and some more.
    fn value(&mut self, symbol: usize, bits: u32) -> Option<usize> {
        let Some(more) = (symbol >> bits).checked_sub(2) else { return Some(symbol) };
        let more = more as u32 + 1;
        let first = 1 << bits | symbol & ((1 << bits) - 1);
        Some(first << more | self.pop(more)? as usize)
    }

    /// Goes to the next whole byte.
    fn align(&mut self) {
        let odd = self.count % 8;
        self.count -= odd;
        self.waiting >>= odd;
    }

    /// Gives whole bytes back to the stream.
    fn unread(&mut self) {
        self.at -= self.count as usize / 8;
        (self.waiting, self.count) = (0, 0);
    }
}

/// A Huffman code, as RFC 1951 has them: given by the lengths of its symbols' codes.
struct Code {
    /// By the next bits, as many as `mask` has: the symbol and, in the lowest four bits, the length of its code; 0 where that
    /// is longer.
    fast: [u16; 1 << FAST],
    mask: usize,
    /// By length: how many codes have it.
    counts: [u16; MAX_LENGTH + 1],
    /// In the order of their codes.
    symbols: [u16; SYMBOLS],
}

impl Code {
    fn new() -> Self {
        Self { fast: [0; 1 << FAST], mask: 0, counts: [0; MAX_LENGTH + 1], symbols: [0; SYMBOLS] }
    }

    /// The code with these lengths; whether it is complete. Like zlib, takes an incomplete one only when it has one symbol, or
    /// none.
    fn build(&mut self, lengths: &[u8]) -> Option<bool> {
        self.counts.fill(0);
        for &length in lengths {
            *self.counts.get_mut(usize::from(length))? += 1;
        }
        self.counts[0] = 0;
        // By length: its next code, and the place of that one's symbol.
        let mut next = [(0, 0); MAX_LENGTH + 1];
        let (mut code, mut place, mut longest) = (0u32, 0, 0);
        for (length, (&count, next)) in self.counts.iter().zip(&mut next).enumerate() {
            code *= 2;
            *next = (code, place);
            code += u32::from(count);
            place += usize::from(count);
            if code > 1 << length {
                return None;
            }
            if count > 0 {
                longest = length;
            }
        }
        let complete = code == 1 << MAX_LENGTH;
        if !complete && longest > 1 {
            return None;
        }
        self.mask = (1 << longest.min(FAST)) - 1;
        let fast = self.fast.get_mut(..=self.mask)?;
        fast.fill(0);
        for (symbol, &length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
            let (code, place) = next.get_mut(usize::from(length))?;
            *self.symbols.get_mut(*place)? = symbol as u16;
            if usize::from(length) <= FAST {
                let mut reversed = (code.reverse_bits() >> (32 - u32::from(length))) as usize;
                while let Some(entry) = fast.get_mut(reversed) {
                    *entry = (symbol as u16) << 4 | u16::from(length);
                    reversed += 1 << length;
                }
            }
            *code += 1;
            *place += 1;
        }
        Some(complete)
    }

    /// The next symbol.
    #[inline(always)]
    fn next(&self, bits: &mut Bits) -> Option<usize> {
        let entry = *self.fast.get(bits.waiting as usize & self.mask)?;
        if entry > 0 {
            bits.skip((entry % 16).into())?;
            return Some(usize::from(entry / 16));
        }
        self.next_long(bits)
    }

    #[cold]
    fn next_long(&self, bits: &mut Bits) -> Option<usize> {
        // Bit by bit: `code` counts from the first code of its length on.
        let (mut code, mut place) = (0, 0);
        for &count in self.counts.get(1..)? {
            code = code * 2 + bits.pop(1)? as usize;
            let count = usize::from(count);
            if code < count {
                return self.symbols.get(place + code).map(|symbol| usize::from(*symbol));
            }
            code -= count;
            place += count;
        }
        None
    }
}
