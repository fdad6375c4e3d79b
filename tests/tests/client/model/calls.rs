//! Calls of a sequence, with values that are more often right than wrong.

use proptest::prelude::*;
use ssa_tests::in_tls::*;

pub(crate) const NAME: &str = "peer.ssa.test";

pub(crate) const SLOTS: usize = 3;

/// Suites that sequences name; the server takes all of them.
pub(crate) const SUITES: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"];

#[derive(Clone, Debug)]
pub(crate) enum Call {
    Open(usize),
    /// A host name and trust, as an application that means to connect.
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
pub(crate) enum Value {
    Bytes(Vec<u8>),
    Trust,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Room {
    Fits,
    TooSmall,
    Null,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum To {
    Server,
    Nobody,
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    text.bytes().chain([0]).collect()
}

/// Calls, with values that are more often right than wrong.
pub(crate) fn call() -> impl Strategy<Value = Call> {
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
    // Nobody says whether the server's certificate is revoked: `TLS_REVOCATION_CHECKS` would end most sequences.
    let ints = prop_oneof![
        3 => prop_oneof![Just(TLS_REQUEST_PEER_AUTH), Just(TLS_SESSION_REUSE), Just(TLS_VERSION_MIN), Just(TLS_VERSION_MAX), Just(TLS_SERVER_OCSP_STAPLING)], 1 => TLS_REVOCATION_CHECKS..TLS_CACHED_REV_CHECKS + 1
    ];
    let set = prop_oneof![
        4 => (prop_oneof![Just(TLS_HOSTNAME), Just(TLS_HOSTNAME_2)], bytes(name.prop_map(text).boxed())),
        3 => (Just(TLS_TRUSTED_PEER_CERTIFICATES), Just(Value::Trust)),
        6 => (ints, bytes(int.prop_map(|value: i32| value.to_ne_bytes().to_vec()).boxed())),
        1 => (Just(TLS_SESSION_TTL), bytes(long.prop_map(|value| value.to_ne_bytes().to_vec()).boxed())),
        1 => (Just(TLS_ALPN), bytes(alpn.prop_map(text).boxed())),
        2 => (prop_oneof![Just(TLS_DISABLE_CIPHER), Just(TLS_ENABLE_CIPHER)], bytes(suite.prop_map(text).boxed())),
        2 => (Just(TLS_TRUSTED_CIPHERS), bytes(list.prop_map(|list| text(&list)).boxed())),
        1 => (prop_oneof![Just(84), Just(TLS_PEER_IDENTITY), Just(101), Just(TLS_STATE), Just(160)], Just(Value::Bytes(vec![1, 0, 0, 0]))),
    ];
    let room = prop_oneof![8 => Just(Room::Fits), 1 => Just(Room::TooSmall), 1 => Just(Room::Null)];
    prop_oneof![
        2 => slot.clone().prop_map(Call::Open),
        4 => slot.clone().prop_map(Call::Prepare),
        1 => slot.clone().prop_map(Call::Close),
        8 => (slot.clone(), set).prop_map(|(slot, (option, value))| Call::Set(slot, option, value)),
        6 => (slot.clone(), 84..151_i32, room).prop_map(|(slot, option, room)| Call::Get(slot, option, room)),
        2 => (slot.clone(), Just(TLS_CONTEXT), Just(Room::Fits)).prop_map(|(slot, option, room)| Call::Get(slot, option, room)),
        2 => (slot.clone(), 0..3_usize).prop_map(|(slot, back)| Call::Adopt(slot, back)),
        4 => (slot.clone(), prop_oneof![3 => Just(To::Server), 1 => Just(To::Nobody)]).prop_map(|(slot, to)| Call::Connect(slot, to)),
        1 => slot.prop_map(Call::Disconnect),
    ]
}
