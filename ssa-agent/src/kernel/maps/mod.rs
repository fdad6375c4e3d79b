//! Maps of the hooks, a handle for each domain.

pub(in crate::kernel) mod all;
pub(in crate::kernel) mod answers;
pub(in crate::kernel) mod listeners;
pub(in crate::kernel) mod options;
pub(in crate::kernel) mod policy;
pub(in crate::kernel) mod rules;
pub(in crate::kernel) mod sockets;
pub(in crate::kernel) mod table;

pub(crate) use self::{
    all::Maps,
    answers::AnswerMap,
    listeners::ListenerMaps,
    options::OptionMaps,
    policy::PolicyMaps,
    rules::{RuleKey, RuleMaps},
    sockets::SocketMaps,
};
