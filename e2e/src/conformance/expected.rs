//! What critest may skip and fail: `e2e/conformance/expected.tsv`, and how a report is judged by it.
//!
//! Any other skip or failure is a difference; so is an expected one that passed, and a line whose spec critest
//! does not know: the file stays true.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use super::report::{End, Report, Spec};
use crate::command::{command, run};

/// Where the file is, from the workspace.
const FILE: &str = "conformance/expected.tsv";

/// What is so on this machine, by which lines apply: `runc 1.3.3`, `no AppArmor`.
#[derive(Debug, Clone)]
pub struct Facts(Vec<String>);

impl Facts {
    /// The facts of a run with a handler on this machine.
    pub fn of_this_machine(handler: &str, runtimes: &[(String, PathBuf)]) -> Self {
        let mut facts = Vec::new();
        if let Some((_, program)) = runtimes.iter().find(|(name, _)| name == handler) {
            // "runc version 1.3.3" and "crun version 1.8.1"; Debian's runc adds "+ds1…".
            let said = run(command(program).arg("--version")).ok();
            let version = said.lines().next().and_then(|line| line.split_whitespace().nth(2));
            facts.push(format!("{handler} {}", version.unwrap_or("of no version")));
        }
        let apparmor = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        if !apparmor.is_ok_and(|enabled| enabled.trim() == "Y") {
            facts.push("no AppArmor".into());
        }
        if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
            facts.push("no SELinux".into());
        }
        Self(facts)
    }

    /// Whether a line's condition holds: it is `*`, or a fact, or a fact's first characters up to a dot or blank.
    fn hold(&self, condition: &str) -> bool {
        let begins = |fact: &String| {
            let rest = fact.strip_prefix(condition);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ' ', '+']))
        };
        condition == "*" || self.0.iter().any(begins)
    }
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    condition: String,
    end: End,
    spec: String,
    says: String,
}

/// The file, read.
#[derive(Debug, Clone)]
pub struct Expectations(Vec<Line>);

impl Expectations {
    /// Those of this house; a fault in the file is a panic.
    #[track_caller]
    pub fn ours() -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(FILE);
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::parse(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
    }

    /// Reads lines of five columns: condition, `skip` or `fail`, spec, what it says, reason.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = Vec::new();
        let kept = |line: &(usize, &str)| !line.1.is_empty() && !line.1.starts_with('#');
        for (at, line) in text.lines().enumerate().filter(kept) {
            let columns: Vec<&str> = line.split('\t').collect();
            let [condition, end, spec, says, reason] = columns[..] else {
                return Err(format!("line {}: {} columns, not 5", at + 1, columns.len()));
            };
            let end = match end {
                "skip" => End::Skipped,
                "fail" => End::Failed,
                other => return Err(format!("line {}: `{other}` is neither skip nor fail", at + 1)),
            };
            if [condition, spec, says, reason].iter().any(|column| column.trim().is_empty()) {
                return Err(format!("line {}: an empty column", at + 1));
            }
            lines.push(Line { condition: condition.into(), end, spec: spec.into(), says: says.into() });
        }
        Ok(Self(lines))
    }

    /// Compares a report with the lines that apply.
    pub fn judge(&self, report: &Report, facts: &Facts) -> Verdict {
        let lines: Vec<&Line> = self.0.iter().filter(|line| facts.hold(&line.condition)).collect();
        let mut differences = Vec::new();
        for spec in &report.specs {
            let expected: Vec<&&Line> = lines.iter().filter(|line| line.spec == spec.name).collect();
            differences.extend(difference(spec, &expected));
        }
        let known: BTreeSet<&str> = report.specs.iter().map(|spec| spec.name.as_str()).collect();
        for line in self.0.iter().filter(|line| !known.contains(line.spec.as_str())) {
            differences.push(format!("{}: expected.tsv names it, critest does not know it", line.spec));
        }
        Verdict { differences }
    }
}

/// What of a spec is not as expected.
fn difference(spec: &Spec, expected: &[&&Line]) -> Option<String> {
    let as_expected = |line: &&&&Line| line.end == spec.end && spec.message.contains(&line.says);
    if expected.iter().find(as_expected).is_some() {
        return None;
    }
    match (spec.end, expected.first()) {
        (End::Passed, None) | (End::NotChosen, _) => None,
        (End::Passed, Some(line)) => {
            Some(format!("{}: passed, and expected.tsv has it {:?}", spec.name, line.end))
        }
        (end, None) => Some(format!("{}: {end:?}\n{}", spec.name, indented(&spec.message))),
        (end, Some(line)) => Some(format!(
            "{}: {end:?}, and not with {:?} ({:?})\n{}",
            spec.name,
            line.says,
            line.end,
            indented(&spec.message)
        )),
    }
}

/// The message's beginning and its end, which is the place: what is between is most often a struct's fields.
fn indented(text: &str) -> String {
    const BEGINNING: usize = 4;
    let lines: Vec<&str> = text.lines().collect();
    let (beginning, rest) = lines.split_at(lines.len().min(BEGINNING));
    let shown = beginning.iter().chain(rest.last());
    shown.map(|line| format!("      {line}")).collect::<Vec<_>>().join("\n")
}

/// What differs from what was expected.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// A sentence each.
    pub differences: Vec<String>,
}

impl Verdict {
    /// Whether nothing differs.
    pub fn as_expected(&self) -> bool {
        self.differences.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.differences.is_empty() {
            return write!(f, ", all as expected");
        }
        write!(f, ", {} not as expected:", self.differences.len())?;
        self.differences.iter().try_for_each(|difference| write!(f, "\n  {difference}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(specs: &[(&str, End, &str)]) -> Report {
        let specs = specs.iter().map(|(name, end, message)| Spec {
            name: name.to_string(),
            end: *end,
            message: message.to_string(),
            log: String::new(),
        });
        Report { seed: 0, specs: specs.collect() }
    }

    const FILE: &str = "# a comment\n*\tfail\tdigest\tnot found\tonly the internet has it\n\
        no AppArmor\tskip\tlsm\tnot supported\tthis kernel has none\ncrun 1.8\tfail\tuserns\trefused\tit is old\n";

    #[test]
    fn only_what_is_expected_passes() {
        let facts = |all: &[&str]| Facts(all.iter().map(ToString::to_string).collect());
        let (runc, crun) = (facts(&["runc 1.3.3", "no AppArmor"]), facts(&["crun 1.8.1"]));
        let digest = ("digest", End::Failed, "it was not found");
        let lsm = ("lsm", End::Skipped, "AppArmor is not supported");
        let userns = ("userns", End::Passed, "");
        let judge = |facts: &Facts, specs: &[(&str, End, &str)]| {
            Expectations::parse(FILE).unwrap().judge(&report(specs), facts).differences
        };
        assert!(judge(&runc, &[digest, lsm, userns, ("a", End::Passed, "")]).is_empty());
        // Each of these is one difference.
        let table: &[(&Facts, [(&str, End, &str); 3], &str)] = &[
            (&runc, [("digest", End::Passed, ""), lsm, userns], "digest: passed, and expected.tsv has it"),
            (&runc, [("digest", End::Failed, "refused"), lsm, userns], "not with \"not found\""),
            (&runc, [digest, ("lsm", End::Failed, "not supported"), userns], "lsm: Failed, and not"),
            (&runc, [digest, lsm, ("userns", End::Failed, "refused")], "userns: Failed"),
            (&crun, [digest, lsm, ("userns", End::Failed, "refused")], "lsm: Skipped"),
            (&crun, [digest, ("lsm", End::Passed, ""), userns], "userns: passed"),
            (&runc, [digest, lsm, ("b", End::Passed, "")], "userns: expected.tsv names it"),
        ];
        for (facts, specs, part) in table {
            let differences = judge(facts, specs);
            assert_eq!(differences.len(), 1, "{differences:?}");
            assert!(differences[0].contains(part), "{differences:?}");
        }
        // What was not chosen is neither.
        let unchosen = [("digest", End::NotChosen, ""), ("lsm", End::NotChosen, ""), userns];
        assert!(judge(&runc, &unchosen).is_empty());
    }

    #[test]
    fn a_version_is_its_first_numbers() {
        let facts = Facts(vec!["crun 1.8.1".into()]);
        for (condition, holds) in
            [("*", true), ("crun", true), ("crun 1.8", true), ("crun 1", true), ("runc", false)]
        {
            assert_eq!(facts.hold(condition), holds, "{condition}");
        }
        assert!(!Facts(vec!["crun 1.81".into()]).hold("crun 1.8"));
    }

    #[test]
    fn faults_of_the_file_are_named_by_line() {
        for (text, part) in [
            ("a\tfail\tb\tc", "line 1: 4 columns"),
            ("\n*\tmaybe\tb\tc\td", "line 2: `maybe`"),
            ("*\tfail\tb\t \td", "line 1: an empty column"),
        ] {
            let why = Expectations::parse(text).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn our_file_can_be_read() {
        assert!(!Expectations::ours().0.is_empty());
    }
}
