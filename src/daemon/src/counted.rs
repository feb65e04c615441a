//! The pod network with its failures counted: the network room knows no telemetry.

use std::sync::Arc;

use async_trait::async_trait;
use model::PodId;
use network::{Attach, Attached, NetworkError, NetworkStatus, PodNetwork};
use telemetry::Metrics;

/// Passes everything on, and counts what plugins failed at.
pub(crate) struct Counted<N> {
    pub(crate) inner: N,
    pub(crate) metrics: Arc<Metrics>,
}

impl<N> Counted<N> {
    fn count<T>(&self, result: Result<T, NetworkError>) -> Result<T, NetworkError> {
        result.inspect_err(|error| {
            if let Some(plugin) = plugin(error) {
                self.metrics.cni_errors.increment(plugin);
            }
        })
    }
}

/// The plugin that failed, where it was one.
fn plugin(error: &NetworkError) -> Option<&str> {
    match error {
        NetworkError::Plugin { plugin, .. } => Some(plugin),
        NetworkError::AndUndo { first, .. } => plugin(first),
        _ => None,
    }
}

#[async_trait]
impl<N: PodNetwork> PodNetwork for Counted<N> {
    async fn attach(&self, request: &Attach) -> Result<Attached, NetworkError> {
        self.count(self.inner.attach(request).await)
    }

    async fn detach(&self, pod: &PodId) -> Result<(), NetworkError> {
        self.count(self.inner.detach(pod).await)
    }

    async fn check(&self, pod: &PodId) -> Result<(), NetworkError> {
        self.count(self.inner.check(pod).await)
    }

    async fn collect(&self, live: &[PodId]) {
        self.inner.collect(live).await;
    }

    fn status(&self) -> NetworkStatus {
        self.inner.status()
    }

    fn owed(&self) -> Vec<String> {
        self.inner.owed()
    }

    fn reconfigure(&self, pod_cidr: &str) -> Result<(), NetworkError> {
        self.inner.reconfigure(pod_cidr)
    }

    fn describe(&self) -> serde_json::Value {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use network::fake::{FakeHost, FakeNetwork, Faults};

    use super::*;

    #[tokio::test]
    async fn a_plugin_that_fails_is_counted_under_its_name() {
        let metrics = Metrics::new();
        let faults = Faults { add_fails: 1.0, ..Faults::default() };
        let inner = FakeNetwork::new(FakeHost::default(), 1, faults);
        let network = Counted { inner, metrics: Arc::clone(&metrics) };
        let pod = PodId::from_bytes([1; 32]);
        let request = Attach {
            pod: pod.clone(),
            identity: model::PodIdentity {
                namespace: "n".into(),
                name: "p".into(),
                uid: "u".into(),
                attempt: 0,
            },
            netns: "/run/netns/none".into(),
            port_mappings: Vec::new(),
            dns: None,
            annotations: model::StringMap::new(),
            cgroup_path: String::new(),
        };
        let error = network.attach(&request).await.unwrap_err();
        let line = format!("gantline_cni_errors_total{{plugin=\"{}\"}} 1", plugin(&error).unwrap());
        assert!(
            metrics.encode(telemetry::Exposition::OpenMetrics).contains(&line),
            "{line} is not in\n{}",
            metrics.encode(telemetry::Exposition::OpenMetrics)
        );
        network.detach(&pod).await.unwrap();
        assert!(
            metrics.encode(telemetry::Exposition::OpenMetrics).contains(&line),
            "a DEL that succeeds is no error"
        );
    }
}
