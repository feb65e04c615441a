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
        Format::Text => ui::print(text(&report)),
    }
    if able { Exit::Success } else { Exit::Failure }
}

fn text(report: &Report) -> String {
    let mut rows = Vec::new();
    for finding in &report.findings {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        rows.push(vec![level.to_owned(), finding.subject.to_owned(), finding.found.clone()]);
        if !finding.remedy.is_empty() {
            rows.push(vec![String::new(), String::new(), format!("  → {}", finding.remedy)]);
        }
    }
    let count = |level| report.findings.iter().filter(|finding| finding.level == level).count();
    let (fails, warns) = (count(Level::Fail), count(Level::Warn));
    let verdict = match (fails, warns) {
        (0, 0) => "This node can run pods.".to_owned(),
        (0, warns) => format!("This node can run pods; {warns} to look at."),
        (fails, _) => format!("This node cannot run pods: {fails} to repair first."),
    };
    format!("{}\n{verdict}", ui::table(&rows))
}
