//! A pod network in memory, seeded and faulty, for the tests of those who drive one.
//!
//! It keeps the real one's contract: an address is taken at ADD, a DEL is owed from then on, a failure in the
//! middle leaves it taken and owed. [`FakeNetwork::leaked`] tells which addresses nobody owes a DEL for any
//! more: a test that ends with one has found a bug.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use model::PodId;

use crate::{Attach, Attached, Command, NetworkError, NetworkStatus, POD_INTERFACE, PluginError, PodNetwork};

/// How often things go wrong, each from 0 (never) to 1 (always).
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// ADD takes an address, then fails.
    pub add_fails: f64,
    /// DEL fails before it frees the address.
    pub del_fails: f64,
    /// ADD never ends; the caller must bound it.
    pub add_hangs: f64,
    /// DEL never ends.
    pub del_hangs: f64,
}

/// What survives the service: clone it to "restart" over the same host.
#[derive(Clone, Default)]
pub struct FakeHost(Arc<Mutex<Host>>);

#[derive(Default)]
struct Host {
    /// Addresses as an IPAM plugin has them.
    taken: BTreeMap<PodId, Ipv4Addr>,
    /// The journal.
    owed: BTreeSet<PodId>,
    next: u32,
    adds: usize,
    dels: usize,
}

/// A [`PodNetwork`] in memory.
pub struct FakeNetwork {
    host: FakeHost,
    faults: Mutex<Faults>,
    random: Mutex<u64>,
    status: Mutex<NetworkStatus>,
    /// Attached by this one, and nobody asked for their end yet.
    engaged: Mutex<BTreeSet<PodId>>,
}

impl FakeNetwork {
    /// A network over `host` that misbehaves as `seed` and `faults` say. Print the seed in the test.
    pub fn new(host: FakeHost, seed: u64, faults: Faults) -> Self {
        Self {
            host,
            faults: Mutex::new(faults),
            random: Mutex::new(seed),
            status: Mutex::new(NetworkStatus::Ready),
            engaged: Mutex::default(),
        }
    }

    /// A network of its own that never fails.
    pub fn faultless() -> Self {
        Self::new(FakeHost::default(), 0, Faults::default())
    }

    /// From here on, misbehaves as `faults` say.
    pub fn set_faults(&self, faults: Faults) {
        *lock(&self.faults) = faults;
    }

    /// From here on, has this status.
    pub fn set_status(&self, status: NetworkStatus) {
        *lock(&self.status) = status;
    }

    /// Pods that have an address.
    pub fn taken(&self) -> Vec<PodId> {
        lock(&self.host.0).taken.keys().cloned().collect()
    }

    /// Pods whose DEL is owed.
    pub fn owed(&self) -> Vec<PodId> {
        lock(&self.host.0).owed.iter().cloned().collect()
    }

    /// Pods whose address is taken while no DEL is owed: leaked for good.
    pub fn leaked(&self) -> Vec<PodId> {
        let host = lock(&self.host.0);
        host.taken.keys().filter(|pod| !host.owed.contains(*pod)).cloned().collect()
    }

    /// How many ADDs and DELs were begun.
    pub fn calls(&self) -> (usize, usize) {
        let host = lock(&self.host.0);
        (host.adds, host.dels)
    }

    /// Whether something of this probability happens now (splitmix64).
    fn happens(&self, probability: f64) -> bool {
        let mut state = lock(&self.random);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // 32 bits are exact in an f64.
        f64::from((mixed >> 32) as u32) < probability * f64::from(u32::MAX)
    }

    async fn del(&self, pod: &PodId) -> Result<(), NetworkError> {
        let faults = *lock(&self.faults);
        lock(&self.host.0).dels += 1;
        tokio::task::yield_now().await;
        if self.happens(faults.del_hangs) {
            std::future::pending::<()>().await;
        }
        if self.happens(faults.del_fails) {
            return Err(refused(Command::Del));
        }
        let mut host = lock(&self.host.0);
        host.taken.remove(pod);
        host.owed.remove(pod);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(command: Command) -> NetworkError {
    let source = Box::new(PluginError::Refused {
        code: 100,
        msg: "the fake was told to fail".to_owned(),
        details: String::new(),
        stderr: String::new(),
    });
    NetworkError::Plugin { command, network: "fake".to_owned(), plugin: "fake".to_owned(), source }
}

#[async_trait]
impl PodNetwork for FakeNetwork {
    async fn attach(&self, request: &Attach) -> Result<Attached, NetworkError> {
        if let NetworkStatus::NotReady { message, .. } = self.status() {
            return Err(NetworkError::NotReady { why: message });
        }
        self.detach(&request.pod).await?;
        let faults = *lock(&self.faults);
        lock(&self.engaged).insert(request.pod.clone());
        let ip = {
            let mut host = lock(&self.host.0);
            host.adds += 1;
            host.owed.insert(request.pod.clone());
            host.next += 1;
            let ip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 77, 0, 0).to_bits() + host.next);
            host.taken.insert(request.pod.clone(), ip);
            ip
        };
        tokio::task::yield_now().await;
        if self.happens(faults.add_hangs) {
            std::future::pending::<()>().await;
        }
        if self.happens(faults.add_fails) {
            lock(&self.engaged).remove(&request.pod);
            let first = refused(Command::Add);
            return Err(match self.del(&request.pod).await {
                Ok(()) => first,
                Err(undo) => NetworkError::AndUndo {
                    pod: request.pod.clone(),
                    undo: model::chain(&undo),
                    first: Box::new(first),
                },
            });
        }
        let result = serde_json::json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": POD_INTERFACE, "sandbox": request.netns}],
            "ips": [{"address": format!("{ip}/16"), "interface": 0}],
        });
        Ok(Attached { ips: vec![IpAddr::V4(ip)], interface: POD_INTERFACE.to_owned(), result })
    }

    async fn detach(&self, pod: &PodId) -> Result<(), NetworkError> {
        lock(&self.engaged).remove(pod);
        if !lock(&self.host.0).owed.contains(pod) {
            return Ok(());
        }
        self.del(pod).await
    }

    async fn check(&self, pod: &PodId) -> Result<(), NetworkError> {
        if lock(&self.host.0).taken.contains_key(pod) {
            Ok(())
        } else {
            Err(NetworkError::NotAttached { pod: pod.clone() })
        }
    }

    async fn collect(&self, live: &[PodId]) {
        for pod in self.owed() {
            if !live.contains(&pod) && !lock(&self.engaged).contains(&pod) {
                let _ = self.del(&pod).await;
            }
        }
    }

    fn owed(&self) -> Vec<String> {
        lock(&self.host.0).owed.iter().map(ToString::to_string).collect()
    }

    fn status(&self) -> NetworkStatus {
        lock(&self.status).clone()
    }

    fn reconfigure(&self, _pod_cidr: &str) -> Result<(), NetworkError> {
        Ok(())
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({ "cniconfig": null, "lastCNILoadStatus": "OK" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(byte: u8) -> Attach {
        Attach {
            pod: PodId::from_bytes([byte; 32]),
            identity: model::PodIdentity {
                namespace: "default".to_owned(),
                name: "web".to_owned(),
                uid: "u".to_owned(),
                attempt: 0,
            },
            netns: "/run/netns/x".into(),
            port_mappings: Vec::new(),
            dns: None,
            annotations: model::StringMap::new(),
            cgroup_path: String::new(),
        }
    }

    #[tokio::test]
    async fn whatever_fails_stays_owed_until_a_del_succeeds() {
        for seed in 0..50 {
            println!("seed {seed}");
            let host = FakeHost::default();
            let faults = Faults { add_fails: 0.5, del_fails: 0.5, ..Faults::default() };
            let network = FakeNetwork::new(host.clone(), seed, faults);
            for pod in 0..20 {
                let _ = network.attach(&request(pod)).await;
                let _ = network.detach(&PodId::from_bytes([pod; 32])).await;
            }
            assert_eq!(network.leaked(), []);
            let after = FakeNetwork::new(host, seed, Faults::default());
            after.collect(&[]).await;
            assert_eq!((after.taken(), after.owed()), (vec![], vec![]));
        }
    }
}
