//! Methods, as the command line names them, and what is said of them.

use super::*;

#[test]
fn calls_are_read() {
    let read = |text: Option<&str>, check| {
        let method = method(text, check)?;
        Ok::<_, FlagError>(method.question().map(|it| (it.call, it.format, it.status)))
    };
    let (text, json) = (ReportFormat::Text, ReportFormat::Json);
    let (fail, ignore) = (FindingStatus::Fail, FindingStatus::Ignore);
    for (given, check, want) in [
        (None, false, None),
        (Some("build"), false, None),
        (None, true, Some((Call::Check, text, fail))),
        (Some("check,format=json"), false, Some((Call::Check, json, fail))),
        (Some("check,format=json"), true, Some((Call::Check, json, fail))),
        (Some("lint,ignorestatus=true"), false, Some((Call::Check, text, ignore))),
        (Some("lint,ignorestatus=T"), false, Some((Call::Check, text, ignore))),
        (Some("format=json,outline"), false, Some((Call::Outline, json, fail))),
        (Some("targets"), false, Some((Call::Targets, text, fail))),
        (Some("advice,format="), false, Some((Call::Advice, text, fail))),
    ] {
        assert_eq!(read(given, check).unwrap(), want, "{given:?}");
    }
    for bad in [
        "nonsense",
        "check,outline",
        "check,format=xml",
        "check,colour=red",
        "check,ignorestatus=perhaps",
        "\"check",
    ] {
        assert!(read(Some(bad), false).is_err(), "{bad}");
    }
    for other in ["outline", "build", "subrequests.describe"] {
        assert!(read(Some(other), true).is_err(), "{other}");
    }
}

#[test]
fn methods_are_listed() {
    let asked = method(Some("subrequests.describe,format=json"), false).unwrap();
    assert_eq!(asked, Method::Describe(ReportFormat::Json));
    expect_test::expect![[r#"
        NAME                 VERSION DESCRIPTION
        outline              1.0.0   List all parameters current build target supports
        targets              1.0.0   List all targets current build supports
        lint                 1.0.0   Lint a Dockerfile
        advice               1.0.0   Lint a Dockerfile, and say what could be smaller or safer
        subrequests.describe 1.0.0   List available subrequest types
    "#]]
    .assert_eq(&describe(ReportFormat::Text));
    let json: serde_json::Value = serde_json::from_str(&describe(ReportFormat::Json)).unwrap();
    assert_eq!(json[0]["name"], "frontend.outline");
    assert_eq!(json[0]["opts"][0]["name"], "target");
    assert_eq!(json[4]["metadata"][1]["name"], "result.txt");
    // What is listed can be asked.
    for listed in json.as_array().unwrap() {
        let name = listed["name"].as_str().unwrap().trim_start_matches(FRONTEND);
        assert!(method(Some(name), false).is_ok(), "{name}");
    }
}
