//! How a setting is read from a file, shown in one, and described in the reference: once, from one struct.
//!
//! [`section!`] declares a struct of settings whose doc comments and defaults are the reference. Reading
//! goes on after a fault, so that one run tells everything that is wrong, each with its file and line.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// A line of a file, counted from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A flag of the command line, `--log-level`.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Where; `None` when it is the default, or the whole, that is wrong.
    pub(crate) origin: Option<Origin>,
    /// The dotted key; empty when the file as such is at fault.
    pub(crate) key: String,
    /// What is wrong and what would be right.
    pub(crate) message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Which value each key was last given, and where.
pub(crate) type Origins = BTreeMap<String, Origin>;

/// What is being read: a file, or a flag that stands for a line of one.
pub(crate) enum Source<'a> {
    /// A file and its text.
    File { path: PathBuf, text: &'a str },
    /// A flag.
    Flag(&'static str),
}

/// Reads one source into settings; collects what is wrong and where each value came from.
pub(crate) struct Reader<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) origins: &'a mut Origins,
}

impl Reader<'_> {
    /// Where the byte `offset` of the source is.
    pub(crate) fn origin(&self, offset: usize) -> Origin {
        match &self.source {
            Source::File { path, text } => {
                let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
                let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
                Origin::File { path: path.clone(), line }
            }
            Source::Flag(flag) => Origin::Flag(flag),
        }
    }

    fn fault(&mut self, offset: usize, key: &str, message: String) {
        let origin = Some(self.origin(offset));
        self.faults.push(Fault { origin, key: key.to_owned(), message });
    }

    /// The value as a table, or a fault.
    pub(crate) fn table<'v, 'i>(
        &mut self,
        value: &'v Spanned<DeValue<'i>>,
        key: &str,
    ) -> Option<&'v DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let found = found(value.get_ref());
            self.fault(value.span().start, key, format!("expected a section, found {found}"));
        }
        table
    }

    /// A key that no setting has.
    pub(crate) fn unknown(&mut self, offset: usize, section: &str, name: &str, known: &[&str]) {
        let nearest = known
            .iter()
            .map(|known| (strsim::damerau_levenshtein(known, name), *known))
            .min_by_key(|(distance, _)| *distance)
            .filter(|(distance, known)| *distance <= known.len().max(name.len()) / 2);
        let hint = match nearest {
            Some((_, known)) => format!("did you mean {known}?"),
            None => format!("known here: {}", known.join(", ")),
        };
        self.fault(offset, &join(section, name), format!("unknown key; {hint}"));
    }

    fn scalar<T: Scalar>(&mut self, value: &Spanned<DeValue<'_>>, key: &str) -> Option<T> {
        match T::parse(value.get_ref()) {
            Ok(parsed) => {
                let origin = self.origin(value.span().start);
                self.origins.insert(key.to_owned(), origin);
                Some(parsed)
            }
            Err(message) => {
                self.fault(value.span().start, key, message);
                None
            }
        }
    }
}

/// `section.name`, the name quoted where TOML wants that.
pub(crate) fn join(section: &str, name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let name = if bare { name.to_owned() } else { quote(name) };
    if section.is_empty() { name } else { format!("{section}.{name}") }
}

/// A TOML basic string (TOML 1.0, section "String").
pub(crate) fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A value in words, for "expected …, found …".
pub(crate) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {text:?}"),
        DeValue::Integer(number) => format!("the integer {}", number.as_str()),
        DeValue::Boolean(flag) => format!("the boolean {flag}"),
        DeValue::Float(number) => format!("the number {}", number.as_str()),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a section".to_owned(),
        DeValue::Datetime(_) => "a date".to_owned(),
    }
}

/// One value of a file.
pub(crate) trait Scalar: Sized {
    /// What the reference calls it: "path", "list of strings".
    fn kind() -> String;
    /// The value, or "expected …, found …".
    fn parse(value: &DeValue<'_>) -> Result<Self, String>;
    /// As a file would have it.
    fn to_toml(&self) -> String;
}

/// Sees settings in the order of their declaration, plain values of a section before its subsections.
pub(crate) trait Visitor {
    /// A section begins. For the map of runtimes, also one for each entry.
    fn section(&mut self, key: &str, doc: &str);
    /// A value; `None` when it is not set and the program finds it by itself.
    fn value(&mut self, key: &str, doc: &str, kind: &str, value: Option<String>);
}

/// A value or a section of values.
pub(crate) trait Setting {
    /// Takes over what the source says and leaves the rest as it is.
    fn read(&mut self, value: &Spanned<DeValue<'_>>, key: &str, reader: &mut Reader<'_>);
    /// Shows itself and what is in it.
    fn show(&self, key: &str, doc: &str, visitor: &mut dyn Visitor);
}

impl<T: Scalar> Setting for T {
    fn read(&mut self, value: &Spanned<DeValue<'_>>, key: &str, reader: &mut Reader<'_>) {
        if let Some(parsed) = reader.scalar(value, key) {
            *self = parsed;
        }
    }
    fn show(&self, key: &str, doc: &str, visitor: &mut dyn Visitor) {
        visitor.value(key, doc, &T::kind(), Some(self.to_toml()));
    }
}

impl<T: Scalar> Setting for Option<T> {
    fn read(&mut self, value: &Spanned<DeValue<'_>>, key: &str, reader: &mut Reader<'_>) {
        if let Some(parsed) = reader.scalar(value, key) {
            *self = Some(parsed);
        }
    }
    fn show(&self, key: &str, doc: &str, visitor: &mut dyn Visitor) {
        visitor.value(key, doc, &T::kind(), self.as_ref().map(Scalar::to_toml));
    }
}

/// Sections by a name of the user's choice.
impl<T: Setting + Default> Setting for BTreeMap<String, T> {
    fn read(&mut self, value: &Spanned<DeValue<'_>>, key: &str, reader: &mut Reader<'_>) {
        let Some(table) = reader.table(value, key) else { return };
        for (name, value) in table {
            let name = name.get_ref().as_ref();
            let below = join(key, name);
            let origin = reader.origin(value.span().start);
            reader.origins.insert(below.clone(), origin);
            self.entry(name.to_owned()).or_default().read(value, &below, reader);
        }
    }
    fn show(&self, key: &str, doc: &str, visitor: &mut dyn Visitor) {
        if self.is_empty() {
            // So that a file and the reference show what an entry may hold.
            T::default().show(&format!("{key}.NAME"), doc, visitor);
        }
        for (name, entry) in self {
            entry.show(&join(key, name), doc, visitor);
        }
    }
}

/// Declares a section: a struct whose fields are settings, with doc comments for the reference and defaults.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        struct $name:ident {
            $( $(#[doc = $field_doc:literal])+ $field:ident: $type:ty = $default:expr ),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct $name {
            $( $(#[doc = $field_doc])+ pub(crate) $field: $type ),+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default ),+ }
            }
        }

        impl $crate::config::schema::Setting for $name {
            fn read(
                &mut self,
                value: &toml::Spanned<toml::de::DeValue<'_>>,
                key: &str,
                reader: &mut $crate::config::schema::Reader<'_>,
            ) {
                let Some(table) = reader.table(value, key) else { return };
                for (name, value) in table {
                    let below = $crate::config::schema::join(key, name.get_ref());
                    match name.get_ref().as_ref() {
                        $( stringify!($field) => {
                            $crate::config::schema::Setting::read(&mut self.$field, value, &below, reader);
                        } )+
                        unknown => {
                            reader.unknown(name.span().start, key, unknown, &[$( stringify!($field) ),+]);
                        }
                    }
                }
            }

            fn show(&self, key: &str, doc: &str, visitor: &mut dyn $crate::config::schema::Visitor) {
                visitor.section(key, doc);
                $( $crate::config::schema::Setting::show(
                    &self.$field,
                    &$crate::config::schema::join(key, stringify!($field)),
                    concat!($( $field_doc, "\n" ),+),
                    visitor,
                ); )+
            }
        }
    };
}
pub(crate) use section;
