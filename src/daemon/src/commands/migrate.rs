//! `gantline migrate containerd|crio`: what the peer's configuration comes to here, told line by line, and written where
//! that is asked for.

use std::path::Path;

use crate::exit::Exit;
use crate::files::Files;
use crate::flags::{Common, Format, MigrateFlags};
use crate::kubelet::Kubelet;
use crate::migrate::{self, Finding, Outcome, Plan, write};
use crate::ui;

/// A line of a person's terminal, where nothing says how wide it is.
const COLUMNS: usize = 80;

/// Tells, and writes where `--write` says so.
pub(crate) fn run(flags: &MigrateFlags, common: &Common) -> Exit {
    let plan = match migrate::plan(flags.peer, &Files::below(&flags.from), flags.file.as_deref()) {
        Ok(plan) => plan,
        Err(error) => {
            ui::complain(model::chain(&error));
            return Exit::Failure;
        }
    };
    let socket = super::load(common)
        .map(|loaded| loaded.config.socket())
        .unwrap_or_else(|_| "/run/gantline/gantline.sock".into());
    let written = match &flags.write {
        None => Vec::new(),
        Some(directory) => match write::write(directory, &plan.written, flags.force) {
            Ok(paths) => paths,
            Err(error) => {
                ui::complain(model::chain(&error));
                return Exit::Failure;
            }
        },
    };
    match flags.output.output {
        Format::Json => ui::print(json(&plan, &socket, &written)),
        Format::Text => {
            let columns = ui::screen_size().map_or(COLUMNS, |(columns, _)| columns);
            let mut text = text(&plan, &socket, columns, flags.write.is_some());
            if let Some(directory) = &flags.write {
                for path in &written {
                    text.push_str(&format!("wrote {}\n", path.display()));
                }
                text.push_str(&format!(
                    "Check it: gantline config check --config {}\n",
                    directory.join("config.toml").display()
                ));
            } else if !plan.written.is_empty() {
                text.push_str("Nothing was written: --write DIR writes these files below DIR.\n");
            }
            ui::print(text);
        }
    }
    Exit::Success
}

fn json(plan: &Plan, socket: &Path, written: &[std::path::PathBuf]) -> serde_json::Value {
    let files: Vec<_> = plan
        .written
        .iter()
        .map(|file| {
            // What nobody but root may read is not told to whoever reads this.
            let text = (!file.private).then_some(&file.text);
            serde_json::json!({ "path": file.path, "text": text })
        })
        .collect();
    serde_json::json!({
        "read": plan.read,
        "findings": plan.findings,
        "files": files,
        "written": written,
        "kubelet": { "endpoint": endpoint(socket), "told": plan.kubelet },
    })
}

fn endpoint(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

fn text(plan: &Plan, socket: &Path, columns: usize, written: bool) -> String {
    let mut page = Page { text: String::new(), columns };
    page.heading("Read");
    for path in &plan.read {
        page.line(2, &path.display().to_string());
    }
    let carried: Vec<_> = plan
        .findings
        .iter()
        .filter_map(|finding| match &finding.outcome {
            Outcome::Carried { to } => Some((finding, to)),
            _ => None,
        })
        .collect();
    page.heading(&format!("Carried over ({})", carried.len()));
    for (finding, to) in carried {
        page.line(2, &named(finding));
        page.line(6, &format!("→ {to}"));
    }
    let needless = grouped(plan, |outcome| match outcome {
        Outcome::Needless { why } => Some(why.clone()),
        _ => None,
    });
    page.heading(&format!("Needs nothing ({})", needless.iter().map(|(_, keys)| keys.len()).sum::<usize>()));
    for (why, findings) in needless {
        let keys: Vec<_> =
            findings.iter().map(|finding| format!("{} ({})", finding.key, line_of(&finding.at))).collect();
        page.line(2, &format!("{why}:"));
        page.line(6, &keys.join(", "));
    }
    let left = grouped(plan, |outcome| match outcome {
        Outcome::Left { why, remedy } => Some(format!("{why}\n{remedy}")),
        _ => None,
    });
    page.heading(&format!("Not carried over ({})", left.iter().map(|(_, keys)| keys.len()).sum::<usize>()));
    for (why, findings) in left {
        let (why, remedy) = why.split_once('\n').unwrap_or((&why, ""));
        for finding in findings {
            page.line(2, &named(finding));
        }
        page.line(6, why);
        page.line(6, &format!("→ {remedy}"));
    }
    for file in &plan.written {
        let would = if written { "Written" } else { "Would write" };
        page.heading(&format!("{would}: {}", file.path.display()));
        if file.private {
            page.line(2, "(proxies, which may hold a password: not shown)");
        } else {
            for line in file.text.lines() {
                page.text.push_str(&format!("  {line}\n"));
            }
        }
    }
    page.heading("Then the kubelet");
    kubelet(&mut page, &plan.kubelet, &endpoint(socket));
    page.text
}

/// What to change so that the kubelet speaks to Gantline.
fn kubelet(page: &mut Page, kubelet: &Kubelet, endpoint: &str) {
    for said in &kubelet.endpoints {
        page.line(2, &format!("{}:{} says {} {}", said.file.display(), said.line, said.name, said.value));
        page.line(6, &format!("→ change it to {endpoint}"));
    }
    if kubelet.endpoints.is_empty() {
        page.line(2, "None of its usual files names a runtime: it takes containerd's socket.");
        page.line(6, &format!("→ containerRuntimeEndpoint: {endpoint} in its configuration file, or the flag --container-runtime-endpoint={endpoint}"));
    }
    for said in &kubelet.drivers {
        page.line(2, &format!("{}:{} says {} {}", said.file.display(), said.line, said.name, said.value));
        page.line(6, "→ leave it: a kubelet since 1.28 takes what Gantline says (cgroup.driver); an older one needs the same here");
    }
}

fn named(finding: &Finding) -> String {
    let one = ui::one_line(&finding.value);
    format!("{} {} = {}", finding.at, finding.key, ui::fit(&one, 60))
}

/// `config.toml:12` of `/etc/containerd/config.toml:12`.
fn line_of(at: &str) -> &str {
    at.rsplit('/').next().unwrap_or(at)
}

/// Findings with one reason together, in the order of their first.
fn grouped(plan: &Plan, reason: impl Fn(&Outcome) -> Option<String>) -> Vec<(String, Vec<&Finding>)> {
    let mut groups: Vec<(String, Vec<&Finding>)> = Vec::new();
    for finding in &plan.findings {
        let Some(why) = reason(&finding.outcome) else { continue };
        match groups.iter_mut().find(|(known, _)| *known == why) {
            Some((_, findings)) => findings.push(finding),
            None => groups.push((why, vec![finding])),
        }
    }
    groups
}

/// Text that fits a terminal.
struct Page {
    text: String,
    columns: usize,
}

impl Page {
    fn heading(&mut self, text: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        self.text.push_str(&format!("{gap}{text}\n"));
    }

    /// A line, broken between words; what goes on stands further in.
    fn line(&mut self, indent: usize, text: &str) {
        for (index, part) in ui::fold(text, self.columns.saturating_sub(indent + 2)).iter().enumerate() {
            let indent = if index == 0 { indent } else { indent + 2 };
            self.text.push_str(&format!("{:indent$}{part}\n", ""));
        }
    }
}
