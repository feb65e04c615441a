//! Exec, attach and port-forward by crictl over both of its transports.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use e2e::command::{Running, Said, command, run, run_with_input};
use e2e::forward::Forward;
use e2e::{Node, eventually, patience, patient};

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];
/// What must not take long takes less.
const SOON: Duration = Duration::from_secs(15);
/// More than all buffers between crictl and a container hold together.
const LARGE: usize = 6 * 1024 * 1024;

fn crictl(node: &Node, verb: &str, transport: &str, args: &[&str], input: &[u8]) -> Said {
    let all = [&[verb, "--transport", transport], args].concat();
    run_with_input(&mut node.crictl_command(&all), input)
}

/// A crictl that a test talks with.
fn piped(node: &Node, args: &[&str]) -> Running {
    Running::start(node.crictl_command(args).stdin(Stdio::piped()).stdout(Stdio::piped()))
}

#[test]
fn exec_carries_all_three_streams_and_the_exit_code() {
    let node = Node::start();
    let (pod, container) = node.busy();
    let before = node.descriptors();
    for transport in TRANSPORTS {
        let exec = |args: &[&str], input: &[u8]| crictl(&node, "exec", transport, args, input);
        let said = exec(&[&container.id, "echo", "streamed"], b"");
        assert_eq!((said.code, &*said.stdout), (0, "streamed\n"), "{transport}: {said:?}");
        let said = exec(&["-i", &container.id, "sh", "-c", "cat; echo err >&2; exit 3"], b"through stdin\n");
        assert_eq!(said.stdout, "through stdin\n", "{transport}");
        assert!(said.stderr.contains("err") && said.stderr.contains("exit code 3"), "{transport}: {said:?}");
        assert_ne!(said.code, 0, "{transport}");
        let said = exec(&[&container.id, "sh", "-c", "kill -9 $$"], b"").fails();
        assert!(said.contains("exit code 137"), "{transport}: {said}");
        let said = exec(&[&container.id, "/no/such/program"], b"").fails();
        assert!(said.contains("/no/such/program"), "{transport}: {said}");
    }
    node.leaks_no_descriptor(before);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn exec_loses_no_byte_of_much_input_and_output() {
    let node = Node::start();
    let (pod, container) = node.busy();
    let input: Vec<u8> = (0..LARGE).map(|at| b'a' + u8::try_from(at % 23).unwrap()).collect();
    for transport in TRANSPORTS {
        let said = crictl(&node, "exec", transport, &["-i", &container.id, "cat"], &[]);
        assert_eq!((said.code, said.stdout.len()), (0, 0), "{transport}: no input at all");
        let line = format!("yes 0123456789abcde | head -c {LARGE}");
        let output = crictl(&node, "exec", transport, &[&container.id, "sh", "-c", &line], b"").ok();
        assert_eq!(output.len(), LARGE, "{transport}");
        let said = crictl(&node, "exec", transport, &["-i", &container.id, "md5sum"], &input).ok();
        let sum = run_with_input(&mut command("md5sum"), &input).ok();
        assert_eq!(said, sum, "{transport}");
        // Input that nobody wants is no reason to fail or to wait.
        crictl(&node, "exec", transport, &["-i", &container.id, "true"], &input).ok();
    }
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn exec_of_what_leaves_a_child_behind_does_not_wait_for_it() {
    let node = Node::start();
    let (pod, container) = node.busy();
    for transport in TRANSPORTS {
        let began = Instant::now();
        let args = [&*container.id, "sh", "-c", "sleep 600 & echo done"];
        assert_eq!(crictl(&node, "exec", transport, &args, b"").ok(), "done\n", "{transport}");
        assert!(began.elapsed() < patient(SOON), "{transport}");
    }
    pod.remove();
    node.leaves_nothing();
}

/// Runs a shell line whose `$CRICTL` is crictl, on a terminal of 77 by 33; types when it has shown a word.
fn on_a_terminal(node: &Node, line: &str, typed: Option<(&str, &[u8])>) -> Said {
    let crictl = node.crictl_command(&[]);
    let words = std::iter::once(crictl.get_program()).chain(crictl.get_args());
    let crictl: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    let line = format!("CRICTL='{}'; stty cols 77 rows 33; {line}", crictl.join(" "));
    let bound = patient(Duration::from_secs(60)).as_secs().to_string();
    // script(1) takes the end of its own input for a hang-up: a pipe that stays open is none.
    let mut script = command("timeout");
    script.args(["-s", "KILL", &bound, "script", "-qec", &line, "/dev/null"]).env("SHELL", "/bin/sh");
    let mut script = Running::start(script.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut stdin = script.child().stdin.take().unwrap();
    let mut shows = script.child().stdout.take().unwrap();
    let (mut shown, mut typed, mut piece) = (Vec::new(), typed, [0; 4096]);
    while let Ok(length @ 1..) = shows.read(&mut piece) {
        shown.extend(&piece[..length]);
        // crictl changes the terminal's mode when it begins, which drops what was typed before.
        if let Some((_, keys)) = typed.take_if(|(word, _)| String::from_utf8_lossy(&shown).contains(*word)) {
            stdin.write_all(keys).unwrap();
        }
    }
    let said = script.ended();
    Said { stdout: String::from_utf8_lossy(&shown).into_owned(), ..said }
}

#[test]
fn exec_with_a_terminal_has_its_size_and_follows_its_changes() {
    let node = Node::start();
    let (pod, container) = node.busy();
    let before = node.descriptors();
    for transport in TRANSPORTS {
        let exec = format!("$CRICTL exec --transport {transport} -it {}", container.id);
        let look = |size: &str| {
            let tries = 50 * patience();
            format!(
                "i=0; while [ $i -lt {tries} ]; do \
                 [ \"$(stty size)\" = \"{size}\" ] && echo has {size} && break; sleep 0.1; i=$((i+1)); done"
            )
        };
        let first = look("33 77");
        let said = on_a_terminal(&node, &format!("{exec} sh -c '{first}; tty; exit 4'"), None);
        assert!(
            said.stdout.contains("has 33 77") && said.stdout.contains("/dev/pts/"),
            "{transport}: {said:?}"
        );
        assert!(said.stdout.contains("exit code 4"), "{transport}: {said:?}");
        // One number at a time: crictl drops a change that comes while it tells of another.
        let change = "while sleep 1; do stty cols 98 </dev/tty; sleep 1; stty cols 99 </dev/tty; done";
        let line = format!("({change}) & {exec} sh -c '{}'; kill $!", look("33 99"));
        let said = on_a_terminal(&node, &line, None);
        assert!(said.stdout.contains("has 33 99"), "{transport}: {said:?}");
    }
    node.leaks_no_descriptor(before);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn ctrl_c_on_a_terminal_is_the_command_s_and_not_the_client_s() {
    let node = Node::start();
    let (pod, container) = node.busy();
    for transport in TRANSPORTS {
        let line = "trap \"echo caught; exit 9\" INT; echo ready; while :; do sleep 0.1; done";
        let exec = format!("$CRICTL exec --transport {transport} -it {} sh -c '{line}'", container.id);
        let said = on_a_terminal(&node, &exec, Some(("ready", b"\x03")));
        assert!(said.stdout.contains("ready") && said.stdout.contains("caught"), "{transport}: {said:?}");
        assert!(said.stdout.contains("exit code 9"), "{transport}: {said:?}");
    }
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_command_goes_on_when_its_client_is_killed_and_a_terminal_hangs_up() {
    let node = Node::start();
    let (pod, container) = node.busy();
    let before = node.descriptors();
    for transport in TRANSPORTS {
        let line =
            format!("for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; sleep 0.1; done; touch /done-{transport}");
        let args = ["exec", "--transport", transport, "-i", &container.id, "sh", "-c", &line];
        let mut client = piped(&node, &args);
        let mut first = String::new();
        BufReader::new(client.child().stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert_eq!(first, "1\n", "{transport}");
        client.kill();
        eventually("the command goes on to its end", SOON, || {
            let there = container.try_exec(&["test", "-e", &format!("/done-{transport}")], 10).unwrap();
            if there.exit_code == 0 { Ok(()) } else { Err("it has not".into()) }
        });
        // As any terminal that goes away: with SIGHUP.
        let line =
            format!("timeout -s KILL 2 $CRICTL exec --transport {transport} -it {} sleep 4321", container.id);
        on_a_terminal(&node, &line, None);
        eventually("the terminal's process is gone", SOON, || {
            let found = container.sh("ps | grep -c '[s]leep 4321' || true");
            if found == "0\n" { Ok(()) } else { Err(found) }
        });
    }
    node.leaks_no_descriptor(before);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn attach_shows_what_is_written_from_then_on_and_the_exit_code() {
    let node = Node::start();
    let pod = node.pod("attached").run();
    for transport in TRANSPORTS {
        let line = "while [ ! -e /go ]; do echo tick; sleep 0.05; done; echo out; echo err >&2; \
                    yes 0123456789abcde | head -c 524288; exit 5";
        let container = pod.container(transport).sh(line).start();
        let args = ["attach", "--transport", transport, &container.id];
        let mut command = node.crictl_command(&args);
        let mut client = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let mut lines = BufReader::new(client.child().stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "tick\n", "{transport}: it is attached");
        container.sh("touch /go");
        let mut rest = String::new();
        lines.read_to_string(&mut rest).unwrap();
        let said = client.ended();
        let rest = rest.trim_start_matches("tick\n");
        // The last is more than pipes hold, less than is kept for a slow client (ADR 033).
        assert_eq!((&rest[..4], rest.len()), ("out\n", 4 + 524_288), "{transport}");
        assert!(said.stderr.contains("err") && said.stderr.contains("exit code 5"), "{transport}: {said:?}");
    }
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn attach_feeds_a_container_whose_input_ends_with_its_first_client() {
    let node = Node::start();
    let pod = node.pod("fed").run();
    for transport in TRANSPORTS {
        let builder = pod.container(transport).sh("cat; echo ended; exit 6");
        let container = builder.with(|config| (config.stdin, config.stdin_once) = (true, true)).start();
        let said = crictl(&node, "attach", transport, &["-i", &container.id], b"typed\n");
        assert_eq!(said.stdout, "typed\nended\n", "{transport}: {said:?}");
        assert!(said.stderr.contains("exit code 6"), "{transport}: {said:?}");
        assert_eq!(container.exit().exit_code, 6);

        let builder = pod.container(&format!("{transport}-gone")).sh("cat; exit 7");
        let container = builder.with(|config| (config.stdin, config.stdin_once) = (true, true)).start();
        let args = ["attach", "--transport", transport, "-i", &container.id];
        let mut client = piped(&node, &args);
        client.child().stdin.as_mut().unwrap().write_all(b"half\n").unwrap();
        let mut echoed = [0; 5];
        client.child().stdout.as_mut().unwrap().read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"half\n", "{transport}");
        client.kill();
        assert_eq!(container.exit().exit_code, 7, "{transport}: a client that is killed detaches too");
    }
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn attach_to_a_terminal_types_reads_and_sizes_it() {
    let node = Node::start();
    let pod = node.pod("terminal").run();
    for transport in TRANSPORTS {
        let line = "until [ \"$(stty size)\" = '33 77' ]; do sleep 0.05; done; echo sized; read word; echo \"<$word>\"; exit 8";
        let builder = pod.container(transport).sh(line);
        let container = builder.with(|config| (config.stdin, config.tty) = (true, true)).start();
        let line = format!("$CRICTL attach --transport {transport} -it {}", container.id);
        let said = on_a_terminal(&node, &line, Some(("sized", b"word\r")));
        assert!(said.stdout.contains("<word>"), "{transport}: {said:?}");
        assert!(said.stdout.contains("exit code 8"), "{transport}: {said:?}");
    }
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn attach_that_comes_and_goes_leaves_the_container_and_no_descriptor() {
    let node = Node::start();
    let pod = node.pod("passing").run();
    let builder = pod.container("main").sh("while :; do echo tick; read -t 1 line && echo got $line; done");
    let container = builder.with(|config| config.stdin = true).start();
    let before = node.descriptors();
    for transport in TRANSPORTS {
        for _ in 0..3 {
            let args = ["attach", "--transport", transport, "-i", &container.id];
            let mut client = piped(&node, &args);
            let mut lines = BufReader::new(client.child().stdout.take().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap() == "tick"), "{transport}");
            client.child().stdin.as_mut().unwrap().write_all(b"word\n").unwrap();
            assert!(lines.any(|line| line.unwrap() == "got word"), "{transport}");
            client.kill();
        }
    }
    assert!(container.is_running());
    node.leaks_no_descriptor(before);
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn forwarded_ports_reach_the_pod_many_at_once() {
    let node = Node::start();
    let pod = node.pod("web").run();
    let line = format!(
        "mkdir /srv && head -c {LARGE} /dev/zero | tr '\\0' z > /srv/large && echo small > /srv/small && \
         exec httpd -f -p 127.0.0.1:80 -h /srv"
    );
    pod.container("main").sh(&line).start().listens(80);
    let before = node.descriptors();
    for (transport, port) in TRANSPORTS.into_iter().zip([10080_u16, 10081]) {
        let forward = Forward::start(&node, transport, &pod, &[&format!("{port}:80")]);
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        node.machine.on_its_network(|| {
            let get = |path: &str| e2e::http::request(to, "GET", path, "", b"").map(|answer| answer.body);
            std::thread::scope(|scope| {
                let large: Vec<_> = (0..4).map(|_| scope.spawn(|| get("/large").unwrap().len())).collect();
                for _ in 0..20 {
                    assert_eq!(get("/small").unwrap(), b"small\n", "{transport}");
                }
                assert!(large.into_iter().all(|thread| thread.join().unwrap() == LARGE), "{transport}");
            });
            // One that asks for much and reads nothing of it must not hold up the others for ever.
            let mut deaf = TcpStream::connect(to).unwrap();
            deaf.write_all(b"GET /large HTTP/1.0\r\n\r\n").unwrap();
            std::thread::sleep(Duration::from_millis(300));
            drop(deaf);
            assert_eq!(get("/small").unwrap(), b"small\n", "{transport}");
        });
        drop(forward);
        node.leaks_no_descriptor(before);
    }
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn a_forwarded_connection_is_half_closed_both_ways_and_a_closed_port_says_so() {
    let node = Node::start();
    let pod = node.pod("nc").run();
    // It answers only once its client has said all.
    let container = pod.container("main").sh("while :; do nc -l -p 7 -e sh -c 'wc -c'; done").start();
    for (transport, port) in TRANSPORTS.into_iter().zip([10090_u16, 10091]) {
        container.listens(7);
        let forward = Forward::start(&node, transport, &pod, &[&format!("{port}:7")]);
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let answer = node.machine.on_its_network(|| {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(patient(SOON))).unwrap();
            stream.write_all(&[b'x'; 12345]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        assert_eq!(answer.trim(), "12345", "{transport}");
        drop(forward);

        let forward = Forward::start(&node, transport, &pod, &[&format!("{port}:9")]);
        node.machine.on_its_network(|| {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(patient(SOON))).unwrap();
            assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "{transport}: it is closed");
        });
        let said = forward.ended();
        assert!(said.stderr.contains("refused"), "{transport}: {said:?}");
    }
    pod.remove();
    node.leaves_nothing();
}

#[test]
fn sessions_end_with_the_service_and_it_does_not_wait_for_them() {
    let node = Node::start();
    let (pod, container) = node.busy();
    let args = ["exec", "-i", &container.id, "sh", "-c", "echo up; exec sleep 1000"];
    let mut client = piped(&node, &args);
    let mut first = String::new();
    BufReader::new(client.child().stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "up\n");
    let began = Instant::now();
    assert_eq!(node.terminate(), Some(0));
    assert!(began.elapsed() < patient(SOON));
    client.ended();
    node.start_service();
    assert!(container.is_running());
    let listed = run(&mut node.crictl_command(&["exec", &container.id, "echo", "again"])).ok();
    assert_eq!(listed, "again\n");
    pod.remove();
    node.leaves_nothing();
}
