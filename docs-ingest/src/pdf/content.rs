//! A page's drawing operations, run for the text they show: where each string stands and how large.

use std::collections::HashMap;

use lopdf::content::{Content, Operation};
use lopdf::{Dictionary, Document as Pdf, Error, Object, ObjectId};

use super::font::{Font, number};

/// Most bytes of a page's operations, forms in it included.
const MOST_CONTENT: usize = 8 << 20;
/// Forms in forms.
const MOST_DEPTH: u8 = 6;
/// Most strings of a page.
const MOST_PIECES: usize = 200_000;

/// A piece of text on a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    pub text: String,
    /// Where it begins and ends, and its base line, in points from the lower left corner.
    pub left: f32,
    pub right: f32,
    pub base: f32,
    /// Height of its letters, in points.
    pub size: f32,
    pub bold: bool,
}

/// The pieces of a page, in the order in which they are drawn.
///
/// # Errors
/// Where something in it is above the bounds; what cannot be understood is left out.
pub fn pieces(pdf: &Pdf, page: ObjectId) -> Result<Vec<Piece>, Error> {
    let content = pdf.get_page_content_with_limit(page, MOST_CONTENT)?;
    let mut fonts = HashMap::new();
    for (name, font) in pdf.get_page_fonts(page)? {
        fonts.insert(name, Font::new(pdf, font)?);
    }
    let (own, shared) = pdf.get_page_resources(page)?;
    let mut resources: Vec<&Dictionary> = own.into_iter().collect();
    resources.extend(shared.into_iter().filter_map(|id| pdf.get_dictionary(id).ok()));
    let mut run = Run { pdf, out: Vec::new(), left: MOST_CONTENT.saturating_sub(content.len()) };
    run.content(&content, &fonts, &resources, State::default(), 0)?;
    Ok(run.out)
}

/// A transformation of the plane: `x' = ax + cy + e`, `y' = bx + dy + f`.
#[derive(Debug, Clone, Copy)]
struct Matrix([f32; 6]);

impl Matrix {
    const UNIT: Self = Self([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);

    /// First this one, then the other.
    fn then(self, other: Self) -> Self {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (self.0, other.0);
        Self([a * g + b * i, a * h + b * j, c * g + d * i, c * h + d * j, e * g + f * i + k, e * h + f * j + l])
    }

    fn moved(self, x: f32, y: f32) -> Self {
        Self([1.0, 0.0, 0.0, 1.0, x, y]).then(self)
    }

    fn place(self) -> (f32, f32) {
        (self.0[4], self.0[5])
    }

    /// How much taller things become.
    fn scale(self) -> f32 {
        self.0[2].hypot(self.0[3])
    }
}

#[derive(Clone)]
struct State {
    page: Matrix,
    text: Matrix,
    line: Matrix,
    font: Option<Vec<u8>>,
    size: f32,
    leading: f32,
    character_space: f32,
    word_space: f32,
    stretch: f32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            page: Matrix::UNIT,
            text: Matrix::UNIT,
            line: Matrix::UNIT,
            font: None,
            size: 10.0,
            leading: 0.0,
            character_space: 0.0,
            word_space: 0.0,
            stretch: 1.0,
        }
    }
}

struct Run<'p> {
    pdf: &'p Pdf,
    out: Vec<Piece>,
    /// Bytes of operations that may still be read.
    left: usize,
}

impl<'p> Run<'p> {
    fn content(
        &mut self,
        bytes: &[u8],
        fonts: &HashMap<Vec<u8>, Font<'p>>,
        resources: &[&'p Dictionary],
        state: State,
        depth: u8,
    ) -> Result<(), Error> {
        let mut state = state;
        let mut saved: Vec<State> = Vec::new();
        for operation in Content::decode_iter(bytes) {
            // A page that breaks off keeps what was drawn before.
            let Ok(operation) = &operation else { return Ok(()) };
            if self.out.len() >= MOST_PIECES {
                return Ok(());
            }
            match operation.operator.as_str() {
                "q" if saved.len() < 256 => saved.push(state.clone()),
                "Q" => state = saved.pop().unwrap_or(state),
                "Do" if depth < MOST_DEPTH => self.form(operation, resources, &state, depth)?,
                _ => self.operation(operation, fonts, &mut state),
            }
        }
        Ok(())
    }

    fn operation(&mut self, operation: &Operation, fonts: &HashMap<Vec<u8>, Font<'p>>, state: &mut State) {
        let n = |at: usize| operation.operands.get(at).and_then(|o| number(self.pdf, o)).unwrap_or(0.0);
        let six = || Matrix([n(0), n(1), n(2), n(3), n(4), n(5)]);
        match operation.operator.as_str() {
            "cm" => state.page = six().then(state.page),
            "BT" => (state.text, state.line) = (Matrix::UNIT, Matrix::UNIT),
            "Tf" => {
                state.font = operation.operands.first().and_then(|o| o.as_name().ok()).map(<[u8]>::to_vec);
                state.size = n(1);
            }
            "Tm" => (state.text, state.line) = (six(), six()),
            "Td" => next_line(state, n(0), n(1)),
            "TD" => {
                state.leading = -n(1);
                next_line(state, n(0), n(1));
            }
            "T*" => next_line(state, 0.0, -state.leading),
            "TL" => state.leading = n(0),
            "Tc" => state.character_space = n(0),
            "Tw" => state.word_space = n(0),
            "Tz" => state.stretch = n(0) / 100.0,
            "Tj" => self.show(operation.operands.first(), fonts, state),
            "'" => {
                next_line(state, 0.0, -state.leading);
                self.show(operation.operands.first(), fonts, state);
            }
            "\"" => {
                (state.word_space, state.character_space) = (n(0), n(1));
                next_line(state, 0.0, -state.leading);
                self.show(operation.operands.get(2), fonts, state);
            }
            "TJ" => {
                for part in operation.operands.first().and_then(|o| o.as_array().ok()).into_iter().flatten() {
                    match number(self.pdf, part) {
                        Some(back) => state.text = state.text.moved(-back / 1000.0 * state.size * state.stretch, 0.0),
                        None => self.show(Some(part), fonts, state),
                    }
                }
            }
            _ => {}
        }
    }

    fn show(&mut self, string: Option<&Object>, fonts: &HashMap<Vec<u8>, Font<'p>>, state: &mut State) {
        let Some(Object::String(bytes, _)) = string else { return };
        let Some(font) = state.font.as_ref().and_then(|name| fonts.get(name)) else { return };
        let shown = font.show(bytes);
        let advance =
            (shown.width * state.size + shown.characters * state.character_space + shown.blanks * state.word_space) * state.stretch;
        let before = state.text.then(state.page);
        state.text = state.text.moved(advance, 0.0);
        let (left, base) = before.place();
        let (right, _) = state.text.then(state.page).place();
        let size = (state.size * before.scale()).abs();
        if !shown.text.is_empty() && left.is_finite() && right.is_finite() && base.is_finite() && size > 0.5 {
            self.out.push(Piece { text: shown.text, left, right, base, size, bold: font.bold });
        }
    }

    /// A form is a page within the page.
    fn form(&mut self, operation: &Operation, resources: &[&'p Dictionary], state: &State, depth: u8) -> Result<(), Error> {
        let pdf = self.pdf;
        let Some(name) = operation.operands.first().and_then(|o| o.as_name().ok()) else { return Ok(()) };
        let found =
            resources.iter().find_map(|r| r.get_deref(b"XObject", pdf).ok()?.as_dict().ok()?.get_deref(name, pdf).ok()?.as_stream().ok());
        let Some(form) = found.filter(|f| f.dict.get(b"Subtype").and_then(Object::as_name).is_ok_and(|kind| kind == b"Form")) else {
            return Ok(());
        };
        let bytes = form.decompressed_content_with_limit(self.left)?;
        self.left = self.left.saturating_sub(bytes.len().max(1));
        let own = form.dict.get_deref(b"Resources", pdf).and_then(Object::as_dict).ok();
        let resources: Vec<&Dictionary> = own.map_or_else(|| resources.to_vec(), |own| vec![own]);
        let mut fonts = HashMap::new();
        for (name, font) in resources.iter().filter_map(|r| r.get_deref(b"Font", pdf).ok()?.as_dict().ok()).flat_map(Dictionary::iter) {
            if let Some(font) = pdf.dereference(font).ok().and_then(|(_, f)| f.as_dict().ok()) {
                fonts.insert(name.clone(), Font::new(pdf, font)?);
            }
        }
        let mut inner = state.clone();
        if let Ok(matrix) = form.dict.get_deref(b"Matrix", pdf).and_then(Object::as_array) {
            let n = |at: usize| matrix.get(at).and_then(|o| number(pdf, o)).unwrap_or(0.0);
            inner.page = Matrix([n(0), n(1), n(2), n(3), n(4), n(5)]).then(inner.page);
        }
        self.content(&bytes, &fonts, &resources, inner, depth + 1)
    }
}

fn next_line(state: &mut State, x: f32, y: f32) {
    state.line = state.line.moved(x, y);
    state.text = state.line;
}
