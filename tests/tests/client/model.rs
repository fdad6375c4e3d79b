//! Random sequences of calls on several sockets, against a model of the options' contract.
//!
//! The model knows what a program is told: phases, frozen and shared contexts, values, errnos. It is
//! written from the contract, not from the hooks.

use std::{
    fs, io,
    net::SocketAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use ssa_common::uapi::{IPPROTO_TLS, When, option};
use ssa_tests::{
    agent::{Agent, cgroup_mount},
    few,
    pki::{Leaf, Pki},
    server::{Server, closed_port},
};

const NAME: &str = "peer.ssa.test";
const SLOTS: usize = 3;
const SEQUENCES: usize = 1000;

/// Suites that sequences name; the server takes all of them.
const SUITES: [&str; 3] = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"];

#[derive(Clone, Debug)]
enum Call {
    Open(usize),
    /// A host name and trust, as a program that means to connect.
    Prepare(usize),
    Close(usize),
    Set(usize, i32, Value),
    /// Length of the buffer, as an offset from what fits, or a null pointer.
    Get(usize, i32, Room),
    /// Adopts the context of the id that was got as the n-th from last.
    Adopt(usize, usize),
    Connect(usize, To),
    /// `connect` to AF_UNSPEC.
    Disconnect(usize),
}

#[derive(Clone, Debug)]
enum Value {
    Bytes(Vec<u8>),
    Trust,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Room {
    Fits,
    TooSmall,
    Null,
}

#[derive(Clone, Copy, Debug)]
enum To {
    Server,
    Nobody,
}

fn text(text: &str) -> Vec<u8> {
    text.bytes().chain([0]).collect()
}

/// How often each outcome was met, over all sequences: they must not all end at the first refusal.
#[derive(Default)]
struct Met(std::collections::BTreeMap<String, usize>);

impl Met {
    fn count(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }
}

/// Calls, with values that are more often right than wrong.
fn call() -> impl Strategy<Value = Call> {
    let slot = 0..SLOTS;
    let int =
        prop_oneof![Just(0), Just(1), Just(2), Just(3), Just(-1), Just(0x301), Just(0x303), Just(0x304), Just(0x305)];
    let long = prop_oneof![Just(0_i64), Just(60), Just(-1), Just(i64::MAX)];
    let name = prop_oneof![
        6 => Just(NAME), 1 => Just("other.ssa.test"), 1 => Just(""), 1 => Just(".bad"), 1 => Just("127.0.0.1"), 1 => Just("a b")
    ];
    let alpn = prop_oneof![Just("h2"), Just("h2,http/1.1"), Just(","), Just("h2,,x")];
    let suite = prop_oneof![4 => Just(SUITES[0]), 4 => Just(SUITES[1]), 4 => Just(SUITES[2]), 1 => Just("NULL-SHA256"), 1 => Just("nope")];
    let list = proptest::collection::vec(suite.clone(), 1..4).prop_map(|names| names.join(":"));
    let bytes = |strategy: BoxedStrategy<Vec<u8>>| {
        // Sometimes with a byte too many or too few.
        (strategy, 0..12_u8).prop_map(|(mut bytes, wrong)| {
            match wrong {
                0 => bytes.push(0),
                1 => drop(bytes.pop()),
                _ => {}
            }
            Value::Bytes(bytes)
        })
    };
    // Nobody says whether the server's certificate is revoked: option 102 would end most sequences.
    let ints = prop_oneof![
        3 => prop_oneof![Just(94), Just(108), Just(111), Just(112), Just(122)], 1 => 102..107_i32
    ];
    let set = prop_oneof![
        4 => (prop_oneof![Just(85), Just(86)], bytes(name.prop_map(text).boxed())),
        3 => (Just(87), Just(Value::Trust)),
        6 => (ints, bytes(int.prop_map(|value: i32| value.to_ne_bytes().to_vec()).boxed())),
        1 => (Just(91), bytes(long.prop_map(|value| value.to_ne_bytes().to_vec()).boxed())),
        1 => (Just(90), bytes(alpn.prop_map(text).boxed())),
        2 => (prop_oneof![Just(92), Just(110)], bytes(suite.prop_map(text).boxed())),
        2 => (Just(97), bytes(list.prop_map(|list| text(&list)).boxed())),
        1 => (prop_oneof![Just(84), Just(93), Just(101), Just(130), Just(160)], Just(Value::Bytes(vec![1, 0, 0, 0]))),
    ];
    let room = prop_oneof![8 => Just(Room::Fits), 1 => Just(Room::TooSmall), 1 => Just(Room::Null)];
    prop_oneof![
        2 => slot.clone().prop_map(Call::Open),
        4 => slot.clone().prop_map(Call::Prepare),
        1 => slot.clone().prop_map(Call::Close),
        8 => (slot.clone(), set).prop_map(|(slot, (option, value))| Call::Set(slot, option, value)),
        6 => (slot.clone(), 84..151_i32, room).prop_map(|(slot, option, room)| Call::Get(slot, option, room)),
        2 => (slot.clone(), Just(107), Just(Room::Fits)).prop_map(|(slot, option, room)| Call::Get(slot, option, room)),
        2 => (slot.clone(), 0..3_usize).prop_map(|(slot, back)| Call::Adopt(slot, back)),
        4 => (slot.clone(), prop_oneof![3 => Just(To::Server), 1 => Just(To::Nobody)]).prop_map(|(slot, to)| Call::Connect(slot, to)),
        1 => slot.prop_map(Call::Disconnect),
    ]
}

/// A context's settings.
#[derive(Clone, Debug)]
struct Settings {
    frozen: bool,
    users: usize,
    hostname: String,
    trusts: bool,
    alpn: String,
    ttl: i64,
    /// By option, as in [`INTS`].
    ints: [i32; INTS.len()],
    /// None: the policy's own.
    suites: Option<Vec<&'static str>>,
}

const INTS: [i32; 10] = [94, 108, 111, 112, 122, 102, 103, 104, 105, 106];
/// Place of `TLS_REVOCATION_CHECKS` among them.
const CHECKS: usize = 5;

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
enum Phase {
    Fresh,
    Failed,
    Connected,
}

/// A socket as a program sees it.
struct Socket {
    fd: OwnedFd,
    phase: Phase,
    /// None while it is no TLS socket.
    tls: Option<Tls>,
}

struct Tls {
    /// Index of its context.
    context: usize,
    own: usize,
    hostname: String,
    connected_once: bool,
}

#[derive(Default)]
struct World {
    sockets: [Option<Socket>; SLOTS],
    contexts: Vec<Settings>,
    /// Ids that were got, and the contexts that they name.
    ids: Vec<([u8; 8], usize)>,
    met: Met,
}

struct Peers {
    server: SocketAddr,
    nobody: SocketAddr,
    ca: Vec<u8>,
}

type Checked = Result<(), TestCaseError>;

fn errno(result: libc::c_int) -> i32 {
    if result == 0 { 0 } else { io::Error::last_os_error().raw_os_error().unwrap() }
}

impl World {
    fn call(&mut self, peers: &Peers, call: &Call) -> Checked {
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
                self.set(*slot, 85, &text(NAME), None)?;
                self.set(*slot, 87, &peers.ca, None)
            }
            Call::Set(slot, number, value) => match value {
                Value::Bytes(bytes) => self.set(*slot, *number, bytes, None),
                Value::Trust => self.set(*slot, *number, &peers.ca, None),
            },
            Call::Adopt(slot, back) => match self.ids.iter().rev().nth(*back) {
                Some((id, context)) => self.set(*slot, 107, &id.clone(), Some(*context)),
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

    fn close(&mut self, slot: usize) {
        if let Some(Socket { tls: Some(tls), .. }) = self.sockets[slot].take() {
            self.leave(tls.context);
        }
    }

    fn leave(&mut self, context: usize) {
        self.contexts[context].users -= 1;
    }

    fn set(&mut self, slot: usize, number: i32, bytes: &[u8], adopts: Option<usize>) -> Checked {
        let Some(socket) = &mut self.sockets[slot] else { return Ok(()) };
        let fd = socket.fd.as_raw_fd();
        let len = libc::socklen_t::try_from(bytes.len()).unwrap();
        // SAFETY: the kernel reads `len` bytes.
        let found = errno(unsafe { libc::setsockopt(fd, IPPROTO_TLS, number, bytes.as_ptr().cast(), len) });
        let expected = self.expect_set(slot, number, bytes, adopts);
        prop_assert_eq!(found, expected, "set {}", number);
        self.met.count(format!("set {found}"));
        if found != 0 && self.sockets[slot].as_ref().is_some_and(|socket| socket.tls.is_some()) {
            prop_assert_ne!(read(fd, 100, 256)?.1.len(), 1, "TLS_ERROR is empty");
        }
        Ok(())
    }

    /// The errno of a set; changes the model if it is 0.
    fn expect_set(&mut self, slot: usize, number: i32, bytes: &[u8], adopts: Option<usize>) -> i32 {
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
        let is_name = number == 85 || number == 86;
        let context = &mut self.contexts[tls.context];
        if context.frozen && !is_name {
            return libc::EOPNOTSUPP;
        }
        let string = || match bytes.split_last() {
            Some((0, text)) if !text.is_empty() && !text.contains(&0) => String::from_utf8(text.to_vec()).ok(),
            _ => None,
        };
        match number {
            85 | 86 => {
                let good =
                    |name: &String| [NAME, "other.ssa.test", "127.0.0.1"].contains(&name.as_str()) || is_prefix(name);
                let Some(name) = string().filter(good) else { return libc::EINVAL };
                tls.hostname.clone_from(&name);
                if tls.context == tls.own && !context.frozen {
                    context.hostname = name;
                }
            }
            87 => context.trusts = true,
            90 => {
                let Some(list) = string().filter(|list| list.split(',').all(|one| !one.is_empty())) else {
                    return libc::EINVAL;
                };
                context.alpn = list;
            }
            91 => {
                let Ok(value) = bytes.try_into().map(i64::from_ne_bytes) else { return libc::EINVAL };
                if value < 0 {
                    return libc::EINVAL;
                }
                context.ttl = value;
            }
            92 | 97 | 110 => return ciphers(context, number, string()),
            107 => {
                let Some(adopted) = adopts else { unreachable!("sequences set 107 by adopting only") };
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
            94 | 102..=106 | 108 | 111 | 112 | 122 => {
                let Ok(value) = bytes.try_into().map(i32::from_ne_bytes) else { return libc::EINVAL };
                let at = INTS.iter().position(|option| *option == number).unwrap();
                match number {
                    94 if !(0..=2).contains(&value) => return libc::EINVAL,
                    102..=106 | 108 | 122 if !(0..=1).contains(&value) => return libc::EINVAL,
                    111 | 112 if (0x300..0x303).contains(&value) => return libc::EPROTO,
                    111 | 112 if !(0x303..=0x304).contains(&value) => return libc::EINVAL,
                    111 if value > context.ints[3] => return libc::EINVAL,
                    112 if value < context.ints[2] => return libc::EINVAL,
                    _ => context.ints[at] = value,
                }
            }
            _ => unreachable!("{number}"),
        }
        0
    }

    fn get(&mut self, slot: usize, number: i32, room: Room) -> Checked {
        let Some(socket) = &mut self.sockets[slot] else { return Ok(()) };
        let fd = socket.fd.as_raw_fd();
        let fixed = match number {
            91 | 96 | 107 => Some(8),
            94 | 102..=106 | 108 | 109 | 111 | 112 | 113 | 122 | 130 | 131 => Some(4),
            150 => Some(32),
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
            (Some(_), _) if room == Room::TooSmall && (fixed.is_some() || !(134..148).contains(&number)) => {
                libc::EINVAL
            }
            (Some(_), _) if room == Room::Null => libc::EFAULT,
            // A leaf and its root.
            (Some(_), _) if (134..148).contains(&number) => libc::ENOENT,
            (Some(_), _) => 0,
        };
        prop_assert_eq!(found, expected, "get {} {:?} {:?}", number, room, socket.phase);
        self.met.count(format!("get {found}"));
        let (0, Some(tls)) = (found, &socket.tls) else { return Ok(()) };
        let context = &mut self.contexts[tls.context];
        match number {
            85 | 86 => prop_assert_eq!(value, text(&tls.hostname)),
            90 if !connected => prop_assert_eq!(value, text(&context.alpn)),
            91 => prop_assert_eq!(value, context.ttl.to_ne_bytes().to_vec()),
            94 | 102..=106 | 108 | 111 | 112 | 122 => {
                let at = INTS.iter().position(|option| *option == number).unwrap();
                prop_assert_eq!(value, context.ints[at].to_ne_bytes().to_vec(), "{}", number);
            }
            97 => {
                if let Some(suites) = &context.suites {
                    prop_assert_eq!(value, text(&suites.join(":")));
                }
            }
            107 => {
                context.frozen = true;
                self.ids.push((value.try_into().unwrap(), tls.context));
            }
            130 => {
                let phase = match socket.phase {
                    Phase::Fresh => 0,
                    Phase::Connected => 2,
                    Phase::Failed => 4,
                };
                prop_assert_eq!(value, i32::to_ne_bytes(phase).to_vec());
            }
            131 => prop_assert_eq!(value, 2_i32.to_ne_bytes().to_vec()),
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, slot: usize, peers: &Peers, to: To) -> Checked {
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
            let error = read(socket.fd.as_raw_fd(), 100, 256)?.1;
            prop_assert_eq!(error.len() > 1, found != 0, "TLS_ERROR {:?}", String::from_utf8_lossy(&error));
        } else if found == 0 {
            socket.phase = Phase::Connected;
        }
        Ok(())
    }
}

/// A name that lost its last byte to a wrong length is still a name.
fn is_prefix(name: &str) -> bool {
    [NAME, "other.ssa.test"].iter().any(|whole| whole.strip_prefix(name).is_some_and(|rest| rest.len() == 1))
}

fn ciphers(context: &mut Settings, number: i32, value: Option<String>) -> i32 {
    let Some(value) = value else { return libc::EINVAL };
    let mut asked = Vec::new();
    for name in value.split(':') {
        match SUITES.iter().find(|suite| **suite == name) {
            Some(suite) => asked.push(*suite),
            None if name == "NULL-SHA256" && number != 92 => return libc::EPROTO,
            None => return libc::EINVAL,
        }
    }
    match number {
        97 => {
            let mut list: Vec<&str> = Vec::new();
            for suite in asked {
                if !list.contains(&suite) {
                    list.push(suite);
                }
            }
            context.suites = Some(list);
        }
        // The policy's own list has many more: then the model only knows that the call succeeds once.
        92 => match &mut context.suites {
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
const UNKNOWN: i32 = -1;

fn read(fd: i32, number: i32, size: usize) -> Result<(i32, Vec<u8>), TestCaseError> {
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

fn read_null(fd: i32, number: i32, size: usize) -> i32 {
    let mut len = libc::socklen_t::try_from(size).unwrap();
    // SAFETY: the kernel is to refuse the null pointer.
    errno(unsafe { libc::getsockopt(fd, IPPROTO_TLS, number, std::ptr::null_mut(), &raw mut len) })
}

/// Puts this process into a cgroup, and takes it out again at the end: dropping an agent kills what is
/// in its cgroup.
struct Inside;

impl Inside {
    fn enter(agent: &Agent) -> Self {
        fs::write(agent.cgroup().join("cgroup.procs"), "0").unwrap();
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        fs::write(cgroup_mount().join("cgroup.procs"), "0").unwrap();
    }
}

#[test]
fn random_sequences_do_as_the_contract_says() {
    let pki = Pki::new();
    let server = Server::echo("127.0.0.1", &pki.leaf(Leaf::of(&[NAME, "127.0.0.1"])));
    let nobody = SocketAddr::from(([127, 0, 0, 1], closed_port("127.0.0.1")));
    let peers = Peers { server: server.addr, nobody, ca: text(&pki.ca_pem()) };
    let agent = Agent::start_quiet();
    let inside = Inside::enter(&agent);
    let config = Config {
        cases: u32::try_from(few(SEQUENCES)).unwrap(),
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let sequences = proptest::collection::vec(call(), 1..50);
    let met = std::cell::RefCell::new(Met::default());
    let result = TestRunner::new(config).run(&sequences, |calls| {
        let mut world = World { met: met.take(), ..World::default() };
        for slot in 0..SLOTS {
            world.call(&peers, &Call::Open(slot))?;
        }
        for call in calls {
            if let Call::Set(slot @ 0..SLOTS, 92 | 110, _) = call {
                let list = Value::Bytes(text(&format!("{}:{}", SUITES[0], SUITES[2])));
                world.call(&peers, &Call::Set(slot, 97, list))?;
            }
            world.call(&peers, &call)?;
        }
        met.replace(world.met);
        Ok(())
    });
    drop(inside);
    let met = met.into_inner().0;
    println!("{met:?}");
    assert_eq!(agent.entries("CONTEXTS"), 0, "all is forgotten");
    if let Err(error) = result {
        panic!("{error}");
    }
    for (what, times) in [("connect 0", 200), ("connect 71", 300), ("connect 111", 80), ("get 0", 500), ("set 0", 3000)]
    {
        assert!(met.get(what).is_some_and(|count| *count >= few(times)), "{what}: {met:?}");
    }
}
