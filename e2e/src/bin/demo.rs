//! `make demo`: the main job on real parts, one line and its time a step.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::time::{Duration, Instant};

use e2e::image::busybox;
use e2e::programs::Programs;
use e2e::{Container, Node, Pod, eventually};

/// Prints numbered lines, more than 10,000 a second.
const COUNTER: &str =
    "i=0; while :; do n=$((i+1000)); while [ $i -lt $n ]; do echo $i; i=$((i+1)); done; usleep 30000; done";

/// Does a step and prints what it found, after its time.
fn step<T>(what: &str, work: impl FnOnce() -> (T, String)) -> T {
    let start = Instant::now();
    let (value, found) = work();
    println!("{:6.0} ms  {what}: {found}", start.elapsed().as_secs_f64() * 1000.0);
    value
}

fn main() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("demo: this needs root: pods are made of namespaces, mounts and cgroups; run it with sudo");
        std::process::exit(1);
    }
    // A failure is a sentence, not a stack.
    std::panic::set_hook(Box::new(|panic| eprintln!("demo: {panic}")));
    let start = Instant::now();
    let node = prepare();
    println!("           pull, as `gantline pull` shows it:");
    step("pull", || {
        let reference = node.busybox();
        let ended = node.gantline_command(&["pull", &reference]).status().expect("run gantline pull");
        assert!(ended.success(), "gantline pull failed");
        let image = node.image(&reference).expect("the image is there");
        ((), format!("{} is {}, {} bytes", reference, &image.id[..19], image.size))
    });
    let (web, other, server, counter) = two_pods(&node);
    look_into(&node, &server, &counter);
    survive(&node, [&web, &other], &counter);
    leave(&node);
    println!("\nAll of it in {:.1} s. Again: `make demo`.", start.elapsed().as_secs_f64());
}

fn prepare() -> Node {
    step("image", || {
        let image = busybox();
        ((), format!("{} layers from Debian's busybox, {}", image.layers.len(), &image.id[..19]))
    });
    let node = step("registry", || {
        let node = Node::builder_with(Programs::release).prepare();
        let found =
            format!("Debian's docker-registry has {}, in a network namespace of its own", node.busybox());
        (node, found)
    });
    step("gantline serve", || {
        node.start_service();
        let version = node.cri().version(Default::default()).expect("Version");
        let root = node.config.root.display().to_string();
        ((), format!("{} {} ready, root {root}", version.runtime_name, version.runtime_version))
    });
    node
}

fn two_pods(node: &Node) -> (Pod<'_>, Pod<'_>, Container<'_>, Container<'_>) {
    let web = step("pod `web`", || {
        let web = node.pod("web").run();
        let found = format!("{} at {}", &web.id[..13], web.ip());
        (web, found)
    });
    let (server, neighbour) = step("two containers", || {
        let server = web.container("server").command(&["httpd", "-f", "-p", "8080", "-h", "/www"]).start();
        let neighbour = web.container("neighbour").idle().start();
        let found = format!("server {}, neighbour {}", &server.id[..13], &neighbour.id[..13]);
        ((server, neighbour), found)
    });
    step("over localhost", || {
        let got = eventually("the server answers", Duration::from_secs(10), || {
            let answer = neighbour.try_exec(&["wget", "-qO-", "http://127.0.0.1:8080/"], 5);
            let answer = answer.map_err(|status| status.to_string())?;
            if answer.exit_code == 0 { Ok(answer.stdout) } else { Err(format!("{answer:?}")) }
        });
        ((), format!("neighbour gets {:?}", String::from_utf8_lossy(&got).trim()))
    });
    let (other, counter) = step("pod `other`", || {
        let other = node.pod("other").run();
        let counter = other.container("counter").sh(COUNTER).start();
        let found = format!("{} at {}", &other.id[..13], other.ip());
        ((other, counter), found)
    });
    step("from pod to pod", || {
        let got = counter.sh(&format!("wget -qO- http://{}:8080/", web.ip()));
        ((), format!("other gets {:?} from {}", got.trim(), web.ip()))
    });
    (web, other, server, counter)
}

fn look_into(node: &Node, server: &Container<'_>, counter: &Container<'_>) {
    step("logs", || {
        counter.logs("\n20000\n");
        let lines = counter.log().lines();
        let last = lines.last().map(|line| format!("{} {} {}", line.time, line.stream, line.text));
        let rate = counter.log().rate();
        assert!(rate >= 10_000.0, "the counter logs only {rate:.0} lines a second");
        (
            (),
            format!(
                "{} lines so far, {rate:.0} a second, the last: {}",
                lines.len(),
                last.unwrap_or_default()
            ),
        )
    });
    step("stats", || {
        let request = api::v1::ContainerStatsRequest { container_id: counter.id.clone() };
        let stats = node.cri().container_stats(request).expect("ContainerStats").stats.unwrap_or_default();
        let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).map_or(0, |value| value.value);
        let memory = stats.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |value| value.value);
        (
            (),
            format!(
                "the counter used {} ms of processor and {} KiB of memory",
                cpu / 1_000_000,
                memory / 1024
            ),
        )
    });
    step("exec", || ((), format!("`id` in the server says {:?}", server.sh("id").trim())));
}

fn survive(node: &Node, pods: [&Pod<'_>; 2], counter: &Container<'_>) {
    step("kill -9", || {
        let pid = node.service_pid().unwrap_or_default();
        node.kill9();
        std::thread::sleep(Duration::from_secs(1));
        ((), format!("the service (pid {pid}) is gone for a second"))
    });
    step("start again", || {
        node.start_service();
        let ready = eventually("the pods are known again", Duration::from_secs(10), || {
            let ready =
                pods.iter().filter(|pod| pod.try_status().is_ok_and(|status| status.state == 0)).count();
            if ready == pods.len() { Ok(ready) } else { Err(format!("{ready} of {}", pods.len())) }
        });
        assert!(counter.is_running(), "the counter still runs");
        ((), format!("{ready} pods READY, {} containers known", node.containers().len()))
    });
    step("logs without a gap", || {
        std::thread::sleep(Duration::from_millis(300));
        let lines = counter.log().lines();
        let gap = lines.iter().enumerate().find(|(number, line)| line.text != number.to_string());
        assert!(gap.is_none(), "a gap in the log: {gap:?}");
        let rate = counter.log().rate();
        assert!(rate >= 10_000.0, "the counter logs only {rate:.0} lines a second");
        let count = lines.len();
        ((), format!("{count} numbered lines, {rate:.0} a second, every one once, before, during and after"))
    });
}

fn leave(node: &Node) {
    let things = node.leftovers().len();
    step("stop and remove", || {
        node.remove_all_pods();
        ((), format!("{} pods, {} containers left", node.pods().len(), node.containers().len()))
    });
    step("nothing is left", || {
        node.leaves_nothing();
        let kinds = "mount, netns, cgroup, process, veth, packet filter rule or address reservation";
        ((), format!("of {things} things no {kinds}"))
    });
}
