//! What the kubelet's own cAdvisor says of a container, and what we say of it, value by value, while it works and when
//! it rests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use api::v1;
use e2e::cluster::room::container;
use e2e::cluster::{Cluster, NODE};
use e2e::eventually;
use serde_json::json;

tests![cadvisor_says_the_same];

/// cAdvisor looks at a container every ten to fifteen seconds, later on a busy machine.
const LOOKS: Duration = Duration::from_secs(300);

/// Families that cAdvisor has of a container and we do not, each with its reason.
const NOT_OURS: [(&str, &str); 12] = [
    ("container_health_state", "of Docker's health checks, which CRI has not: 0"),
    ("container_creation_time_seconds", "when cAdvisor found it; its start is container_start_time_seconds"),
    ("container_cpu_cfs_burst_periods_total", "CRI knows no burst"),
    ("container_cpu_cfs_burst_seconds_total", "CRI knows no burst"),
    ("container_memory_events_high_total", "cgroup v2 alone has it: 0 here"),
    ("container_memory_events_max_total", "cgroup v2 alone has it: 0 here"),
    ("container_memory_file_dirty_bytes", "cgroup v2 alone has it: 0 here"),
    ("container_memory_file_writeback_bytes", "cgroup v2 alone has it: 0 here"),
    ("container_memory_pgscan_total", "cgroup v2 alone has it: 0 here"),
    ("container_memory_pgsteal_total", "cgroup v2 alone has it: 0 here"),
    ("container_memory_workingset_refault_anon_total", "cgroup v2 alone has it: 0 here"),
    ("container_memory_workingset_refault_file_total", "cgroup v2 alone has it: 0 here"),
];

/// A metric: its name and its own labels.
type Key = (String, BTreeMap<String, String>);

/// What was told of one container, with the milliseconds since 1970 before and after it was asked for.
struct Look {
    from: f64,
    to: f64,
    values: BTreeMap<Key, f64>,
}

/// One container's lines of `/metrics/cadvisor`, each with its time, if it has one.
type Lines = BTreeMap<Key, (f64, Option<f64>)>;

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() * 1000.0
}

/// What our RPCs say of a container: metrics by their names, and statistics by the metrics that they match.
fn ours(cluster: &Cluster, id: &str) -> Look {
    let cri = cluster.node.cri();
    let from = now();
    let descriptors = cri.list_metric_descriptors(Default::default()).unwrap().descriptors;
    let keys: BTreeMap<&str, &[String]> =
        descriptors.iter().map(|one| (one.name.as_str(), &one.label_keys[6..])).collect();
    let pods = cri.list_pod_sandbox_metrics(Default::default()).unwrap().pod_metrics;
    let told = pods.iter().flat_map(|pod| &pod.container_metrics).find(|told| told.container_id == id);
    let mut values = BTreeMap::new();
    for metric in told.map(|told| &told.metrics[..]).unwrap_or_default() {
        let labels = keys[metric.name.as_str()].iter().cloned().zip(metric.label_values[6..].iter().cloned());
        values.insert((metric.name.clone(), labels.collect()), metric.value.unwrap().value as f64);
    }
    let request = v1::ContainerStatsRequest { container_id: id.into() };
    let stats = cri.container_stats(request).unwrap().stats.unwrap();
    let (cpu, memory) = (stats.cpu.unwrap(), stats.memory.unwrap());
    let faults = |kind: &str| {
        BTreeMap::from([("failure_type".into(), kind.into()), ("scope".into(), "hierarchy".into())])
    };
    let rows = [
        (
            "container_cpu_usage_seconds_total",
            BTreeMap::from([("cpu".into(), "total".into())]),
            cpu.usage_core_nano_seconds,
            1e9,
        ),
        ("container_memory_usage_bytes", BTreeMap::new(), memory.usage_bytes, 1.0),
        ("container_memory_working_set_bytes", BTreeMap::new(), memory.working_set_bytes, 1.0),
        ("container_memory_rss", BTreeMap::new(), memory.rss_bytes, 1.0),
        ("container_memory_failures_total", faults("pgfault"), memory.page_faults, 1.0),
        ("container_memory_failures_total", faults("pgmajfault"), memory.major_page_faults, 1.0),
    ];
    for (name, labels, value, unit) in rows {
        values.insert((format!("{name} of ContainerStats"), labels), value.unwrap().value as f64 / unit);
    }
    Look { from, to: now(), values }
}

/// What the kubelet's cAdvisor says of a container.
fn cadvisors(cluster: &Cluster, id: &str) -> Result<Lines, String> {
    let path = format!("/api/v1/nodes/{NODE}/proxy/metrics/cadvisor");
    let text = cluster.api.text(&path).map_err(|error| error.to_string())?;
    let mut lines: Lines =
        text.lines().filter(|line| line.contains(id) && !line.starts_with('#')).filter_map(line).collect();
    // cgroup v1 bounds memory and swap together, and cAdvisor tells it so; we tell swap alone on both (ADR 116).
    let key = |name: &str| (format!("container_spec_memory_{name}limit_bytes"), BTreeMap::new());
    let memory = lines.get(&key("")).map(|(bytes, _)| *bytes).unwrap_or_default();
    if let Some((both, _)) =
        lines.get_mut(&key("swap_")).filter(|_| Path::new("/sys/fs/cgroup/memory").exists())
    {
        *both -= memory;
    }
    Ok(lines)
}

/// `name{label="value",…} value [milliseconds]`; no value of a container of ours has a quote or a comma in it.
fn line(line: &str) -> Option<(Key, (f64, Option<f64>))> {
    let (name, rest) = line.split_once('{')?;
    let (labels, rest) = rest.split_once("} ")?;
    let labels = labels.split("\",").filter_map(|label| label.split_once("=\""));
    let own =
        |(name, _): &(&str, &str)| !["id", "name", "image", "namespace", "pod", "container"].contains(name);
    let labels =
        labels.filter(own).map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()));
    let mut words = rest.split(' ');
    let (value, time) = (words.next()?.parse().ok()?, words.next().and_then(|time| time.parse().ok()));
    Some(((name.to_owned(), labels.collect()), (value, time)))
}

/// cgroup v1's kernel counts the bytes of a group's I/O only where they are bounded: bounds those of a container that no
/// disk can meet. Whether they are counted now.
fn count_io(cluster: &Cluster, id: &str) -> bool {
    let line = format!(
        "disk=/sys/dev/block/$(stat -c %Hd:%Ld {at}); [ ! -e $disk/partition ] || disk=$disk/..\n\
         group=$(find /sys/fs/cgroup/blkio -type d -name {id}); [ -n \"$group\" ] && for way in read write; do\n\
             echo $(cat $disk/dev) 1000000000000 > $group/blkio.throttle.${{way}}_bps_device || exit 0\n\
         done && echo counted; true",
        at = cluster.place.dir.display()
    );
    cluster.node.machine.sh(&line).contains("counted")
}

/// How far apart two values may be that were read at one time.
fn slack(name: &str) -> f64 {
    match name.split(' ').next().unwrap_or_default() {
        _ if name.ends_with("ContainerStats") => 0.0,
        // CRI's numbers are whole: half a second up or down.
        whole if whole.ends_with("seconds_total") => 0.5,
        _ => 0.0,
    }
}

/// Whether a metric only ever grows.
fn counts(name: &str) -> bool {
    name.ends_with("_total") || name.contains("failcnt") || name.contains("max_usage")
}

/// Which of our looks' values are out of step with a scrape of cAdvisor's that was made while they were: a counter of
/// ours was not above it before, nor below it after; a gauge was as low and as high about that time.
fn out_of_step(looks: &[Look], theirs: &Lines) -> Vec<String> {
    let mut wrong = Vec::new();
    for key in looks[0].values.keys() {
        let name = key.0.trim_end_matches(" of ContainerStats");
        let Some(&(value, Some(time))) = theirs.get(&(name.to_owned(), key.1.clone())) else { continue };
        // cAdvisor reads first and stamps then; all of its reading takes less than this.
        const READS: f64 = 2000.0;
        if time < looks[0].to {
            continue;
        }
        let about = |look: &&Look| look.to >= time - READS && look.from <= time + READS;
        let value_of = |look: &Look| look.values.get(key).copied();
        let (low, high) = if counts(name) {
            let before = looks.iter().rev().find(|look| look.to < time - READS).and_then(value_of);
            let after = looks.iter().find(|look| look.from > time).and_then(value_of);
            let (Some(before), Some(after)) = (before, after) else { continue };
            (before, after)
        } else {
            let values: Vec<f64> = looks.iter().filter(about).filter_map(value_of).collect();
            let Some(low) = values.iter().copied().reduce(f64::min) else { continue };
            let high = values.iter().copied().fold(low, f64::max);
            // What no look saw in between, a few buffers of a pipe and a page table.
            let unseen =
                if name.contains("bytes") || name.contains("memory") { 2e6 + high / 10.0 } else { 4.0 };
            (low - unseen, high + unseen)
        };
        let slack = slack(&key.0) + 1e-6 * high.abs();
        if value < low - slack || value > high + slack {
            wrong.push(format!("{key:?}: cAdvisor says {value} at {time:.0}, we {low} to {high}"));
        }
    }
    wrong
}

fn cadvisor_says_the_same(cluster: &Cluster) {
    // With this gate on the kubelet says there what we say: `gates.rs` tests that.
    if cluster.gate("PodAndContainerStatsFromCRI") {
        return;
    }
    let room = cluster.room("cadvisor");
    // CPU, memory and disk (past the page cache: cgroup v1 counts nobody's write-back) at once, on and on; when it is told to, it rests.
    let load = r"head -c 8000000 /dev/zero > /dev/shm/held
        while [ ! -e /stop ]; do
            dd if=/dev/zero of=/data bs=64k count=64 oflag=direct 2>/dev/null
            dd if=/data of=/dev/null bs=64k iflag=direct 2>/dev/null
            head -c 3000000 /dev/zero | md5sum > /last
        done
        sync; touch /resting; exec sleep 100000";
    let limits =
        json!({"resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "400m", "memory": "96Mi"}}});
    room.pod(
        "loaded",
        json!({"terminationGracePeriodSeconds": 1, "containers": [container("main", load, limits)]}),
    );
    let pod = room.ready("loaded");
    // No probe: nothing may happen in it when it rests.
    room.exec("loaded", "until [ -e /last ]; do usleep 100000; done").ok();
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
    let id = id.split("://").nth(1).unwrap();
    let io_is_counted = count_io(cluster, id);

    // Our looks go on while cAdvisor makes three of its own.
    let stop = AtomicBool::new(false);
    let (looks, scrapes) = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                looks.push(ours(cluster, id));
                std::thread::sleep(Duration::from_millis(100));
            }
            looks
        });
        let mut scrapes: BTreeMap<u64, Lines> = BTreeMap::new();
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("cAdvisor looks three times", LOOKS, || {
                let lines = cadvisors(cluster, id)?;
                let time = lines.values().find_map(|(_, time)| *time).unwrap_or_default();
                if time > 0.0 {
                    scrapes.insert(time as u64, lines);
                }
                std::thread::sleep(Duration::from_millis(500));
                if scrapes.len() < 4 { Err(format!("{} so far", scrapes.len())) } else { Ok(()) }
            });
        }));
        stop.store(true, Ordering::Relaxed);
        let looks = looking.join().unwrap();
        seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (looks, scrapes)
    });
    let grew = |name: &str| {
        let of = |look: &Look| {
            look.values.iter().filter(|(key, _)| key.0 == name).map(|(_, value)| value).sum::<f64>()
        };
        of(&looks[looks.len() - 1]) - of(&looks[0])
    };
    assert!(grew("container_cpu_usage_seconds_total of ContainerStats") > 1.0, "the CPU was busy");
    assert!(grew("container_memory_failures_total of ContainerStats") > 1000.0, "memory was asked for");
    assert!(!io_is_counted || grew("container_fs_writes_bytes_total") > 1e6, "the disk was written");
    let wrong: Vec<String> = scrapes.values().flat_map(|scrape| out_of_step(&looks, scrape)).collect();
    assert!(wrong.is_empty(), "under load: {wrong:#?}");

    // At rest both say exactly the same, once cAdvisor has looked.
    room.exec("loaded", "touch /stop; until [ -e /resting ]; do usleep 100000; done").ok();
    let rested = now();
    let compared = eventually("at rest both say the same", LOOKS, || {
        std::thread::sleep(Duration::from_millis(500));
        let theirs = cadvisors(cluster, id)?;
        let look = ours(cluster, id);
        let mut compared = BTreeSet::new();
        let mut wrong = Vec::new();
        for (key, told) in &look.values {
            let name = key.0.trim_end_matches(" of ContainerStats");
            let Some(&(value, time)) = theirs.get(&(name.to_owned(), key.1.clone())) else { continue };
            compared.insert(name.to_owned());
            let late = time.is_some_and(|time| time < rested);
            // When they were asked, which is not at one time.
            let slack = if name == "container_last_seen" { 60.0 } else { slack(&key.0) };
            if late || (value - told).abs() > slack + 1e-6 * told.abs() {
                wrong.push(format!("{key:?}: cAdvisor says {value}, we {told}"));
            }
        }
        if wrong.is_empty() && !compared.is_empty() {
            Ok((theirs, look, compared))
        } else {
            Err(wrong.join("\n"))
        }
    });
    let (theirs, look, compared) = compared;
    let families = |keys: Vec<&Key>| keys.into_iter().map(|key| key.0.clone()).collect::<BTreeSet<String>>();
    let (theirs, ours) = (families(theirs.keys().collect()), families(look.values.keys().collect()));
    let missing: Vec<&String> =
        theirs.difference(&ours).filter(|name| !NOT_OURS.iter().any(|(known, _)| known == *name)).collect();
    assert!(missing.is_empty(), "cAdvisor has these of a container and we do not: {missing:?}");
    let gone: Vec<&str> =
        NOT_OURS.iter().map(|(name, _)| *name).filter(|name| !theirs.contains(*name)).collect();
    assert!(gone.is_empty(), "cAdvisor does not have these any more: {gone:?}");
    // None of these may fall out of the comparison unseen.
    for name in [
        "container_cpu_usage_seconds_total",
        "container_cpu_user_seconds_total",
        "container_cpu_system_seconds_total",
        "container_cpu_cfs_periods_total",
        "container_cpu_cfs_throttled_periods_total",
        "container_memory_usage_bytes",
        "container_memory_working_set_bytes",
        "container_memory_rss",
        "container_memory_cache",
        "container_memory_mapped_file",
        "container_memory_failures_total",
        "container_fs_reads_bytes_total",
        "container_fs_writes_bytes_total",
        "container_fs_writes_total",
        "container_processes",
        "container_threads",
        "container_file_descriptors",
        "container_sockets",
        "container_spec_memory_limit_bytes",
        "container_spec_cpu_quota",
        "container_spec_cpu_shares",
        "container_oom_events_total",
        "container_start_time_seconds",
    ] {
        let counted = io_is_counted || !name.starts_with("container_fs");
        assert!(compared.contains(name) || !counted, "{name} was not compared; these were: {compared:?}");
    }
    println!(
        "        {} of cAdvisor's families compared; ours alone: {:?}",
        compared.len(),
        ours.difference(&theirs).filter(|name| !name.ends_with("ContainerStats")).collect::<Vec<_>>()
    );
    // docs/kubernetes.md says so: a pod without a process of its own has no network to cAdvisor.
    assert!(!theirs.iter().any(|name| name.starts_with("container_network")), "{theirs:?}");
}
