use std::io::Read as _;

use dcbuild_model::{ConfigDigest, DiffId, ManifestDigest};
use dcbuild_oci::media_type;
use dcbuild_proto::document::IndexedImage;
use dcbuild_testkit::MemoryBlobs;

use super::*;

fn image(store: &MemoryBlobs) -> OutputResult {
    let layer = store.insert("layer");
    let config = store.insert("{}");
    let manifest = store.insert("manifest");
    OutputResult::Image {
        manifest: ManifestDigest(manifest.0),
        manifest_size: 8,
        media_type: media_type::MANIFEST.into(),
        config: ConfigDigest(config.0),
        layers: vec![OutputLayer {
            digest: LayerDigest(layer.0),
            diff_id: DiffId(layer.0),
            size: 5,
            media_type: media_type::LAYER.into(),
        }],
        names: vec!["docker.io/library/app:1".into()],
    }
}

fn deliverer(store: &Arc<MemoryBlobs>, working: &Path) -> Deliverer {
    let docker = Ok(Daemon::plain("unix:///none/docker.sock"));
    Deliverer { blobs: store.clone(), docker, working: working.into() }
}

fn names(path: &Path) -> Vec<String> {
    let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
    let entries = archive.entries().unwrap();
    entries.map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
}

#[tokio::test]
async fn images_become_archives_and_folders() {
    let (store, folder) = (Arc::new(MemoryBlobs::default()), tempfile::tempdir().unwrap());
    let made = image(&store);
    let deliverer = deliverer(&store, folder.path());
    let file = |name: &str| Dest::File(name.into());
    for output in [
        ClientOutput::OciTar { dest: file("oci.tar") },
        ClientOutput::DockerTar { dest: file("new/docker.tar") },
        ClientOutput::OciFolder { dest: "oci".into() },
        ClientOutput::Image,
    ] {
        deliverer.deliver(&output, &made).await.unwrap();
    }
    assert!(!names(&folder.path().join("oci.tar")).contains(&"manifest.json".to_owned()));
    let docker = folder.path().join("new/docker.tar");
    assert!(names(&docker).contains(&"manifest.json".to_owned()));
    assert!(folder.path().join("oci/index.json").is_file());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "nothing else is left behind");
    let wrong = deliverer.deliver(&ClientOutput::Tar { dest: file("x") }, &made).await;
    assert!(matches!(wrong, Err(DeliverError::OtherKind)));
}

#[tokio::test]
async fn an_index_is_written_with_all_that_it_names() {
    let (store, folder) = (Arc::new(MemoryBlobs::default()), tempfile::tempdir().unwrap());
    let of = |platform: &str| {
        let OutputResult::Image { layers, .. } = image(&store) else { panic!() };
        IndexedImage {
            platform: platform.parse().unwrap(),
            manifest: ManifestDigest(store.insert(format!("manifest of {platform}")).0),
            config: ConfigDigest(store.insert(format!("config of {platform}")).0),
            layers,
            attestation: vec![AttestationBlob {
                digest: store.insert(format!("statement on {platform}")),
                size: u64::try_from(format!("statement on {platform}").len()).unwrap(),
            }],
        }
    };
    let made = OutputResult::Index {
        index: ManifestDigest(store.insert("index").0),
        index_size: 5,
        media_type: media_type::INDEX.into(),
        images: vec![of("linux/amd64"), of("linux/arm64")],
        names: Vec::new(),
        annotations: std::collections::BTreeMap::new(),
    };
    let deliverer = deliverer(&store, folder.path());
    let dest = Dest::File("oci.tar".into());
    deliverer.deliver(&ClientOutput::OciTar { dest: dest.clone() }, &made).await.unwrap();
    let names = names(&folder.path().join("oci.tar"));
    // The index, two manifests, two configs, what is said of each, and the layer that both have.
    assert_eq!(
        names.iter().filter(|name| name.starts_with("blobs/sha256/")).count(),
        9,
        "{names:?}"
    );
    let wrong = deliverer.deliver(&ClientOutput::DockerTar { dest }, &made).await;
    assert!(matches!(wrong, Err(DeliverError::OtherKind)));
}

#[tokio::test]
async fn a_blob_that_is_lost_or_wrong_leaves_no_file() {
    let (store, folder) = (Arc::new(MemoryBlobs::default()), tempfile::tempdir().unwrap());
    let made = image(&store);
    let deliverer = deliverer(&store, folder.path());
    let output = ClientOutput::OciTar { dest: Dest::File("oci.tar".into()) };
    store.corrupt(&BlobDigest(Digest::of(b"layer")), "lawyer");
    assert!(deliverer.deliver(&output, &made).await.unwrap_err().is_lost());
    store.remove(&BlobDigest(Digest::of(b"layer")));
    assert!(deliverer.deliver(&output, &made).await.unwrap_err().is_lost());
    let nowhere = ClientOutput::OciTar { dest: Dest::File("/proc/no/such/folder".into()) };
    assert!(!deliverer.deliver(&nowhere, &made).await.unwrap_err().is_lost());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_become_a_tar_or_a_folder() {
    let (store, folder) = (Arc::new(MemoryBlobs::default()), tempfile::tempdir().unwrap());
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(2);
    header.set_mode(0o644);
    header.set_mtime(5);
    builder.append_data(&mut header, "bin/app", &b"hi"[..]).unwrap();
    let bytes = builder.into_inner().unwrap();
    let size = u64::try_from(bytes.len()).unwrap();
    let tar = store.insert(bytes.clone());
    let made = OutputResult::Files { tar: LayerDigest(tar.0), size };
    let deliverer = deliverer(&store, folder.path());
    let dest = Dest::File("out.tar".into());
    deliverer.deliver(&ClientOutput::Tar { dest }, &made).await.unwrap();
    assert_eq!(std::fs::read(folder.path().join("out.tar")).unwrap(), bytes);
    deliverer.deliver(&ClientOutput::Local { dest: "out".into() }, &made).await.unwrap();
    let mut text = String::new();
    let mut file = std::fs::File::open(folder.path().join("out/bin/app")).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hi");
}
