//! The maps of the hooks, by domain: whoever needs one is given its handle, and no other.

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

/// A handle for each domain.
pub(crate) struct Maps {
    /// What `getsockopt` answers.
    pub(crate) answers: Arc<AnswerMaps>,
    /// Who listens.
    pub(crate) listeners: Arc<ListenerMaps>,
    /// What applications have set.
    pub(crate) options: Arc<OptionMaps>,
    /// What the administrator allows.
    pub(crate) policy: Arc<PolicyMaps>,
    /// What the administrator's rules say.
    pub(crate) rules: Arc<RuleMaps>,
    /// Ids, counts and events.
    pub(crate) sockets: Arc<SocketMaps>,
    /// DNS_MESSAGES: the ring buffer of what goes to name servers and comes from them.
    pub(crate) names: RingBuf<MapData>,
}

impl Maps {
    /// Takes them out of the loaded object, whose maps are pinned in the folder `pins`.
    pub(in crate::kernel) fn take(ebpf: &mut Ebpf, pins: &Path) -> Result<Self, Error> {
        Ok(Self {
            answers: Arc::new(AnswerMaps::take(ebpf)?),
            listeners: Arc::new(ListenerMaps::take(ebpf, pins)?),
            options: Arc::new(OptionMaps::take(ebpf)?),
            policy: Arc::new(PolicyMaps::take(ebpf)?),
            rules: Arc::new(RuleMaps::take(ebpf)?),
            sockets: Arc::new(SocketMaps::take(ebpf, pins)?),
            names: take(ebpf, "DNS_MESSAGES")?,
        })
    }
}
