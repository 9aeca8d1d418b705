//! The file of the cache, whole and damaged.

use dcbuild_model::{ContentDigest, Digest, UnixTime};

use super::*;

fn entries(count: u64) -> Entries {
    let entry = |number: u64| {
        let path = format!("folder-{:03}/file-{number:06}", number / 100).into_bytes();
        let time = UnixTime { secs: -5 + i64::try_from(number).unwrap(), nanos: 999_999_999 };
        let stat =
            FileStat { inode: u64::MAX - number, size: number * 300, mtime: time, ctime: time };
        let content = ContentDigest(Digest::of(&path));
        (path, Known { stat, content, has_xattrs: number.is_multiple_of(3) })
    };
    let all: Vec<_> = (0..count).map(entry).collect();
    all.iter().map(|(path, known)| (path.as_slice(), *known)).collect()
}

#[test]
fn what_is_written_is_read_back() {
    for count in [0, 1, 500] {
        let entries = entries(count);
        assert_eq!(decode(&encode(&entries)), Some(entries));
    }
}

#[test]
fn a_file_is_found_whatever_was_guessed() {
    let entries = entries(120);
    for guess in [0, 7, 119, 120, usize::MAX - 1] {
        for (place, (path, _)) in entries.iter().enumerate() {
            assert_eq!(entries.find(path, guess), Some(place));
        }
        for none in [&b""[..], b"folder-000", b"folder-000/file-000001x", b"zzz"] {
            assert_eq!(entries.find(none, guess), None);
        }
    }
    assert_eq!(Entries::default().find(b"a", 0), None);
}

#[test]
fn a_damaged_file_counts_as_empty() {
    let bytes = encode(&entries(3));
    assert!(decode(&[]).is_none());
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x40;
        assert!(decode(&damaged).is_none(), "byte {place}");
        assert!(decode(&bytes[..place]).is_none(), "cut at {place}");
    }
}

#[test]
fn numbers_are_checked_even_where_the_sum_is_right() {
    let mut body = MAGIC.to_vec();
    body.extend_from_slice(&u64::MAX.to_le_bytes());
    body.extend_from_slice(&[0xff; 40]);
    let check = Digest::of(&body).0;
    body.extend_from_slice(&check);
    assert!(decode(&body).is_none());
}

#[test]
fn many_processes_write_at_once() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("context-x.stats");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for count in 1..20 {
                    let cache = StatCache {
                        file: file.clone(),
                        entries: Entries::default(),
                        fresh: HashMap::new(),
                    };
                    cache.write(&encode(&entries(count))).unwrap();
                    assert!(decode(&fs::read(&file).unwrap()).is_some());
                }
            });
        }
    });
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
}

proptest::proptest! {
    #[test]
    fn any_bytes_under_a_right_sum_are_read_or_count_as_none(
        bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..400),
        at in 0_usize..400,
    ) {
        let sealed = |body: &[u8]| {
            let check = Digest::of(body).0;
            [body, &check[..]].concat()
        };
        drop(decode(&bytes));
        drop(decode(&sealed(&[&MAGIC[..], &bytes].concat())));
        let mut whole = encode(&entries(3));
        whole.truncate(whole.len() - CHECK_BYTES);
        for (place, byte) in whole.iter_mut().skip(MAGIC.len() + at).zip(&bytes) {
            *place = *byte;
        }
        drop(decode(&sealed(&whole)));
    }
}
