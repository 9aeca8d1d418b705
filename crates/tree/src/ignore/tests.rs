use proptest::prelude::*;

use super::*;

#[test]
fn files_are_read_as_docker_reads_them() {
    let file = "\u{feff}a.txt\r\n# x\n  # y\n\n  b  \n! c\n/d/\n./e//f\n../g\n/\n.\n!/h\n";
    let texts: Vec<String> = patterns(file.as_bytes())
        .into_iter()
        .map(|line| String::from_utf8(line).unwrap())
        .collect();
    assert_eq!(texts, ["a.txt", "# y", "b", "!c", "d", "e/f", "../g", "/", ".", "!h"]);
    assert_eq!(Ignore::parse(b"!\n").unwrap_err(), IgnoreError::LoneBang);
    assert!(matches!(Ignore::parse(b"a[.txt\n"), Err(IgnoreError::Bad(_))));
}

#[test]
fn patterns_match_as_in_moby() {
    for (patterns, path, want) in [
        ("**", "file", true),
        ("**", "dir/file", true),
        ("**/", "file", true),
        ("**/**", "dir/file", true),
        ("dir/**", "dir/file", true),
        ("dir/**", "dir/dir2/file", true),
        ("dir/**", "dir", false),
        ("**/dir", "dir", true),
        ("**/dir", "dir/file", true),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**file", "dir/file", true),
        ("**file", "afile", true),
        ("**/file", "afile", false),
        ("**/*.txt", "a.txt", true),
        ("**/*.txt", "d/e/a.txt", true),
        ("*.txt", "d/a.txt", false),
        ("a**/*.txt", "abc/x.txt", true),
        ("a**/*.txt", "a/b/x.txt", true),
        ("a/**/b", "a/b", true),
        ("a/**/b", "a/x/y/b", true),
        ("a/**/b", "a/xb", false),
        ("d", "d/e/f", true),
        ("a.?xt", "a.☺xt", true),
        ("a[b-d]e", "ace", true),
        ("a\\*b", "a*b", true),
        ("***", "a/b", true),
        ("*\n!d", "d/e", false),
        ("d\n!d/e/f", "d/e", true),
        ("d\n!d/e/f", "d/e/f", false),
        ("!a\n*", "a", true),
        ("**/a\n!d/**/a", "d/e/a", false),
        ("", "a", false),
    ] {
        let ignore = Ignore::parse(patterns.as_bytes()).unwrap();
        assert_eq!(ignore.matches(path.as_bytes()), want, "{patterns:?} {path}");
    }
}

#[test]
fn a_folder_is_skipped_where_nothing_in_it_is_taken_in_again() {
    for (patterns, folder, want) in [
        ("d", "d", true),
        ("d\n!x", "d", true),
        ("d\n!d/e/f", "d", false),
        ("d\n!d/e/f", "d/e", false),
        ("d\n!d/e/f", "d/x", true),
        ("d\n!**/f", "d", false),
        ("d\n!d/*/f", "d/e", false),
        ("*\n!d", "other", true),
    ] {
        let ignore = Ignore::parse(patterns.as_bytes()).unwrap();
        assert_eq!(ignore.skips_whole(folder.as_bytes()), want, "{patterns:?} {folder}");
    }
}

proptest! {
    #[test]
    fn nothing_panics(file: Vec<u8>, path: Vec<u8>) {
        if let Ok(ignore) = Ignore::parse(&file) {
            ignore.matches(&path);
            ignore.skips_whole(&path);
        }
    }

    #[test]
    fn what_is_skipped_held_nothing_wanted(
        patterns in prop::collection::vec("!?([ab*?]{1,3}/){0,2}[ab*]{1,3}", 0..5),
        folder in "[ab]{1,2}(/[ab]{1,2}){0,2}",
        below in "[ab]{1,2}(/[ab]{1,2}){0,2}",
    ) {
        let ignore = Ignore::new(patterns.iter().map(String::as_bytes)).unwrap();
        if ignore.matches(folder.as_bytes()) && ignore.skips_whole(folder.as_bytes()) {
            let below = format!("{folder}/{below}");
            prop_assert!(ignore.matches(below.as_bytes()), "{patterns:?} {below}");
        }
    }
}
