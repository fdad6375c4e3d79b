//! Bridge from descriptors of aya and nix to the runtime.

#![expect(unsafe_code, reason = "tokio takes a descriptor only from who promises that it stays the same")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use tokio::io::unix::AsyncFd;

/// Lets the runtime wait for a descriptor. Must be called inside the runtime.
pub(crate) fn async_fd<T: AsFd + AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: aya's ring buffers, its logger and our watches own their descriptor, which never changes.
    Ok(unsafe { AsyncFd::register(owner) }?)
}
