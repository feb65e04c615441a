//! ginkgo's JSON report, as much of it as we judge by.

use std::fmt;

use serde_json::Value;

/// How a spec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It passed.
    Passed,
    /// It ran and called Skip.
    Skipped,
    /// It failed, in whatever way: an assertion, a panic, a timeout, an interruption.
    Failed,
    /// It was not chosen: a focus or the mode excludes it.
    NotChosen,
}

/// One spec.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its containers' texts and its own, with blanks between.
    pub name: String,
    /// How it ended.
    pub end: End,
    /// What it said on its way out, and where in critest's source; empty when it passed.
    pub message: String,
    /// Its own log, for a failure.
    pub log: String,
}

/// All specs of a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The seed of the order.
    pub seed: i64,
    /// In the order of the report.
    pub specs: Vec<Spec>,
}

impl Report {
    /// Reads a report.
    pub fn parse(text: &str) -> Result<Self, String> {
        let suites: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let suite = suites.get(0).ok_or("it holds no suite")?;
        let seed = suite["SuiteConfig"]["RandomSeed"].as_i64().unwrap_or_default();
        let nodes = suite["SpecReports"].as_array().ok_or("it holds no specs")?;
        let mut specs = Vec::new();
        for node in nodes {
            let spec = spec(node)?;
            // What is no spec, as the suite's own set-up, counts only when it failed.
            if node["LeafNodeType"] == "It" || spec.end == End::Failed {
                specs.push(spec);
            }
        }
        Ok(Self { seed, specs })
    }

    /// How many ended how.
    pub fn count(&self) -> Count {
        let of = |end: End| self.specs.iter().filter(|spec| spec.end == end).count();
        Count { passed: of(End::Passed), failed: of(End::Failed), skipped: of(End::Skipped) }
    }
}

/// How many specs ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Specs that passed.
    pub passed: usize,
    /// Specs that failed.
    pub failed: usize,
    /// Specs that skipped themselves.
    pub skipped: usize,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{passed} of {} passed, {skipped} skipped", passed + failed)
    }
}

fn spec(node: &Value) -> Result<Spec, String> {
    let mut words: Vec<&str> = Vec::new();
    words.extend(node["ContainerHierarchyTexts"].as_array().into_iter().flatten().filter_map(Value::as_str));
    words.extend(node["LeafNodeText"].as_str().filter(|text| !text.is_empty()));
    words.extend(words.is_empty().then(|| node["LeafNodeType"].as_str()).flatten());
    let failure = &node["Failure"];
    let state = node["State"].as_str().unwrap_or_default();
    let end = match state {
        "passed" => End::Passed,
        // A filter's verdict says nothing.
        "skipped" if failure["Message"].as_str().unwrap_or_default().is_empty() => End::NotChosen,
        "skipped" => End::Skipped,
        "pending" => End::NotChosen,
        "failed" | "panicked" | "timedout" | "interrupted" | "aborted" => End::Failed,
        other => return Err(format!("{}: a state {other:?}", words.join(" "))),
    };
    let text = |key: &str| failure[key].as_str().filter(|text| !text.is_empty());
    let place = &failure["Location"];
    let file = place["FileName"].as_str().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let place = (!file.is_empty()).then(|| format!("at {file}:{}", place["LineNumber"]));
    let message: Vec<String> = [text("Message"), text("ForwardedPanic"), place.as_deref()]
        .into_iter()
        .flatten()
        .map(str::to_string)
        .collect();
    let log = node["CapturedGinkgoWriterOutput"].as_str().unwrap_or_default();
    Ok(Spec { name: words.join(" "), end, message: message.join("\n"), log: log.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"[{"SuiteConfig": {"RandomSeed": 7}, "SpecReports": [
        {"LeafNodeType": "BeforeSuite", "State": "passed"},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[k8s.io] A", "b"], "LeafNodeText": "c", "State": "passed"},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["bench"], "LeafNodeText": "d", "State": "skipped"},
        {"LeafNodeType": "It", "LeafNodeText": "e", "State": "skipped", "Failure": {"Message": "no LSM"}},
        {"LeafNodeType": "It", "LeafNodeText": "f", "State": "panicked",
         "Failure": {"Message": "Test Panicked", "ForwardedPanic": "nil", "Location": {"FileName": "/x/y.go", "LineNumber": 3}}},
        {"LeafNodeType": "BeforeSuite", "State": "failed", "Failure": {"Message": "no images"}}
    ]}]"#;

    #[test]
    fn specs_are_told_by_how_they_ended() {
        let report = Report::parse(TEXT).unwrap();
        let ends: Vec<(&str, End)> = report.specs.iter().map(|spec| (spec.name.as_str(), spec.end)).collect();
        let expected = [
            ("[k8s.io] A b c", End::Passed),
            ("bench d", End::NotChosen),
            ("e", End::Skipped),
            ("f", End::Failed),
            ("BeforeSuite", End::Failed),
        ];
        assert_eq!(ends, expected);
        assert_eq!(report.specs[3].message, "Test Panicked\nnil\nat y.go:3");
        assert_eq!(report.count().to_string(), "1 of 3 passed, 1 skipped");
        assert_eq!(report.seed, 7);
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for text in ["", "[]", "[{}]", r#"[{"SpecReports": [{"LeafNodeType": "It", "State": "odd"}]}]"#] {
            assert!(Report::parse(text).is_err(), "{text}");
        }
    }
}
