//! x
use e2e::peer;
use e2e::programs::tool;

#[test]
fn peer_runs() {
    let node = peer::containerd(&tool("runc"));
    println!("{}", node.crictl(&["version"]).ok());
    let pod = node.pod("web").run();
    println!("{}", pod.ip());
    let c = pod.container("hello").sh("echo hello").start();
    assert_eq!(c.exit().exit_code, 0);
    assert_eq!(c.log().text(), "hello\n");
    println!("{:#?}", node.leftovers());
    pod.remove();
    std::thread::sleep(std::time::Duration::from_secs(1));
    println!("{:#?}", node.leftovers());
    let machine = &node.machine;
    println!("{}", machine.sh("ip -br l; iptables-save; cat /proc/self/mountinfo | cut -c1-150"));
}
