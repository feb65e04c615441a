//! Ports that crictl forwards.

use std::io::{BufRead as _, BufReader};
use std::process::{ChildStdout, Stdio};

use crate::command::{Running, Said};
use crate::node::Node;
use crate::pod::Pod;

/// Ports of a pod forwarded to the machine's loopback, for as long as the value lives.
#[derive(Debug)]
pub struct Forward {
    crictl: Running,
    /// It reports each connection; without a reader it would die of that.
    _report: BufReader<ChildStdout>,
}

impl Forward {
    /// Forwards each of `ports`, `here:there`, over a transport of crictl's; they are open when this returns.
    #[track_caller]
    pub fn start(node: &Node, transport: &str, pod: &Pod<'_>, ports: &[&str]) -> Self {
        let args = [&["port-forward", "--transport", transport, &pod.id], ports].concat();
        let mut command = node.crictl_command(&args);
        let mut crictl = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let mut report = BufReader::new(crictl.child().stdout.take().expect("a pipe"));
        let mut open = 0;
        // It reports each port once for each family that it listens on.
        while open < ports.len() {
            let mut line = String::new();
            report.read_line(&mut line).expect("read what crictl reports");
            assert!(line.starts_with("Forwarding from"), "{transport}: {line}");
            open += usize::from(line.contains("127.0.0.1"));
        }
        Self { crictl, _report: report }
    }

    /// Waits until crictl gives up; what it said.
    #[track_caller]
    pub fn ended(self) -> Said {
        self.crictl.ended()
    }
}
