//! `gantline check`: the findings as a list, worst remedy first in the reader's eye, or as JSON.

use crate::check::{self, Level, Report};
use crate::exit::Exit;
use crate::flags::{Common, Format};
use crate::ui;

/// Looks at the node; success when nothing has failed.
pub(crate) fn run(format: Format, common: &Common) -> Exit {
    let loaded = match super::load(common) {
        Ok(loaded) => loaded,
        Err(exit) => return exit,
    };
    let report = check::run(&loaded.config, &std::env::var("PATH").unwrap_or_default());
    let able = report.worst() < Level::Fail;
    match format {
        Format::Json => ui::print(serde_json::json!({ "able": able, "findings": report.findings })),
        Format::Text => {
            let columns = ui::screen_size().map_or(COLUMNS, |(columns, _)| columns);
            ui::print(text(&report, columns));
        }
    }
    if able { Exit::Success } else { Exit::Failure }
}

/// A line of a person's terminal, where nothing says how wide it is.
const COLUMNS: usize = 80;
/// `FAIL  other runtimes  `
const LEFT: usize = 22;

fn text(report: &Report, columns: usize) -> String {
    let mut out = String::new();
    let mut lines = |level: &str, subject: &str, text: &str, further: usize| {
        let width = columns.saturating_sub(LEFT + further).max(20);
        for (index, part) in ui::fold(text, width).iter().enumerate() {
            let (level, subject) = if index == 0 { (level, subject) } else { ("", "") };
            let indent = if index == 0 || level.is_empty() { further } else { 0 };
            out.push_str(format!("{level:<6}{subject:<16}{:indent$}{part}", "").trim_end());
            out.push('\n');
        }
    };
    for finding in &report.findings {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        lines(level, finding.subject, &finding.found, 0);
        if !finding.remedy.is_empty() {
            lines("", "", &format!("→ {}", finding.remedy), 2);
        }
    }
    let count = |level| report.findings.iter().filter(|finding| finding.level == level).count();
    let (fails, warns) = (count(Level::Fail), count(Level::Warn));
    let verdict = match (fails, warns) {
        (0, 0) => "This node can run pods.".to_owned(),
        (0, warns) => format!("This node can run pods; {warns} to look at."),
        (fails, _) => format!("This node cannot run pods: {fails} to repair first."),
    };
    format!("{out}\n{verdict}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Finding;

    #[test]
    fn lines_fit_a_terminal_and_words_are_whole() {
        let finding = |level, remedy: &str| Finding {
            subject: "storage",
            level,
            found: "a word and /a/path/that/is/longer/than/the/column/is and more".into(),
            remedy: remedy.into(),
        };
        let report =
            Report { findings: vec![finding(Level::Warn, "do this and then that"), finding(Level::Ok, "")] };
        let expected = "\
warn  storage         a word and
                      /a/path/that/is/longer/than/the/column/is
                      and more
                        → do this and then
                        that
ok    storage         a word and
                      /a/path/that/is/longer/than/the/column/is
                      and more

This node can run pods; 1 to look at.";
        assert_eq!(text(&report, 42), expected);
    }
}
