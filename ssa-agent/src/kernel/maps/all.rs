//! Handles of the hooks' maps by domain: whoever needs one is given its handle, and no other.

use std::{path::Path, sync::Arc};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};

use super::{
    answers::AnswerMaps, listeners::ListenerMaps, options::OptionMaps, policy::PolicyMaps, rules::RuleMaps,
    sockets::SocketMaps, table::take,
};
use crate::kernel::error::Error;

/// Handles of all maps, one for each domain.
pub(crate) struct Maps {
    /// Answers of `getsockopt`, `getpeername` and `getsockname`.
    pub(crate) answers: Arc<AnswerMaps>,
    /// Sockets that listen, and legs to them.
    pub(crate) listeners: Arc<ListenerMaps>,
    /// Settings of applications.
    pub(crate) options: Arc<OptionMaps>,
    /// Policy of the administrator, as rows.
    pub(crate) policy: Arc<PolicyMaps>,
    /// Rules of the administrator.
    pub(crate) rules: Arc<RuleMaps>,
    /// Ids, counts and events.
    pub(crate) sockets: Arc<SocketMaps>,
    /// Ring buffer DNS_MESSAGES: what goes to name servers and comes from them.
    pub(crate) names: RingBuf<MapData>,
}

impl Maps {
    /// Takes the maps of the agent of this name out of the loaded object, whose maps are pinned in the folder `pins`.
    pub(in crate::kernel) fn take(ebpf: &mut Ebpf, pins: &Path, agent: &str) -> Result<Self, Error> {
        Ok(Self {
            answers: Arc::new(AnswerMaps::take(ebpf)?),
            listeners: Arc::new(ListenerMaps::take(ebpf, pins)?),
            options: Arc::new(OptionMaps::take(ebpf)?),
            policy: Arc::new(PolicyMaps::take(ebpf)?),
            rules: Arc::new(RuleMaps::take(ebpf, agent)?),
            sockets: Arc::new(SocketMaps::take(ebpf, pins)?),
            names: take(ebpf, "DNS_MESSAGES")?,
        })
    }
}
