//! The fields that other tools read.

use expect_test::expect;

use super::*;
use crate::tests::Script;

#[test]
fn a_draw_is_one_object_on_one_line() {
    let script = Script::default()
        .start(0, "a")
        .log(250, "a", b"\x1b[31mhi\n\xff")
        .status(300, "a", ("layer", 0, Some(10)))
        .warning(300, "a", "careful")
        .failed(1500, "a", "exit \x1b 1");
    let mut json = RawJson::default();
    assert_eq!(json.draw(), "");
    for (_, update) in &script.updates {
        json.update(update);
    }
    let text = json.draw();
    assert_eq!(text.matches('\n').count(), 1);
    assert!(!text.contains('\x1b'));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    expect![[r#"
        {
          "vertexes": [
            {
              "digest": "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
              "name": "a",
              "started": "2023-11-14T22:13:20Z"
            },
            {
              "digest": "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
              "name": "a",
              "started": "2023-11-14T22:13:20Z",
              "completed": "2023-11-14T22:13:21.5Z",
              "error": "exit \u001b 1"
            }
          ],
          "statuses": [
            {
              "id": "layer",
              "vertex": "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
              "total": 10,
              "current": 0,
              "timestamp": "2023-11-14T22:13:20.3Z",
              "started": "2023-11-14T22:13:20Z"
            }
          ],
          "logs": [
            {
              "vertex": "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
              "stream": 1,
              "data": "G1szMW1oaQr/",
              "timestamp": "2023-11-14T22:13:20.25Z"
            }
          ],
          "warnings": [
            {
              "vertex": "sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
              "level": 1,
              "short": "Y2FyZWZ1bA==",
              "detail": [
                "bW9yZQ=="
              ]
            }
          ]
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&value).unwrap());
    assert_eq!(json.draw(), "");
}

#[test]
fn cached_and_cancelled_are_told_apart() {
    let script = Script::default().start(0, "a").canceled(5, "a").cached(7, "b");
    let mut json = RawJson::default();
    for (_, update) in &script.updates {
        json.update(update);
    }
    let value: serde_json::Value = serde_json::from_str(&json.draw()).unwrap();
    let field = |place: usize, name: &str| value["vertexes"][place][name].clone();
    assert_eq!(field(1, "error"), "context canceled");
    assert_eq!(field(2, "cached"), true);
    assert_eq!(field(1, "cached"), serde_json::Value::Null);
}
