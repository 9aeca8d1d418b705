//! What a registry may do wrong, and what it must never learn.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Response;
use bytes::Bytes;
use dcbuild_model::HttpProxies;
use dcbuild_oci::{Descriptor, Index, media_type};
use dcbuild_registry::{
    Anonymous, Credential, HttpError, ImageSource as _, Login, PullError, PushError,
    RawRegistryConfig, RegistryClient, RegistryConfig, Secret, StaticCredentials,
};
use futures::TryStreamExt as _;

use crate::fake::{Fake, Seen, answer, cut, with};
use crate::image::{Small, descriptor};

fn anonymous() -> RegistryClient {
    RegistryClient::new(RegistryConfig::default(), Arc::new(Anonymous)).unwrap()
}

fn known(host: &str) -> RegistryClient {
    let password = Secret::new("hunter2".into());
    let credential = Credential::Basic { username: "user".into(), password };
    let login = Login { credential, source: "from a test".into() };
    let credentials = StaticCredentials::new([(host.to_owned(), login)]);
    RegistryClient::new(RegistryConfig::default(), Arc::new(credentials)).unwrap()
}

/// Answers for an image as a registry without faults does.
fn serve(small: &Small, seen: &Seen) -> Response<Body> {
    let last = seen.path.rsplit('/').next().unwrap();
    if seen.path.contains("/manifests/") {
        return with(
            200,
            &[("content-type", media_type::MANIFEST), ("docker-content-digest", "sha256:lie")],
            small.manifest.to_json(),
        );
    }
    for bytes in [&small.layer, &small.config] {
        if dcbuild_model::Digest::of(bytes).to_string() == last {
            return answer(200, bytes.clone());
        }
    }
    answer(404, "")
}

async fn resolve(
    client: &RegistryClient,
    host: &str,
) -> Result<dcbuild_registry::ResolvedImage, PullError> {
    let image = format!("{host}/team/app:v1").parse().unwrap();
    client.image(image).resolve(&"linux/amd64".parse().unwrap()).await
}

async fn layer(
    client: &RegistryClient,
    host: &str,
    what: &Descriptor,
) -> Result<Vec<u8>, PullError> {
    let image = client.image(format!("{host}/team/app:v1").parse().unwrap());
    let chunks: Vec<Bytes> = image.blob(what).await?.try_collect().await?;
    Ok(chunks.concat())
}

fn challenge(realm: &str) -> Response<Body> {
    let value =
        format!("Bearer realm=\"http://{realm}/token\",service=\"svc\",scope=\"extra:x:y\"");
    with(401, &[("www-authenticate", &value)], "")
}

#[tokio::test]
async fn a_proxy_that_is_down_is_not_laid_to_the_registry() {
    // Nothing listens there any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let named = format!("http://user:hunter2@{gone}");
    let proxies = HttpProxies::of(|name| (name == "HTTPS_PROXY").then(|| named.clone()));
    let config = RegistryConfig::default().by_proxies(proxies);
    let client = RegistryClient::new(config, Arc::new(Anonymous)).unwrap();
    let error = resolve(&client, "registry.invalid").await.unwrap_err();
    let hint = error.hint().unwrap();
    assert!(hint.contains("no_proxy"), "{hint}");
    let PullError::Http { source, .. } = error else { panic!("{error:?}") };
    let text = source.to_string();
    let want = format!("the proxy http://{gone} of https_proxy could not be reached");
    assert!(text.contains("could not reach https://registry.invalid:443"), "{text}");
    assert!(text.ends_with(&want), "{text}");
    // A registry of this machine goes by none.
    let error = resolve(&client, &gone.to_string()).await.unwrap_err();
    let hint = error.hint().unwrap();
    assert!(hint.contains(&format!("nothing listens at {gone}")), "{hint}");
}

#[tokio::test]
async fn a_token_is_fetched_once_and_used() {
    let fake = Fake::start(|host, seen| match seen.path.as_str() {
        "/token" if seen.header("authorization") == "Basic dXNlcjpodW50ZXIy" => {
            answer(200, r#"{"token":"t0","expires_in":300}"#)
        }
        "/token" => answer(401, ""),
        _ if seen.header("authorization") != "Bearer t0" => challenge(host),
        _ => serve(&Small::new("tar"), seen),
    })
    .await;
    let image = resolve(&known(&fake.host), &fake.host).await.unwrap();
    assert_eq!(image.root, Small::new("tar").manifest.digest());
    let log = fake.log();
    let tokens: Vec<&Seen> = log.iter().filter(|seen| seen.path == "/token").collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        tokens[0].query,
        "service=svc&scope=repository%3Ateam%2Fapp%3Apull&scope=extra%3Ax%3Ay"
    );
    let error = resolve(&anonymous(), &fake.host).await.unwrap_err();
    assert!(matches!(error, PullError::Denied { .. }), "{error}");
    assert!(error.to_string().starts_with("pull access denied for 127.0.0.1"), "{error}");
    assert!(error.hint().unwrap().contains("docker login 127.0.0.1"));
}

#[tokio::test]
async fn credentials_stay_away_from_other_origins() {
    let other = Fake::start(|_, seen| match seen.path.as_str() {
        "/token" => answer(200, r#"{"access_token":"t1"}"#),
        _ => answer(200, "tar"),
    })
    .await;
    // Another port of the same host may be the registry's own token service; another name is another host.
    let elsewhere = other.host.replace("127.0.0.1", "localhost");
    let fake = Fake::start(move |_, seen| match seen.header("authorization") {
        "Bearer t1" if seen.path.contains("/blobs/") => {
            with(307, &[("location", &format!("http://{elsewhere}/cdn?sig=1"))], "")
        }
        "Bearer t1" => serve(&Small::new("tar"), seen),
        _ => challenge(&elsewhere),
    })
    .await;
    let client = known(&fake.host);
    let small = Small::new("tar");
    assert_eq!(layer(&client, &fake.host, &small.manifest.layers[0]).await.unwrap(), b"tar");
    let seen = other.log();
    assert_eq!(seen.iter().map(|one| one.path.as_str()).collect::<Vec<_>>(), ["/token", "/cdn"]);
    for one in seen {
        assert_eq!(one.header("authorization"), "", "{} {}", one.method, one.path);
        assert!(!format!("{one:?}").contains("hunter2"));
    }
}

/// GitLab's registry is on port 5050, and its token service is GitLab itself.
#[tokio::test]
async fn credentials_reach_a_token_service_on_another_port() {
    let other = Fake::start(|_, seen| match seen.header("authorization") {
        "Basic dXNlcjpodW50ZXIy" => answer(200, r#"{"access_token":"t1"}"#),
        _ => answer(401, ""),
    })
    .await;
    let elsewhere = other.host.clone();
    let fake = Fake::start(move |_, seen| match seen.header("authorization") {
        "Bearer t1" => serve(&Small::new("tar"), seen),
        _ => challenge(&elsewhere),
    })
    .await;
    let small = Small::new("tar");
    let client = known(&fake.host);
    assert_eq!(layer(&client, &fake.host, &small.manifest.layers[0]).await.unwrap(), b"tar");
}

#[tokio::test]
async fn lies_are_found_out() {
    let fake = Fake::start(|_, seen| match seen.path.as_str() {
        path if path.contains("/manifests/") => answer(200, "{}"),
        _ => answer(200, "lie"),
    })
    .await;
    let client = anonymous();
    let small = Small::new("tar");
    let wanted = format!("{}/a@{}", fake.host, small.manifest.digest()).parse().unwrap();
    let error = client.manifest(&wanted).await.unwrap_err();
    assert!(matches!(error, PullError::Digest { .. }), "{error}");
    let same_size = &small.manifest.layers[0];
    let error = layer(&client, &fake.host, same_size).await.unwrap_err();
    assert!(matches!(error, PullError::Digest { .. }), "{error}");
    for size in [2, 1 << 40] {
        let what = Descriptor { size, ..same_size.clone() };
        if size == 2 {
            let error = layer(&client, &fake.host, &what).await.unwrap_err();
            assert!(matches!(error, PullError::Size { wanted: 2, got: 3, .. }), "{error}");
        }
    }
    let error = resolve(&client, &fake.host).await.unwrap_err();
    assert!(matches!(error, PullError::Manifest { .. }), "{error}");
}

#[tokio::test]
async fn a_cut_download_goes_on() {
    let bytes = Bytes::from("0123456789".repeat(1000));
    let small = Small::new(bytes.clone());
    for honours_range in [true, false] {
        let whole = bytes.clone();
        let fake = Fake::start(move |_, seen| match (seen.before, seen.header("range")) {
            (0, "") => cut(200, whole.len(), whole.slice(..4000)),
            (1, "bytes=4000-") if honours_range => {
                let range = format!("bytes 4000-{}/{}", whole.len() - 1, whole.len());
                with(206, &[("content-range", &range)], whole.slice(4000..))
            }
            _ => answer(200, whole.clone()),
        })
        .await;
        let got = layer(&anonymous(), &fake.host, &small.manifest.layers[0]).await.unwrap();
        assert_eq!(got, bytes);
        assert_eq!(fake.log()[1].header("range"), "bytes=4000-");
    }
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    let fake = Fake::start(|_, seen| match seen.before {
        0 if seen.path.contains("/manifests/") => with(429, &[("retry-after", "0")], ""),
        1 if seen.path.contains("/manifests/") => answer(503, ""),
        _ => serve(&Small::new("tar"), seen),
    })
    .await;
    resolve(&anonymous(), &fake.host).await.unwrap();
    assert_eq!(fake.log().iter().filter(|seen| seen.path.contains("/manifests/")).count(), 3);
}

#[tokio::test]
async fn foreign_urls_are_never_fetched() {
    let other = Fake::start(|_, _| answer(200, "tar")).await;
    let url = format!("http://{}/layer", other.host);
    let mut small = Small::new("tar");
    small.manifest.layers[0].urls = vec![url];
    let what = small.manifest.layers[0].clone();
    let fake = Fake::start(move |_, seen| match seen.path.as_str() {
        path if path.contains(&small.manifest.layers[0].digest.to_string()) => answer(404, ""),
        _ => serve(&small, seen),
    })
    .await;
    let image = resolve(&anonymous(), &fake.host).await.unwrap();
    assert!(image.layers()[0].is_foreign());
    let error = layer(&anonymous(), &fake.host, &what).await.unwrap_err();
    assert!(matches!(error, PullError::NoBlob { .. }), "{error}");
    assert!(other.log().is_empty());
}

#[tokio::test]
async fn refusals_have_words() {
    let fake = Fake::start(|_, _| {
        answer(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest\nunknown"}]}"#)
    })
    .await;
    let error = resolve(&anonymous(), &fake.host).await.unwrap_err();
    let want = format!("manifest unknown: {}/team/app:v1 was not found", fake.host);
    assert_eq!(error.to_string(), want);
    let PullError::NotFound { source: HttpError::Status(api), .. } = error else { panic!() };
    assert_eq!(
        api.to_string(),
        format!(
            "http://{} answered GET /v2/team/app/manifests/v1 with 404 MANIFEST_UNKNOWN: manifest unknown",
            fake.host
        )
    );
    let image = format!("{}/team/app:v2", fake.host).parse().unwrap();
    assert_eq!(anonymous().head_manifest(&image).await.unwrap(), None);
    let loops =
        Fake::start(|host, _| with(302, &[("location", &format!("http://{host}/again"))], ""))
            .await;
    let error = resolve(&anonymous(), &loops.host).await.unwrap_err();
    assert!(
        matches!(error, PullError::Http { source: HttpError::Redirects { .. }, .. }),
        "{error}"
    );
    let file = Fake::start(|_, _| with(302, &[("location", "file:///etc/passwd")], "")).await;
    let error = resolve(&anonymous(), &file.host).await.unwrap_err();
    assert!(matches!(error, PullError::Http { source: HttpError::Location { .. }, .. }), "{error}");
}

#[tokio::test]
async fn mirrors_are_asked_first_and_may_fail() {
    let small = Small::new("tar");
    let mirror = Fake::start(|_, seen| {
        if seen.path.contains("/blobs/") {
            answer(404, "")
        } else {
            serve(&Small::new("tar"), seen)
        }
    })
    .await;
    let fake = Fake::start(|_, seen| serve(&Small::new("tar"), seen)).await;
    let host = fake.host.clone();
    let raw = serde_json::json!({ host.clone(): { "mirrors": [format!("{}/hub", mirror.host)] } });
    let config: RawRegistryConfig = serde_json::from_value(raw).unwrap();
    let client = RegistryClient::new(config.resolve().unwrap(), Arc::new(Anonymous)).unwrap();
    resolve(&client, &host).await.unwrap();
    assert_eq!(layer(&client, &host, &small.manifest.layers[0]).await.unwrap(), b"tar");
    assert_eq!(mirror.log()[0].path, "/v2/hub/team/app/manifests/v1");
    assert_eq!(mirror.log()[0].query, format!("ns={}", host.replace(':', "%3A")));
    assert!(fake.log().iter().all(|seen| seen.path.contains("/blobs/")));
}

#[tokio::test]
async fn what_mirrors_said_is_not_hidden_by_the_registry_that_cannot_be_reached() {
    let mirror = Fake::start(|_, _| answer(404, "")).await;
    // Nobody listens there any more.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = listener.local_addr().unwrap().to_string();
    drop(listener);
    let raw = serde_json::json!({ closed.clone(): { "mirrors": [&mirror.host] } });
    let config: RawRegistryConfig = serde_json::from_value(raw).unwrap();
    let client = RegistryClient::new(config.resolve().unwrap(), Arc::new(Anonymous)).unwrap();
    let error = resolve(&client, &closed).await.unwrap_err();
    let PullError::Http { source, .. } = &error else { panic!("{error:?}") };
    let asked = format!("http://{} answered GET /v2/team/app/manifests/v1 with 404", mirror.host);
    let told = format!("its mirrors failed ({asked}), and so did the registry");
    assert_eq!(source.to_string(), told);
    let reached = std::error::Error::source(source).unwrap().to_string();
    assert_eq!(
        reached,
        format!("could not reach http://{closed} for GET /v2/team/app/manifests/v1")
    );
    assert!(error.hint().unwrap().contains(&format!("nothing listens at {closed}")));
    assert_eq!(mirror.log().len(), 1);
}

#[tokio::test]
async fn nested_indexes_have_an_end() {
    let small = Small::new("tar");
    for (depth, good) in [(3, true), (4, false), (60, false)] {
        let mut documents = vec![(media_type::MANIFEST, small.manifest.to_json())];
        for _ in 0..depth {
            let (kind, below) = documents.last().unwrap();
            let index = Index { manifests: vec![descriptor(kind, below)], ..Index::default() };
            documents.push((media_type::INDEX, index.to_json()));
        }
        let fake = Fake::start(move |_, seen| {
            let last = seen.path.rsplit('/').next().unwrap();
            let digest = |bytes: &[u8]| dcbuild_model::Digest::of(bytes).to_string();
            let named = documents.iter().find(|(_, bytes)| digest(bytes) == last);
            match named.or(documents.last()).filter(|_| seen.path.contains("/manifests/")) {
                Some((kind, bytes)) => with(200, &[("content-type", *kind)], bytes.clone()),
                None => serve(&Small::new("tar"), seen),
            }
        })
        .await;
        let outcome = resolve(&anonymous(), &fake.host).await;
        assert_eq!(outcome.is_ok(), good, "{depth}");
        assert!(fake.log().len() <= 6, "{depth}");
    }
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_not_asked_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let begun = tokio::time::Instant::now();
    let error = resolve(&anonymous(), &host).await.unwrap_err();
    // The pauses between five tries are longer.
    assert!(begun.elapsed() < std::time::Duration::from_secs(3));
    let PullError::Http { source, .. } = &error else { panic!("{error:?}") };
    let want = format!("could not reach http://{host} for GET /v2/team/app/manifests/v1");
    assert_eq!(source.to_string(), want);
    assert_eq!(error.fault(), dcbuild_model::Fault::Cluster);
    assert!(error.hint().unwrap().contains(&format!("nothing listens at {host}")));
}

#[tokio::test]
async fn a_refusal_names_who_asked_and_not_how() {
    let fake = Fake::start(|host, seen| match seen.path.as_str() {
        "/token" => answer(401, ""),
        _ => challenge(host),
    })
    .await;
    let error = resolve(&known(&fake.host), &fake.host).await.unwrap_err();
    let PullError::Denied { source, .. } = &error else { panic!("{error:?}") };
    let HttpError::Token { source, .. } = source else { panic!("{source:?}") };
    let want = format!(
        "http://{} answered GET /token with 401 (asked as user 'user', from a test)",
        fake.host
    );
    assert_eq!(source.to_string(), want);
    let error = resolve(&anonymous(), &fake.host).await.unwrap_err();
    let PullError::Denied { source, .. } = &error else { panic!("{error:?}") };
    let HttpError::Token { source, .. } = source else { panic!("{source:?}") };
    assert!(source.to_string().ends_with("(asked without credentials: none are known for it)"));
}

/// A port that takes connections and says nothing.
async fn mute() -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    #[expect(clippy::disallowed_methods, reason = "the server ends with the test's runtime")]
    let server = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    (host, server)
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_says_nothing_is_heard_of_and_waited_for_once() {
    let (host, _server) = mute().await;
    let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = heard.clone();
    let ear = Arc::new(move |host: &str, time: std::time::Duration| {
        told.lock().unwrap().push(format!("{host} {}", time.as_secs()));
    });
    let client = anonymous().heard_by(ear);
    let begun = tokio::time::Instant::now();
    let error = resolve(&client, &host).await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 60);
    let PullError::Http { source, .. } = &error else { panic!("{error:?}") };
    let want =
        format!("http://{host} was silent for 60 seconds after GET /v2/team/app/manifests/v1");
    assert_eq!(source.to_string(), want);
    assert_eq!(error.fault(), dcbuild_model::Fault::Cluster);
    assert!(error.is_lasting());
    assert!(error.hint().unwrap().contains("takes connections at http://127.0.0.1:"), "{error}");
    let want: Vec<String> = [10, 20, 30, 40, 50].map(|time| format!("http://{host} {time}")).into();
    assert_eq!(*heard.lock().unwrap(), want);

    let image = format!("{host}/team/app:v1").parse::<dcbuild_oci::ImageRef>().unwrap();
    let begun = tokio::time::Instant::now();
    let blob = Small::new("tar").blobs().remove(0);
    let error = client.push_blob(image.repository(), blob, &[]).await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 60);
    assert!(error.is_lasting() && error.fault() == dcbuild_model::Fault::Cluster, "{error:?}");

    let begun = tokio::time::Instant::now();
    client.in_a_hurry().manifest(&image).await.unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn a_registry_that_keeps_no_further_chunk_is_given_up() {
    let fake = Fake::start(|_, seen| {
        if seen.method == "HEAD" {
            answer(404, "")
        } else {
            let headers = [("location", "/v2/team/app/blobs/uploads/1"), ("range", "0-65535")];
            with(202, &headers, "")
        }
    })
    .await;
    let host = fake.host.as_str();
    let raw = serde_json::json!({ host: { "upload_chunk_bytes": 65_536 } });
    let config: RawRegistryConfig = serde_json::from_value(raw).unwrap();
    let client = RegistryClient::new(config.resolve().unwrap(), Arc::new(Anonymous)).unwrap();
    let image: dcbuild_oci::ImageRef = format!("{host}/team/app:v1").parse().unwrap();
    let blob = Small::new(vec![7_u8; 200 << 10]).blobs().remove(0);
    let push = client.push_blob(image.repository(), blob, &[]);
    let pushed = tokio::time::timeout(std::time::Duration::from_mins(1), push).await;
    let error = pushed.expect("it ends").unwrap_err();
    let text = std::error::Error::source(&error).unwrap().to_string();
    assert!(text.contains("it still has only 65536 of 204800 bytes"), "{text}");
    let sent = fake.log().iter().filter(|seen| seen.method == "PATCH").count();
    assert_eq!(sent, 6, "the first chunk, and the second as often as anything is tried");
}

#[tokio::test]
async fn nobody_who_is_in_a_hurry_tries_for_long() {
    let fake = Fake::start(|_, _| answer(503, "")).await;
    let image = format!("{}/team/app:v1", fake.host).parse().unwrap();
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    anonymous().in_a_hurry().manifest(&image).await.unwrap_err();
    assert!(begun.elapsed().as_secs() <= 10, "{:?}", begun.elapsed());
    assert!(fake.log().len() > 1, "it is tried once");
}

/// A push: what the registry answers, with which digest, what it answers who asks for the manifest then, and with which body;
/// and what it comes to.
type Push<'a> = (u16, Option<&'a str>, u16, &'static str, Option<&'static str>);

#[tokio::test]
async fn a_manifest_is_pushed_when_the_registry_has_it() {
    let digest = Small::new("tar").manifest.digest().to_string();
    let (mine, other) = (digest.clone(), format!("sha256:{}", "0".repeat(64)));
    let cases: [Push<'_>; 6] = [
        (201, None, 404, "", None),
        (201, Some(&mine), 404, "", None),
        (200, Some(&mine), 404, "", None),
        (202, None, 200, "manifest", None),
        (200, None, 200, "<html>", Some("is answered with something else")),
        (200, None, 404, "", Some("is answered with 404")),
    ];
    let wrong = (201, Some(other.as_str()), 200, "manifest", Some("it has sha256:0000"));
    for (status, named, again, body, problem) in cases.into_iter().chain([wrong]) {
        let named = named.map(str::to_owned);
        let fake = Fake::start(move |_, seen| {
            let headers: Vec<(&str, &str)> =
                named.iter().map(|named| ("docker-content-digest", named.as_str())).collect();
            match (seen.method.as_str(), body) {
                ("PUT", _) => with(status, &headers, ""),
                (_, "manifest") => answer(again, Small::new("tar").manifest.to_json()),
                (_, body) => answer(again, body),
            }
        })
        .await;
        let image = format!("{}/team/app:v1", fake.host).parse().unwrap();
        let bytes = Small::new("tar").manifest.to_json().into();
        let pushed = anonymous().push_manifest(&image, media_type::MANIFEST, bytes).await;
        match (pushed, problem) {
            (Ok(pushed), None) => assert_eq!(pushed.to_string(), digest),
            (Err(error), Some(problem)) => {
                let PushError::Manifest { source, .. } = &error else { panic!("{error:?}") };
                assert!(source.to_string().contains(problem), "{source}");
                assert_eq!(error.fault(), dcbuild_model::Fault::Cluster);
                assert!(error.hint().unwrap().contains("is perhaps no registry"), "{error}");
            }
            (pushed, problem) => panic!("{pushed:?} where {problem:?} was to come"),
        }
    }
}
