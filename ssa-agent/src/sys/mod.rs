pub(crate) mod as_caller;
pub(crate) mod cgroup;
pub(crate) mod on_behalf;
pub(crate) mod sock_diag;
pub(crate) mod sockopt;
