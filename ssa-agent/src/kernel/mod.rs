pub(crate) mod bpf;
pub(crate) mod error;
pub(crate) mod events;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod fmod_ret;
pub(crate) mod loader;
pub(crate) mod maps;
pub(crate) mod objects;
pub(crate) mod packet;
pub(crate) mod steer;
