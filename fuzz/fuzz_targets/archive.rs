//! Any bytes are an archive for ADD, a file that ADD copies, or are refused; what an archive makes of a folder is a layer.
#![no_main]

use std::collections::BTreeMap;

use dcbuild_layer::{NoSink, read_archive};
use dcbuild_model::{ContentDigest, Digest, TreePath, UnixTime};
use dcbuild_tree::toc::{decode, encode};
use dcbuild_tree::{
    CopyRequest, CopySource, Entry, FileBody, Kind, Meta, Origin, SourceOwners, Tree, copy,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(archive)) = read_archive(bytes, &mut NoSink) {
        let name = TreePath::root().join(b"t.tar");
        let content = ContentDigest(Digest::of(bytes));
        let body = FileBody { content, size: 0, origin: Origin::Inline([].into()) };
        let file = Entry { meta: Meta::default(), kind: Kind::File(body), links: None };
        let mut source = Tree::scratch();
        source.insert(&name, file).expect("the root is there");
        let archives = BTreeMap::from([(name, archive)]);
        let paths = ["t.tar".to_owned()];
        let request = CopyRequest {
            sources: vec![CopySource::Tree {
                tree: &source,
                paths: &paths,
                owners: SourceOwners::Reset,
                archives: &archives,
            }],
            dest: "/o/".to_owned(),
            owner: None,
            mode: None,
            exclude: Vec::new(),
            parents: false,
            link: false,
        };
        if let Ok(changes) = copy(&Tree::scratch(), &request, UnixTime::default()) {
            assert!(decode(&encode(&changes)).is_ok());
        }
    }
});
