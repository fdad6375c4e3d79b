//! A proxy between the agent and a peer that does to a connection what networks do.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use crate::server::{Server, reset};

/// Harm that the proxy does to each direction.
#[derive(Clone, Copy, Debug)]
pub enum Toxic {
    /// Delays each piece.
    Latency(Duration),
    /// Pieces of so many bytes at most.
    Slices(usize),
    /// Bytes in a second, at most.
    Bandwidth(usize),
    /// A FIN after so many bytes, which the peer did not send.
    Cut(usize),
    /// A reset after so many bytes.
    Reset(usize),
    /// The end of one direction comes late.
    SlowClose(Duration),
}

/// Starts a proxy to `peer` on 127.0.0.1.
pub fn proxy(peer: SocketAddr, toxic: Toxic) -> Server {
    Server::tcp("127.0.0.1", move |agent| {
        let Ok(peer) = TcpStream::connect(peer) else { return };
        let (Ok(agent_too), Ok(peer_too)) = (agent.try_clone(), peer.try_clone()) else { return };
        let up = thread::spawn(move || copy(agent_too, peer_too, toxic));
        copy(peer, agent, toxic);
        let _ended = up.join();
    })
}

fn copy(mut from: TcpStream, mut to: TcpStream, toxic: Toxic) {
    const CHUNK: usize = 16 * 1024;
    let mut buffer = vec![0; if let Toxic::Slices(most) = toxic { most } else { CHUNK }];
    let mut passed = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => {
                if let Toxic::SlowClose(late) = toxic {
                    thread::sleep(late);
                }
                let _gone = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(read) => read,
            Err(_reset) => {
                reset(&to);
                let _gone = to.shutdown(Shutdown::Both);
                return;
            }
        };
        match toxic {
            Toxic::Latency(late) => thread::sleep(late),
            Toxic::Bandwidth(bytes) => thread::sleep(Duration::from_secs_f64(read as f64 / bytes as f64)),
            Toxic::Cut(after) if passed + read > after => {
                let _gone = to.write_all(&buffer[..after - passed]);
                let _gone = to.shutdown(Shutdown::Write);
                return;
            }
            Toxic::Reset(after) if passed + read > after => {
                reset(&to);
                let _gone = to.shutdown(Shutdown::Both);
                let _gone = from.shutdown(Shutdown::Both);
                return;
            }
            Toxic::Slices(_) | Toxic::Cut(_) | Toxic::Reset(_) | Toxic::SlowClose(_) => {}
        }
        if to.write_all(&buffer[..read]).is_err() {
            reset(&from);
            let _gone = from.shutdown(Shutdown::Both);
            return;
        }
        passed += read;
    }
}
