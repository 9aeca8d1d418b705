//! Layouts, archives, and docker's socket.

use std::sync::Arc;

use dcbuild_model::{Daemon, Digest};
use dcbuild_registry::{
    ArchiveImage, BytesBlob, ImageSource as _, LoadError, OciLayout, PullError, WriteError,
    docker_load, write_docker_tar, write_oci_dir, write_oci_tar,
};
use futures::TryStreamExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::image::Small;

fn archive(small: &Small) -> ArchiveImage {
    let mut blobs = small.blobs();
    blobs.push(Arc::new(BytesBlob::new(small.manifest.to_json())));
    ArchiveImage { root: small.root(), blobs, names: vec!["team/app:v1".parse().unwrap()] }
}

#[tokio::test]
async fn a_layout_is_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let small = Small::new("tar");
    write_oci_dir(&archive(&small), folder.path()).await.unwrap();
    let layout = OciLayout::open(folder.path()).unwrap();
    let source = layout.image(format!("{}:v1", folder.path().display()).parse().unwrap());
    let amd64 = "linux/amd64".parse().unwrap();
    let image = source.resolve(&amd64).await.unwrap();
    assert_eq!(image.manifest, small.manifest);
    let blob = source.blob(&image.layers()[0]).await.unwrap();
    let chunks: Vec<bytes::Bytes> = blob.try_collect().await.unwrap();
    assert_eq!(chunks.concat(), b"tar");

    let path = folder.path().join("blobs/sha256").join(image.layers()[0].digest.hex());
    std::fs::write(&path, "rat").unwrap();
    let blob = source.blob(&image.layers()[0]).await.unwrap();
    let error = blob.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(matches!(error, PullError::Digest { .. }), "{error}");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    let Err(error) = source.blob(&image.layers()[0]).await else { panic!("a link led outside") };
    assert!(matches!(error, PullError::Layout { .. }), "{error}");
    assert!(OciLayout::open(&folder.path().join("blobs")).is_err());
}

#[tokio::test]
async fn a_layout_keeps_what_it_holds_under_other_names() {
    let folder = tempfile::tempdir().unwrap();
    let put = async |content: &'static str, names: &[&str]| {
        let small = Small::new(content);
        let names = names.iter().map(|name| name.parse().unwrap()).collect();
        write_oci_dir(&ArchiveImage { names, ..archive(&small) }, folder.path()).await.unwrap();
        small.root().digest
    };
    let listed = || {
        let index = std::fs::read(folder.path().join("index.json")).unwrap();
        let index = dcbuild_oci::layout::parse_index_file(&index).unwrap();
        let tag = |entry: &dcbuild_oci::Descriptor| {
            let tag = entry.annotations.get(dcbuild_oci::layout::REF_NAME).cloned();
            (tag.unwrap_or_default(), entry.digest)
        };
        index.manifests.iter().map(tag).collect::<Vec<_>>()
    };
    let of = |tag: &str, digest| (tag.to_owned(), digest);
    let one = put("one", &["app:1"]).await;
    let two = put("two", &["app:2", "app:latest"]).await;
    assert_eq!(listed(), [of("1", one), of("2", two), of("latest", two)]);
    // A name moves; what has none is there once.
    let three = put("three", &["app:latest"]).await;
    for _ in 0..2 {
        assert_eq!(put("one", &[]).await, one);
    }
    assert_eq!(listed(), [of("1", one), of("2", two), of("latest", three), of("", one)]);
    OciLayout::open(folder.path()).unwrap();
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 3, "{left:?}");

    std::fs::write(folder.path().join("index.json"), "[]").unwrap();
    let error = write_oci_dir(&archive(&Small::new("tar")), folder.path()).await.unwrap_err();
    assert!(matches!(error, WriteError::Layout { .. }), "{error}");
}

#[tokio::test]
async fn archives_are_the_same_each_time() {
    let small = Small::new("tar");
    let first = write_oci_tar(&archive(&small), Vec::new()).await.unwrap();
    assert_eq!(first, write_oci_tar(&archive(&small), Vec::new()).await.unwrap());
    let (config, layer) = (small.manifest.config.digest, small.manifest.layers[0].digest);
    let docker = write_docker_tar(&archive(&small), &config, &[layer], Vec::new()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.tar"), docker).unwrap();
    let listed = std::process::Command::new("tar")
        .args(["--list", "--verbose", "--numeric-owner", "--utc", "--file"])
        .arg(folder.path().join("x.tar"))
        .output()
        .unwrap();
    assert!(listed.status.success());
    let text = String::from_utf8(listed.stdout).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next_back()).collect();
    assert!(text.lines().all(|line| line.contains(" 0/0 ") && line.contains("1970-01-01 00:00")));
    assert!(names.is_sorted() && names.contains(&"manifest.json") && names.contains(&"index.json"));
}

#[tokio::test]
async fn a_corrupt_blob_is_not_written() {
    let mut image = archive(&Small::new("tar"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blob");
    std::fs::write(&path, "xyz").unwrap();
    let lie = dcbuild_registry::FileBlob { path, digest: Digest::of(b"abc"), size: 3 };
    image.blobs.push(Arc::new(lie));
    let error = write_oci_tar(&image, Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("reads as"), "{error}");
}

/// Answers what is asked with this.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, reply: &str) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"0\r\n\r\n") {
        assert!(stream.read_buf(&mut request).await.unwrap() > 0);
    }
    stream.write_all(reply.as_bytes()).await.unwrap();
    String::from_utf8(request).unwrap()
}

async fn load_against(reply: &'static str) -> (Result<String, LoadError>, String) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let serve = async { serve(listener.accept().await.unwrap().0, reply).await };
    let address = format!("unix://{}", socket.display());
    let daemon = Daemon::plain(address);
    tokio::join!(docker_load(&daemon, &b"archive"[..]), serve)
}

#[tokio::test]
async fn docker_takes_an_archive_or_says_why_not() {
    let (said, request) = load_against(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1e\r\n{\"stream\":\"Loaded image: a\\n\"}\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(said.unwrap(), "Loaded image: a");
    assert!(request.starts_with("POST /images/load"), "{request}");
    assert!(request.ends_with("\r\n7\r\narchive\r\n0\r\n\r\n"), "{request}");
    for (reply, want) in [
        ("HTTP/1.1 200 OK\r\n\r\n{\"error\":\"no space\"}", "docker refused the image: no space"),
        ("HTTP/1.1 500 X\r\n\r\n{\"message\":\"oops\"}", "docker refused the image: oops"),
        ("HTTP/1.1 503 X\r\n\r\n", "docker refused the image: status 503"),
    ] {
        let (said, _) = load_against(reply).await;
        assert_eq!(said.unwrap_err().to_string(), want);
    }
    // A daemon that dies while it unpacks has begun its answer long before.
    for reply in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2f\r\n{\"status\":\"Loading layer\"",
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
    ] {
        let error = load_against(reply).await.0.unwrap_err();
        assert!(matches!(error, LoadError::Broken { .. }), "{error}");
        assert_eq!(error.fault(), dcbuild_model::Fault::Cluster);
    }
    let error =
        docker_load(&Daemon::plain("unix:///nonexistent.sock"), &b""[..]).await.unwrap_err();
    assert!(error.hint().unwrap().contains("start docker"), "{error}");
    let error = docker_load(&Daemon::plain("npipe:////./x"), &b""[..]).await.unwrap_err();
    assert!(matches!(error, LoadError::Address { .. }));
}

#[tokio::test]
async fn docker_may_listen_at_a_port() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let daemon = Daemon::plain(format!("tcp://{}", listener.local_addr().unwrap()));
    let reply = "HTTP/1.1 200 OK\r\n\r\n{\"stream\":\"Loaded\"}";
    let serve = async { serve(listener.accept().await.unwrap().0, reply).await };
    let (said, request) = tokio::join!(docker_load(&daemon, &b"archive"[..]), serve);
    assert_eq!(said.unwrap(), "Loaded");
    assert!(request.ends_with("\r\n7\r\narchive\r\n0\r\n\r\n"), "{request}");
    drop(listener);
    let error = docker_load(&daemon, &b""[..]).await.unwrap_err();
    assert!(matches!(error, LoadError::NoDaemon { .. }), "{error}");
    assert_eq!(error.fault(), dcbuild_model::Fault::Cluster);
}
