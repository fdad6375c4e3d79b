//! Names that applications have resolved, learned from DNS answers: rules may go by them.
//!
//! An answer counts if it comes from the server, and to the socket, that was asked, with the number and the question
//! that were asked, and once. What goes to name servers in another way is not seen: DNS over TLS or HTTPS, by a
//! resolver in another service, or from /etc/hosts.

use crate::sync::lock;
use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use hickory_resolver::proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RData},
};
use serde::{Deserialize, Serialize};
use ssa_common::{event::Datagram, socket::Endpoint};
use tracing::debug;
use zerocopy::FromBytes as _;

/// Longest time for which an answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Longest and shortest time for which an answer counts, whatever TTL its server gives: an application needs a moment
/// to connect.
const MOST: Duration = Duration::from_secs(300);
const LEAST: Duration = Duration::from_secs(5);
/// Most questions that wait, and most addresses that are known: at one more the old ones go, or it is not learned.
const MANY: usize = 1 << 14;
/// Most directions of TCP connections that are followed, and most bytes of each that are kept: a message has less by
/// far.
const STREAMS: usize = 1 << 10;
const STREAM_BYTES: usize = 1 << 14;
/// Most names that are kept of one address.
const NAMES: usize = 16;

/// A name by which an address is known to applications of a cgroup, as one agent gives it to the next.
#[derive(Deserialize, Serialize)]
pub(crate) struct Learned {
    cgroup: u64,
    addr: IpAddr,
    name: String,
    seconds: f64,
}

/// Names that applications have resolved, by what the hooks have seen of their questions and answers.
pub(crate) struct LearnedNames(Mutex<Inner>);

struct Inner {
    ring: RingBuf<MapData>,
    streams: Streams,
    tracker: DnsTracker,
}

/// Tracker of DNS exchanges: questions that wait, and names that were learned from answers.
#[derive(Default)]
struct DnsTracker {
    /// Questions that wait for their answer, each with the time at which it was asked.
    asked: HashMap<QuestionKey, (Query, Instant)>,
    known: KnownNames,
}

/// Key of a question, which its answer must have, too.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct QuestionKey {
    /// Cookie of the socket that has asked.
    socket: u64,
    /// Address of the name server: IPv6 or v4-mapped, network byte order.
    server: [u8; 16],
    /// Id of the message (RFC 1035, section 4.1.1).
    id: u16,
}

/// TCP connections to name servers: directions by socket cookie, and whether it is the one to the server.
#[derive(Default)]
struct Streams(HashMap<(u64, bool), Stream>);

/// Direction of a TCP connection, from its first byte on.
struct Stream {
    /// Sequence number of the byte that comes next.
    next: u32,
    /// Bytes of a message that is not whole yet.
    rest: Vec<u8>,
    since: Instant,
}

/// Names by cgroup and address, each with the time at which it ends.
#[derive(Default)]
struct KnownNames(HashMap<(u64, IpAddr), HashMap<String, Instant>>);

impl LearnedNames {
    /// Reads from the hooks' ring buffer, and begins with the names that an agent before this one has `learned`.
    pub(crate) fn new(ring: RingBuf<MapData>, learned: Vec<Learned>) -> Self {
        let mut tracker = DnsTracker::default();
        let now = Instant::now();
        for Learned { cgroup, addr, name, seconds } in learned {
            tracker.known.learn(
                cgroup,
                addr,
                &name,
                now + Duration::from_secs_f64(seconds.clamp(0.0, MOST.as_secs_f64())),
                now,
            );
        }
        Self(Mutex::new(Inner { ring, streams: Streams::default(), tracker }))
    }

    /// Lists the names that are known, for a successor.
    pub(crate) fn learned(&self) -> Vec<Learned> {
        let now = Instant::now();
        let inner = self.lock();
        let all = inner.tracker.known.0.iter().flat_map(|((cgroup, addr), names)| {
            names.iter().map(|(name, until)| (*cgroup, *addr, name.clone(), until.saturating_duration_since(now)))
        });
        all.map(|(cgroup, addr, name, left)| Learned { cgroup, addr, name, seconds: left.as_secs_f64() }).collect()
    }

    /// Takes in the questions and answers that the hooks have noted since the last call. Does not block.
    pub(crate) fn take_in(&self) {
        self.lock().take_in();
    }

    /// Names for which an application of this cgroup was given an address, just now.
    pub(crate) fn of(&self, cgroup: u64, addr: IpAddr) -> Vec<String> {
        let mut inner = self.lock();
        // The hook has told of the answer before it has told of the connect.
        inner.take_in();
        inner.tracker.known.of(cgroup, addr.to_canonical(), Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }
}

impl Inner {
    fn take_in(&mut self) {
        let Self { ring, streams, tracker } = self;
        while let Some(record) = ring.next() {
            let Ok(datagram) = Datagram::ref_from_bytes(&record) else { continue };
            let Some(bytes) = datagram.bytes.get(..datagram.len as usize) else { continue };
            let now = Instant::now();
            if datagram.tcp == 0 {
                tracker.message(datagram, bytes, now);
            } else {
                for message in streams.segment(datagram, bytes, now) {
                    tracker.message(datagram, &message, now);
                }
            }
        }
    }
}

/// Entry point for fuzzers: each piece has a byte that says where it comes from, a number, and two bytes of length
/// before it.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz_names(mut bytes: &[u8], now: Instant) {
    use zerocopy::FromZeros as _;
    let (mut streams, mut tracker) = (Streams::default(), DnsTracker::default());
    let mut piece = Datagram::new_zeroed();
    while let [from, number, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len()).min(piece.bytes.len());
        let (own, after) = rest.split_at(length);
        bytes = after;
        piece.cookie = u64::from(from & 3);
        (piece.egress, piece.tcp) = (u32::from(from >> 2 & 1), u32::from(from >> 3 & 1));
        (piece.seq, piece.next) = (u32::from(*number), u32::from(*number));
        piece.len = u32::try_from(length).unwrap_or(0);
        if piece.tcp == 0 {
            tracker.message(&piece, own, now);
        } else {
            for message in streams.segment(&piece, own, now) {
                tracker.message(&piece, &message, now);
            }
        }
    }
    assert!(tracker.asked.len() <= MANY && tracker.known.0.len() <= MANY && streams.0.len() <= STREAMS);
}

impl DnsTracker {
    /// Takes in one DNS message: notes a question, or learns from the answer to one.
    fn message(&mut self, datagram: &Datagram, bytes: &[u8], now: Instant) {
        let Self { asked, known } = self;
        let Ok(message) = Message::from_vec(bytes) else { return };
        let Endpoint { addr: server, .. } = datagram.server;
        let key = QuestionKey { socket: datagram.cookie, server, id: message.metadata.id };
        if datagram.egress == 1 {
            note_question(asked, key, message, now);
            return;
        }
        if asked.get(&key).is_none_or(|(question, _since)| !answers_question(&message, question)) {
            debug!(server = %Ipv6Addr::from(server).to_canonical(), "an answer that nobody has asked for");
            return;
        }
        let Some((question, _since)) = asked.remove(&key) else { return };
        for (addr, ttl) in addresses(&message, question.name()) {
            known.learn(datagram.cgroup, addr, &plain(question.name()), now + ttl.clamp(LEAST, MOST), now);
        }
    }
}

impl Streams {
    /// Takes a segment, and returns the messages that it makes whole (RFC 1035, section 4.2.2). A stream is followed as
    /// long as each segment begins where the last has ended; of what comes from a server, the first must begin with the
    /// byte that the socket waits for.
    fn segment(&mut self, segment: &Datagram, bytes: &[u8], now: Instant) -> Vec<Vec<u8>> {
        let (egress, key) = (segment.egress == 1, (segment.cookie, segment.egress == 1));
        if !self.0.contains_key(&key) {
            if !egress && (segment.seq != segment.next || !self.0.contains_key(&(segment.cookie, true))) {
                return Vec::new();
            }
            if self.0.len() >= STREAMS {
                self.0.retain(|_key, stream| now - stream.since < ANSWER_LIMIT);
            }
            if self.0.len() >= STREAMS {
                return Vec::new();
            }
        }
        let stream = self.0.entry(key).or_insert(Stream { next: segment.seq, rest: Vec::new(), since: now });
        if stream.next != segment.seq {
            // Sent again; or something was missed, and all that follows is lost.
            return Vec::new();
        }
        stream.next = segment.seq.wrapping_add(segment.len);
        stream.since = now;
        stream.rest.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while let [high, low, rest @ ..] = stream.rest.as_slice()
            && let Some(message) = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))
        {
            messages.push(message.to_vec());
            stream.rest.drain(..2 + messages[messages.len() - 1].len());
        }
        if stream.rest.len() > STREAM_BYTES {
            self.0.remove(&key);
        }
        messages
    }
}

/// Notes a question that goes to a name server.
fn note_question(
    asked: &mut HashMap<QuestionKey, (Query, Instant)>,
    key: QuestionKey,
    mut message: Message,
    now: Instant,
) {
    if message.metadata.message_type != MessageType::Query || message.queries.len() != 1 {
        return;
    }
    if asked.len() >= MANY {
        asked.retain(|_key, (_question, since)| now - *since < ANSWER_LIMIT);
    }
    if asked.len() < MANY
        && let Some(question) = message.queries.pop()
    {
        asked.insert(key, (question, now));
    }
}

/// Whether a message is a good answer to the question.
fn answers_question(message: &Message, question: &Query) -> bool {
    let same = |other: &Query| {
        other.name().to_lowercase() == question.name().to_lowercase()
            && other.query_type() == question.query_type()
            && other.query_class() == question.query_class()
    };
    message.metadata.message_type == MessageType::Response
        && message.metadata.response_code == ResponseCode::NoError
        && matches!(&message.queries[..], [only] if same(only))
}

/// Lists the addresses that an answer gives to a name, through its aliases, and how long they hold.
fn addresses(message: &Message, name: &Name) -> Vec<(IpAddr, Duration)> {
    let mut names = HashSet::from([name.to_lowercase()]);
    let mut ttl = u32::MAX;
    let mut found = Vec::new();
    // Aliases may come in any order; each round finds at least one, or is the last.
    for _ in 0..=message.answers.len() {
        let before = names.len();
        for record in
            message.answers.iter().filter(|record| names.contains(&record.name.to_lowercase())).collect::<Vec<_>>()
        {
            if let RData::CNAME(alias) = &record.data
                && names.insert(alias.0.to_lowercase())
            {
                ttl = ttl.min(record.ttl);
            }
        }
        if names.len() == before {
            break;
        }
    }
    for record in message.answers.iter().filter(|record| names.contains(&record.name.to_lowercase())) {
        if let Some(addr) = record.data.ip_addr() {
            found.push((addr, Duration::from_secs(u64::from(ttl.min(record.ttl)))));
        }
    }
    found
}

/// Writes a name as rules have it: in lower case, without a dot at the end.
fn plain(name: &Name) -> String {
    name.to_lowercase().to_utf8().trim_end_matches('.').to_owned()
}

impl KnownNames {
    fn learn(&mut self, cgroup: u64, addr: IpAddr, name: &str, until: Instant, now: Instant) {
        if self.0.len() >= MANY {
            self.0.retain(|_key, names| names.values().any(|until| *until > now));
        }
        if self.0.len() >= MANY {
            return;
        }
        let names = self.0.entry((cgroup, addr)).or_default();
        names.retain(|_name, until| *until > now);
        if names.len() < NAMES || names.contains_key(name) {
            names.insert(name.to_owned(), until);
        }
    }

    fn of(&self, cgroup: u64, addr: IpAddr, now: Instant) -> Vec<String> {
        let names = self.0.get(&(cgroup, addr)).into_iter().flatten();
        names.filter(|(_name, until)| **until > now).map(|(name, _until)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use hickory_resolver::proto::rr::{Record, RecordType, rdata};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_str(text).unwrap()
    }

    #[test]
    fn aliases_are_followed_and_the_shortest_life_holds() {
        let mut message = Message::response(7, hickory_resolver::proto::op::OpCode::Query);
        let question = Query::query(name("Cache.test."), RecordType::A);
        message.queries.push(question.clone());
        let one = std::net::Ipv4Addr::new(192, 0, 2, 1);
        message.answers.push(Record::from_rdata(name("c.test."), 60, RData::A(rdata::A(one))));
        message.answers.push(Record::from_rdata(name("b.test."), 50, RData::CNAME(rdata::CNAME(name("c.test.")))));
        message.answers.push(Record::from_rdata(name("cache.test."), 70, RData::CNAME(rdata::CNAME(name("B.test.")))));
        message.answers.push(Record::from_rdata(name("stranger.test."), 70, RData::A(rdata::A([192, 0, 2, 2].into()))));
        assert!(answers_question(&message, &question));
        assert_eq!(addresses(&message, question.name()), [(IpAddr::V4(one), Duration::from_secs(50))]);
        assert!(!answers_question(&message, &Query::query(name("other.test."), RecordType::A)));
        assert!(!answers_question(&message, &Query::query(name("cache.test."), RecordType::AAAA)));
        message.metadata.response_code = ResponseCode::ServFail;
        assert!(!answers_question(&message, &question));
        assert_eq!(plain(question.name()), "cache.test");
    }

    #[test]
    fn messages_by_tcp_are_put_together_and_gaps_end_a_stream() {
        use zerocopy::FromZeros as _;
        let segment = |egress: u32, seq: u32, next: u32, len: usize| {
            let mut segment = Datagram::new_zeroed();
            (segment.tcp, segment.egress, segment.seq, segment.next, segment.len) = (1, egress, seq, next, len as u32);
            segment
        };
        let now = Instant::now();
        let mut streams = Streams::default();
        let mut go =
            |egress, seq, next, bytes: &[u8]| streams.segment(&segment(egress, seq, next, bytes.len()), bytes, now);
        assert!(go(0, 5, 5, &[0, 1, 7]).is_empty(), "an answer before a question");
        assert!(go(1, u32::MAX, 0, &[0]).is_empty());
        assert_eq!(go(1, 0, 0, &[2, 8, 9, 0, 1]), [[8, 9]], "sequence numbers wrap");
        assert_eq!(go(1, 5, 0, &[7, 0, 0]), [vec![7], vec![]]);
        assert!(go(0, 6, 5, &[0, 1, 7]).is_empty(), "not what the socket waits for");
        assert_eq!(go(0, 5, 5, &[0, 1, 7]), [[7]]);
        assert!(go(0, 5, 5, &[0, 1, 7]).is_empty(), "sent again");
        assert!(go(0, 9, 9, &[0, 1, 7]).is_empty(), "something was missed");
        assert_eq!(go(0, 8, 8, &[0, 1, 6]), [[6]]);
    }

    #[test]
    fn names_are_of_one_cgroup_and_end() {
        let mut known = KnownNames::default();
        let (now, addr) = (Instant::now(), IpAddr::from([192, 0, 2, 1]));
        known.learn(1, addr, "a.test", now + MOST, now);
        known.learn(1, addr, "b.test", now + LEAST, now);
        let mut names = known.of(1, addr, now);
        names.sort();
        assert_eq!(names, ["a.test", "b.test"]);
        assert_eq!(known.of(1, addr, now + LEAST), ["a.test"]);
        assert!(known.of(2, addr, now).is_empty());
        assert!(known.of(1, addr, now + MOST).is_empty());
    }
}
