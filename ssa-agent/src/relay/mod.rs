pub(crate) mod app_stream;
pub(crate) mod peer;
pub(crate) mod pipe;
pub(crate) mod relay;
