//! A manual page: its head, its sections, and the words in them.

use roff::{Inline, Roff, bold, italic, roman};

/// What every page says at its foot.
pub(crate) const SOURCE: &str = concat!("Gantline ", env!("CARGO_PKG_VERSION"));
/// And in the middle of its head.
pub(crate) const MANUAL: &str = "Gantline";

/// A page that is written section by section.
pub(crate) struct Page {
    roff: Roff,
    /// A heading came last: what follows begins a paragraph by itself.
    fresh: bool,
}

impl Page {
    /// Begins with head and NAME (man-pages(7)).
    pub(crate) fn new(name: &str, section: &str, date: &str, about: &str) -> Self {
        let mut roff = Roff::new();
        roff.control("TH", [&*name.to_uppercase(), section, date, SOURCE, MANUAL]);
        roff.control("SH", ["NAME"]);
        roff.text([roman(format!("{name} - {about}"))]);
        Self { roff, fresh: false }
    }

    /// Sections for a page that another has begun.
    pub(crate) fn end() -> Self {
        Self { roff: Roff::new(), fresh: false }
    }

    pub(crate) fn section(&mut self, title: &str) -> &mut Self {
        self.roff.control("SH", [title]);
        self.fresh = true;
        self
    }

    pub(crate) fn subsection(&mut self, title: &str) -> &mut Self {
        self.roff.control("SS", [title]);
        self.fresh = true;
        self
    }

    /// A paragraph; what stands between backquotes becomes bold.
    pub(crate) fn paragraph(&mut self, text: &str) -> &mut Self {
        self.begin();
        self.roff.text(words(text));
        self
    }

    fn begin(&mut self) {
        if !std::mem::take(&mut self.fresh) {
            self.roff.control("PP", []);
        }
    }

    /// Lines as they are.
    pub(crate) fn literal(&mut self, text: &str) -> &mut Self {
        self.begin();
        self.roff.control("nf", []);
        for line in text.lines() {
            self.roff.text([roman(line)]);
        }
        self.roff.control("fi", []);
        self
    }

    /// A term and what it means.
    pub(crate) fn term(&mut self, term: Vec<Inline>, text: &str) -> &mut Self {
        self.fresh = false;
        self.roff.control("TP", []);
        self.roff.text(term);
        self.roff.text(words(text));
        self
    }

    /// SEE ALSO, the last section of all: pages as `name(8)`.
    pub(crate) fn see_also(&mut self, pages: &[&str]) -> &mut Self {
        self.section("SEE ALSO");
        let mut line = Vec::new();
        for (at, page) in pages.iter().enumerate() {
            let (name, section) = page.split_once('(').unwrap_or((page, ""));
            let comma = if at + 1 < pages.len() { ", " } else { "" };
            line.extend([bold(name), roman(format!("({section}{comma}"))]);
        }
        self.roff.text(line);
        self
    }

    pub(crate) fn text(&self) -> String {
        self.roff.to_roff()
    }

    /// With what makes the text print alike everywhere; once a page, at its beginning.
    pub(crate) fn whole(&self) -> String {
        self.roff.render()
    }
}

/// Markdown's one mark that our texts use.
pub(crate) fn words(text: &str) -> Vec<Inline> {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts = joined.split('`').enumerate();
    parts
        .filter(|(_, part)| !part.is_empty())
        .map(|(at, part)| if at % 2 == 1 { bold(part) } else { roman(part) })
        .collect()
}

/// `name = kind`, as the term of a setting.
pub(crate) fn setting(name: &str, kind: &str) -> Vec<Inline> {
    vec![bold(name), roman(" = "), italic(kind)]
}
