use proptest::prelude::*;
use sha2::Sha256;

use super::both::in_turn;
use super::*;

fn plain(bytes: &[u8]) -> Digest {
    use sha2::Digest as _;
    Digest(Sha256::digest(bytes).into())
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[7]
    };
    (0..len).map(|_| next()).collect()
}

/// Feeds bytes in pieces of these lengths, again and again.
fn in_pieces(bytes: &[u8], lengths: &[usize], mut feed: impl FnMut(&[u8])) {
    let mut rest = bytes;
    for length in lengths.iter().cycle() {
        let (now, later) = rest.split_at(rest.len().min(*length));
        feed(now);
        rest = later;
        if rest.is_empty() {
            return;
        }
    }
}

/// A tar of one file between two others, by pieces of one length.
fn check(around: &[u8], file: &[u8], piece: usize) {
    let before = &around[..around.len() / 64 * 64];
    let padding = vec![0; file.len().next_multiple_of(64) - file.len()];
    let tar = [before, file, &padding, b"abc", &[0; 61], file, around].concat();
    let mut hash = TwinHash::new();
    in_pieces(before, &[piece], |bytes| hash.around(bytes));
    for after in [&[&padding, &b"abc"[..], &[0; 61]].concat(), around] {
        hash.begin();
        in_pieces(file, &[piece], |bytes| hash.content(bytes));
        assert_eq!(hash.end(), plain(file), "a file of {} in pieces of {piece}", file.len());
        in_pieces(after, &[piece], |bytes| hash.around(bytes));
    }
    assert_eq!(hash.finish(), plain(&tar), "a tar of {} in pieces of {piece}", tar.len());
}

#[test]
fn every_length_has_the_digests_of_the_crate() {
    let bytes = noise(1000);
    for len in 0..=330 {
        for piece in [1, 7, 63, 64, 65, 128, 1000] {
            check(&bytes[..(len * 7) % 600], &bytes[len..2 * len], piece);
        }
    }
}

#[test]
fn an_empty_tar_has_the_digest_of_nothing() {
    let mut hash = TwinHash::new();
    assert_eq!(hash.finish(), plain(b""));
    hash.begin();
    assert_eq!((hash.end(), hash.finish()), (plain(b""), plain(b"")));
}

#[test]
#[should_panic(expected = "a file begins at a block of the tar")]
fn a_file_inside_a_block_is_a_bug() {
    let mut hash = TwinHash::new();
    hash.around(b"x");
    hash.begin();
}

fn tars() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<usize>)>> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        (0usize..20_000).prop_map(noise),
        (0usize..5, 0usize..3).prop_map(|(blocks, more)| noise(blocks * 64 + more)),
    ];
    prop::collection::vec((bytes, prop::collection::vec(1usize..3000, 1..5)), 0..6)
}

proptest! {
    #[test]
    fn any_pieces_of_any_files_have_the_digests_of_the_crate(files in tars()) {
        let (mut hash, mut tar) = (TwinHash::new(), Vec::new());
        for (file, pieces) in &files {
            hash.begin();
            in_pieces(file, pieces, |bytes| hash.content(bytes));
            prop_assert_eq!(hash.end(), plain(file));
            let padding = vec![7; file.len().next_multiple_of(64) - file.len()];
            in_pieces(&padding, pieces, |bytes| hash.around(bytes));
            tar.extend_from_slice(file);
            tar.extend_from_slice(&padding);
        }
        prop_assert_eq!(hash.finish(), plain(&tar));
    }

    /// Whatever this processor has, it does what any other does.
    #[test]
    fn both_ways_lead_to_the_same_states(
        one in any::<State>(),
        other in any::<State>(),
        blocks in prop::collection::vec(prop::array::uniform32(any::<u16>()), 0..9),
    ) {
        let blocks: Vec<[u8; BLOCK]> = blocks
            .iter()
            .map(|words| {
                let mut block = [0; BLOCK];
                for (to, word) in block.chunks_exact_mut(2).zip(words) {
                    to.copy_from_slice(&word.to_le_bytes());
                }
                block
            })
            .collect();
        let (mut fast, mut plain) = ((one, other), (one, other));
        advance_both(&mut fast.0, &mut fast.1, &blocks);
        in_turn(&mut plain.0, &mut plain.1, &blocks);
        prop_assert_eq!(fast, plain);
        let mut alone = (one, other);
        compress256(&mut alone.0, &blocks);
        compress256(&mut alone.1, &blocks);
        prop_assert_eq!(fast, alone);
    }
}
