//! What lies in a registry beside an image, byte for byte.
#![expect(clippy::unwrap_used, reason = "test")]

use dcbuild_attest::{InvalidSbom, Sbom, Statement, Storage, Stored, Subject, store};
use dcbuild_model::Digest;
use dcbuild_oci::{Descriptor, ManifestOrIndex, is_attestation};
use expect_test::{Expect, expect};

fn statement() -> Statement {
    let sbom = br#"{"spdxVersion":"SPDX-2.3","name":"a<b> & c","packages":[]}"#;
    let subject = Subject { name: "pkg:docker/a@1".into(), digest: Digest([7; 32]) };
    Statement::of_sbom(Sbom::parse(sbom).unwrap(), vec![subject])
}

fn image() -> Descriptor {
    Descriptor::new("application/vnd.oci.image.manifest.v1+json", Digest([7; 32]), 500)
}

fn check(storage: Storage, want: &Expect) {
    let Stored { statements, config, manifest, entry } = store(&[statement()], &image(), storage);
    assert!(is_attestation(&entry));
    assert_eq!(entry.digest, Digest::of(&manifest));
    assert!(ManifestOrIndex::parse(&manifest, Some(&entry.media_type)).is_ok());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let entry = serde_json::to_string(&entry).unwrap();
    let all = [entry, text(&manifest), text(&config), text(&statements[0].bytes)];
    want.assert_eq(&(all.join("\n") + "\n"));
}

#[test]
fn an_artifact_names_its_subject() {
    check(
        Storage::Artifact,
        &expect![[r#"
        {"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:4d5f5e6a9c41624deb28965ee2c014b960d70fc76e9fc15a511a7e087803306b","size":681,"annotations":{"vnd.docker.reference.digest":"sha256:0707070707070707070707070707070707070707070707070707070707070707","vnd.docker.reference.type":"attestation-manifest"},"platform":{"architecture":"unknown","os":"unknown"}}
        {"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.docker.attestation.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.in-toto+json","digest":"sha256:ffd0ff59f9a5259fc88e91cd758f9a1ae757891d7c1cb5de4b8c0cccabae7056","size":298,"annotations":{"in-toto.io/predicate-type":"https://spdx.dev/Document"}}],"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:0707070707070707070707070707070707070707070707070707070707070707","size":500}}
        {}
        {"_type":"https://in-toto.io/Statement/v1","predicateType":"https://spdx.dev/Document","subject":[{"name":"pkg:docker/a@1","digest":{"sha256":"0707070707070707070707070707070707070707070707070707070707070707"}}],"predicate":{"spdxVersion":"SPDX-2.3","name":"a\u003cb\u003e \u0026 c","packages":[]}}
    "#]],
    );
}

#[test]
fn an_image_for_no_platform_is_what_registries_took_before() {
    check(
        Storage::Image,
        &expect![[r#"
        {"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:86a456343fd8761392d69583686a744ecc1ca132e1360f3469b396f97f235739","size":458,"annotations":{"vnd.docker.reference.digest":"sha256:0707070707070707070707070707070707070707070707070707070707070707","vnd.docker.reference.type":"attestation-manifest"},"platform":{"architecture":"unknown","os":"unknown"}}
        {"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:921f71bad6f5aabb3276e6dc4fd8268a985eb9c73127ed97d6e3baab4adb7953","size":167},"layers":[{"mediaType":"application/vnd.in-toto+json","digest":"sha256:ffd0ff59f9a5259fc88e91cd758f9a1ae757891d7c1cb5de4b8c0cccabae7056","size":298,"annotations":{"in-toto.io/predicate-type":"https://spdx.dev/Document"}}]}
        {"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:ffd0ff59f9a5259fc88e91cd758f9a1ae757891d7c1cb5de4b8c0cccabae7056"]}}
        {"_type":"https://in-toto.io/Statement/v1","predicateType":"https://spdx.dev/Document","subject":[{"name":"pkg:docker/a@1","digest":{"sha256":"0707070707070707070707070707070707070707070707070707070707070707"}}],"predicate":{"spdxVersion":"SPDX-2.3","name":"a\u003cb\u003e \u0026 c","packages":[]}}
    "#]],
    );
}

#[test]
fn files_hold_indented_statements() {
    let text = String::from_utf8(statement().to_pretty_json()).unwrap();
    expect![[r#"
        {
          "_type": "https://in-toto.io/Statement/v1",
          "predicateType": "https://spdx.dev/Document",
          "subject": [
            {
              "name": "pkg:docker/a@1",
              "digest": {
                "sha256": "0707070707070707070707070707070707070707070707070707070707070707"
              }
            }
          ],
          "predicate": {
            "spdxVersion": "SPDX-2.3",
            "name": "a\u003cb\u003e \u0026 c",
            "packages": []
          }
        }
    "#]]
    .assert_eq(&(text + "\n"));
}

#[test]
fn a_scanner_writes_statements_or_lists() {
    let kind = |text: &str| Sbom::parse(text.as_bytes()).map(|sbom| sbom.predicate_type);
    assert_eq!(kind(r#"{"spdxVersion":"SPDX-2.3"}"#).unwrap(), "https://spdx.dev/Document");
    assert_eq!(kind(r#"{"bomFormat":"CycloneDX"}"#).unwrap(), "https://cyclonedx.org/bom");
    let statement = r#"{"_type":"x","predicateType":"https://p","subject":[],"predicate":{"a":1}}"#;
    assert_eq!(kind(statement).unwrap(), "https://p");
    assert!(matches!(kind("[]"), Err(InvalidSbom::Shape)));
    assert!(matches!(kind("{}"), Err(InvalidSbom::Shape)));
    assert!(matches!(kind(r#"{"predicateType":"https://p"}"#), Err(InvalidSbom::Shape)));
    assert!(matches!(kind("{"), Err(InvalidSbom::Json(_))));
    let own = r#"{"predicateType":"https://slsa.dev/provenance/v1","predicate":{}}"#;
    assert!(matches!(kind(own), Err(InvalidSbom::Provenance)));
}
