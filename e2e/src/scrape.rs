//! The service's metrics as a monitoring system fetches them: over HTTP, on the machine's own network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::http;
use crate::node::{Node, NodeBuilder};

/// Where a node with [`NodeBuilder::with_metrics`] tells them.
pub const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);

impl NodeBuilder {
    /// A node whose service listens at [`METRICS`].
    pub fn with_metrics(self) -> Self {
        self.with(|config, _| config.more.push_str(&format!("[metrics]\naddress = \"{METRICS}\"\n")))
    }
}

impl Node {
    /// All that the service tells at [`METRICS`].
    #[track_caller]
    pub fn metrics(&self) -> String {
        let answer = self.machine.on_its_network(|| http::request(METRICS, "GET", "/metrics", "", b""));
        String::from_utf8(answer.expect("scrape").body).expect("metrics are text")
    }

    /// One of them that is a whole number, by its whole series.
    #[track_caller]
    pub fn metric(&self, series: &str) -> u64 {
        let text = self.metrics();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("no {series} in {text}"));
        value.parse().unwrap_or_else(|error| panic!("{series} is {value}: {error}"))
    }
}
