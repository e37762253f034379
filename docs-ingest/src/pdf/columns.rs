//! Columns of a page: where a file draws line by line across them, the text is put back into the order of reading.
//!
//! A gutter is a place that no text crosses over a stretch of the page, with lines of running text on both sides. Where the
//! drawing goes down one side and then the other it is the order of reading already, and nothing is moved. Cells of a table
//! are shorter than lines of running text, and stay in their rows.

use super::content::Piece;

/// Fragments on each side of a gutter from which on they are columns.
const LEAST_LINES: usize = 4;
/// Letters of a line of running text, on average, from which on it is one: cells of a table have fewer.
const LEAST_LETTERS: usize = 18;
/// Lines that are left to the text below columns, at most; how much nearer to it, or larger than the column's, they are.
const MOST_LEFT: usize = 2;
const NEARER: f32 = 1.25;
const OTHER_SIZE: f32 = 1.1;
/// Space, in heights of letters, that parts two fragments of a line.
const APART: f32 = 1.2;
/// Columns in columns.
const MOST_DEPTH: u8 = 3;
/// Pieces of a page above which nothing is moved: a drawing, not a text.
const MOST_PIECES: usize = 20_000;
/// Places that may be a gutter, at most so many are tried.
const MOST_TRIED: usize = 16;

/// Pieces that stand on one line with little between them.
struct Fragment {
    /// Places in the list of pieces, from left to right.
    pieces: Vec<usize>,
    left: f32,
    right: f32,
    base: f32,
    size: f32,
    bold: bool,
    letters: usize,
}

/// The pieces in the order of reading.
pub fn in_reading_order(pieces: Vec<Piece>) -> Vec<Piece> {
    ordered(pieces, MOST_DEPTH)
}

fn ordered(pieces: Vec<Piece>, depth: u8) -> Vec<Piece> {
    if depth == 0 || pieces.len() < 2 * LEAST_LINES || pieces.len() > MOST_PIECES {
        return pieces;
    }
    let fragments = fragments(&pieces);
    let gutters = gutters(&fragments);
    let best = gutters.into_iter().map(|at| (at, bands(&fragments, at))).max_by_key(|(_, bands)| bands.iter().map(Vec::len).sum::<usize>());
    let Some((gutter, bands)) = best.filter(|(_, bands)| !bands.is_empty()) else { return pieces };
    let mut side: Vec<Option<(usize, bool)>> = vec![None; pieces.len()];
    for (number, band) in bands.iter().enumerate() {
        for at in band.iter().flat_map(|fragment| &fragments[*fragment].pieces) {
            side[*at] = Some((number, pieces[*at].left >= gutter));
        }
    }
    let changed = bands.iter().enumerate().map(|(number, _)| switches(&side, number)).collect::<Vec<_>>();
    if changed.iter().all(|switches| *switches <= 1) {
        return pieces;
    }
    // A band stands where its first piece was drawn: its left side, then its right.
    let mut out: Vec<Option<Piece>> = pieces.into_iter().map(Some).collect();
    let mut done = vec![false; bands.len()];
    let mut result = Vec::with_capacity(out.len());
    for at in 0..out.len() {
        match side[at] {
            None => result.extend(out[at].take()),
            Some((band, _)) if done[band] => {}
            Some((band, _)) => {
                done[band] = true;
                for right in [false, true] {
                    let lines = bands[band].iter().map(|fragment| &fragments[*fragment]).filter(|f| (f.left >= gutter) == right);
                    let column: Vec<Piece> = lines.flat_map(|f| f.pieces.iter()).filter_map(|place| out[*place].take()).collect();
                    result.extend(ordered(column, depth - 1));
                }
            }
        }
    }
    result
}

/// How often the drawing of a band changes sides.
fn switches(side: &[Option<(usize, bool)>], band: usize) -> usize {
    let sides: Vec<bool> = side.iter().flatten().filter(|(number, _)| *number == band).map(|(_, right)| *right).collect();
    sides.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

/// Fragments from the top of the page down, those of one line from left to right.
fn fragments(pieces: &[Piece]) -> Vec<Fragment> {
    let mut order: Vec<usize> = (0..pieces.len()).filter(|at| !pieces[*at].text.trim().is_empty()).collect();
    order.sort_by(|a, b| pieces[*b].base.total_cmp(&pieces[*a].base).then(pieces[*a].left.total_cmp(&pieces[*b].left)));
    let mut out: Vec<Fragment> = Vec::new();
    let mut from = 0;
    while from < order.len() {
        let first = &pieces[order[from]];
        let same = |at: &usize| (pieces[*at].base - first.base).abs() < first.size.max(pieces[*at].size) * 0.35;
        let count = order[from..].iter().take_while(|at| same(at)).count().max(1);
        let mut line = order[from..from + count].to_vec();
        line.sort_by(|a, b| pieces[*a].left.total_cmp(&pieces[*b].left));
        let begin = out.len();
        for at in line {
            let piece = &pieces[at];
            let letters = piece.text.chars().count();
            match out[begin..].last_mut().filter(|f| piece.left - f.right < piece.size * APART) {
                Some(fragment) => {
                    fragment.pieces.push(at);
                    fragment.right = fragment.right.max(piece.right);
                    fragment.letters += letters;
                }
                None => out.push(Fragment {
                    pieces: vec![at],
                    left: piece.left,
                    right: piece.right,
                    base: piece.base,
                    size: piece.size,
                    bold: piece.bold,
                    letters,
                }),
            }
        }
        from += count;
    }
    out
}

/// Places where a column may begin: left edges that many fragments share, except the leftmost.
fn gutters(fragments: &[Fragment]) -> Vec<f32> {
    let mut edges: Vec<f32> = fragments.iter().map(|f| f.left).filter(|left| left.is_finite()).collect();
    edges.sort_by(f32::total_cmp);
    let mut groups: Vec<(f32, usize)> = Vec::new();
    for edge in edges {
        match groups.last_mut().filter(|(first, _)| edge - first < 2.0) {
            Some((_, count)) => *count += 1,
            None => groups.push((edge, 1)),
        }
    }
    let mut shared: Vec<(f32, usize)> = groups.into_iter().skip(1).filter(|(_, count)| *count >= LEAST_LINES).collect();
    shared.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    shared.into_iter().take(MOST_TRIED).map(|(edge, _)| edge - 0.5).collect()
}

/// Stretches of lines that do not cross the gutter and have running text on both sides of it.
fn bands(fragments: &[Fragment], gutter: f32) -> Vec<Vec<usize>> {
    let mut bands = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for (at, fragment) in fragments.iter().enumerate() {
        if fragment.left < gutter && fragment.right > gutter {
            leave_to_what_follows(fragments, &mut open, gutter, fragment);
            bands.push(std::mem::take(&mut open));
        } else {
            open.push(at);
        }
    }
    bands.push(open);
    bands.retain(|band| are_columns(fragments, band, gutter));
    bands
}

/// Takes short lines off the foot of the left column that belong to the text over the whole width below it, as its heading
/// or first line does: they stand below the right column, and nearer to what follows or in other letters than the column's.
fn leave_to_what_follows(fragments: &[Fragment], band: &mut Vec<usize>, gutter: f32, next: &Fragment) {
    let foot = band.iter().map(|at| &fragments[*at]).filter(|f| f.left >= gutter).map(|f| f.base).fold(f32::MAX, f32::min);
    let mut below = next.base;
    for _ in 0..MOST_LEFT {
        let [.., before, last] = band.as_slice() else { return };
        let (above, last) = (&fragments[*before], &fragments[*last]);
        let (gap, rest) = (above.base - last.base, last.base - below);
        let differs = last.size > above.size * OTHER_SIZE || (last.bold && !above.bold);
        if last.left >= gutter || last.base > foot - last.size * 0.35 || !(differs || gap > rest * NEARER) {
            return;
        }
        below = last.base;
        band.pop();
    }
}

fn are_columns(fragments: &[Fragment], band: &[usize], gutter: f32) -> bool {
    let side = |right: bool| -> Vec<&Fragment> { band.iter().map(|at| &fragments[*at]).filter(|f| (f.left >= gutter) == right).collect() };
    let sides = [side(false), side(true)];
    let running = sides
        .iter()
        .all(|lines| lines.len() >= LEAST_LINES && lines.iter().map(|f| f.letters).sum::<usize>() >= lines.len() * LEAST_LETTERS);
    // Side by side, not one below the other.
    let span = |lines: &[&Fragment]| -> (f32, f32) {
        lines.iter().fold((f32::MAX, f32::MIN), |(low, high), f| (low.min(f.base), high.max(f.base)))
    };
    let [(a, b), (c, d)] = [span(&sides[0]), span(&sides[1])];
    running && b.min(d) - a.max(c) > 0.5 * (b - a).min(d - c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(text: &str, left: f32, base: f32) -> Piece {
        Piece { text: text.into(), left, right: left + 5.0 * text.len() as f32, base, size: 10.0, bold: false }
    }

    fn texts(pieces: Vec<Piece>) -> Vec<String> {
        in_reading_order(pieces).into_iter().map(|p| p.text).collect()
    }

    /// A page drawn line by line across its columns.
    fn page(columns: usize, lines: usize, text: &str) -> Vec<Piece> {
        let mut out = vec![piece("A title over the whole width of the page and more of it, and more again, and so on", 50.0, 760.0)];
        for line in 0..lines {
            for column in 0..columns {
                out.push(piece(&format!("{text} {column} {line}"), 50.0 + 190.0 * column as f32, 700.0 - 12.0 * line as f32));
            }
        }
        out.push(piece("A foot over the whole width of the page and more of it, and more again, and so on", 50.0, 100.0));
        out
    }

    #[test]
    fn columns_drawn_line_by_line_are_read_one_after_the_other() {
        for columns in [2, 3] {
            let read = texts(page(columns, 6, "a line of running text"));
            let expected = (0..columns).flat_map(|c| (0..6).map(move |l| format!("a line of running text {c} {l}")));
            assert_eq!(read[1..read.len() - 1], expected.collect::<Vec<_>>());
            assert!(read[0].starts_with("A title") && read[read.len() - 1].starts_with("A foot"));
        }
    }

    #[test]
    fn a_short_line_below_columns_goes_with_the_text_that_it_stands_over() {
        let lines = page(2, 6, "a line of running text");
        let foot = lines.len() - 1;
        let with = |line: Piece| -> Vec<String> {
            let mut drawn = lines.clone();
            drawn.insert(foot, line);
            let read = texts(drawn);
            read[read.len() - 3..].to_vec()
        };
        let last = "a line of running text 1 5";
        let title = |base: f32| piece("Checkpoints", 50.0, base);
        assert_eq!(with(title(112.0))[..2], [last, "Checkpoints"], "it is nearer to what follows");
        assert_eq!(with(Piece { size: 14.0, ..title(620.0) })[..2], [last, "Checkpoints"], "its letters are larger");
        assert_eq!(with(Piece { bold: true, ..title(628.0) })[..2], [last, "Checkpoints"], "its letters are bold");
        // The last line of a paragraph is the column's, and stays there.
        assert_eq!(with(title(628.0))[1], last);
    }

    #[test]
    fn tables_and_pages_in_order_are_left_as_they_are() {
        let table = page(3, 6, "cell");
        let drawn: Vec<String> = table.iter().map(|p| p.text.clone()).collect();
        assert_eq!(texts(table), drawn);
        let mut columns = page(2, 6, "a line of running text");
        columns.sort_by(|a, b| a.left.total_cmp(&b.left));
        let drawn: Vec<String> = columns.iter().map(|p| p.text.clone()).collect();
        assert_eq!(texts(columns), drawn);
        assert!(texts(vec![piece("x", f32::NAN, f32::INFINITY); 20]).len() == 20, "no coordinates");
    }
}
