//! Statement templates of the lab's clients: `:random(low,high)` becomes a query parameter with a fresh value each time.

use std::time::Duration;

use anyhow::{Context, bail};
use tokio_postgres::types::{ToSql, Type};

/// One step of a client's script.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A statement.
    Statement(Template),
    /// `:pause(low,high)`: the client does nothing for so many milliseconds.
    Pause(i64, i64),
}

/// A statement with numbered parameters and the range of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// SQL with `$1`, `$2`, ...
    pub sql: String,
    /// Inclusive range of each parameter.
    pub ranges: Vec<(i64, i64)>,
}

/// A parameter's value, ready to be bound.
pub type Value = Box<dyn ToSql + Sync + Send>;

impl Step {
    /// Reads a step. Fails on a malformed placeholder.
    pub fn parse(text: &str) -> anyhow::Result<Step> {
        if let Some(rest) = text.trim().strip_prefix(":pause") {
            let ((low, high), rest) = range(rest).with_context(|| format!("in `{text}`"))?;
            if !rest.trim().is_empty() {
                bail!("`{text}`: a pause stands alone in its step");
            }
            return Ok(Step::Pause(low.max(0), high.max(0)));
        }
        Template::parse(text).map(Step::Statement)
    }
}

impl Template {
    fn parse(text: &str) -> anyhow::Result<Template> {
        let mut template = Template { sql: String::new(), ranges: Vec::new() };
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(":random") {
            let (bounds, tail) = range(after).with_context(|| format!("in `{text}`"))?;
            template.ranges.push(bounds);
            template.sql.push_str(before);
            template.sql.push_str(&format!("${}", template.ranges.len()));
            rest = tail;
        }
        template.sql.push_str(rest);
        Ok(template)
    }

    /// Fresh values for the types that the server inferred.
    pub fn values(&self, types: &[Type], dice: &mut Dice) -> anyhow::Result<Vec<Value>> {
        self.ranges.iter().zip(types).map(|((low, high), kind)| value(dice.between(*low, *high), kind)).collect()
    }
}

fn range(text: &str) -> anyhow::Result<((i64, i64), &str)> {
    let wrong = "a placeholder is written :random(low,high) or :pause(low,high) with whole numbers";
    let (inside, rest) = text.strip_prefix('(').and_then(|rest| rest.split_once(')')).context(wrong)?;
    let (low, high) = inside.split_once(',').context(wrong)?;
    let (low, high): (i64, i64) = (low.trim().parse().context(wrong)?, high.trim().parse().context(wrong)?);
    if low > high {
        bail!("({low},{high}): the first number must not be above the second");
    }
    Ok(((low, high), rest))
}

fn value(number: i64, kind: &Type) -> anyhow::Result<Value> {
    Ok(match *kind {
        Type::INT8 => Box::new(number),
        Type::INT4 => Box::new(i32::try_from(number)?),
        Type::INT2 => Box::new(i16::try_from(number)?),
        Type::FLOAT8 => Box::new(number as f64),
        Type::TEXT | Type::VARCHAR => Box::new(number.to_string()),
        _ => bail!("the server takes a :random(..) for {kind}: cast it, as in :random(1,9)::int"),
    })
}

/// A small generator of random numbers (splitmix64): load needs spread, not secrecy.
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = high.abs_diff(low).saturating_add(1);
        low.saturating_add_unsigned(self.next() % span)
    }

    /// A duration between two counts of milliseconds.
    pub fn millis(&mut self, low: i64, high: i64) -> Duration {
        let (low, high) = (low.max(0).saturating_mul(1000), high.max(0).saturating_mul(1000));
        Duration::from_micros(self.between(low, high.max(low)).unsigned_abs())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_become_parameters_in_order() {
        let step = Step::parse("SELECT :random(1, 9)::int FROM t WHERE id = :random(-5,5)").unwrap();
        let wanted = Template { sql: "SELECT $1::int FROM t WHERE id = $2".into(), ranges: vec![(1, 9), (-5, 5)] };
        assert_eq!(step, Step::Statement(wanted));
        assert_eq!(Step::parse(":pause(10,20)").unwrap(), Step::Pause(10, 20));
    }

    #[test]
    fn malformed_placeholders_are_told_apart_from_sql() {
        for text in ["SELECT :random(1)", "SELECT :random(9,1)", "SELECT :random", ":pause(1,2) SELECT 1", "SELECT :random(a,b)"] {
            assert!(Step::parse(text).is_err(), "{text}");
        }
        assert!(Step::parse("SELECT '2 days'::interval").is_ok());
    }

    #[test]
    fn dice_stay_inside_and_reach_both_ends() {
        let mut dice = Dice::new(1);
        let thrown: Vec<i64> = (0..1000).map(|_| dice.between(-2, 2)).collect();
        assert!(thrown.iter().all(|it| (-2..=2).contains(it)));
        assert!(thrown.contains(&-2) && thrown.contains(&2));
        assert_eq!(dice.between(i64::MIN, i64::MIN), i64::MIN);
    }
}
