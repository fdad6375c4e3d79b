//! Registration of TLS sockets: their ids, contexts and counts in the maps, from the first set to the last close.

use ssa_common::{
    cipher::{CipherList, CipherSet},
    context::{Context, SETTINGS},
    event::{Closed, EventKind, Opened},
    limits::Counter,
    policy::Policy,
    socket::{Caller, HostName, Socket},
};

use crate::{
    atomic::{self, Refs},
    ctx::copy_words,
    maps::{CONNECTIONS, CONTEXTS, COUNTERS, EVENTS, IDS, LISTENING, USERS, count, forget_socket},
    policy,
    refusal::{AGENT_AWAY, NO_ROOM, Refusal},
};

/// Registers a TLS socket for a caller: it gets an id and a context of its own, is counted for the user, and the
/// agent is told.
///
/// `ENOTCONN` if the agent has not said yet what is allowed, `ENOBUFS` if there is no room; nothing has changed then
/// but for an id that is lost.
#[inline(always)]
pub(crate) fn register(socket: &mut Socket, caller: Caller) -> Result<(), Refusal> {
    static NEW: Context = new_context();
    let Ok(Some(id)) = IDS.pop() else {
        count(Counter::NoRoom, 1);
        return Err(NO_ROOM);
    };
    let policy = policy::of_earlier(&caller).ok_or(AGENT_AWAY)?;
    if !charge_user(caller.uid, policy) {
        count(Counter::NoRoom, 1);
        return Err(NO_ROOM);
    }
    if CONTEXTS.insert(id, &NEW, 0).is_err() {
        count(Counter::NoRoom, 1);
        count(Counter::Opened, -1);
        uncharge_user(caller.uid);
        return Err(NO_ROOM);
    }
    let context = CONTEXTS.get_ptr_mut(id).ok_or(NO_ROOM)?;
    // SAFETY: a live value of the map, whose random id nobody else knows yet.
    let context = unsafe { &mut *context };
    copy_words::<[i64; SETTINGS], SETTINGS>(&raw mut context.scalars, &raw const policy.defaults);
    copy_words::<CipherList, 16>(&raw mut context.ciphers, &raw const policy.ciphers);
    context.service = caller.service;
    context.netns = caller.netns;
    context.uid = caller.uid;
    context.id = id;
    let Some(mut event) = EVENTS.reserve_untyped::<Opened>(0) else {
        count(Counter::EventsLost, 1);
        let _absent = CONTEXTS.remove(id);
        count(Counter::Opened, -1);
        uncharge_user(caller.uid);
        return Err(NO_ROOM);
    };
    event.write(Opened { kind: EventKind::OPENED, reserved: 0, id, caller });
    event.submit(0);
    socket.id = id;
    socket.context = id;
    socket.uid = caller.uid;
    socket.caller = caller;
    Ok(())
}

/// Counts one TLS socket more for a user, unless the administrator allows no more.
#[inline(always)]
fn charge_user(uid: u32, policy: &Policy) -> bool {
    const BPF_NOEXIST: u64 = 1;
    if COUNTERS.get(Counter::Opened as u32).is_some_and(|open| *open >= policy.sockets) {
        return false;
    }
    if USERS.get_ptr_mut(uid).is_none() {
        // It may have been made meanwhile.
        let _there = USERS.insert(uid, 0, BPF_NOEXIST);
    }
    let Some(open) = USERS.get_ptr_mut(uid) else { return false };
    if atomic::fetch_add(open, 1) >= policy.sockets_per_user {
        uncharge_user(uid);
        return false;
    }
    count(Counter::Opened, 1);
    true
}

/// Context without settings, of one socket.
const fn new_context() -> Context {
    Context {
        id: 0,
        service: 0,
        netns: 0,
        uid: 0,
        refs: 1,
        frozen: 0,
        blob_sets: 0,
        trust_set: 0,
        credential_sets: 0,
        scalars: [0; SETTINGS],
        scalars_set: 0,
        ciphers_set: 0,
        asked: CipherSet::EMPTY,
        ciphers: CipherList::EMPTY,
        hostname: NO_TEXT,
        alpn: NO_TEXT,
    }
}

/// Unregisters a TLS socket: clears what there is of it in the maps, and tells the agent. Its own state stays.
#[inline(always)]
pub(crate) fn unregister(socket: &Socket) {
    if socket.accepted == 0 {
        forget_socket(socket);
    }
    if socket.id == 0 {
        return;
    }
    // Absent if it never connected.
    let _absent = CONNECTIONS.remove(socket.id);
    release_context(socket.context);
    // Absent if it did not listen.
    let _absent = LISTENING.remove(socket.id);
    if socket.accepted == 0 {
        count(Counter::Opened, -1);
        uncharge_user(socket.uid);
    }
    match EVENTS.reserve_untyped::<Closed>(0) {
        Some(mut event) => {
            event.write(Closed { kind: EventKind::CLOSED, reserved: 0, id: socket.id, context: socket.context });
            event.submit(0);
        }
        None => count(Counter::EventsLost, 1),
    }
}

/// Counts one TLS socket less for a user: see [`charge_user`]. The agent forgets users that have none.
#[inline(always)]
pub(crate) fn uncharge_user(uid: u32) {
    let Some(open) = USERS.get_ptr_mut(uid) else { return };
    // SAFETY: a live value of the map. Not below zero: the agent may just have forgotten the user.
    if unsafe { open.read_volatile() } != 0 {
        atomic::add(open, u64::MAX);
    }
}

/// Counts one socket less in a context, which is deleted with the last.
#[inline(always)]
pub(crate) fn release_context(id: u64) {
    let Some(context) = CONTEXTS.get_ptr_mut(id) else { return };
    // SAFETY: a live value of the map.
    if Refs::new(unsafe { &raw mut (*context).refs }).release() {
        let _absent = CONTEXTS.remove(id);
    }
}

/// No text.
const NO_TEXT: HostName = HostName { bytes: [0; ssa_common::limits::HOSTNAME_BYTES], len: 0, reserved: 0 };
