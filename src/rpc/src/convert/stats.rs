//! What is used, as CRI messages. A number that the kernel does not tell is absent, never 0.

use api::v1;
use pod::stats::{
    ContainerStats, InterfaceStats, LayerUsage, NetworkUsage, PodStats, Pressure, PressureLine, Usage,
};
use pod::{ContainerStatus, PodView};

use super::reply::{container_metadata, pod_metadata};

/// One container's.
pub(crate) fn container(status: &ContainerStatus, stats: &ContainerStats) -> v1::ContainerStats {
    let usage = stats.usage.as_ref();
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: status.id.to_string(),
            metadata: Some(container_metadata(status)),
            labels: status.config.labels.clone(),
            annotations: status.config.annotations.clone(),
        }),
        cpu: usage.map(cpu),
        memory: usage.map(memory),
        writable_layer: stats.layer.as_ref().map(layer),
        swap: usage.map(swap),
        io: usage.map(io),
    }
}

/// One pod's, its containers' with it.
pub(crate) fn pod(view: &PodView, stats: &PodStats) -> v1::PodSandboxStats {
    let usage = stats.usage.as_ref();
    let containers = stats
        .containers
        .iter()
        // One that went away meanwhile has no attributes any more.
        .filter_map(|stats| Some(container(view.container(&stats.container)?, stats)))
        .collect();
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: view.pod.id.to_string(),
            metadata: Some(pod_metadata(&view.pod.config.identity)),
            labels: view.pod.config.labels.clone(),
            annotations: view.pod.config.annotations.clone(),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: usage.map(cpu),
            memory: usage.map(memory),
            network: stats.network.as_ref().map(network),
            process: usage
                .map(|usage| v1::ProcessUsage { timestamp: usage.at, process_count: number(usage.tasks) }),
            containers,
            io: usage.map(io),
        }),
        windows: None,
    }
}

fn number(value: Option<u64>) -> Option<v1::UInt64Value> {
    value.map(|value| v1::UInt64Value { value })
}

fn cpu(usage: &Usage) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp: usage.at,
        usage_core_nano_seconds: number(usage.cpu_ns),
        usage_nano_cores: number(usage.cpu_nano_cores),
        psi: usage.cpu_pressure.as_ref().map(psi),
    }
}

fn memory(usage: &Usage) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp: usage.at,
        working_set_bytes: number(usage.working_set),
        available_bytes: number(usage.available),
        usage_bytes: number(usage.memory),
        rss_bytes: number(usage.rss),
        page_faults: number(usage.page_faults),
        major_page_faults: number(usage.major_page_faults),
        psi: usage.memory_pressure.as_ref().map(psi),
    }
}

fn swap(usage: &Usage) -> v1::SwapUsage {
    v1::SwapUsage {
        timestamp: usage.at,
        swap_available_bytes: number(usage.swap_available),
        swap_usage_bytes: number(usage.swap),
    }
}

fn io(usage: &Usage) -> v1::IoUsage {
    v1::IoUsage { timestamp: usage.at, psi: usage.io_pressure.as_ref().map(psi) }
}

fn psi(pressure: &Pressure) -> v1::PsiStats {
    let line = |line: &PressureLine| v1::PsiData {
        total: line.total_us,
        avg10: line.avg10,
        avg60: line.avg60,
        avg300: line.avg300,
    };
    v1::PsiStats { full: Some(line(&pressure.full)), some: Some(line(&pressure.some)) }
}

fn layer(layer: &LayerUsage) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: layer.at,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: layer.mountpoint.display().to_string() }),
        used_bytes: number(Some(layer.bytes)),
        inodes_used: number(Some(layer.inodes)),
    }
}

fn network(usage: &NetworkUsage) -> v1::NetworkUsage {
    let interface = |stats: &InterfaceStats| v1::NetworkInterfaceUsage {
        name: stats.name.clone(),
        rx_bytes: number(Some(stats.rx_bytes)),
        rx_errors: number(Some(stats.rx_errors)),
        tx_bytes: number(Some(stats.tx_bytes)),
        tx_errors: number(Some(stats.tx_errors)),
    };
    v1::NetworkUsage {
        timestamp: usage.at,
        default_interface: usage.default_interface.as_ref().map(interface),
        interfaces: usage.interfaces.iter().map(interface).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_does_not_tell_is_absent() {
        let usage = Usage { at: 5, cpu_ns: Some(0), swap: Some(3), ..Usage::default() };
        let cpu = cpu(&usage);
        assert_eq!((cpu.timestamp, cpu.usage_core_nano_seconds), (5, number(Some(0))));
        assert_eq!((cpu.usage_nano_cores, cpu.psi), (None, None));
        assert_eq!(memory(&usage).usage_bytes, None);
        assert_eq!(swap(&usage).swap_usage_bytes, number(Some(3)));
        let pressure = Pressure {
            some: PressureLine { avg10: 1.5, total_us: 9, ..PressureLine::default() },
            full: PressureLine::default(),
        };
        let psi = psi(&pressure);
        assert_eq!((psi.some.unwrap().total, psi.full.unwrap().total), (9, 0));
    }
}
