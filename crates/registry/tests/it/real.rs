//! Push and pull against the real registry.

use std::sync::Arc;

use bytes::Bytes;
use dcbuild_oci::{ImageRef, Index, OciPlatform, media_type};
use dcbuild_registry::{
    Anonymous, ImageSource as _, PullError, Pushed, RawRegistryConfig, RegistryClient,
};
use futures::TryStreamExt as _;

use crate::image::Small;
use crate::server::RegistryServer;

async fn round_trip(raw: impl Fn(&str) -> serde_json::Value) {
    let Some(server) = RegistryServer::start().await else { return };
    let config: RawRegistryConfig = serde_json::from_value(raw(&server.host)).unwrap();
    let client = RegistryClient::new(config.resolve().unwrap(), Arc::new(Anonymous)).unwrap();
    let image: ImageRef = format!("{}/team/app:v1", server.host).parse().unwrap();
    let small = Small::new(Bytes::from("0123456789abcdef".repeat(20_000)));
    let repository = image.repository();
    for (blob, want) in small.blobs().into_iter().zip([Pushed::Uploaded, Pushed::Uploaded]) {
        assert_eq!(client.push_blob(repository, blob.clone(), &[]).await.unwrap(), want);
        assert!(client.has_blob(repository, &blob.digest()).await.unwrap());
        let again = client.push_blob(repository, blob, &[]).await.unwrap();
        assert_eq!(again, Pushed::Existed);
    }
    let bytes = Bytes::from(small.manifest.to_json());
    let by_digest = ImageRef::of_digest(repository.clone(), small.manifest.digest());
    client.push_manifest(&by_digest, media_type::MANIFEST, bytes).await.unwrap();
    let mut entry = small.root();
    entry.platform = Some(OciPlatform::from(&"linux/amd64".parse().unwrap()));
    let index = Index { manifests: vec![entry], ..Index::default() };
    let root = client.push_manifest(&image, media_type::INDEX, index.to_json().into()).await;
    assert_eq!(root.unwrap(), index.digest());

    let source = client.image(image.clone());
    let resolved = source.resolve(&"linux/amd64".parse().unwrap()).await.unwrap();
    assert_eq!(resolved.root, index.digest());
    assert_eq!(resolved.manifest, small.manifest);
    let chunks: Vec<Bytes> =
        source.blob(&resolved.layers()[0]).await.unwrap().try_collect().await.unwrap();
    assert_eq!(chunks.concat(), small.layer);
    let head = client.head_manifest(&image).await.unwrap().unwrap();
    assert_eq!(head.digest, Some(index.digest()));
    let error = source.resolve(&"linux/s390x".parse().unwrap()).await.unwrap_err();
    let want = format!("{image} is not made for linux/s390x, only for linux/amd64");
    assert_eq!(error.to_string(), want);

    let other: ImageRef = format!("{}/team/other:v1", server.host).parse().unwrap();
    let layer = small.blobs().remove(0);
    let mounted =
        client.push_blob(other.repository(), layer, std::slice::from_ref(repository)).await;
    assert_eq!(mounted.unwrap(), Pushed::Mounted);
    let missing = client.manifest(&other).await.unwrap_err();
    assert!(matches!(missing, PullError::NotFound { .. }), "{missing}");
}

#[tokio::test]
async fn an_image_survives_push_and_pull() {
    round_trip(|_| serde_json::json!({})).await;
}

#[tokio::test]
async fn an_image_survives_a_push_in_chunks() {
    round_trip(|host| serde_json::json!({ host: { "upload_chunk_bytes": 70_000 } })).await;
}
