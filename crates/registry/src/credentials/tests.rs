use super::*;

fn parse(text: &str) -> DockerConfig {
    DockerConfig::parse(text.as_bytes()).unwrap()
}

fn basic(username: &str, password: &str) -> Credential {
    Credential::Basic { username: username.into(), password: Secret::new(password.into()) }
}

#[tokio::test]
async fn entries_are_found_by_the_whole_host() {
    let config = parse(
        r#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"dTpw"},
            "ghcr.io":{"username":"a","password":"b:c"},
            "https://old.example/v2/":{"auth":"dTpw"},
            "registry.example:443":{"identitytoken":"t"},
            "empty.example":{}},
          "psFormat":"ignored"}"#,
    );
    for (host, want) in [
        ("docker.io", Some(basic("u", "p"))),
        ("registry-1.docker.io", Some(basic("u", "p"))),
        ("ghcr.io", Some(basic("a", "b:c"))),
        ("old.example", Some(basic("u", "p"))),
        ("registry.example:443", Some(Credential::Identity { token: Secret::new("t".into()) })),
        ("registry.example", None),
        ("empty.example", None),
        ("evil-ghcr.io", None),
        ("ghcr.io.evil.com", None),
        ("cr.io", None),
    ] {
        let found = config.credential(host).await.unwrap();
        assert_eq!(found.map(|login| login.credential), want, "{host}");
    }
}

#[tokio::test]
async fn malformed_configs_are_errors_without_content() {
    let config = parse(r#"{"auths":{"x":{"auth":"hunter2!"}}}"#);
    let error = config.credential("x").await.unwrap_err();
    assert_eq!(error.to_string(), "docker config has a malformed entry for 'x'");
    assert!(DockerConfig::parse(b"{\"auths\":[\"hunter2\"]}").is_err());
    assert_eq!(
        format!("{:?}", basic("u", "hunter2")),
        r#"Basic { username: "u", password: (secret) }"#
    );
}

#[tokio::test]
async fn helper_names_cannot_be_paths() {
    let config = parse(r#"{"credsStore":"../../tmp/evil"}"#);
    let error = config.credential("x").await.unwrap_err();
    assert!(matches!(error, CredentialError::HelperName { .. }));
    let config = parse(r#"{"credHelpers":{"x":"surely-not-installed"}}"#);
    assert!(matches!(config.credential("x").await.unwrap_err(), CredentialError::Helper { .. }));
    assert_eq!(config.credential("y").await.unwrap(), None);
}

#[tokio::test]
async fn a_missing_file_has_no_credentials() {
    let config = DockerConfig::load(Path::new("/nonexistent/config.json")).await.unwrap();
    assert_eq!(config.credential("docker.io").await.unwrap(), None);
}

fn from_environment(folder: &Path, text: &str) -> DockerLogins {
    DockerLogins { folder: Some(folder.into()), environment: Some(Secret::new(text.into())) }
}

#[tokio::test]
async fn the_environment_goes_before_the_file_and_its_helpers() {
    let folder = tempfile::tempdir().unwrap();
    let file = r#"{"auths":{"a.example":{"auth":"dTpw"},"b.example":{"auth":"dTpw"}},
        "credHelpers":{"c.example":"surely-not-installed"}}"#;
    std::fs::write(folder.path().join("config.json"), file).unwrap();
    let text = r#"{"auths":{"a.example":{"auth":"YTpi"},"c.example":{"auth":"YTpi"},
        "https://index.docker.io/v1/":{"auth":"YTpi"}}}"#;
    let logins = from_environment(folder.path(), text);
    assert_eq!(logins.problem(), None);
    let config = logins.load().await.unwrap();
    for (host, want, source) in [
        ("a.example", basic("a", "b"), "from DOCKER_AUTH_CONFIG"),
        ("b.example", basic("u", "p"), "config.json"),
        ("c.example", basic("a", "b"), "from DOCKER_AUTH_CONFIG"),
        ("docker.io", basic("a", "b"), "from DOCKER_AUTH_CONFIG"),
    ] {
        let found = config.credential(host).await.unwrap().unwrap();
        assert_eq!(found.credential, want, "{host}");
        assert!(found.source.ends_with(source), "{host}: {}", found.source);
    }
    assert_eq!(config.registries(), ["a.example", "b.example", "c.example", "docker.io"]);
}

#[tokio::test]
async fn a_variable_that_is_not_understood_counts_as_unset_and_tells_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#;
    std::fs::write(folder.path().join("config.json"), file).unwrap();
    for text in ["hunter2", r#"{"auths":{"a.example":{"auth":"hunter2"}}}"#] {
        let logins = from_environment(folder.path(), text);
        let problem = logins.problem().unwrap();
        assert!(!problem.contains("hunter2"), "{problem}");
        let found = logins.load().await.unwrap().credential("a.example").await.unwrap();
        assert_eq!(found.unwrap().credential, basic("u", "p"));
    }
}
