//! System calls that know nothing of this project.

pub(crate) mod as_caller;
pub(crate) mod async_fd;
pub(crate) mod capabilities;
pub(crate) mod cgroup;
pub(crate) mod cgroup_watch;
pub(crate) mod container;
pub(crate) mod on_behalf;
pub(crate) mod sock_diag;
pub(crate) mod sockopt;
