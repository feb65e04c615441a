//! Counters of a pod's interfaces, read inside its network namespace.

use std::io;
use std::path::Path;

use kernel::SysError;

/// One interface's counters since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    /// `eth0`, `lo`.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Packets received with an error.
    pub rx_errors: u64,
    /// Packets received and dropped.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent.
    pub tx_errors: u64,
    /// Packets dropped before they were sent.
    pub tx_dropped: u64,
}

/// The counters of every interface in each of the network namespaces pinned at `netns`, lo too, in their order. Blocks
/// for some 20 µs each: one thread enters them all.
///
/// # Errors
/// The scratch thread; and for each namespace, the system call that failed.
pub fn interface_stats(netns: &[&Path]) -> Result<Vec<Result<Vec<InterfaceStats>, SysError>>, SysError> {
    let texts =
        kernel::namespace::run_in_each(netns, || std::fs::read_to_string("/proc/thread-self/net/dev"))?;
    let read = texts.into_iter().zip(netns).map(|(text, netns)| {
        let text = text?.map_err(|e| SysError::path("read interface counters in", netns, e))?;
        parse(&text).ok_or_else(|| {
            let unexpected = io::Error::new(io::ErrorKind::InvalidData, "unexpected form");
            SysError::path("parse interface counters of", netns, unexpected)
        })
    });
    Ok(read.collect())
}

/// proc_pid_net(5), `dev`: two lines of head, then a name and sixteen counters a line.
fn parse(text: &str) -> Option<Vec<InterfaceStats>> {
    let line = |line: &str| {
        let (name, counters) = line.rsplit_once(':')?;
        let counters: Vec<u64> =
            counters.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let &[
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            _,
            _,
            _,
            _,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
            ..,
        ] = counters.as_slice()
        else {
            return None;
        };
        let name = name.trim().to_owned();
        Some(InterfaceStats {
            name,
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        })
    };
    text.lines().skip(2).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Inter-| Receive | Transmit\n face |bytes packets|bytes packets\n";

    #[test]
    fn counters_stand_in_their_columns() {
        let text = format!(
            "{HEAD}    lo: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\neth0:1: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
        );
        let all = parse(&text).unwrap();
        let lo = InterfaceStats {
            name: "lo".to_owned(),
            rx_bytes: 1,
            rx_packets: 2,
            rx_errors: 3,
            rx_dropped: 4,
            tx_bytes: 5,
            tx_packets: 6,
            tx_errors: 7,
            tx_dropped: 8,
        };
        assert_eq!(all[0], lo);
        assert_eq!(all[1].name, "eth0:1");
        assert_eq!(parse(&format!("{HEAD}lo: 1 2")), None);
        assert_eq!(parse(HEAD), Some(vec![]));
    }

    #[test]
    fn a_namespaces_own_counters_are_read() {
        let Some(netns) = crate::netns::tests::Scratch::new() else { return };
        crate::lo_up(&netns.path).unwrap();
        let all = |netns: &Path| interface_stats(&[netns]).unwrap().remove(0).unwrap();
        let lo = |netns: &Path| all(netns).into_iter().find(|i| i.name == "lo").unwrap();
        assert_eq!(lo(&netns.path).tx_packets, 0);
        let namespace = std::fs::File::open(&netns.path).unwrap();
        use std::os::fd::AsFd as _;
        kernel::namespace::run_in(namespace.as_fd(), || {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"x", "127.0.0.1:9").unwrap();
        })
        .unwrap();
        assert!(lo(&netns.path).tx_packets > 0);
        // One that is gone fails alone.
        let gone = netns.path.with_extension("gone");
        let [first, second, third] =
            interface_stats(&[&netns.path, &gone, &netns.path]).unwrap().try_into().unwrap();
        assert_eq!(first.unwrap(), third.unwrap());
        assert!(second.unwrap_err().is_not_found());
    }
}
