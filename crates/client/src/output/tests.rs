use expect_test::{Expect, expect};

use super::*;

const NO: Shorthands = Shorthands { push: false, load: false, digest_wanted: false };

fn check(written: &[&str], shorthands: Shorthands, names: &[&str], want: &Expect) {
    check_of(false, written, (shorthands, names), want);
}

/// The same where several platforms are built.
fn check_index(written: &[&str], shorthands: Shorthands, names: &[&str], want: &Expect) {
    check_of(true, written, (shorthands, names), want);
}

fn check_of(
    index: bool,
    written: &[&str],
    (shorthands, names): (Shorthands, &[&str]),
    want: &Expect,
) {
    let written: Vec<String> = written.iter().map(|text| (*text).to_owned()).collect();
    let names = names.iter().map(|name| name.parse().unwrap()).collect();
    let naming = Naming { names, index, ..Naming::default() };
    let told = match outputs(&written, shorthands, &naming) {
        Ok(outputs) if outputs == Outputs::default() => "nothing".to_owned(),
        Ok(Outputs { each, idle }) => {
            let idle = idle.iter().map(|text| format!("warning: {text}"));
            each.iter().map(tell).chain(idle).collect::<Vec<_>>().join("\n")
        }
        Err(error) => dcbuild_process::report_with_hint(&error).trim_end().to_owned(),
    };
    want.assert_eq(&(told + "\n"));
}

fn tell(output: &Output) -> String {
    let OutputSpec {
        kind,
        layers,
        oci_media_types,
        annotations,
        rewrite_timestamp,
        inline_cache,
        attest,
    } = &output.spec;
    assert!(!inline_cache, "that is asked for elsewhere");
    let made = match kind {
        OutputKind::Files { split: false } => "files".to_owned(),
        OutputKind::Files { split: true } => "files in folders".to_owned(),
        OutputKind::Image { names, push, push_by_digest, keep } => {
            let words = [(*push, "push"), (*push_by_digest, "by-digest"), (*keep, "keep")];
            let words = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word);
            let words: Vec<_> =
                words.chain([if *oci_media_types { "oci" } else { "docker" }]).collect();
            format!("image {names:?} {}", words.join(" "))
        }
    };
    let level = layers.level.map_or(String::new(), |level| format!(" level {level}"));
    let force = if layers.force { " force" } else { "" };
    let force = if *rewrite_timestamp { format!("{force} clamped") } else { force.to_owned() };
    let note = |note: &Annotation| {
        let of = note.platform.as_ref().map_or(String::new(), |it| format!("[{it}]"));
        format!(" {:?}{of} {}={}", note.place, note.name, note.value)
    };
    let notes: String = annotations.iter().map(note).collect();
    let said = match (&attest.provenance, attest.sbom) {
        (None, false) => String::new(),
        (provenance, sbom) => {
            let much = provenance.as_ref().map(|spec| spec.mode);
            format!(" attest {much:?} sbom={sbom} {:?} '{}'", attest.storage, attest.prefix)
        }
    };
    format!("{made}; {}{level}{force}{notes}{said}; {:?}", layers.compression.name(), output.client)
}

#[test]
fn times_are_rewritten_where_that_is_asked() {
    check(
        &["type=oci,dest=a.tar,rewrite-timestamp=true"],
        NO,
        &[],
        &expect![[r#"
        image [] oci; gzip clamped; OciTar { dest: File("a.tar") }
    "#]],
    );
}

#[test]
fn folders_and_standard_output_need_no_type() {
    check(
        &["out"],
        NO,
        &["a"],
        &expect![[r#"
        files; gzip; Local { dest: "out" }
    "#]],
    );
    check(
        &["-"],
        NO,
        &[],
        &expect![[r#"
        files; gzip; Tar { dest: Stdout }
    "#]],
    );
    check(
        &["out.tar"],
        NO,
        &[],
        &expect![[r#"
        files; gzip; Local { dest: "out.tar" }
    "#]],
    );
}

#[test]
fn every_type_is_understood() {
    let all = [
        "type=image",
        "type=registry",
        "type=docker",
        "type=docker,dest=d.tar",
        "type=oci,dest=o.tar",
        "type=oci,dest=o,tar=false",
        "type=tar,dest=f.tar",
        "type=local,dest=f",
        "type=cacheonly",
    ];
    check(
        &all,
        NO,
        &["a:1"],
        &expect![[r#"
            image ["docker.io/library/a:1"] keep oci; gzip; Image
            image ["docker.io/library/a:1"] push oci; gzip; Image
            image ["docker.io/library/a:1"] keep docker; gzip; Load
            image ["docker.io/library/a:1"] docker; gzip; DockerTar { dest: File("d.tar") }
            image ["docker.io/library/a:1"] oci; gzip; OciTar { dest: File("o.tar") }
            image ["docker.io/library/a:1"] oci; gzip; OciFolder { dest: "o" }
            files; gzip; Tar { dest: File("f.tar") }
            files; gzip; Local { dest: "f" }
        "#]],
    );
}

#[test]
fn attributes_are_understood() {
    let all = r#"type=image,"name=x/a:1,b",push=true,compression=zstd,compression-level=9,force-compression=true,annotation.k=v"#;
    check(
        &[all],
        NO,
        &["c"],
        &expect![[r#"
            image ["docker.io/library/c:latest"] push keep oci; zstd level 9 force Manifest k=v; Image
            warning: 'name' of --output 'type=image,"name=x/a:1,b",push=true,compression=zstd,compression-level=9,force-compression=true,annotation.k=v' has no effect: -t names an image
        "#]],
    );
    check(
        &["type=image,oci-mediatypes=false,push-by-digest=true,name=a,push=1"],
        NO,
        &[],
        &expect![[r#"
        image ["docker.io/library/a:latest"] push by-digest docker; gzip; Image
    "#]],
    );
    check(
        &["type=docker,compression=zstd"],
        NO,
        &[],
        &expect![[r#"
        image [] oci; zstd; Load
    "#]],
    );
    check(
        &["Type=oci"],
        NO,
        &[],
        &expect![[r#"
        image [] oci; gzip; OciTar { dest: Stdout }
    "#]],
    );
}

/// As buildx has it: a name for each output is for lines without `-t`.
#[test]
fn tags_name_every_image() {
    let written =
        ["type=image,name=other,push=true", "type=registry,ref=app", "type=oci,name=app,dest=x"];
    check(
        &written,
        NO,
        &["app", "app:2"],
        &expect![[r#"
            image ["docker.io/library/app:latest", "docker.io/library/app:2"] push keep oci; gzip; Image
            image ["docker.io/library/app:latest", "docker.io/library/app:2"] push oci; gzip; Image
            image ["docker.io/library/app:latest", "docker.io/library/app:2"] oci; gzip; OciTar { dest: File("x") }
            warning: 'name' of --output 'type=image,name=other,push=true' has no effect: -t names an image
            warning: 'ref' of --output 'type=registry,ref=app' has no effect: -t names an image
            warning: 'name' of --output 'type=oci,name=app,dest=x' has no effect: -t names an image
        "#]],
    );
}

/// The lines by which GitHub's runners each build a platform, and what buildx writes for `--push`.
#[test]
fn what_buildx_does_with_an_image_elsewhere_is_understood() {
    let alone = |written: &str, want: Expect| check(&[written], NO, &[], &want);
    let one = |written: &str, want: Expect| check(&[written], NO, &["app"], &want);
    alone(
        "type=image,name=ghcr.io/a/b,push-by-digest=true,name-canonical=true,push=true",
        expect![[r#"
            image ["ghcr.io/a/b:latest"] push by-digest oci; gzip; Image
        "#]],
    );
    alone(
        "type=image,name=ghcr.io/a/b:1,push-by-digest=true,push=true",
        expect![[r#"
            error: the tag of ghcr.io/a/b:1 and 'type=image,name=ghcr.io/a/b:1,push-by-digest=true,push=true' do not go together
            hint: name the repository alone, or leave push-by-digest out
        "#]],
    );
    one(
        "type=registry,unpack=false,store=true,dangling-name-prefix=x,buildinfo=false",
        expect![[r#"
            image ["docker.io/library/app:latest"] push oci; gzip; Image
        "#]],
    );
    one(
        "type=image,store=false,registry.insecure=false,prefer-nondist-layers=F",
        expect![[r#"
            image ["docker.io/library/app:latest"] oci; gzip; Image
        "#]],
    );
    one(
        "type=local,dest=out,mode=copy",
        expect![[r#"
            files; gzip; Local { dest: "out" }
        "#]],
    );
    one(
        "type=local,dest=out,mode=delete",
        expect![[r#"
            error: --output 'type=local,dest=out,mode=delete' is not supported
            hint: empty the folder yourself before the build, and write mode=copy
        "#]],
    );
    one(
        "type=local,dest=out,mode=link",
        expect![[r#"
            error: --output 'type=local,dest=out,mode=link' is malformed: 'link' is no value of mode
            hint: such as -o DIR, -o type=oci,dest=app.tar or -o type=image,name=app:1,push=true
        "#]],
    );
}

/// What it does and we do not, and what nobody does.
#[test]
fn what_an_image_elsewhere_cannot_be_is_told() {
    let one = |written: &str, want: Expect| check(&[written], NO, &["app"], &want);
    one(
        "type=registry,registry.insecure=true",
        expect![[r#"
            error: --output 'type=registry,registry.insecure=true' is not supported
            hint: say it in the configuration: [registry."HOST"] with insecure = true, or http = true
        "#]],
    );
    one(
        "type=image,prefer-nondist-layers=true",
        expect![[r#"
            error: --output 'type=image,prefer-nondist-layers=true' is not supported
            hint: leave it out: all layers of an image go where it goes
        "#]],
    );
    one(
        "type=docker,context=rootless",
        expect![[r#"
            error: --output 'type=docker,context=rootless' is not supported
            hint: set DOCKER_HOST to the address of that context's daemon
        "#]],
    );
    one(
        "type=image,unpack=perhaps",
        expect![[r#"
            error: --output 'type=image,unpack=perhaps' is malformed: 'perhaps' is no value of unpack
            hint: such as -o DIR, -o type=oci,dest=app.tar or -o type=image,name=app:1,push=true
        "#]],
    );
    one(
        "type=tar,unpack=true",
        expect![[r#"
            error: --output 'type=tar,unpack=true' is malformed: 'unpack' is no known attribute
            hint: such as -o DIR, -o type=oci,dest=app.tar or -o type=image,name=app:1,push=true
        "#]],
    );
}

#[test]
fn shorthands_and_names_make_outputs() {
    let push = Shorthands { push: true, ..NO };
    let digest = Shorthands { digest_wanted: true, ..NO };
    check(
        &[],
        NO,
        &[],
        &expect![[r#"
        nothing
    "#]],
    );
    check(
        &[],
        NO,
        &["a"],
        &expect![[r#"
        image ["docker.io/library/a:latest"] keep oci; gzip; Image
    "#]],
    );
    check(
        &[],
        digest,
        &[],
        &expect![[r#"
        image [] oci; gzip; Image
    "#]],
    );
    check(
        &["type=cacheonly"],
        digest,
        &["a"],
        &expect![[r#"
        nothing
    "#]],
    );
    check(
        &[],
        push,
        &["a"],
        &expect![[r#"
        image ["docker.io/library/a:latest"] push oci; gzip; Image
    "#]],
    );
}

#[test]
fn shorthands_join_outputs() {
    let push = Shorthands { push: true, ..NO };
    let load = Shorthands { load: true, ..NO };
    check(
        &["type=image,compression=zstd"],
        push,
        &["a"],
        &expect![[r#"
        image ["docker.io/library/a:latest"] push keep oci; zstd; Image
    "#]],
    );
    // What says type=registry is pushed as it is, and not once more.
    check(
        &["type=registry,compression=zstd"],
        push,
        &["a"],
        &expect![[r#"
        image ["docker.io/library/a:latest"] push oci; zstd; Image
    "#]],
    );
    check(
        &[],
        load,
        &["a"],
        &expect![[r#"
        image ["docker.io/library/a:latest"] keep docker; uncompressed; Load
    "#]],
    );
    check(
        &["type=docker"],
        load,
        &["a"],
        &expect![[r#"
        image ["docker.io/library/a:latest"] keep docker; uncompressed; Load
    "#]],
    );
    check(
        &[],
        Shorthands { push: true, ..load },
        &["a"],
        &expect![[r#"
        image ["docker.io/library/a:latest"] push oci; gzip; Image
        image ["docker.io/library/a:latest"] keep docker; gzip; Load
    "#]],
    );
}

#[test]
fn what_cannot_be_meant_is_refused() {
    check(
        &["type=image,push=true"],
        NO,
        &[],
        &expect![[r#"
        error: type=image,push=true needs a name to push to (-t NAME)
    "#]],
    );
    check(
        &[],
        Shorthands { push: true, ..NO },
        &[],
        &expect![[r#"
        error: --push needs a name to push to (-t NAME)
    "#]],
    );
    check(
        &["type=local"],
        NO,
        &[],
        &expect![[r#"
        error: type=local ('type=local') needs a folder (dest=DIR)
    "#]],
    );
    let hint =
        "hint: such as -o DIR, -o type=oci,dest=app.tar or -o type=image,name=app:1,push=true";
    for (text, problem) in [
        ("type=oxi", "'oxi' is no type (image, registry, docker, oci, tar, local or cacheonly)"),
        ("dest=x", "it has no type="),
        ("type=tar,dest", "'dest' has no value"),
        ("type=tar,colour=red", "'colour' is no known attribute"),
        ("type=image,push=maybe", "'maybe' is no value of push"),
        ("type=image,compression=lz4", "'lz4' is no compression (gzip, zstd or uncompressed)"),
        ("type=image,compression-level=high", "'high' is no value of compression-level"),
        ("type=image,compression-level=99", "gzip has no level 99 (0 to 12)"),
        ("type=oci,compression=gzip,compression-level=-3", "gzip has no level -3 (0 to 12)"),
        ("type=image,dest=x", "an image in the store or a registry has no dest="),
        ("type=oci,push=true,dest=x", "push=true is for type=image"),
        ("type=image,annotation-layer.a=b", "it names no place of an annotation"),
        ("type=image,platform-split=true", "'platform-split' is no known attribute"),
        ("\"type=tar", "a quote is not closed"),
    ] {
        let told = outputs(&[text.to_owned()], NO, &Naming::default()).unwrap_err();
        let want = format!("error: --output '{text}' is malformed: {problem}\n{hint}\n");
        assert_eq!(dcbuild_process::report_with_hint(&told), want);
    }
    check(
        &["type=image,compression=estargz"],
        NO,
        &[],
        &expect![[r#"
        error: --output 'type=image,compression=estargz' is not supported
        hint: use compression=zstd or gzip; layers of both are seekable
    "#]],
    );
    check(
        &["type=image,name=UPPER"],
        NO,
        &[],
        &expect![[r#"
        error: --output 'UPPER' is no name of an image
          caused by: invalid reference format: repository name (library/UPPER) must be lowercase
        hint: such as -t registry.example.com/team/app:1.2
    "#]],
    );
}

#[test]
fn several_platforms_are_an_index_or_folders() {
    check_index(
        &[
            "type=image,annotation-index.a=b,annotation-manifest[linux/arm64].c=d",
            "out",
            "type=oci,dest=f",
        ],
        NO,
        &["n"],
        &expect![[r#"
            image ["docker.io/library/n:latest"] keep oci; gzip Index a=b Manifest[linux/arm64] c=d; Image
            files in folders; gzip; Local { dest: "out" }
            image ["docker.io/library/n:latest"] oci; gzip; OciTar { dest: File("f") }
        "#]],
    );
    check_index(
        &["type=local,dest=d,platform-split=false", "-"],
        NO,
        &[],
        &expect![[r#"
            files; gzip; Local { dest: "d" }
            files in folders; gzip; Tar { dest: Stdout }
        "#]],
    );
}

#[test]
fn docker_is_handed_one_platform() {
    let loads = Shorthands { load: true, ..NO };
    check_index(
        &[],
        loads,
        &["n"],
        &expect![[r#"
            error: several platforms and '--load' do not go together
            hint: the docker exporter does not support manifest lists: write type=oci, push the image, or build one platform for docker
        "#]],
    );
    check_index(
        &["type=docker,dest=f"],
        NO,
        &["n"],
        &expect![[r#"
            error: several platforms and 'type=docker,dest=f' do not go together
            hint: the docker exporter does not support manifest lists: write type=oci, push the image, or build one platform for docker
        "#]],
    );
    check_index(
        &["type=docker,tar=false,dest=d"],
        NO,
        &["n"],
        &expect![[r#"
            error: several platforms and 'type=docker,tar=false,dest=d' do not go together
            hint: the docker exporter does not support manifest lists: write type=oci, push the image, or build one platform for docker
        "#]],
    );
    check(
        &["type=image,annotation-index.a=b"],
        NO,
        &["n"],
        &expect![[r#"
            image ["docker.io/library/n:latest"] keep oci; gzip Index a=b; Image
        "#]],
    );
    check(
        &["type=docker,dest=d,annotation-index.a=b"],
        NO,
        &["n"],
        &expect![[r#"
        error: an annotation of an index or of a descriptor and 'type=docker,dest=d,annotation-index.a=b' do not go together
        hint: the docker exporter does not support manifest lists: write type=oci or push the image
    "#]],
    );
}

#[test]
fn levels_are_those_that_buildkit_takes() {
    for (text, want) in [
        ("compression-level=-1", None),
        ("compression-level=-2", Some(1)),
        ("compression-level=9", Some(9)),
        ("compression=zstd,compression-level=99", Some(22)),
        ("compression=zstd,compression-level=0", None),
        ("compression=uncompressed,compression-level=99", None),
    ] {
        let written = format!("type=image,{text}");
        let outputs = outputs(&[written], NO, &Naming::default()).unwrap().each;
        let OutputKind::Image { .. } = &outputs[0].spec.kind else { panic!("{text}") };
        assert_eq!(outputs[0].spec.layers.level, want, "{text}");
    }
}
