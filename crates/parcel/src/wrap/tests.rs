use std::collections::{BTreeMap, BTreeSet};

use dcbuild_model::{ContentDigest, TreePath, UnixTime};
use dcbuild_tree::{Change, Entry, FileBody, Kind, LinkGroup, Meta, Origin, Xattrs};

use super::*;

fn put(tree: &mut Changes, path: &[u8], mtime: UnixTime, kind: Kind) {
    let meta = Meta { mode: 0o640, uid: 5, gid: 6, mtime, xattrs: Xattrs::default() };
    let entry = Entry { meta, kind, links: None };
    tree.0.insert(TreePath::clean(path).unwrap(), Change::Put(entry));
}

fn file(text: &str) -> Kind {
    let path = TreePath::clean(text.as_bytes()).unwrap();
    let content = ContentDigest(Digest::of(text.as_bytes()));
    let size = u64::try_from(text.len()).unwrap();
    Kind::File(FileBody { content, size, origin: Origin::Context { context: 0, path } })
}

fn time(secs: i64, nanos: u32) -> UnixTime {
    UnixTime { secs, nanos }
}

/// A tree with many files, the same names and contents for everybody, but times of one's own.
fn many(count: i64, began: i64) -> Changes {
    let mut tree = Changes::default();
    put(&mut tree, b"", time(began, 0), Kind::Dir);
    for number in 0..count {
        let nanos = u32::try_from(number * 7_919_331 % 1_000_000_000).unwrap();
        let path = format!("folder/{number}");
        put(&mut tree, path.as_bytes(), time(began + number / 100, nanos), file(&path));
    }
    tree
}

fn stored(wrapped: &Wrapped) -> HashMap<BlobDigest, Vec<u8>> {
    wrapped.pieces.iter().cloned().collect()
}

#[test]
fn what_is_wrapped_is_what_is_opened() {
    let mut tree = many(2000, 1_700_000_000);
    put(&mut tree, b"odd-\xff\xfe", time(-5, 999_999_999), file("odd"));
    put(&mut tree, b"empty", time(i64::MAX, 1), file(""));
    put(&mut tree, b"empty too", time(i64::MIN, 1), file(""));
    put(&mut tree, b"link", time(0, 0), Kind::Symlink(b"../../out".to_vec()));
    put(&mut tree, b"pipe", time(0, 0), Kind::Fifo);
    put(&mut tree, b"socket", time(0, 0), Kind::Socket);
    put(&mut tree, b"device", time(0, 0), Kind::CharDevice { major: 1, minor: 3 });
    for name in ["one", "other"] {
        put(&mut tree, name.as_bytes(), time(1, 2), file("twice"));
        let path = TreePath::clean(name.as_bytes()).unwrap();
        if let Some(Change::Put(entry)) = tree.0.get_mut(&path) {
            entry.links = Some(LinkGroup(1));
            let attributes = BTreeMap::from([(b"user.a".to_vec(), b"\0".to_vec())]);
            entry.meta.xattrs = Xattrs::new(attributes);
        }
    }
    let wrapped = wrap(&tree);
    let parcel = Parcel::decode(&wrapped.parcel.encode()).unwrap();
    assert_eq!(parcel, wrapped.parcel);
    assert!(parcel.blobs().count() > 0);
    let opened = parcel.open(&stored(&wrapped)).unwrap();
    assert_eq!(opened.tree, tree);
    let layers: Vec<LayerId> = opened.packs.iter().map(|(layer, _)| *layer).collect();
    assert_eq!(layers, wrapped.parcel.packs);
    assert!(opened.packs.iter().map(|(_, pack)| pack).eq(&wrapped.packs));

    let nothing = wrap(&Changes::default());
    assert_eq!((nothing.packs.len(), nothing.pieces.len()), (0, 0));
    assert_eq!(nothing.parcel.open(&stored(&nothing)).unwrap().tree, Changes::default());
}

#[test]
fn a_piece_more_or_less_is_noticed() {
    let wrapped = wrap(&many(2000, 1_700_000_000));
    let lacking = wrapped.parcel.open(&HashMap::<_, Vec<u8>>::new());
    assert!(matches!(lacking, Err(InvalidParcel::Missing { .. })), "{lacking:?}");
    let mut other = wrapped.parcel.clone();
    other.packs.pop();
    assert!(matches!(other.open(&stored(&wrapped)), Err(InvalidParcel::Packs)));
    let mut other = wrapped.parcel.clone();
    other.times.pop();
    assert!(matches!(other.open(&stored(&wrapped)), Err(InvalidParcel::Times)));
    let mut other = wrapped.parcel.clone();
    other.rule = 9;
    assert!(matches!(Parcel::decode(&other.encode()), Err(InvalidParcel::Rule { rule: 9 })));
    assert!(matches!(Parcel::decode(b"{}"), Err(InvalidParcel::Compressed(_))));
    assert!(matches!(Parcel::decode(&compress(b"{}")), Err(InvalidParcel::Document(_))));
}

#[test]
fn a_piece_that_grows_without_end_is_refused() {
    let bomb = compress(&vec![0; CHUNK_BYTES_MAX + 1]);
    let (table, times) = (vec![Piece::Here { hex: hex::encode(bomb) }], Vec::new());
    let parcel = Parcel { rule: RULE, packs: Vec::new(), table, times };
    let opened = parcel.open(&HashMap::<_, Vec<u8>>::new());
    assert!(matches!(opened, Err(InvalidParcel::Compressed(_))), "{opened:?}");
}

/// A parcel of some KB may name one piece as often as it likes.
#[test]
fn pieces_are_bounded_together() {
    let piece = Piece::Here { hex: hex::encode(compress(&[0; 1000])) };
    let none = HashMap::<_, Vec<u8>>::new();
    let pieces = vec![piece; 4];
    assert_eq!(joined(&pieces, &none, 4000).unwrap().len(), 4000);
    let error = joined(&pieces, &none, 3999).unwrap_err();
    assert!(matches!(error, InvalidParcel::Large { bytes_max: 3999 }), "{error:?}");
}

/// The blobs of one that another lacks, and their bytes.
fn news(wrapped: &Wrapped, before: &Wrapped) -> (usize, usize) {
    let known: BTreeSet<BlobDigest> = before.pieces.iter().map(|(blob, _)| *blob).collect();
    let new = wrapped.pieces.iter().filter(|(blob, _)| !known.contains(blob));
    new.fold((0, 0), |(count, bytes), (_, piece)| (count + 1, bytes + piece.len()))
}

#[test]
fn others_with_the_same_files_send_their_times_and_a_change_sends_its_neighbourhood() {
    let first = wrap(&many(20_000, 1_700_000_000));
    let all: usize = first.pieces.iter().map(|(_, bytes)| bytes.len()).sum();
    let second = wrap(&many(20_000, 1_750_000_000));
    assert_eq!(second.packs, first.packs);
    let (_, bytes) = news(&second, &first);
    assert!(bytes < 8 * 20_000 && bytes < all / 4, "{bytes} of {all}");

    let mut tree = many(20_000, 1_700_000_000);
    put(&mut tree, b"folder/777", time(1_760_000_000, 5), file("changed"));
    let (count, bytes) = news(&wrap(&tree), &first);
    assert!((1..=6).contains(&count) && bytes < all / 5, "{count} pieces, {bytes} bytes of {all}");
    assert!(first.parcel.encode().len() < 40_000, "{}", first.parcel.encode().len());
}

proptest::proptest! {
    #[test]
    fn any_parcel_opens_or_is_refused(
        bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..300),
        at in 0_usize..4000,
    ) {
        drop(Parcel::decode(&bytes));
        let none: HashMap<BlobDigest, Vec<u8>> = HashMap::new();
        // Damage within the document, where no compression hides it.
        let wrapped = wrap(&many(20, 1));
        let mut document = serde_json::to_vec(&wrapped.parcel).unwrap();
        for (place, byte) in document.iter_mut().skip(at).zip(&bytes) {
            *place = *byte;
        }
        if let Ok(parcel) = serde_json::from_slice::<Parcel>(&document) {
            drop(parcel.open(&none));
        }
        let table = Piece::Here { hex: hex::encode(compress(&bytes)) };
        let parcel = Parcel { table: vec![table], ..wrapped.parcel };
        drop(parcel.open(&none));
    }
}
