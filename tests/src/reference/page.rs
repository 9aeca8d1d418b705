//! As much of Markdown as the pages use: headings, quotes, paragraphs and fenced blocks.

/// A piece of a page, and the line that it begins at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Counted from 1.
    pub line: usize,
    /// What it is.
    pub part: Part,
}

/// What a page is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// A line that begins with `#`, without it.
    Heading(String),
    /// Lines that begin with `>`, as one.
    Quote(String),
    /// Lines of prose, as one.
    Prose(String),
    /// A fenced block.
    Block {
        /// What stands behind the fence.
        words: String,
        /// Its lines, each with its end.
        body: String,
    },
}

const FENCE: &str = "```";

/// Takes a page apart.
pub fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut goes_on = false;
    let mut lines = (1..).zip(text.lines());
    while let Some((line, text)) = lines.next() {
        let part = if let Some(words) = text.strip_prefix(FENCE) {
            let body = lines.by_ref().map(|(_, text)| text).take_while(|text| *text != FENCE);
            let body = body.flat_map(|line| [line, "\n"]).collect();
            Part::Block { words: words.trim().to_owned(), body }
        } else if let Some(text) = text.strip_prefix('#') {
            Part::Heading(text.trim_start_matches('#').trim().to_owned())
        } else if let Some(text) = text.strip_prefix('>') {
            Part::Quote(text.trim().to_owned())
        } else {
            Part::Prose(text.trim().to_owned())
        };
        let more = match (pieces.last_mut().map(|piece| &mut piece.part), &part) {
            (Some(Part::Quote(all)), Part::Quote(text))
            | (Some(Part::Prose(all)), Part::Prose(text))
                if goes_on && !text.is_empty() =>
            {
                all.push(' ');
                all.push_str(text);
                true
            }
            _ => false,
        };
        goes_on = !matches!(&part, Part::Prose(text) if text.is_empty());
        if goes_on && !more {
            pieces.push(Piece { line, part });
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_taken_apart() {
        let page =
            "# One\n\nSome\nwords:\n> a\n> b\n\n> c\n```files  x\n# not a heading\n\n```\n## Two\n";
        let found = pieces(page).into_iter().map(|piece| (piece.line, piece.part));
        let block = Part::Block { words: "files  x".into(), body: "# not a heading\n\n".into() };
        let wanted = vec![
            (1, Part::Heading("One".into())),
            (3, Part::Prose("Some words:".into())),
            (5, Part::Quote("a b".into())),
            (8, Part::Quote("c".into())),
            (9, block),
            (13, Part::Heading("Two".into())),
        ];
        assert_eq!(found.collect::<Vec<_>>(), wanted);
    }
}
