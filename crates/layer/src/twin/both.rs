//! Two states of SHA-256 over the same blocks: the words of a block are made once, and the rounds of the one fill the
//! time in which those of the other wait for each other.

use sha2::block_api::compress256;

/// The state of one hash.
pub(super) type State = [u32; 8];
/// Whole blocks.
pub(super) type Blocks = [[u8; 64]];

/// Advances both states over the blocks.
pub(super) fn advance_both(one: &mut State, other: &mut State, blocks: &Blocks) {
    #[cfg(target_arch = "x86_64")]
    if x86::is_there() {
        #[expect(unsafe_code, reason = "only for processors that have what it is compiled for")]
        // SAFETY: it is sound on any processor with the features that it names, and `is_there` has asked for them.
        unsafe {
            x86::advance_both(one, other, blocks);
        }
        return;
    }
    in_turn(one, other, blocks);
}

/// The same, by the means of any processor; in pieces that stay near.
pub(super) fn in_turn(one: &mut State, other: &mut State, blocks: &Blocks) {
    for piece in blocks.chunks(256) {
        compress256(one, piece);
        compress256(other, piece);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x,
        _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8,
        _mm_shuffle_epi32,
    };

    use super::{Blocks, State};

    /// The constants of the rounds.
    #[rustfmt::skip]
    const ROUNDS: [u32; 64] = [
        0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
        0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
        0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
        0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
        0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
        0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
        0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
        0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
    ];

    /// A state as the instructions want it: a, b, e, f and c, d, g, h, each from the highest word down.
    #[derive(Clone, Copy)]
    struct Halves {
        abef: __m128i,
        cdgh: __m128i,
    }

    /// Whether the processor can.
    pub(super) fn is_there() -> bool {
        is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1")
    }

    /// Advances both states over the blocks.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    pub(super) fn advance_both(one: &mut State, other: &mut State, blocks: &Blocks) {
        let (mut first, mut second) = (load(one), load(other));
        for block in blocks {
            let before = (first, second);
            let mut words = words(block);
            for (place, four) in words.into_iter().enumerate() {
                rounds(&mut first, &mut second, constants(four, place));
            }
            for later in [4, 8, 12] {
                for place in 0..4 {
                    let four = next(&mut words, place);
                    rounds(&mut first, &mut second, constants(four, later + place));
                }
            }
            first = sum(first, before.0);
            second = sum(second, before.1);
        }
        store(first, one);
        store(second, other);
    }

    /// Four rounds of both states.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn rounds(first: &mut Halves, second: &mut Halves, low: __m128i) {
        let high = _mm_shuffle_epi32(low, 0x0e);
        first.cdgh = _mm_sha256rnds2_epu32(first.cdgh, first.abef, low);
        second.cdgh = _mm_sha256rnds2_epu32(second.cdgh, second.abef, low);
        first.abef = _mm_sha256rnds2_epu32(first.abef, first.cdgh, high);
        second.abef = _mm_sha256rnds2_epu32(second.abef, second.cdgh, high);
    }

    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn constants(four: __m128i, round: usize) -> __m128i {
        let of = |place: usize| ROUNDS[4 * round + place].cast_signed();
        _mm_add_epi32(four, _mm_set_epi32(of(3), of(2), of(1), of(0)))
    }

    /// The first sixteen words of a block: its bytes, which are big endian.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn words(block: &[u8; 64]) -> [__m128i; 4] {
        let turned = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        let (eights, _) = block.as_chunks::<8>();
        let eight = |place: usize| i64::from_le_bytes(eights[place]);
        let four = |place: usize| {
            let bytes = _mm_set_epi64x(eight(2 * place + 1), eight(2 * place));
            _mm_shuffle_epi8(bytes, turned)
        };
        [four(0), four(1), four(2), four(3)]
    }

    /// The next four words, in the place of the oldest.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn next(words: &mut [__m128i; 4], place: usize) -> __m128i {
        let after = |count: usize| words[(place + count) % 4];
        let shifted = _mm_alignr_epi8(after(3), after(2), 4);
        let partial = _mm_add_epi32(_mm_sha256msg1_epu32(after(0), after(1)), shifted);
        let four = _mm_sha256msg2_epu32(partial, after(3));
        words[place] = four;
        four
    }

    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn sum(one: Halves, other: Halves) -> Halves {
        Halves {
            abef: _mm_add_epi32(one.abef, other.abef),
            cdgh: _mm_add_epi32(one.cdgh, other.cdgh),
        }
    }

    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn load(state: &State) -> Halves {
        let of = |place: usize| state[place].cast_signed();
        let four = |high, low| _mm_set_epi32(of(high), of(high + 1), of(low), of(low + 1));
        Halves { abef: four(0, 4), cdgh: four(2, 6) }
    }

    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn store(Halves { abef, cdgh }: Halves, state: &mut State) {
        *state = [
            _mm_extract_epi32::<3>(abef),
            _mm_extract_epi32::<2>(abef),
            _mm_extract_epi32::<3>(cdgh),
            _mm_extract_epi32::<2>(cdgh),
            _mm_extract_epi32::<1>(abef),
            _mm_extract_epi32::<0>(abef),
            _mm_extract_epi32::<1>(cdgh),
            _mm_extract_epi32::<0>(cdgh),
        ]
        .map(i32::cast_unsigned);
    }
}
