//! The loopback interface, brought up by us: one rtnetlink message instead of one more plugin process.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use kernel::SysError;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// lo is the first interface of every network namespace.
const LO_INDEX: i32 = 1;
// rtnetlink(7), netlink(7), netdevice(7).
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;
/// struct nlmsghdr and struct ifinfomsg.
const HEADER_BYTES: usize = 16;
const MESSAGE_BYTES: u32 = 32;

/// Brings lo up in the network namespace pinned at `netns`. The kernel gives it 127.0.0.1 and ::1. Blocks for
/// some 0.1 ms; idempotent.
///
/// # Errors
/// The system call that failed.
pub fn lo_up(netns: &Path) -> Result<(), SysError> {
    let namespace =
        std::fs::File::open(netns).map_err(|e| SysError::path("open network namespace", netns, e))?;
    kernel::namespace::run_in(namespace.as_fd(), up)?.map_err(|e| SysError::path("bring lo up in", netns, e))
}

fn up() -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // NETLINK_ROUTE is protocol 0
    )?;
    let mut message = Vec::with_capacity(MESSAGE_BYTES as usize);
    message.extend(MESSAGE_BYTES.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]); // sequence number, port
    message.extend([0; 4]); // family AF_UNSPEC, padding, device type
    message.extend(LO_INDEX.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes()); // the flags that change
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut reply = [0; 1024];
    let (length, _) = recv(&socket, &mut reply, RecvFlags::empty())?;
    acknowledged(&reply[..length])
}

/// An acknowledgement is an error message whose error is 0, otherwise a negative errno.
fn acknowledged(reply: &[u8]) -> io::Result<()> {
    let kind = reply.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let error =
        reply.get(HEADER_BYTES..HEADER_BYTES + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, error) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no acknowledgement from rtnetlink")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn loopback_carries_traffic_once_it_is_up() {
        let Some(netns) = crate::netns::tests::Scratch::new() else { return };
        let inside = |work: fn() -> io::Result<()>| {
            let file = std::fs::File::open(&netns.path).unwrap();
            kernel::namespace::run_in(file.as_fd(), work).unwrap()
        };
        let connect = || {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            std::net::TcpStream::connect(listener.local_addr()?).map(drop)
        };
        assert!(inside(connect).is_err(), "lo must be down before");
        lo_up(&netns.path).unwrap();
        lo_up(&netns.path).unwrap();
        inside(connect).unwrap();
    }

    #[test]
    fn the_kernels_refusal_is_an_error() {
        let mut reply = [0; 36];
        reply[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        reply[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(acknowledged(&reply).unwrap_err().raw_os_error(), Some(1));
        assert!(acknowledged(&[]).is_err());
    }
}
