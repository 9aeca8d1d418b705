use dcbuild_process::Env;
use expect_test::{Expect, expect};

use super::CacheFlags;

fn check(from: &[&str], to: &[&str], want: Expect) {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let env = std::iter::empty::<(&str, &str)>().collect::<Env>();
    let told = match CacheFlags::read(&texts(from), &texts(to), &env) {
        Err(error) => dcbuild_process::report_with_hint(&error),
        Ok(flags) => {
            let from = flags.from.iter().map(|from| format!("from {}\n", from.place.title()));
            let to = flags.to.iter().map(|to| {
                let may = if to.ignore_error { "" } else { ", must succeed" };
                let compression = to.compression.map_or("", |it| it.name());
                format!("to {} {:?} {compression}{may}\n", to.place.title(), to.mode)
            });
            let inline = flags.inline.then(|| "inline\n".to_owned());
            let warnings = flags.warnings.iter().map(|it| format!("warning: {it}\n"));
            from.chain(to).chain(inline).chain(warnings).collect()
        }
    };
    want.assert_eq(&told);
}

#[test]
fn values_are_read_as_buildx_writes_them() {
    check(
        &[
            "app:cache",
            "type=registry,ref=r.example:5000/Team/app:c".to_lowercase().as_str(),
            "type=local,src=in,tag=main",
            "type=s3,bucket=caches,region=eu-west-1,name=app,prefix=ci/",
            "",
        ],
        &[
            "app:cache",
            "type=registry,ref=app:c,mode=max,compression=zstd,force-compression=true,image-manifest=true,ignore-error=false",
            "type=local,dest=out,mode=min,oci-mediatypes=false",
            "type=s3,bucket=caches,endpoint_url=http://127.0.0.1:9000,use_path_style=true,access_key_id=a,\
             secret_access_key=b,mode=max,touch_refresh=24h",
            "type=inline",
        ],
        expect![[r#"
            from app:cache
            from r.example:5000/team/app:c
            from in:main
            from app of s3://caches/ci
            to app:cache Min 
            to app:c Max zstd, must succeed
            to out Min 
            to buildkit of s3://caches at http://127.0.0.1:9000 Max 
            inline
            warning: --cache-to oci-mediatypes=false has no effect: a cache of dcbuild is an OCI artifact
            warning: --cache-to touch_refresh has no effect with type=s3
        "#]],
    );
}

/// `BuildKit` passes such attributes over; lines of CI have them.
#[test]
fn what_means_nothing_is_told() {
    check(
        &["type=registry,ref=app,mode=max", "type=local,mode=max,src=in"],
        &[
            "type=inline,mode=max",
            "type=registry,ref=app,oci-mediatypes=TRUE,speed=high",
            "type=s3,bucket=caches,region=r,name=main;pr-1",
        ],
        expect![[r#"
            from app:latest
            from in
            to app:latest Min 
            to main of s3://caches Min 
            to pr-1 of s3://caches Min 
            inline
            warning: --cache-from mode has no effect with type=registry
            warning: --cache-from mode has no effect with type=local
            warning: --cache-to mode=max has no effect: inline records are of mode=min
            warning: --cache-to speed has no effect with type=registry
        "#]],
    );
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    check(
        &["type=gha"],
        &[],
        expect![[r#"
            warning: --cache-from type=gha is left out: dcbuild keeps records in registries, folders and buckets of S3: type=registry,ref=NAME, type=local or type=s3
        "#]],
    );
    check(
        &[],
        &["type=azblob,name=a"],
        expect![[r#"
            warning: --cache-to type=azblob is left out: dcbuild keeps records in registries, folders and buckets of S3: type=registry,ref=NAME, type=local or type=s3
        "#]],
    );
    let example = "hint: such as";
    let long = format!("type=s3,bucket=caches,name={}", "x".repeat(900));
    for (to, problem) in [
        (long.as_str(), "cannot be named so"),
        ("type=ftp", "'ftp' is no type"),
        ("ref=a,mode=max", "it has no type="),
        ("type=registry", "type=registry needs ref="),
        ("type=registry,ref=a,mode=huge", "'huge' is no mode"),
        ("type=local,dest=a,dest=b", "'dest' is there twice"),
        ("type=local", "type=local needs dest="),
        ("type=s3,region=r", "type=s3 needs bucket="),
        ("type=s3,bucket=caches,access_key_id=a", "belong together"),
        ("type=registry,ref=a,ignore-error=perhaps", "'perhaps' is no value of ignore-error"),
    ] {
        let env = std::iter::empty::<(&str, &str)>().collect::<Env>();
        let error = CacheFlags::read(&[], &[to.into()], &env).unwrap_err();
        let told = dcbuild_process::report_with_hint(&error);
        assert!(told.contains(problem) && told.contains(example), "{to}: {told}");
    }
    let env = std::iter::empty::<(&str, &str)>().collect::<Env>();
    let secret = "type=s3,bucket=B,access_key_id=a,secret_access_key=hunter2";
    let error = CacheFlags::read(&[secret.into()], &[], &env).unwrap_err();
    assert!(!format!("{error:?} {error}").contains("hunter2"), "{error}");
}
