//! Finding the files, and laying them over each other: defaults, file, drop-ins, flags.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::schema::{Fault, Origin, Origins, Reader, Setting as _, Source};
use super::{Config, DEFAULT_FILE, validate};

/// A flag as the line of a file that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Override {
    /// The flag, `--log-level`.
    pub(crate) flag: &'static str,
    /// The dotted key it sets.
    pub(crate) key: &'static str,
    /// What it sets it to.
    pub(crate) value: String,
}

/// The configuration as a whole, and where each value came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What applies.
    pub(crate) config: Config,
    /// Who said so.
    pub(crate) origins: Origins,
    /// The files that were read, in order.
    pub(crate) files: Vec<PathBuf>,
}

/// Everything that is wrong with the configuration; never empty.
#[derive(Debug)]
pub(crate) struct ConfigError(pub(crate) Vec<Fault>);

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// Reads and validates the whole configuration. `file` is what `--config` names; without it the usual file
/// is read if it is there. Drop-ins lie in `config.d` beside the file.
pub(crate) fn load(file: Option<&Path>, overrides: &[Override]) -> Result<Loaded, ConfigError> {
    let mut loaded = Loaded { config: Config::default(), origins: Origins::new(), files: Vec::new() };
    let mut faults = Vec::new();
    for (path, text) in read_files(file, &mut faults) {
        read_text(&mut loaded, Source::File { path: path.clone(), text: &text }, &text, &mut faults);
        loaded.files.push(path);
    }
    for Override { flag, key, value } in overrides {
        let text = format!("{key} = {}", toml::Value::String(value.clone()));
        read_text(&mut loaded, Source::Flag(flag), &text, &mut faults);
    }
    validate::check(&loaded, &mut faults);
    if faults.is_empty() { Ok(loaded) } else { Err(ConfigError(faults)) }
}

/// Whether a text would be accepted as the configuration file.
pub(crate) fn check_text(text: &str) -> Result<(), ConfigError> {
    let mut loaded = Loaded { config: Config::default(), origins: Origins::new(), files: Vec::new() };
    let mut faults = Vec::new();
    read_text(&mut loaded, Source::File { path: "config.toml".into(), text }, text, &mut faults);
    validate::check(&loaded, &mut faults);
    if faults.is_empty() { Ok(()) } else { Err(ConfigError(faults)) }
}

fn read_text(loaded: &mut Loaded, source: Source<'_>, text: &str, faults: &mut Vec<Fault>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { source, faults: Vec::new(), origins: &mut loaded.origins };
    if errors.is_empty() {
        let span = table.span();
        let document = Spanned::new(span, DeValue::Table(table.into_inner()));
        loaded.config.read(&document, "", &mut reader);
    }
    let mut found = std::mem::take(&mut reader.faults);
    found.extend(errors.iter().map(|error| Fault {
        origin: Some(reader.origin(error.span().map_or(0, |span| span.start))),
        key: String::new(),
        message: error.message().to_owned(),
    }));
    // Tables are read in the order of their keys; people read files from the top.
    found.sort_by(|a, b| a.origin.cmp(&b.origin));
    faults.append(&mut found);
}

/// The files that apply and their texts, lowest layer first.
fn read_files(file: Option<&Path>, faults: &mut Vec<Fault>) -> Vec<(PathBuf, String)> {
    let mut fault = |path: &Path, attempt: &str, error: &io::Error| {
        let origin = Some(Origin::File { path: path.to_owned(), line: 1 });
        faults.push(Fault { origin, key: String::new(), message: format!("{attempt}: {error}") });
    };
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let mut texts = Vec::new();
    let mut paths = vec![path.to_owned()];
    let directory = path.with_file_name("config.d");
    match drop_ins(&directory) {
        Ok(found) => paths.extend(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => fault(&directory, "read drop-ins", &error),
    }
    for (index, path) in paths.into_iter().enumerate() {
        match fs::read_to_string(&path) {
            Ok(text) => texts.push((path, text)),
            // Only the usual file may be absent; one that was named, or listed, may not.
            Err(error) if index == 0 && file.is_none() && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => fault(&path, "read", &error),
        }
    }
    texts
}

fn drop_ins(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests;
