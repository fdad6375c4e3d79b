pub(crate) mod bpf;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod fmod_ret;
pub(crate) mod loader;
pub(crate) mod maps;
pub(crate) mod packet;
