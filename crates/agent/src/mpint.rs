//! Whole numbers of any size, as bytes with the highest first: the little arithmetic that a key file leaves to its reader.

/// Without leading zeros.
pub(crate) fn trimmed(mut bytes: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// With leading zeros up to a length; none if it is longer.
pub(crate) fn padded(bytes: &[u8], length: usize) -> Option<Vec<u8>> {
    let bytes = trimmed(bytes);
    let mut padded = vec![0; length.checked_sub(bytes.len())?];
    padded.extend(bytes);
    Some(padded)
}

/// One less; none for zero.
pub(crate) fn less_one(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = trimmed(bytes).to_vec();
    let last = bytes.iter().rposition(|byte| *byte != 0)?;
    let (_, tail) = bytes.split_at_mut(last);
    let (first, zeros) = tail.split_first_mut()?;
    *first -= 1;
    zeros.fill(0xff);
    Some(bytes)
}

/// The rest of a division; none by zero. It takes a different time for different numbers, which only their owner sees.
pub(crate) fn modulo(number: &[u8], by: &[u8]) -> Option<Vec<u8>> {
    let by = trimmed(by);
    if by.is_empty() {
        return None;
    }
    // One byte more than the divisor, for what is shifted out before it is taken away.
    let by = padded(by, by.len() + 1)?;
    let mut rest = vec![0_u8; by.len()];
    for byte in number {
        for bit in (0..8).rev() {
            shift_in(&mut rest, (byte >> bit) & 1);
            if rest >= by {
                take_away(&mut rest, &by);
            }
        }
    }
    Some(trimmed(&rest).to_vec())
}

fn shift_in(number: &mut [u8], bit: u8) {
    let mut carry = bit;
    for byte in number.iter_mut().rev() {
        let next = *byte >> 7;
        *byte = (*byte << 1) | carry;
        carry = next;
    }
}

/// Takes a number of the same length away that is not larger.
fn take_away(from: &mut [u8], number: &[u8]) {
    let mut borrow = false;
    for (byte, less) in from.iter_mut().zip(number).rev() {
        let (once, under) = byte.overflowing_sub(*less);
        let (twice, under_again) = once.overflowing_sub(u8::from(borrow));
        *byte = twice;
        borrow = under || under_again;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u128) -> Vec<u8> {
        trimmed(&number.to_be_bytes()).to_vec()
    }

    #[test]
    fn numbers_are_as_those_of_the_language() {
        let some = [1, 2, 3, 255, 256, 257, 0xffff, 0x1_0000, u128::MAX, u128::MAX - 1, 1 << 100];
        for number in some {
            assert_eq!(
                less_one(&bytes(number)).unwrap(),
                padded(&bytes(number - 1), bytes(number).len()).unwrap()
            );
            for by in some {
                assert_eq!(
                    modulo(&bytes(number), &bytes(by)).unwrap(),
                    bytes(number % by),
                    "{number} % {by}"
                );
            }
        }
        assert_eq!((less_one(&[0]), modulo(&[1], &[0, 0])), (None, None));
        assert_eq!((padded(&[0, 7], 3), padded(&[1, 2], 1)), (Some(vec![0, 0, 7]), None));
    }
}
