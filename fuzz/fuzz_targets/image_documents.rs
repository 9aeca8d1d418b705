//! Any bytes are an image's document or are refused.
#![no_main]

use dcbuild_oci::layout::parse_index_file;
use dcbuild_oci::{ArchiveItem, ContainerConfig, ImageConfig, ManifestOrIndex, Repositories};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _config = ImageConfig::parse(bytes);
    let _container = ContainerConfig::parse(bytes);
    let _manifest = ManifestOrIndex::parse(bytes, None);
    let _outside = ManifestOrIndex::parse(bytes, Some("application/vnd.oci.image.index.v1+json"));
    let _index = parse_index_file(bytes);
    let _list = ArchiveItem::parse_list(bytes);
    let _repositories = Repositories::parse(bytes);
});
