//! The peer's TOML files as single values, each with the line that it stands in; later files laid over earlier ones.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    /// What the peer does where its files say nothing.
    Default(&'static str),
    /// A line of a file, counted from 1.
    Line(PathBuf, usize),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default(peer) => write!(f, "{peer}'s default"),
            Self::Line(path, line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// One value: a scalar, a list, or a table that holds nothing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Leaf {
    /// The keys that lead to it.
    pub(crate) path: Vec<String>,
    /// What it is.
    pub(crate) value: toml::Value,
    /// Where it stands.
    pub(crate) at: At,
}

impl Leaf {
    /// The keys as a person would write them.
    pub(crate) fn key(&self) -> String {
        self.path.join(".")
    }
}

/// A file that is no TOML.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}")]
pub(crate) struct Unreadable {
    at: At,
    message: String,
}

impl Unreadable {
    /// The file as a whole is of no use.
    pub(crate) fn new(path: &Path, message: &str) -> Self {
        Self { at: At::Line(path.to_owned(), 1), message: message.to_owned() }
    }
}

/// Reads the values of one file, in the order of their lines.
pub(crate) fn read(path: &Path, text: &str) -> Result<Vec<Leaf>, Unreadable> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if let Some(error) = errors.first() {
        let at = at(path, text, error.span().map_or(0, |span| span.start));
        return Err(Unreadable { at, message: error.message().to_owned() });
    }
    let mut leaves = Vec::new();
    walk(table.get_ref(), &mut Vec::new(), &mut |path_to, value: &Spanned<DeValue<'_>>| {
        leaves.push(Leaf {
            path: path_to.to_vec(),
            value: owned(value.get_ref()),
            at: at(path, text, value.span().start),
        });
    });
    leaves.sort_by(|a, b| a.at.cmp(&b.at));
    Ok(leaves)
}

/// Lays the values of a later file over those of earlier ones: one by one, lists as a whole. Two of one file that have
/// come to the same name (a plugin that has become three) are both kept, to be told.
pub(crate) fn lay_over(lower: &mut Vec<Leaf>, upper: Vec<Leaf>) {
    lower.retain(|known| !upper.iter().any(|leaf| leaf.path == known.path));
    lower.extend(upper);
}

fn at(path: &Path, text: &str, offset: usize) -> At {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    At::Line(path.to_owned(), 1 + before.iter().filter(|byte| **byte == b'\n').count())
}

fn walk(
    table: &DeTable<'_>,
    path: &mut Vec<String>,
    found: &mut dyn FnMut(&[String], &Spanned<DeValue<'_>>),
) {
    for (name, value) in table {
        path.push(name.get_ref().to_string());
        match value.get_ref().as_table() {
            Some(below) if !below.is_empty() => walk(below, path, found),
            _ => found(path, value),
        }
        path.pop();
    }
}

fn owned(value: &DeValue<'_>) -> toml::Value {
    match value {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => toml::Value::Integer(number),
            Err(_) => toml::Value::String(number.as_str().to_owned()),
        },
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map_or_else(|_| toml::Value::String(number.as_str().to_owned()), toml::Value::Float),
        DeValue::Boolean(flag) => toml::Value::Boolean(*flag),
        DeValue::Datetime(date) => toml::Value::Datetime(*date),
        DeValue::Array(list) => toml::Value::Array(list.iter().map(|item| owned(item.get_ref())).collect()),
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(key, value)| (key.get_ref().to_string(), owned(value.get_ref())));
            toml::Value::Table(pairs.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_lines_and_later_files_win() {
        let text = "a = 1\n[plugins.'x.y']\nlist = ['p',\n 'q']\n[plugins.'x.y'.empty]\n";
        let mut leaves = read(Path::new("/f"), text).unwrap();
        let shown: Vec<_> = leaves.iter().map(|leaf| format!("{} {}", leaf.at, leaf.key())).collect();
        assert_eq!(shown, ["/f:1 a", "/f:3 plugins.x.y.list", "/f:5 plugins.x.y.empty"]);
        lay_over(&mut leaves, read(Path::new("/g"), "a = 2\nb = true").unwrap());
        let shown: Vec<_> = leaves.iter().map(|leaf| format!("{} {}", leaf.at, leaf.key())).collect();
        assert_eq!(shown, ["/f:3 plugins.x.y.list", "/f:5 plugins.x.y.empty", "/g:1 a", "/g:2 b"]);
        let error = read(Path::new("/f"), "a = 1\nb =").unwrap_err().to_string();
        assert!(error.starts_with("/f:2: "), "{error}");
    }
}
