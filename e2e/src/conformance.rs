//! The official conformance suite, critest of the pinned cri-tools, against a node of its own.
//!
//! ```no_run
//! use e2e::conformance::{Run, node};
//! let node = node("runc");
//! let outcome = Run::of("runc").on(&node);
//! outcome.assert_expected();
//! node.leaves_nothing();
//! ```
//!
//! critest runs inside the node's machine and asks for images of registry.k8s.io, k8s.gcr.io and gcr.io; the
//! node's mirrors send it to the machine's registry, which holds stand-ins made of Debian packages
//! ([`images`]). What a run may skip or fail stands in `e2e/conformance/expected.tsv` ([`expected`]).

pub mod expected;
pub mod images;
pub mod packages;
pub mod report;

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::node::Node;
use crate::programs::{installed, tool};
use crate::registry;
use crate::wait::patient;

use expected::{Expectations, Facts, Verdict};
use report::Report;

/// The registries that critest names; the machine's registry stands in for each.
const REGISTRIES: [&str; 3] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io"];

/// critest ends its run by itself after this time: 108 specs take about 90 s.
const RUN_MAX: Duration = Duration::from_secs(900);

/// A node with critest's images at hand and one OCI runtime: `runc` is the pinned Go module's, any other is
/// the system's, and a path is itself.
#[track_caller]
pub fn node(handler: &str) -> Node {
    let program = match handler {
        "runc" => tool("runc"),
        other => installed(other),
    };
    let builder = Node::builder().with(|config, _| config.runtimes = vec![(handler.into(), program)]);
    prepare(builder.start())
}

/// Pushes critest's images to a running node's registry and points its mirrors there.
#[track_caller]
pub fn prepare(node: Node) -> Node {
    for host in REGISTRIES {
        node.config.mirror(host, &format!("http://127.0.0.1:{}", registry::PORT));
    }
    for (name, image) in images::all() {
        node.registry.push(&node.machine, image, name);
    }
    node
}

/// How critest is to run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// `-runtime-handler`.
    pub handler: String,
    /// Only specs whose text one of these regular expressions finds; all when there is none.
    pub focus: Vec<String>,
    /// More flags of critest, as `-websocket-exec`.
    pub flags: Vec<String>,
    /// That many processes at once through the ginkgo CLI; 0 and 1 are critest alone.
    pub processes: u32,
    /// The order of specs; ginkgo's own choice when there is none. The report names it.
    pub seed: Option<u32>,
}

impl Run {
    /// Everything critest has, with one handler, over SPDY.
    pub fn of(handler: &str) -> Self {
        Self { handler: handler.into(), ..Self::default() }
    }

    /// Only specs that one of the regular expressions finds.
    pub fn focus(mut self, on: &[&str]) -> Self {
        self.focus = on.iter().map(ToString::to_string).collect();
        self
    }

    /// Streams over WebSocket instead of SPDY.
    pub fn websocket(mut self) -> Self {
        self.flags.extend(["exec", "attach", "portforward"].map(|kind| format!("-websocket-{kind}")));
        self
    }

    /// In several processes at once, in the order that a seed gives.
    pub fn parallel(mut self, processes: u32, seed: u32) -> Self {
        self.processes = processes;
        self.seed = Some(seed);
        self
    }

    fn arguments(&self, endpoint: &str, report: &str) -> Vec<String> {
        let mut args = vec![
            format!("-runtime-endpoint={endpoint}"),
            format!("-runtime-handler={}", self.handler),
            "-config=/dev/null".into(),
            "-ginkgo.no-color".into(),
            format!("-ginkgo.timeout={}s", patient(RUN_MAX).as_secs()),
            format!("-ginkgo.json-report={report}"),
        ];
        args.extend(self.focus.iter().map(|focus| format!("-ginkgo.focus={focus}")));
        args.extend(self.seed.map(|seed| format!("-ginkgo.seed={seed}")));
        args.extend(self.flags.iter().cloned());
        if self.processes > 1 {
            args.push(format!("-parallel={}", self.processes));
        }
        args
    }

    /// Runs critest in the node's machine to its end and judges its report.
    #[track_caller]
    pub fn on(&self, node: &Node) -> Outcome {
        let dir = node.machine.dir().join("critest");
        fs::create_dir_all(dir.join("tmp")).expect("make critest's directory");
        let report = dir.join("report.json");
        let _ = fs::remove_file(&report);
        let log_path = dir.join("critest.log");
        let log = File::create(&log_path).expect("make critest's log");
        let endpoint = format!("unix://{}", node.config.socket.display());
        let tools = tool("ginkgo").parent().map(PathBuf::from).unwrap_or_default();
        let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
        let start = Instant::now();
        let mut command = node.machine.command(tool("critest"));
        command
            .args(self.arguments(&endpoint, &report.display().to_string()))
            .current_dir(&dir)
            .env("PATH", path)
            .env("TMPDIR", dir.join("tmp"))
            .stdout(log.try_clone().expect("share critest's log"))
            .stderr(log);
        let ended = command.status().expect("start critest");
        let said = fs::read_to_string(&log_path).unwrap_or_default();
        let text = fs::read_to_string(&report).unwrap_or_else(|error| {
            panic!("critest ({ended}) left no report: {error}; it said:\n{}", tail(&said, 40))
        });
        let report = Report::parse(&text).unwrap_or_else(|why| panic!("critest's report: {why}"));
        let facts = Facts::of_this_machine(&self.handler, &node.config.runtimes);
        let verdict = Expectations::ours().judge(&report, &facts);
        Outcome { title: self.to_string(), took: start.elapsed(), report, verdict }
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.handler)?;
        for flag in &self.flags {
            write!(f, " {flag}")?;
        }
        for focus in &self.focus {
            write!(f, " focus {focus:?}")?;
        }
        if self.processes > 1 {
            write!(f, " in {} processes", self.processes)?;
        }
        Ok(())
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The run in words.
    pub title: String,
    /// How long critest took.
    pub took: Duration,
    /// All specs and their ends.
    pub report: Report,
    /// What differs from the expectations.
    pub verdict: Verdict,
}

impl Outcome {
    /// Panics with every difference unless all is as expected.
    #[track_caller]
    pub fn assert_expected(&self) {
        assert!(self.verdict.as_expected(), "{self}");
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.took.as_secs();
        let count = self.report.count();
        write!(f, "critest {}: {count} in {seconds} s, seed {}", self.title, self.report.seed)?;
        write!(f, "{}", self.verdict)
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
