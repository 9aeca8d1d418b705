//! Attestations: what stands beside an image in a registry, in a layout and among files, and that others can read it.
#![expect(clippy::unwrap_used, reason = "test")]

use std::path::Path;
use std::process::Command;

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::docker::Docker;
use dcbuild_tests::files::{ContextEntry, write_context};
use dcbuild_tests::home::Home;
use dcbuild_tests::http::request;
use dcbuild_tests::layout::{architecture, digest};
use dcbuild_tests::registry::Registry;
use dcbuild_tests::story::{Story, fill};
use serde_json::{Value, json};

const BOTH: &str = "linux/amd64,linux/arm64";
const DOCKERFILE: &str = "FROM busybox:golden\nARG SECRET_WORD=none\nCOPY a /a\nRUN echo b > /b\n";
const FILES: &[(&str, &str)] = &[("a", "a\n"), ("amd64", "x\n"), ("arm64", "y\n")];

/// A scanner by BuildKit's protocol: it lists the files of each tree that it is shown.
const SCANNER: &str = r#"FROM busybox:golden
COPY <<'EOF' /scan.sh
set -e
for tree in "$BUILDKIT_SCAN_SOURCE" "${BUILDKIT_SCAN_SOURCE_EXTRAS:-/none}"/*; do
  [ -d "$tree" ] || continue
  name=$(basename "$tree")
  list=$(cd "$tree" && find . -maxdepth 1 -type f | sort | sed 's/.*/{"fileName":"&"}/' | paste -sd, -)
  printf '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","predicate":{"spdxVersion":"SPDX-2.3","SPDXID":"SPDXRef-DOCUMENT","name":"%s","comment":"%s","files":[%s]}}' \
    "$name" "$BUILDKIT_SCAN_DEPTH" "$list" > "$BUILDKIT_SCAN_DESTINATION/$name.spdx.json"
  ! touch "$tree/written" 2>/dev/null
done
EOF
ENTRYPOINT ["/bin/sh", "/scan.sh"]
"#;

const ACCEPT: [&str; 2] = [
    "Accept: application/vnd.oci.image.manifest.v1+json",
    "Accept: application/vnd.oci.image.index.v1+json",
];

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(bytes)))
}

/// A manifest of a registry, with its digest.
fn manifest(registry: &Registry, repository: &str, reference: &str) -> (Value, String) {
    let line = format!("GET /v2/{repository}/manifests/{reference}");
    let answer = request(&registry.host, &line, &ACCEPT, b"");
    assert_eq!(answer.status, 200, "{repository} {reference}: {answer:?}");
    (json_of(&answer.body), digest(&answer.body))
}

fn blob(registry: &Registry, repository: &str, wanted: &str) -> Value {
    let answer = request(&registry.host, &format!("GET /v2/{repository}/blobs/{wanted}"), &[], b"");
    assert_eq!(answer.status, 200, "{wanted}");
    assert_eq!(digest(&answer.body), wanted);
    json_of(&answer.body)
}

/// What is attested of an image of an index: its manifest, and the statements.
fn attested(
    registry: &Registry,
    repository: &str,
    index: &Value,
    number: usize,
) -> (Value, Vec<Value>) {
    let entries = index["manifests"].as_array().unwrap();
    let image = entries[number]["digest"].as_str().unwrap();
    let own = |entry: &&Value| entry["annotations"]["vnd.docker.reference.digest"] == image;
    let entry = entries.iter().find(own).expect("each image has an attestation");
    assert_eq!(entry["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(entry["platform"], json!({ "architecture": "unknown", "os": "unknown" }));
    let (manifest, _) = manifest(registry, repository, entry["digest"].as_str().unwrap());
    blob_exists(registry, repository, &manifest["config"]);
    let statements = manifest["layers"].as_array().unwrap().iter().map(|layer| {
        assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
        let statement = blob(registry, repository, layer["digest"].as_str().unwrap());
        let kind = &layer["annotations"]["in-toto.io/predicate-type"];
        assert_eq!(kind, &statement["predicateType"]);
        for subject in statement["subject"].as_array().unwrap() {
            let digest = subject["digest"]["sha256"].as_str().unwrap();
            assert_eq!(format!("sha256:{digest}"), image);
        }
        statement
    });
    let statements = statements.collect();
    (manifest, statements)
}

fn blob_exists(registry: &Registry, repository: &str, descriptor: &Value) {
    let line = format!("GET /v2/{repository}/blobs/{}", descriptor["digest"].as_str().unwrap());
    let answer = request(&registry.host, &line, &[], b"");
    assert_eq!(u64::try_from(answer.body.len()).unwrap(), descriptor["size"]);
}

fn read(home: &Home, path: &str) -> Value {
    json_of(&std::fs::read(home.path(path)).unwrap_or_else(|error| panic!("{path}: {error}")))
}

fn skopeo(arguments: &[&str]) {
    let done = Command::new("skopeo").args(arguments).output().unwrap();
    assert!(done.status.success(), "skopeo {arguments:?}: {done:?}");
}

/// Builds the scanner and pushes it; says its name.
fn scanner(story: &Story) -> String {
    let name = format!("{}/scanner:1", story.registry.host);
    let folder = story.home.path("scanner");
    write_context(&folder, &[ContextEntry::file("Dockerfile", SCANNER)]);
    story.home.run(["build", "-t", &name, "--push", &story.home.arg("scanner")]).well();
    name
}

#[test]
fn provenance_stands_beside_a_pushed_image_and_docker_pulls_it() {
    let story = Story::new(DOCKERFILE, FILES);
    let (name, file) = (format!("{}/app:1", story.registry.host), story.home.arg("meta.json"));
    let word = "--build-arg=SECRET_WORD=xyzzy";
    let flags = ["--provenance=mode=min", word, "-t", &name, "--push", "--metadata-file", &file];
    story.try_build(&flags).well();
    let (index, index_digest) = manifest(&story.registry, "app", "1");
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(index["manifests"][0]["platform"]["architecture"], architecture());
    let (manifest_of, statements) = attested(&story.registry, "app", &index, 0);
    assert_eq!(manifest_of["artifactType"], "application/vnd.docker.attestation.manifest.v1+json");
    assert_eq!(manifest_of["subject"]["digest"], index["manifests"][0]["digest"]);
    let [statement] = &statements[..] else { panic!("{statements:?}") };
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let host = story.registry.host.replace(':', "%3A");
    let subject = format!("pkg:docker/{host}/app@1?platform=linux%2F{}", architecture());
    assert_eq!(statement["subject"][0]["name"], subject.as_str());
    let definition = &statement["predicate"]["buildDefinition"];
    let base = &definition["resolvedDependencies"][0];
    let uri = format!("pkg:docker/busybox@golden?platform=linux%2F{}", architecture());
    assert_eq!(base["uri"], uri.as_str());
    let base_digest = manifest(&story.registry, "library/busybox", "golden").1;
    assert_eq!(format!("sha256:{}", base["digest"]["sha256"].as_str().unwrap()), base_digest);
    let text = statement.to_string();
    assert!(!text.contains("xyzzy"), "min tells no value of an argument: {text}");
    let metadata = &statement["predicate"]["runDetails"]["metadata"];
    assert_eq!(metadata["buildkit_completeness"]["request"], false);
    assert!(metadata["startedOn"].as_str().unwrap() <= metadata["finishedOn"].as_str().unwrap());

    let told = read(&story.home, "meta.json");
    assert_eq!(told["containerimage.digest"], index_digest.as_str());
    let own = &told["buildx.build.provenance"]["buildDefinition"];
    assert_eq!(own["resolvedDependencies"][0], *base);
    assert_eq!(own["externalParameters"]["request"]["args"]["build-arg:SECRET_WORD"], "xyzzy");

    // Without attestations the same build is the same image as before, alone.
    let plain = format!("{}/app:2", story.registry.host);
    story.try_build(&["-t", &plain, word, "--push"]).well();
    assert_eq!(manifest(&story.registry, "app", "2").1, index["manifests"][0]["digest"]);

    let docker = Docker::start();
    docker.ask(&["pull", &name]).well();
    assert_eq!(docker.inspect(&name)["RootFS"]["Layers"].as_array().unwrap().len(), 3);
    let ran = docker.ask(&["run", "--rm", "--network", "none", &name, "cat", "/a", "/b"]).well();
    assert_eq!(ran.stdout, "a\nb\n");
    skopeo(&["inspect", "--tls-verify=false", &format!("docker://{name}")]);
    // A build stands on the image beside which it stands.
    story.write("Dockerfile", &format!("FROM {name}\nCOPY a /c\n"));
    assert_eq!(story.build(&[]).image.tree().text("b").as_deref(), Some("b\n"));
}

#[test]
fn each_platform_has_its_own_and_all_is_told_where_all_is_asked() {
    let dockerfile = "FROM --platform=$BUILDPLATFORM scratch AS shared\nCOPY a /a\n\
                      FROM scratch\nARG TARGETARCH\nCOPY --from=shared /a /a\nCOPY $TARGETARCH /b\n";
    let story = Story::new(dockerfile, FILES);
    let name = format!("{}/app:1", story.registry.host);
    let output = format!("type=image,name={name},push=true,oci-artifact=false");
    let provenance = "--attest=type=provenance,mode=max,version=v0.2,builder-id=https://ci/7";
    let (note, file) = ("--annotation=index-descriptor:who=me", story.home.arg("meta.json"));
    let flags = [
        "--platform",
        BOTH,
        provenance,
        "-o",
        &output,
        note,
        "--metadata-file",
        &file,
        "--label=x=1",
    ];
    story.try_build(&flags).well();
    let (index, _) = manifest(&story.registry, "app", "1");
    assert_eq!(index["manifests"].as_array().unwrap().len(), 4);
    for (number, platform) in ["linux%2Famd64", "linux%2Farm64"].into_iter().enumerate() {
        let (manifest, statements) = attested(&story.registry, "app", &index, number);
        assert_eq!(manifest["artifactType"], Value::Null);
        let config = blob(&story.registry, "app", manifest["config"]["digest"].as_str().unwrap());
        assert_eq!(
            (&config["os"], &config["architecture"]),
            (&json!("unknown"), &json!("unknown"))
        );
        let statement = &statements[0];
        assert_eq!(statement["_type"], "https://in-toto.io/Statement/v0.1");
        assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v0.2");
        assert!(statement["subject"][0]["name"].as_str().unwrap().ends_with(platform));
        let predicate = &statement["predicate"];
        assert_eq!(predicate["builder"]["id"], "https://ci/7");
        let parameters = &predicate["invocation"]["parameters"];
        assert_eq!(parameters["args"], json!({ "label:x": "1" }));
        assert_eq!(parameters["locals"], json!([{ "name": "context" }, { "name": "dockerfile" }]));
        let further = &predicate["metadata"]["https://mobyproject.org/buildkit@v1#metadata"];
        let info = &further["source"]["infos"][0];
        assert_eq!(
            (&info["filename"], &info["language"]),
            (&json!("Dockerfile"), &json!("Dockerfile"))
        );
        let layers = further["layers"].as_object().unwrap();
        let (_, last) = layers.iter().next_back().unwrap();
        let image = manifest_layers(&story.registry, &index, number);
        assert_eq!(last[0].as_array().unwrap().len(), image.len());
        assert_eq!(last[0][1]["digest"], image[1]["digest"]);
    }
    let told = read(&story.home, "meta.json");
    assert_eq!(told["containerimage.descriptor"]["annotations"], json!({ "who": "me" }));
    for platform in ["linux/amd64", "linux/arm64"] {
        assert!(told[format!("buildx.build.provenance/{platform}")]["builder"].is_object());
    }
}

fn manifest_layers(registry: &Registry, index: &Value, number: usize) -> Vec<Value> {
    let image = index["manifests"][number]["digest"].as_str().unwrap();
    manifest(registry, "app", image).0["layers"].as_array().unwrap().clone()
}

#[test]
fn layouts_hold_all_of_it_and_files_lie_beside_files() {
    let story = Story::new(DOCKERFILE, FILES);
    for storage in ["true", "false"] {
        let output = format!("type=oci,dest={},oci-artifact={storage}", story.home.arg("a.tar"));
        let note = "--annotation=index-descriptor:who=me";
        story.try_build(&["--provenance=true", note, "-t", "app", "-o", &output]).well();
        let archive = format!("oci-archive:{}", story.home.arg("a.tar"));
        let copied = format!("dir:{}", story.home.arg(&format!("copied-{storage}")));
        skopeo(&["copy", "--all", "--insecure-policy", &archive, &copied]);
    }
    let folder = format!("type=oci,tar=false,dest={}", story.home.arg("layout"));
    let note = "--annotation=index-descriptor:who=me";
    story.try_build(&["--provenance=true", note, "-t", "app", "-o", &folder]).well();
    let root = read(&story.home, "layout/index.json");
    assert_eq!(root["manifests"][0]["annotations"]["who"], "me");

    let out = format!("type=local,dest={}", story.home.arg("out"));
    story.try_build(&["--provenance=mode=min", "-o", &out]).well();
    let statement = read(&story.home, "out/provenance.json");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let subjects = statement["subject"].as_array().unwrap();
    let of_a = json!({ "name": "a", "digest": { "sha256": digest(b"a\n")[7..] } });
    assert!(subjects.contains(&of_a), "{subjects:?}");
    let text = std::fs::read_to_string(story.home.path("out/provenance.json")).unwrap();
    assert!(text.starts_with("{\n  \"_type\""), "{text}");

    // In folders of their platforms; or all together, with the platform in the name.
    story.write("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /only-$TARGETARCH\n");
    let both = ["--platform", BOTH, "--provenance=filename=p.json", "-o"];
    let out = format!("type=local,dest={}", story.home.arg("both"));
    story.try_build(&[&both[..], &[&out]].concat()).well();
    let only = |path: &str| read(&story.home, path)["subject"][0]["name"].clone();
    assert_eq!(only("both/linux_arm64/p.json"), "only-arm64");
    assert_eq!(only("both/linux_amd64/p.json"), "only-amd64");
    let tail = "platform-split=false,attestation-prefix=x-";
    let out = format!("type=local,dest={},{tail}", story.home.arg("one"));
    story.try_build(&[&both[..], &[&out]].concat()).well();
    assert_eq!(only("one/x-p.linux_arm64.json"), "only-arm64");
    assert_eq!(only("one/x-p.linux_amd64.json"), "only-amd64");

    // Nothing where only images are meant, and no file is lost to an attestation.
    let quiet = format!("type=local,dest={}", story.home.arg("quiet"));
    story.try_build(&["--provenance=inline-only=true", "-o", &quiet]).well();
    assert!(!story.home.path("quiet/provenance.json").exists());
    story.write("Dockerfile", "FROM scratch\nCOPY a /provenance.json\n");
    let done = story.try_build(&["--provenance=true", "-o", &quiet]).failed();
    for words in ["the result has a file '/provenance.json'", "attestation-prefix=NAME"] {
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    }
}

#[test]
fn a_scanner_lists_what_an_image_holds_and_is_not_asked_twice() {
    let dockerfile = "FROM busybox:golden AS build\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nCOPY a /built\n\
                      RUN ! env | grep BUILDKIT_SBOM\n\
                      FROM busybox:golden AS other\nCOPY a /other\n\
                      FROM busybox:golden\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true\n\
                      COPY --from=build /built /final\nCOPY --from=other /other /other\n";
    let story = Story::new(dockerfile, FILES);
    let (scanner, name) = (scanner(&story), format!("{}/app:1", story.registry.host));
    let sbom = format!("--sbom=generator={scanner},DEPTH=1");
    let flags = [sbom.as_str(), "--provenance=mode=min", "-t", &name, "--push"];
    let done = story.try_build(&flags).well();
    assert!(done.stderr.contains("generating sbom using"), "{}", done.stderr);
    let (index, _) = manifest(&story.registry, "app", "1");
    let (_, statements) = attested(&story.registry, "app", &index, 0);
    let kinds: Vec<&str> =
        statements.iter().map(|it| it["predicateType"].as_str().unwrap()).collect();
    let spdx = "https://spdx.dev/Document";
    assert_eq!(kinds, [spdx, spdx, spdx, "https://slsa.dev/provenance/v1"]);
    let files = |number: usize| {
        let predicate = &statements[number]["predicate"];
        let files = predicate["files"].as_array().unwrap().iter();
        let names: Vec<String> =
            files.map(|file| file["fileName"].as_str().unwrap().to_owned()).collect();
        assert_eq!(predicate["comment"], "1", "what the flag says reaches the scanner");
        (predicate["name"].as_str().unwrap().to_owned(), names.join(" "))
    };
    assert_eq!(files(0), ("sbom".into(), "./final ./other".into()), "the image comes first");
    assert_eq!(files(1), ("sbom-build".into(), "./built".into()));
    assert_eq!(files(2).0, "sbom-context");
    assert!(files(2).1.contains("./a"));
    let deps = statements[3]["predicate"]["buildDefinition"]["resolvedDependencies"].to_string();
    assert!(deps.contains("/scanner@1\""), "{deps}");

    // The same again takes the list from the cache; another file in the image makes another list.
    let again = story.try_build(&flags).well();
    assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
    let line = |text: &str| {
        let line = text.lines().find(|line| line.contains("generating sbom")).unwrap();
        line.split(' ').next().unwrap().to_owned()
    };
    let cached = format!("{} CACHED", line(&again.stderr));
    assert!(again.stderr.contains(&cached), "{cached}: {}", again.stderr);
    story.write("a", "other\n");
    let changed = story.try_build(&flags).well();
    let cached = format!("{} CACHED", line(&changed.stderr));
    assert!(!changed.stderr.contains(&cached), "{}", changed.stderr);

    let out = format!("type=local,dest={}", story.home.arg("out"));
    story.try_build(&[&sbom, "-o", &out]).well();
    let statement = read(&story.home, "out/sbom.spdx.json");
    assert_eq!(statement["predicate"]["spdxVersion"], "SPDX-2.3");
    assert!(statement["subject"].to_string().contains("\"final\""));
    assert!(story.home.path("out/sbom-build.spdx.json").exists());
}

#[test]
fn a_scanner_that_does_not_do_is_told_so() {
    let story = Story::new("FROM scratch\nCOPY a /a\n", FILES);
    let out = format!("type=oci,dest={}", story.home.arg("x.tar"));
    let missing = format!("--sbom=generator={}/nobody:1", story.registry.host);
    let done = story.try_build(&[&missing, "-o", &out]).failed();
    for words in ["could not find the scanner", "or leave --sbom out"] {
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    }
    // It runs a shell, which writes nothing.
    let done = story.try_build(&["--sbom=generator=busybox:golden", "-o", &out]).failed();
    for words in ["the scanner wrote no list", "docs/attestations.md"] {
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    }
}

#[test]
fn a_cluster_attests_as_one_machine_does() {
    let registry = Registry::start();
    fill(&registry);
    let cluster = Cluster::start(Home::new(&registry.as_docker_io()), 2, 1);
    let files = FILES.iter().map(|(path, text)| ContextEntry::file(path, text));
    let entries = [ContextEntry::file("Dockerfile", DOCKERFILE)].into_iter().chain(files);
    write_context(&cluster.home.path("context"), &entries.collect::<Vec<_>>());
    write_context(&cluster.home.path("scanner"), &[ContextEntry::file("Dockerfile", SCANNER)]);
    let scanner = format!("{}/scanner:1", registry.host);
    let folder = cluster.home.arg("scanner");
    cluster.ask("submit", &["-t", &scanner, "--push", &folder]).well();
    let (name, context) = (format!("{}/app:1", registry.host), cluster.home.arg("context"));
    let (sbom, file) = (format!("--sbom=generator={scanner}"), cluster.home.arg("meta.json"));
    let layout = format!("type=oci,tar=false,dest={}", cluster.home.arg("layout"));
    let flags = ["--provenance=mode=max", &sbom, "-t", &name, "--push", "-o", &layout];
    let flags = [&flags[..], &["--metadata-file", &file, &context]].concat();
    cluster.ask("submit", &flags).well();
    let (index, _) = manifest(&registry, "app", "1");
    let (_, statements) = attested(&registry, "app", &index, 0);
    assert_eq!(statements.len(), 2);
    assert!(statements[0]["predicate"]["files"].to_string().contains("./b"));
    let steps = &statements[1]["predicate"]["buildDefinition"]["internalParameters"]["buildConfig"];
    assert!(steps.to_string().contains("echo b > /b"), "{steps}");
    assert!(read(&cluster.home, "meta.json")["buildx.build.provenance"].is_object());
    // What the client fetched is whole: each blob that a manifest names is there.
    let root = read(&cluster.home, "layout/index.json");
    let at =
        |digest: &Value| format!("layout/blobs/{}", digest.as_str().unwrap().replace(':', "/"));
    let index = read(&cluster.home, &at(&root["manifests"][0]["digest"]));
    for entry in index["manifests"].as_array().unwrap() {
        let manifest = read(&cluster.home, &at(&entry["digest"]));
        for blob in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
            let path = cluster.home.path(&at(&blob["digest"]));
            assert!(Path::new(&path).exists(), "{blob}");
        }
    }
}

/// Records in the config of an image, and provenance beside it: each where it belongs, and each found again.
#[test]
fn an_image_with_records_of_its_own_is_attested_too() {
    let story = Story::new(DOCKERFILE, FILES);
    let name = format!("{}/app:1", story.registry.host);
    let inline = ["--cache-to", "type=inline", "-t", &name, "--push"];
    story.try_build(&[&inline[..], &["--provenance=mode=max"]].concat()).well();
    let (index, _) = manifest(&story.registry, "app", "1");
    let (_, statements) = attested(&story.registry, "app", &index, 0);
    assert_eq!(statements[0]["predicateType"], "https://slsa.dev/provenance/v1");
    let image = index["manifests"][0]["digest"].as_str().unwrap();
    let config = |repository: &str, reference: &str| {
        let (image, _) = manifest(&story.registry, repository, reference);
        blob(&story.registry, repository, image["config"]["digest"].as_str().unwrap())
    };
    assert!(config("app", image)["dcbuild.cache.v2"].is_string());
    // The attestation is of the image with its records in it, and says nothing of them itself.
    let told = statements[0].to_string();
    assert!(!told.contains("dcbuild.cache"), "{told}");

    // Another machine takes all steps from the index, and says the same of them.
    std::fs::remove_dir_all(story.home.path("state")).unwrap();
    let again = story.build(&["--cache-from", &name]);
    assert_eq!(again.ran, Vec::<String>::new());
    let other = format!("{}/again:1", story.registry.host);
    let flags = ["--cache-from", &name, "--cache-to", "type=inline", "--provenance=mode=max"];
    story.try_build(&[&flags[..], &["-t", &other, "--push"]].concat()).well();
    let (second, _) = manifest(&story.registry, "again", "1");
    assert_eq!(second["manifests"][0]["digest"], index["manifests"][0]["digest"]);
    let (_, statements) = attested(&story.registry, "again", &second, 0);
    let base = |statement: &Value| {
        statement["predicate"]["buildDefinition"]["resolvedDependencies"][0].clone()
    };
    assert!(base(&statements[0])["uri"].as_str().unwrap().starts_with("pkg:docker/busybox"));
}
