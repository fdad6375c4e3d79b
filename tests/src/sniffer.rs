//! Every packet on an interface of this network namespace, both ways.

use std::{
    io::Read as _,
    net::UdpSocket,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use socket2::Socket;

/// Collects packets until it is stopped.
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    packets: Arc<Mutex<Vec<Vec<u8>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Sniffer {
    /// Listens on all interfaces.
    pub fn start() -> Self {
        Self::of(|_packet| true)
    }

    /// Starts a sniffer that keeps the packets of which `keep` is true.
    pub fn of(keep: impl Fn(&[u8]) -> bool + Send + 'static) -> Self {
        let all = Some(nix::sys::socket::SockProtocol::EthAll);
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all).expect("root can sniff");
        let mut socket = Socket::from(fd);
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("it is a socket");
        socket.set_recv_buffer_size(64 << 20).expect("root may");
        let stop = Arc::new(AtomicBool::new(false));
        let packets = Arc::new(Mutex::new(Vec::new()));
        let (stopped, kept) = (Arc::clone(&stop), Arc::clone(&packets));
        let mark = mark();
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 17];
            // Packets that were queued before the stop are still read: up to the mark, or to silence.
            loop {
                match socket.read(&mut buffer) {
                    Ok(read) if stopped.load(Ordering::SeqCst) && holds(&buffer[..read], &mark) => return,
                    Ok(read) if !keep(&buffer[..read]) => {}
                    Ok(read) => kept.lock().expect("no panic holds it").push(buffer[..read].to_vec()),
                    Err(_timeout) if stopped.load(Ordering::SeqCst) => return,
                    Err(_timeout) => {}
                }
            }
        });
        Self { stop, packets, thread: Some(thread) }
    }

    /// Stops, and returns all packets, from their link header on.
    pub fn stop(mut self) -> Vec<Vec<u8>> {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("not stopped before");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback is up");
        while !thread.is_finished() {
            // Nobody is to answer; and a full buffer may lose it.
            let _sent = socket.send_to(&mark(), "127.0.0.1:9");
            thread::sleep(Duration::from_millis(5));
        }
        thread.join().expect("it doesn't panic");
        std::mem::take(&mut self.packets.lock().expect("no panic holds it"))
    }
}

/// Text of the datagram that ends the sniffers of this process.
fn mark() -> Vec<u8> {
    format!("the sniffers of {} are to stop", std::process::id()).into_bytes()
}

/// Whether a packet holds these bytes.
pub fn holds(packet: &[u8], bytes: &[u8]) -> bool {
    packet.windows(bytes.len()).any(|window| window == bytes)
}

/// Source and destination port of a TCP packet, if it is one (loopback: 14 bytes of link header).
pub fn ports(packet: &[u8]) -> Option<(u16, u16)> {
    let ip = packet.get(14..)?;
    let (tcp, protocol) = match ip.first()? >> 4 {
        4 => (ip.get(usize::from(ip[0] & 15) * 4..)?, *ip.get(9)?),
        6 => (ip.get(40..)?, *ip.get(6)?),
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    (protocol == 6).then_some(())?;
    Some((port(0)?, port(2)?))
}
