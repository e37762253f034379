//! Elements of HTML: what each does to what stands in it, by its name and its attributes.

/// Words of a class or an id that mark boilerplate.
const BOILERPLATE: &[&str] = &[
    "nav",
    "navbar",
    "navigation",
    "navheader",
    "navfooter",
    "menu",
    "sidebar",
    "sphinxsidebar",
    "breadcrumb",
    "breadcrumbs",
    "toc",
    "table-of-contents",
    "footer",
    "site-footer",
    "page-footer",
    "site-header",
    "page-header",
    "pagination",
    "pager",
    "skip-link",
    "cookie",
    "cookies",
    "cookie-banner",
    "advert",
    "ads",
    "share",
    "social",
    "related",
    "index",
    "headerlink",
    "copyright",
    "legalnotice",
];
/// Boxes whose heading is a label (`Note`), not a section.
const BOXES: &[&str] = &["note", "warning", "caution", "tip", "important", "admonition", "callout", "alert"];

/// A start tag while it is read.
#[derive(Default)]
pub struct Tag {
    pub name: Vec<u8>,
    pub offset: usize,
    /// Name of the attribute whose value comes next.
    pub attribute: Vec<u8>,
    boilerplate: bool,
    boxed: bool,
    hidden: bool,
}

impl Tag {
    pub fn open(&mut self, name: &[u8], offset: usize) {
        *self = Self { name: name.to_ascii_lowercase(), offset, ..Self::default() };
    }

    pub fn value(&mut self, value: &[u8]) {
        let value = String::from_utf8_lossy(value).to_ascii_lowercase();
        let mut words = value.split_ascii_whitespace();
        match self.attribute.as_slice() {
            b"class" | b"id" => {
                self.boilerplate |= words.clone().any(|w| BOILERPLATE.contains(&w));
                self.boxed |= words.any(|w| BOXES.contains(&w));
            }
            b"role" => self.boilerplate |= words.any(|w| matches!(w, "navigation" | "banner" | "contentinfo" | "search" | "doc-toc")),
            b"aria-hidden" => self.hidden |= value == "true",
            b"hidden" => self.hidden = true,
            b"style" => self.hidden |= value.replace(' ', "").contains("display:none"),
            _ => {}
        }
    }
}

/// What an open element does to what stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Plain,
    /// Nothing in it is read.
    Skip,
    /// Only headings in it are read.
    HeaderOnly,
    Box,
    Main,
    Pre,
    List(bool),
    Terms,
    Table,
    Link,
}

/// What an element does to what stands in it.
pub fn role(name: &[u8], tag: &Tag) -> Role {
    let container = matches!(
        name,
        b"div" | b"section" | b"ul" | b"ol" | b"dl" | b"table" | b"aside" | b"header" | b"footer" | b"form" | b"p" | b"span" | b"a"
    );
    match name {
        b"script" | b"style" | b"nav" | b"footer" | b"aside" | b"form" | b"button" | b"select" | b"noscript" | b"template" | b"svg"
        | b"iframe" | b"object" | b"video" | b"audio" | b"canvas" | b"math" | b"dialog" => Role::Skip,
        _ if container && (tag.boilerplate || tag.hidden) => Role::Skip,
        b"header" => Role::HeaderOnly,
        b"main" | b"article" => Role::Main,
        b"pre" => Role::Pre,
        b"ul" => Role::List(false),
        b"ol" => Role::List(true),
        b"dl" => Role::Terms,
        b"table" => Role::Table,
        b"a" => Role::Link,
        b"div" | b"section" | b"blockquote" if tag.boxed => Role::Box,
        _ => Role::Plain,
    }
}

/// Whether text on both sides of a tag belongs to two paragraphs.
pub fn is_block(name: &[u8]) -> bool {
    matches!(
        name,
        b"p" | b"div"
            | b"section"
            | b"article"
            | b"main"
            | b"header"
            | b"blockquote"
            | b"ul"
            | b"ol"
            | b"dl"
            | b"dd"
            | b"table"
            | b"figure"
            | b"figcaption"
            | b"details"
            | b"summary"
            | b"body"
            | b"h1"
            | b"h2"
            | b"h3"
            | b"h4"
            | b"h5"
            | b"h6"
    )
}
