//! The same image again: `SOURCE_DATE_EPOCH` and `rewrite-timestamp`.
#![expect(clippy::unwrap_used, reason = "test")]

use std::time::{Duration, SystemTime};

use dcbuild_tests::image::Image;
use dcbuild_tests::story::Story;
use dcbuild_tests::wait::LONG;

const EPOCH: i64 = 1_700_000_000;
const DOCKERFILE: &str = "FROM busybox:golden\nWORKDIR /app\nCOPY file /app/\nRUN echo made > made && touch -d @1000000000 old && mkdir dir\n";

/// Builds in a home of its own, with a context file of this time.
fn build(rewrite: &str, file_secs: u64) -> (Story, Image) {
    let story = Story::new(DOCKERFILE, &[("file", "text")]);
    let file = std::fs::File::open(story.context().join("file")).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(file_secs)).unwrap();
    let output = format!("type=oci,dest={}{rewrite}", story.home.arg("image.tar"));
    let epoch = format!("SOURCE_DATE_EPOCH={EPOCH}");
    let context = story.home.arg("context");
    let args = ["build", "--build-arg", &epoch, "-o", &output, &context];
    story.home.start(args).finish(LONG).well();
    let image = Image::read_tar(&story.home.path("image.tar"));
    (story, image)
}

#[test]
fn two_builds_of_different_times_are_one_image() {
    let rewrite = ",rewrite-timestamp=true";
    let (one, first) = build(rewrite, 1_800_000_000);
    let (_two, second) = build(rewrite, 1_900_000_000);
    assert_eq!(first.digest, second.digest);
    let tree = first.tree();
    let time = |path: &str| tree.get(path).unwrap().mtime;
    for path in ["app", "app/file", "app/made", "app/dir"] {
        assert_eq!(time(path), EPOCH, "{path}");
    }
    assert_eq!(time("app/old"), 1_000_000_000);
    let created = first.config["created"].as_str().unwrap();
    assert_eq!(created, "2023-11-14T22:13:20Z");
    // Without it, times are as they were made.
    let (_three, third) = build("", 1_800_000_000);
    assert_ne!(first.digest, third.digest);
    assert_eq!(third.tree().get("app/file").unwrap().mtime, 1_800_000_000);
    // What leaves the image has the time, all of it.
    let (context, out) = (one.home.arg("context"), one.home.path("out"));
    let epoch = format!("SOURCE_DATE_EPOCH={EPOCH}");
    let dest = format!("type=local,dest={}", out.display());
    one.home.run(["build", "--build-arg", &epoch, "-o", &dest, &context]).well();
    for path in ["app/old", "app/made", "bin/busybox"] {
        let changed = std::fs::metadata(out.join(path)).unwrap().modified().unwrap();
        let secs = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(secs, 1_700_000_000, "{path}");
    }
}
