//! Values of options that name or contain PEM texts, and reading them as the application that has set them.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use ssa_common::{
    context::{BlobKey, KEPT_PATH_BYTES, KeptPath},
    socket::Caller,
};
use tokio::sync::watch;

use crate::{
    kernel::OptionMaps,
    sys::as_caller::{Read, read},
};

/// A value that an application has set: PEM texts, or a path to some.
#[derive(Clone)]
pub(super) struct Upload {
    /// Number of the option ([`ssa_common::uapi`]).
    pub(super) option: i32,
    /// Count of the context's sets of certificates and keys at this one, from 1.
    pub(super) sequence: u32,
    /// Process that has set it, with whose rights its path is opened.
    pub(super) caller: Caller,
    /// Path; none if the value is a PEM text itself.
    pub(super) path: Option<Vec<u8>>,
    /// Content that was read, or why it could not be; none while it is being read.
    pub(super) read: watch::Receiver<Option<Result<Read, String>>>,
    /// Flag that it counts no longer: a reader that is still at it must not keep its path. Written by
    /// [`super::store::Options`].
    pub(super) forgotten: Arc<AtomicBool>,
}

/// Keeps a path in the kernel, for an agent that comes after this one. `started`: start time of the process, as
/// /proc/PID/stat has it. Too long a path is not kept.
pub(super) fn keep(maps: &OptionMaps, key: &BlobKey, caller: Caller, started: u64, path: &[u8]) {
    let mut kept = KeptPath { caller, started, len: 0, reserved: 0, bytes: [0; KEPT_PATH_BYTES] };
    let Some(room) = kept.bytes.get_mut(..path.len()) else { return };
    room.copy_from_slice(path);
    kept.len = u32::try_from(path.len()).unwrap_or(0);
    maps.keep_path(key, &kept);
}

/// Beginning of a PEM text, which is no path.
pub(super) const INLINE: &[u8] = b"-----BEGIN";

/// Reads a value: a PEM text, or the texts of the file or directory that a path names, as `caller`. With `started`, the
/// caller must still be the process that began then. Blocks for as long as the file system does.
///
/// Descriptors or memory that the agent lacks it waits for, up to 60 s. Errors are texts for `TLS_ERROR`.
pub(super) fn read_value(caller: Caller, started: Option<u64>, value: &[u8]) -> Result<Read, String> {
    const PATIENCE: Duration = Duration::from_secs(60);
    const PAUSE: Duration = Duration::from_millis(50);
    if value.starts_with(INLINE) {
        return Ok(Read { files: vec![value.to_vec()], ..Read::default() });
    }
    let path = std::str::from_utf8(value).map_err(|_bytes| "the path is not UTF-8".to_owned())?;
    let began = Instant::now();
    loop {
        match read(caller, started, Path::new(path)) {
            Err(error) if error.is_temporary() && began.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            done => return done.map_err(|error| error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    #[test]
    fn pem_text_is_taken_as_it_is_and_what_is_no_text_is_no_path() {
        let text = b"-----BEGIN CERTIFICATE-----".to_vec();
        assert_eq!(read_value(Caller::new_zeroed(), None, &text).unwrap().files, [text]);
        assert!(read_value(Caller::new_zeroed(), None, &[0xff, 0xfe]).unwrap_err().contains("UTF-8"));
    }
}
