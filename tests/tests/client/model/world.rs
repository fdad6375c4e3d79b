//! What an application is told, by the contract: phases, frozen and shared contexts, values, errnos.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use proptest::{prelude::*, test_runner::TestCaseError};
use ssa_common::uapi::{IPPROTO_TLS, When, option};
use ssa_tests::in_tls::*;

use super::calls::*;

/// Counts of each outcome, over all sequences: they must not all end at the first refusal.
#[derive(Default)]
pub(crate) struct Met(pub(crate) std::collections::BTreeMap<String, usize>);

impl Met {
    pub(crate) fn count(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }
}

/// A context's settings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) frozen: bool,
    pub(crate) users: usize,
    pub(crate) hostname: String,
    pub(crate) trusts: bool,
    pub(crate) alpn: String,
    pub(crate) ttl: i64,
    /// Values by option, as in [`INTS`].
    pub(crate) ints: [i32; INTS.len()],
    /// Cipher suites that were set; none: the policy's own.
    pub(crate) suites: Option<Vec<&'static str>>,
}

pub(crate) const INTS: [i32; 10] = [
    TLS_REQUEST_PEER_AUTH,
    TLS_SESSION_REUSE,
    TLS_VERSION_MIN,
    TLS_VERSION_MAX,
    TLS_SERVER_OCSP_STAPLING,
    TLS_REVOCATION_CHECKS,
    TLS_OCSP_STAPLED_CHECKS,
    TLS_OCSP_CHECKS,
    TLS_CRL_CHECKS,
    TLS_CACHED_REV_CHECKS,
];

/// Place of `TLS_REVOCATION_CHECKS` among them.
pub(crate) const CHECKS: usize = 5;

impl Default for Settings {
    fn default() -> Self {
        Self {
            frozen: false,
            users: 1,
            hostname: String::new(),
            trusts: false,
            alpn: String::new(),
            ttl: 7200,
            ints: [0, 1, 0x303, 0x304, 0, 0, 1, 1, 1, 1],
            suites: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Phase {
    Fresh,
    Failed,
    Connected,
}

/// A socket as an application sees it.
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
    pub(crate) phase: Phase,
    /// State of TLS; none while it is no TLS socket.
    pub(crate) tls: Option<Tls>,
}

pub(crate) struct Tls {
    /// Index of its context.
    pub(crate) context: usize,
    pub(crate) own: usize,
    pub(crate) hostname: String,
    pub(crate) connected_once: bool,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) sockets: [Option<Socket>; SLOTS],
    pub(crate) contexts: Vec<Settings>,
    /// Ids that were got, and the contexts that they name.
    pub(crate) ids: Vec<([u8; 8], usize)>,
    pub(crate) met: Met,
}

pub(crate) struct Peers {
    pub(crate) server: SocketAddr,
    pub(crate) nobody: SocketAddr,
    pub(crate) ca: Vec<u8>,
}

pub(crate) type Checked = Result<(), TestCaseError>;

pub(crate) fn errno(result: libc::c_int) -> i32 {
    if result == 0 { 0 } else { io::Error::last_os_error().raw_os_error().unwrap() }
}

impl World {
    pub(crate) fn call(&mut self, peers: &Peers, call: &Call) -> Checked {
        match call {
            Call::Open(slot) => {
                self.close(*slot);
                // SAFETY: a plain system call; the descriptor is ours alone.
                let fd = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)) };
                self.sockets[*slot] = Some(Socket { fd, phase: Phase::Fresh, tls: None });
                Ok(())
            }
            Call::Close(slot) => {
                self.close(*slot);
                Ok(())
            }
            Call::Prepare(slot) => {
                self.set(*slot, TLS_HOSTNAME, &text(NAME), None)?;
                self.set(*slot, TLS_TRUSTED_PEER_CERTIFICATES, &peers.ca, None)
            }
            Call::Set(slot, number, value) => match value {
                Value::Bytes(bytes) => self.set(*slot, *number, bytes, None),
                Value::Trust => self.set(*slot, *number, &peers.ca, None),
            },
            Call::Adopt(slot, back) => match self.ids.iter().rev().nth(*back) {
                Some((id, context)) => self.set(*slot, TLS_CONTEXT, &id.clone(), Some(*context)),
                None => Ok(()),
            },
            Call::Get(slot, number, room) => self.get(*slot, *number, *room),
            Call::Connect(slot, to) => self.connect(*slot, peers, *to),
            Call::Disconnect(slot) => {
                let Some(socket) = &mut self.sockets[*slot] else { return Ok(()) };
                // SAFETY: the kernel reads the 16 bytes of an address without a family.
                let done = unsafe { libc::connect(socket.fd.as_raw_fd(), [0_u8; 16].as_ptr().cast(), 16) };
                prop_assert_eq!(errno(done), 0);
                if socket.phase == Phase::Connected {
                    socket.phase = Phase::Fresh;
                }
                Ok(())
            }
        }
    }

    pub(crate) fn close(&mut self, slot: usize) {
        if let Some(Socket { tls: Some(tls), .. }) = self.sockets[slot].take() {
            self.leave(tls.context);
        }
    }

    pub(crate) fn leave(&mut self, context: usize) {
        self.contexts[context].users -= 1;
    }

    pub(crate) fn set(&mut self, slot: usize, number: i32, bytes: &[u8], adopts: Option<usize>) -> Checked {
        let Some(socket) = &mut self.sockets[slot] else { return Ok(()) };
        let fd = socket.fd.as_raw_fd();
        let len = libc::socklen_t::try_from(bytes.len()).unwrap();
        // SAFETY: the kernel reads `len` bytes.
        let found = errno(unsafe { libc::setsockopt(fd, IPPROTO_TLS, number, bytes.as_ptr().cast(), len) });
        let expected = self.expect_set(slot, number, bytes, adopts);
        prop_assert_eq!(found, expected, "set {}", number);
        self.met.count(format!("set {found}"));
        if found != 0 && self.sockets[slot].as_ref().is_some_and(|socket| socket.tls.is_some()) {
            prop_assert_ne!(read(fd, TLS_ERROR, 256)?.1.len(), 1, "TLS_ERROR is empty");
        }
        Ok(())
    }

    /// The errno of a set; changes the model if it is 0.
    pub(crate) fn expect_set(&mut self, slot: usize, number: i32, bytes: &[u8], adopts: Option<usize>) -> i32 {
        let socket = self.sockets[slot].as_mut().unwrap();
        if socket.tls.is_none() {
            if socket.phase == Phase::Connected {
                return libc::EOPNOTSUPP;
            }
            let own = self.contexts.len();
            self.contexts.push(Settings::default());
            socket.tls = Some(Tls { context: own, own, hostname: String::new(), connected_once: false });
        }
        let tls = socket.tls.as_mut().unwrap();
        if option(number).is_none_or(|option| option.set == When::Never) {
            return libc::ENOPROTOOPT;
        }
        if socket.phase == Phase::Connected {
            return libc::EOPNOTSUPP;
        }
        let is_name = number == TLS_HOSTNAME || number == TLS_HOSTNAME_2;
        let context = &mut self.contexts[tls.context];
        if context.frozen && !is_name {
            return libc::EOPNOTSUPP;
        }
        let string = || match bytes.split_last() {
            Some((0, text)) if !text.is_empty() && !text.contains(&0) => String::from_utf8(text.to_vec()).ok(),
            _ => None,
        };
        match number {
            TLS_HOSTNAME | TLS_HOSTNAME_2 => {
                let good =
                    |name: &String| [NAME, "other.ssa.test", "127.0.0.1"].contains(&name.as_str()) || is_prefix(name);
                let Some(name) = string().filter(good) else { return libc::EINVAL };
                tls.hostname.clone_from(&name);
                if tls.context == tls.own && !context.frozen {
                    context.hostname = name;
                }
            }
            TLS_TRUSTED_PEER_CERTIFICATES => context.trusts = true,
            TLS_ALPN => {
                let Some(list) = string().filter(|list| list.split(',').all(|one| !one.is_empty())) else {
                    return libc::EINVAL;
                };
                context.alpn = list;
            }
            TLS_SESSION_TTL => {
                let Ok(value) = bytes.try_into().map(i64::from_ne_bytes) else { return libc::EINVAL };
                if value < 0 {
                    return libc::EINVAL;
                }
                context.ttl = value;
            }
            TLS_DISABLE_CIPHER | TLS_TRUSTED_CIPHERS | TLS_ENABLE_CIPHER => return ciphers(context, number, string()),
            TLS_CONTEXT => {
                let Some(adopted) = adopts else { unreachable!("sequences set TLS_CONTEXT by adopting only") };
                if self.contexts[adopted].users == 0 {
                    return libc::EINVAL;
                }
                let old = tls.context;
                self.contexts[adopted].frozen = true;
                if adopted != old {
                    tls.context = adopted;
                    tls.hostname.clone_from(&self.contexts[adopted].hostname);
                    self.contexts[adopted].users += 1;
                    self.leave(old);
                }
            }
            TLS_REQUEST_PEER_AUTH
            | TLS_REVOCATION_CHECKS..=TLS_CACHED_REV_CHECKS
            | TLS_SESSION_REUSE
            | TLS_VERSION_MIN
            | TLS_VERSION_MAX
            | TLS_SERVER_OCSP_STAPLING => {
                let Ok(value) = bytes.try_into().map(i32::from_ne_bytes) else { return libc::EINVAL };
                let at = INTS.iter().position(|option| *option == number).unwrap();
                match number {
                    TLS_REQUEST_PEER_AUTH if !(0..=2).contains(&value) => return libc::EINVAL,
                    TLS_REVOCATION_CHECKS..=TLS_CACHED_REV_CHECKS | TLS_SESSION_REUSE | TLS_SERVER_OCSP_STAPLING
                        if !(0..=1).contains(&value) =>
                    {
                        return libc::EINVAL;
                    }
                    TLS_VERSION_MIN | TLS_VERSION_MAX if (0x300..0x303).contains(&value) => return libc::EPROTO,
                    TLS_VERSION_MIN | TLS_VERSION_MAX if !(0x303..=0x304).contains(&value) => return libc::EINVAL,
                    TLS_VERSION_MIN if value > context.ints[3] => return libc::EINVAL,
                    TLS_VERSION_MAX if value < context.ints[2] => return libc::EINVAL,
                    _ => context.ints[at] = value,
                }
            }
            _ => unreachable!("{number}"),
        }
        0
    }

    pub(crate) fn get(&mut self, slot: usize, number: i32, room: Room) -> Checked {
        let Some(socket) = &mut self.sockets[slot] else { return Ok(()) };
        let fd = socket.fd.as_raw_fd();
        let fixed = match number {
            TLS_SESSION_TTL | TLS_ID | TLS_CONTEXT => Some(8),
            TLS_REQUEST_PEER_AUTH
            | TLS_REVOCATION_CHECKS..=TLS_CACHED_REV_CHECKS
            | TLS_SESSION_REUSE
            | TLS_RESUMED_SESSION
            | TLS_VERSION_MIN
            | TLS_VERSION_MAX
            | TLS_VERSION_CONN
            | TLS_SERVER_OCSP_STAPLING
            | TLS_STATE
            | TLS_PEER_CERTIFICATE_COUNT => Some(4),
            TLS_PEER_CERTIFICATE_SHA256 => Some(32),
            _ => None,
        };
        let size = match room {
            Room::Fits | Room::Null => fixed.unwrap_or(4096),
            Room::TooSmall => fixed.map_or(0, |size| size - 1),
        };
        let (found, value) =
            if room == Room::Null { (read_null(fd, number, size), Vec::new()) } else { read(fd, number, size)? };
        let offered = option(number).map_or(When::Never, |option| option.get);
        let connected = socket.phase == Phase::Connected;
        let expected = match (&socket.tls, offered) {
            (None, _) | (_, When::Never) => libc::ENOPROTOOPT,
            (Some(_), When::Connected) if !connected => libc::EOPNOTSUPP,
            (Some(_), When::Fresh) if connected => libc::EOPNOTSUPP,
            (Some(_), _) if room == Room::TooSmall && (fixed.is_some() || !is_past_the_chain(number)) => libc::EINVAL,
            (Some(_), _) if room == Room::Null => libc::EFAULT,
            // A leaf and its root.
            (Some(_), _) if is_past_the_chain(number) => libc::ENOENT,
            (Some(_), _) => 0,
        };
        prop_assert_eq!(found, expected, "get {} {:?} {:?}", number, room, socket.phase);
        self.met.count(format!("get {found}"));
        let (0, Some(tls)) = (found, &socket.tls) else { return Ok(()) };
        let context = &mut self.contexts[tls.context];
        match number {
            TLS_HOSTNAME | TLS_HOSTNAME_2 => prop_assert_eq!(value, text(&tls.hostname)),
            TLS_ALPN if !connected => prop_assert_eq!(value, text(&context.alpn)),
            TLS_SESSION_TTL => prop_assert_eq!(value, context.ttl.to_ne_bytes().to_vec()),
            TLS_REQUEST_PEER_AUTH
            | TLS_REVOCATION_CHECKS..=TLS_CACHED_REV_CHECKS
            | TLS_SESSION_REUSE
            | TLS_VERSION_MIN
            | TLS_VERSION_MAX
            | TLS_SERVER_OCSP_STAPLING => {
                let at = INTS.iter().position(|option| *option == number).unwrap();
                prop_assert_eq!(value, context.ints[at].to_ne_bytes().to_vec(), "{}", number);
            }
            TLS_TRUSTED_CIPHERS => {
                if let Some(suites) = &context.suites {
                    prop_assert_eq!(value, text(&suites.join(":")));
                }
            }
            TLS_CONTEXT => {
                context.frozen = true;
                self.ids.push((value.try_into().unwrap(), tls.context));
            }
            TLS_STATE => {
                let phase = match socket.phase {
                    Phase::Fresh => 0,
                    Phase::Connected => 2,
                    Phase::Failed => 4,
                };
                prop_assert_eq!(value, i32::to_ne_bytes(phase).to_vec());
            }
            TLS_PEER_CERTIFICATE_COUNT => prop_assert_eq!(value, 2_i32.to_ne_bytes().to_vec()),
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn connect(&mut self, slot: usize, peers: &Peers, to: To) -> Checked {
        let Some(socket) = &mut self.sockets[slot] else { return Ok(()) };
        let addr = socket2::SockAddr::from(match to {
            To::Server => peers.server,
            To::Nobody => peers.nobody,
        });
        // SAFETY: the kernel reads an address of the length that is given.
        let found = errno(unsafe { libc::connect(socket.fd.as_raw_fd(), addr.as_ptr().cast(), addr.len()) });
        if socket.phase == Phase::Connected {
            prop_assert_eq!(found, libc::EISCONN);
            return Ok(());
        }
        let expected = match (&socket.tls, to) {
            (Some(tls), _) if tls.hostname.is_empty() => libc::EPROTO,
            (Some(tls), To::Server) => {
                let context = &self.contexts[tls.context];
                let usable = context.suites.as_ref().is_none_or(|suites| {
                    suites.iter().any(|suite| {
                        if *suite == SUITES[2] { context.ints[2] == 0x303 } else { context.ints[3] == 0x304 }
                    })
                });
                let verified = context.trusts && [NAME, "127.0.0.1"].contains(&tls.hostname.as_str());
                if usable && verified && context.ints[CHECKS] == 0 { 0 } else { libc::EPROTO }
            }
            (_, To::Nobody) => libc::ECONNREFUSED,
            (None, To::Server) => 0,
        };
        prop_assert_eq!(found, expected, "connect {:?}", to);
        self.met.count(format!("connect {found}{}", if socket.tls.is_some() { "" } else { " in plaintext" }));
        if let Some(tls) = &mut socket.tls {
            socket.phase = if found == 0 { Phase::Connected } else { Phase::Failed };
            tls.connected_once |= found == 0;
            let error = read(socket.fd.as_raw_fd(), TLS_ERROR, 256)?.1;
            prop_assert_eq!(error.len() > 1, found != 0, "TLS_ERROR {:?}", String::from_utf8_lossy(&error));
        } else if found == 0 {
            socket.phase = Phase::Connected;
        }
        Ok(())
    }
}

/// A name that lost its last byte to a wrong length is still a name.
/// Whether this is the number of a certificate that the peer's chain, a leaf and its root, has not.
fn is_past_the_chain(number: i32) -> bool {
    TLS_PEER_CERTIFICATE.skip(2).any(|past| past == number)
}

pub(crate) fn is_prefix(name: &str) -> bool {
    [NAME, "other.ssa.test"].iter().any(|whole| whole.strip_prefix(name).is_some_and(|rest| rest.len() == 1))
}

pub(crate) fn ciphers(context: &mut Settings, number: i32, value: Option<String>) -> i32 {
    let Some(value) = value else { return libc::EINVAL };
    let mut asked = Vec::new();
    for name in value.split(':') {
        match SUITES.iter().find(|suite| **suite == name) {
            Some(suite) => asked.push(*suite),
            None if name == "NULL-SHA256" && number != TLS_DISABLE_CIPHER => return libc::EPROTO,
            None => return libc::EINVAL,
        }
    }
    match number {
        TLS_TRUSTED_CIPHERS => {
            let mut list: Vec<&str> = Vec::new();
            for suite in asked {
                if !list.contains(&suite) {
                    list.push(suite);
                }
            }
            context.suites = Some(list);
        }
        // The policy's own list has many more: then the model only knows that the call succeeds once.
        TLS_DISABLE_CIPHER => match &mut context.suites {
            Some(list) if list.contains(&asked[0]) => list.retain(|suite| *suite != asked[0]),
            Some(_) => return libc::EINVAL,
            None => return UNKNOWN,
        },
        _ => match &mut context.suites {
            Some(list) => {
                list.retain(|suite| *suite != asked[0]);
                list.insert(0, asked[0]);
            }
            None => return UNKNOWN,
        },
    }
    0
}

/// Sequences set a list before they edit it.
pub(crate) const UNKNOWN: i32 = -1;

pub(crate) fn read(fd: i32, number: i32, size: usize) -> Result<(i32, Vec<u8>), TestCaseError> {
    let mut value = vec![0xee; size.max(1)];
    let mut len = libc::socklen_t::try_from(size).unwrap();
    // SAFETY: the kernel writes at most `len` bytes.
    let done = errno(unsafe { libc::getsockopt(fd, IPPROTO_TLS, number, value.as_mut_ptr().cast(), &raw mut len) });
    if done == 0 {
        prop_assert!(len as usize <= size);
        value.truncate(len as usize);
    } else {
        prop_assert!(value.iter().all(|byte| *byte == 0xee), "an error writes nothing");
    }
    Ok((done, value))
}

pub(crate) fn read_null(fd: i32, number: i32, size: usize) -> i32 {
    let mut len = libc::socklen_t::try_from(size).unwrap();
    // SAFETY: the kernel is to refuse the null pointer.
    errno(unsafe { libc::getsockopt(fd, IPPROTO_TLS, number, std::ptr::null_mut(), &raw mut len) })
}
