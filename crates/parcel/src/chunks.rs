//! Cuts bytes where their content says so: a change moves the cuts next to it and no others.

/// No chunk but the last is smaller,
const CHUNK_BYTES_MIN: usize = 16 << 10;
/// and none is larger.
pub(crate) const CHUNK_BYTES_MAX: usize = 256 << 10;
/// Cuts where these bits of the rolling hash are zero: once in 64 KiB.
const MASK: u64 = 0xffff << 48;

const GEAR: [u64; 256] = gear();

/// Random numbers that never change (splitmix64).
const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let mut state: u64 = 0x6463_6275_696c_6431;
    let mut place = 0;
    while place < table.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = state;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[place] = number ^ (number >> 31);
        place += 1;
    }
    table
}

/// The chunks of some bytes, in order; none of no bytes.
pub(crate) fn chunks(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (chunk, after) = rest.split_at(next_cut(rest));
        rest = after;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn next_cut(bytes: &[u8]) -> usize {
    let most = bytes.len().min(CHUNK_BYTES_MAX);
    let mut hash = 0_u64;
    // A byte leaves the hash after 64 others, so that it may be warmed up behind the start.
    let start = CHUNK_BYTES_MIN.saturating_sub(64).min(most);
    for (place, byte) in bytes.iter().enumerate().take(most).skip(start) {
        let number = GEAR.get(usize::from(*byte)).copied().unwrap_or_default();
        hash = (hash << 1).wrapping_add(number);
        if place + 1 >= CHUNK_BYTES_MIN && hash & MASK == 0 {
            return place + 1;
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dcbuild_model::Digest;

    use super::*;

    fn noise(bytes: usize) -> Vec<u8> {
        (0_u64..).flat_map(|number| Digest::of(&number.to_be_bytes()).0).take(bytes).collect()
    }

    #[test]
    fn chunks_are_the_bytes_and_within_their_bounds() {
        let bytes = noise(2 << 20);
        let all: Vec<&[u8]> = chunks(&bytes).collect();
        assert_eq!(all.concat(), bytes);
        let (last, others) = all.split_last().unwrap();
        assert!(others.iter().all(|chunk| chunk.len() >= CHUNK_BYTES_MIN));
        assert!(last.len() <= CHUNK_BYTES_MAX && (16..64).contains(&all.len()), "{}", all.len());
        assert_eq!(chunks(&[]).count(), 0);
        assert!(chunks(&vec![7; 1 << 20]).all(|chunk| chunk.len() <= CHUNK_BYTES_MAX));
    }

    #[test]
    fn a_byte_more_changes_the_chunks_next_to_it() {
        let bytes = noise(2 << 20);
        let before: BTreeSet<&[u8]> = chunks(&bytes).collect();
        for at in (0..bytes.len()).step_by(99_991) {
            let mut longer = bytes.clone();
            longer.insert(at, 1);
            let new = chunks(&longer).filter(|chunk| !before.contains(chunk)).count();
            assert!(new <= 4, "{new} at {at}");
        }
    }
}
