use proptest::prelude::*;

use super::*;
use crate::testing::{any_layer, dir, file, grouped, layer, path};
use crate::{Entry, Kind, Origin};

#[test]
fn groups_are_numbered_by_their_first_names() {
    let put = Change::Put;
    let one = layer(&[
        ("a", put(grouped(file("x"), 7))),
        ("b", put(grouped(file("y"), 3))),
        ("c", put(grouped(file("x"), 7))),
        ("lone", put(grouped(file("z"), 9))),
        ("d", put(grouped(file("y"), 3))),
    ]);
    let other = layer(&[
        ("a", put(grouped(file("x"), 1))),
        ("b", put(grouped(file("y"), 2))),
        ("c", put(grouped(file("x"), 1))),
        ("lone", put(file("z"))),
        ("d", put(grouped(file("y"), 2))),
    ]);
    let bytes = encode(&one);
    assert_eq!(bytes, encode(&other));
    let read = decode(&bytes).unwrap();
    assert_eq!(read, other);
    let Some(Change::Put(Entry { kind: Kind::File(body), .. })) = read.0.get(&path("c")) else {
        panic!("c is a file");
    };
    assert_eq!(body.origin, Origin::Layer { layer: layer_id(&bytes), path: path("a") });
}

#[test]
fn short_bytes_cannot_ask_for_much_memory() {
    // Ten million removals below one long path, a few bytes each.
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&[0x80, 0xad, 0xe2, 0x04]);
    let long = format!("{}/", "d".repeat(7999));
    bytes.extend_from_slice(&[0, 0xc1, 0x3e]);
    bytes.extend_from_slice(format!("{long}a").as_bytes());
    bytes.push(REMOVE);
    for name in 0..200_000_u32 {
        let name = format!("{name:06}");
        let shared = if name == "000000" { 8001 } else { 8000 + 1 + common(&name) };
        bytes.extend_from_slice(&[
            u8::try_from(shared & 0x7f).unwrap() | 0x80,
            u8::try_from(shared >> 7).unwrap(),
        ]);
        let tail = &name.as_bytes()[shared - 8001..];
        bytes.push(u8::try_from(tail.len()).unwrap());
        bytes.extend_from_slice(tail);
        bytes.push(REMOVE);
    }
    let error = decode(&bytes).unwrap_err();
    assert_eq!(error.reason, "its paths are too long together");
}

/// How much a number of six digits shares with the one before it.
fn common(name: &str) -> usize {
    name.trim_end_matches('0').len().saturating_sub(1)
}

#[test]
fn what_no_encoder_writes_is_refused() {
    let nested = layer(&[("a", Change::Put(file("x"))), ("a/b", Change::Put(file("y")))]);
    assert!(decode(&encode(&nested)).unwrap_err().reason.contains("below a file"));
    let mut long = encode(&layer(&[("a", Change::Put(dir()))]));
    long.push(0);
    assert!(decode(&long).is_err());
    assert!(decode(b"").is_err());
    assert!(decode(b"dctoc\x02\x00").is_err());
    // The shortest form of a number is the only one.
    assert!(decode(b"dctoc\x01\x80\x00").is_err());
    assert!(decode(b"dctoc\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").is_err());
}

proptest! {
    #[test]
    fn a_layer_survives_its_bytes(changes in any_layer()) {
        let bytes = encode(&changes);
        let read = decode(&bytes).unwrap();
        prop_assert_eq!(encode(&read), bytes);
        prop_assert_eq!(read.0.keys().collect::<Vec<_>>(), changes.0.keys().collect::<Vec<_>>());
    }

    #[test]
    fn nothing_panics(bytes: Vec<u8>) {
        drop(decode(&[MAGIC.as_slice(), &bytes].concat()));
    }

    #[test]
    fn damaged_bytes_are_refused_or_canonical(
        changes in any_layer(),
        at: prop::sample::Index,
        byte: u8,
    ) {
        let mut bytes = encode(&changes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = decode(&bytes) {
            prop_assert_eq!(encode(&read), bytes);
        }
    }
}
