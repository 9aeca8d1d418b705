//! The Dockerfile reference, sentence by sentence: each page in `reference/` quotes a chapter and shows what dcbuild makes
//! of it.

use dcbuild_tests::reference::case::{pages, read};
use dcbuild_tests::reference::run::check_page;

macro_rules! chapters {
    ($($chapter:ident)*) => {
        const CHAPTERS: &[&str] = &[$(stringify!($chapter)),*];
        $(#[test]
        fn $chapter() {
            check_page(stringify!($chapter));
        })*
    };
}

chapters! {
    add arg build cache checks cmd copy directives entrypoint env expose format forms from healthcheck heredoc ignore label multistage onbuild
    replacement run runmount shell stopsignal user volume workdir
}

#[test]
fn every_page_is_a_chapter_and_every_case_says_what_it_shows() {
    assert_eq!(pages(), CHAPTERS);
    let cases = CHAPTERS.iter().flat_map(|chapter| read(chapter));
    assert!(cases.count() > 250);
}
