//! gantline.toml(5), from the one struct that is the configuration.

use roff::bold;

use crate::config::schema::{Setting as _, Visitor};
use crate::config::{Config, DEFAULT_FILE};
use crate::page::{Page, setting};

/// The page.
pub(crate) fn page(date: &str) -> String {
    let mut page = Page::new("gantline.toml", "5", date, "configuration of the Gantline container runtime");
    page.section("SYNOPSIS").literal(&format!("{DEFAULT_FILE}\n/etc/gantline/config.d/*.toml"));
    page.section("DESCRIPTION")
        .paragraph(&format!(
            "`gantline` reads `{DEFAULT_FILE}` (another with `--config`; the usual one may be absent), then every \
             `config.d/*.toml` beside it in the order of their names, then its flags. A later layer replaces single \
             values; a list is replaced as a whole. Unknown keys are refused, and everything that is wrong is told at \
             once with file and line, before anything is bound or written: exit status 64."
        ))
        .paragraph(
            "`gantline config default` prints a commented file, `gantline config check` says what is wrong with the one \
             here, and `gantline config dump` prints what applies, each value with the line or flag that it came from. \
             The format is TOML.",
        );
    page.section("SETTINGS");
    let mut settings = Settings(page);
    Config::default().show("", "", &mut settings);
    let mut page = settings.0;
    page.section("FILES")
        .term(
            vec![bold(DEFAULT_FILE)],
            "The configuration. SIGHUP reads `log.level` again; all else needs a restart.",
        )
        .term(vec![bold("/etc/gantline/config.d/*.toml")], "Drop-ins.")
        .see_also(&["gantline(8)", "gantline-config(8)"]);
    page.whole()
}

struct Settings(Page);

impl Visitor for Settings {
    fn section(&mut self, key: &str, doc: &str) {
        if key.is_empty() {
            self.0.subsection("Before the first section");
        } else {
            self.0.subsection(&format!("[{key}]")).paragraph(doc);
        }
    }

    fn value(&mut self, key: &str, doc: &str, kind: &str, value: Option<String>) {
        let name = key.rsplit('.').next().unwrap_or(key);
        // What is not set by default says so itself.
        let value = value.map(|value| format!("Default: `{value}`.")).unwrap_or_default();
        self.0.term(setting(name, kind), &format!("{doc} {value}"));
    }
}
