//! The configuration in words: the commented file of `config default`, the effective one of `config dump`,
//! and docs/configuration.md.

use std::fmt::Write as _;

use super::Config;
use super::layers::Loaded;
use super::schema::{Origins, Setting as _, Visitor};

/// A file that says what every setting does and is by default. All values are commented out, so that a file
/// made from it goes on following the defaults of later versions.
pub(crate) fn default_file() -> String {
    let mut file = DefaultFile { text: String::new(), nested: false };
    file.text.push_str("# Gantline's configuration. Every value below is the default.\n");
    file.text.push_str(
        "# Drop-ins in config.d/*.toml beside this file are laid over it in the order of their names.\n",
    );
    Config::default().show("", "", &mut file);
    file.text
}

struct DefaultFile {
    text: String,
    nested: bool,
}

impl DefaultFile {
    fn comment(&mut self, doc: &str) {
        for line in doc.lines() {
            let _ = writeln!(self.text, "# {}", line.trim());
        }
    }
}

impl Visitor for DefaultFile {
    fn section(&mut self, key: &str, doc: &str) {
        if key.is_empty() {
            return;
        }
        self.text.push('\n');
        self.comment(doc);
        // An entry of a map would come into being by its header alone.
        self.nested = key.contains('.');
        let _ = writeln!(self.text, "{}[{key}]", if self.nested { "# " } else { "" });
    }

    fn value(&mut self, key: &str, doc: &str, kind: &str, value: Option<String>) {
        let name = key.rsplit('.').next().unwrap_or(key);
        self.text.push('\n');
        self.comment(doc);
        let value = value.unwrap_or_else(|| format!("({kind})"));
        // Indented below a header that is commented out itself: uncommented alone it would be another section's.
        let indent = if self.nested { "  " } else { "" };
        let _ = writeln!(self.text, "# {indent}{name} = {value}");
    }
}

/// The configuration that applies, each value with the place that it came from.
pub(crate) fn dump(loaded: &Loaded) -> String {
    let mut dump = Dump { text: String::new(), origins: &loaded.origins };
    loaded.config.show("", "", &mut dump);
    dump.text
}

struct Dump<'a> {
    text: String,
    origins: &'a Origins,
}

impl Visitor for Dump<'_> {
    fn section(&mut self, key: &str, _: &str) {
        if !key.is_empty() && !key.ends_with(".NAME") {
            let _ = writeln!(self.text, "\n[{key}]");
        }
    }

    fn value(&mut self, key: &str, _: &str, _: &str, value: Option<String>) {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        if section.ends_with(".NAME") {
            return;
        }
        let origin = self.origins.get(key).map_or_else(|| "default".to_owned(), ToString::to_string);
        let _ = match value {
            Some(value) => writeln!(self.text, "{name} = {value} # {origin}"),
            None => writeln!(self.text, "# {name} is not set"),
        };
    }
}

/// The configuration by dotted key, values as a file would have them: for crictl info.
pub(crate) fn flat(config: &Config) -> serde_json::Value {
    let mut flat = Flat(serde_json::Map::new());
    config.show("", "", &mut flat);
    serde_json::Value::Object(flat.0)
}

struct Flat(serde_json::Map<String, serde_json::Value>);

impl Visitor for Flat {
    fn section(&mut self, _: &str, _: &str) {}

    fn value(&mut self, key: &str, _: &str, _: &str, value: Option<String>) {
        // The stand-in for a map's entries is no entry.
        let Some(shown) = value.filter(|_| !key.contains(".NAME.")) else { return };
        let parsed = format!("value = {shown}").parse::<toml::Table>().ok();
        let value = parsed.and_then(|table| serde_json::to_value(table.get("value")?).ok());
        self.0.insert(key.to_owned(), value.unwrap_or_else(|| shown.into()));
    }
}

/// docs/configuration.md.
pub(crate) fn markdown() -> String {
    let mut page = Markdown { text: String::new() };
    page.text.push_str(INTRODUCTION);
    Config::default().show("", "", &mut page);
    page.text
}

const INTRODUCTION: &str = "\
<!-- Made by `gantline config reference` from src/daemon/src/config/mod.rs. A test keeps it in step. -->
# Configuration

`gantline` reads `/etc/gantline/config.toml` (another with `--config FILE`; the usual one may be absent), then every
`config.d/*.toml` beside it in the order of their names, then its flags. A later layer replaces single values; a list
is replaced as a whole. Unknown keys are refused, and everything that is wrong is told at once with file and line,
before anything is bound or written: exit status 64.

`gantline config default` prints a commented file, `gantline config check` says what is wrong with the one here, and
`gantline config dump` prints what applies, each value with the line or flag that it came from.
";

struct Markdown {
    text: String,
}

fn paragraph(doc: &str) -> String {
    let words = doc.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    words.trim().replace('|', "\\|")
}

impl Visitor for Markdown {
    fn section(&mut self, key: &str, doc: &str) {
        let title = if key.is_empty() { "Top level".to_owned() } else { format!("[{key}]") };
        let doc = if key.is_empty() { "Before the first section of a file." } else { doc };
        let _ = write!(
            self.text,
            "\n## {title}\n{}\n\n| key | kind | default | |\n|---|---|---|---|\n",
            paragraph(doc)
        );
    }

    fn value(&mut self, key: &str, doc: &str, kind: &str, value: Option<String>) {
        let name = key.rsplit('.').next().unwrap_or(key);
        let value = value.map_or_else(|| "not set".to_owned(), |value| format!("`{value}`"));
        let _ = writeln!(self.text, "| `{name}` | {kind} | {value} | {} |", paragraph(doc));
    }
}

#[cfg(test)]
mod tests {
    use super::super::layers::load;
    use super::*;

    fn load_text(text: &str) -> Loaded {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        load(Some(&path), &[]).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn the_reference_is_in_step() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == markdown(),
            "docs/configuration.md is out of step: run `gantline config reference > docs/configuration.md`"
        );
    }

    #[test]
    fn the_default_file_is_the_defaults_as_it_is_and_uncommented() {
        let file = default_file();
        assert_eq!(load_text(&file).config, Config::default());

        let is_setting = |line: &str| {
            let (name, _) = line.split_once(" = ").unwrap_or_default();
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                && !line.contains("= (")
        };
        let uncommented: Vec<_> = file
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line))
            .collect();
        let loaded = load_text(&uncommented.join("\n"));
        assert_eq!(loaded.config, Config::default());
        let keys: Vec<_> =
            flat(&Config::default()).as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect();
        assert_eq!(
            loaded.origins.into_keys().collect::<Vec<_>>(),
            keys,
            "each set key is a line of the file"
        );
    }

    #[test]
    fn values_by_key_have_their_own_kinds() {
        let flat = flat(&Config::default());
        assert_eq!(flat["images.fetches_max"], 6);
        assert_eq!(flat["network.bin_dirs"], serde_json::json!(["/opt/cni/bin", "/usr/lib/cni"]));
        assert_eq!(flat["security.unprivileged_icmp"], true);
        assert_eq!(flat["server.drain_grace"], "20s");
        assert!(flat.get("server.socket").is_none());
    }

    #[test]
    fn a_dump_is_read_back_as_the_same() {
        let loaded = load_text(
            "[log]\nlevel = 'info,image=debug'\n[runtimes.crun]\n[runtimes.kata]\npath = '/opt/k'\n\
             [pods]\ndefault_ulimits = ['nofile=1:2']\n[metrics]\naddress = '[::1]:1'",
        );
        let dumped = dump(&loaded);
        assert_eq!(load_text(&dumped).config, loaded.config);
        assert!(dumped.contains("config.toml:2\n"), "{dumped}");
        assert!(dumped.contains("root = \"/var/lib/gantline\" # default\n"), "{dumped}");
    }
}
