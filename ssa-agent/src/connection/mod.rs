//! Parts that both directions share: errors and their errnos, answers to `getsockopt`, the table of connections, the
//! access log.

mod access_log;
mod answers;
mod chains;
mod error;
mod ids;
mod info;
mod table;

pub(crate) use self::{
    answers::{Answers, Attempt, Published},
    error::Error,
    ids::new_id,
    info::{ConnectionInfo, ConnectionLabels, Failure},
    table::ConnectionTable,
};
