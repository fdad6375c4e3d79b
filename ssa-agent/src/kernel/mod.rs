//! Kernel half seen from user space: loads and attaches the hooks, reads their events, reads and writes their maps.

mod bpf;
mod error;
mod events;
#[cfg(test)]
mod fake;
mod fmod_ret;
mod leftovers;
mod loader;
mod maps;
mod objects;
mod packet;
mod steer;

pub(crate) use self::{
    error::Error,
    events::{Event, Events, ParkedSyns},
    leftovers::Pins,
    loader::{Hooks, LoadedHooks, trial},
    maps::{AnswerMap, ListenerMaps, Maps, OptionMaps, PolicyMaps, RuleKey, RuleMaps, SocketMaps},
    objects::release,
    packet::{Errno, Syn, be32},
    steer::{Steer, steer},
};

#[cfg(any(fuzzing, test))]
pub(crate) use self::events::parse_event;
#[cfg(test)]
pub(crate) use self::fake::FakeAnswers;
