//! Settings of applications on their way from one agent to the next: paths are kept in the kernel, PEM texts only by an
//! agent that hands over.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use ssa_common::{context::BlobKey, socket::Caller};
use tokio::time::timeout;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{store::Options, upload::Upload};

/// A PEM text that an application has set, as one agent gives it to the next.
#[derive(Deserialize, Serialize)]
pub(crate) struct TransferredText {
    /// Id of the TLS context.
    context: u64,
    /// Number of the option.
    option: u32,
    /// Count of the context's sets of certificates and keys at this one, from 1.
    sequence: u32,
    /// Bytes of a [`Caller`], in host byte order.
    caller: Vec<u8>,
    /// PEM text; it may be a private key.
    text: String,
}

impl Options {
    /// Reads the paths that applications have set while an agent before this one ran, and takes the texts.
    pub(crate) fn restore(&self, texts: Vec<TransferredText>) {
        let mut kept: Vec<(BlobKey, Caller, Option<u64>, Vec<u8>)> = Vec::new();
        for (key, path) in self.maps.kept_paths() {
            let value = path.bytes.get(..path.len as usize).unwrap_or_default().to_vec();
            kept.push((key, path.caller, Some(path.started), value));
        }
        for TransferredText { context, option, sequence, caller, text } in texts {
            let Ok(caller) = Caller::read_from_bytes(&caller) else { continue };
            kept.push((BlobKey { context, option, sequence }, caller, None, text.into_bytes()));
        }
        kept.sort_by_key(|(key, ..)| (key.context, key.sequence));
        for (key, caller, started, value) in kept {
            if self.maps.context(key.context).is_none() {
                self.maps.forget_path(&key);
                continue;
            }
            self.upload(key, caller, started, value);
        }
    }

    /// Collects the PEM texts that applications have set, for an agent that takes over. Waits at most 5 s for paths
    /// that are just being read: they are in the kernel then.
    pub(crate) async fn texts(&self) -> Vec<TransferredText> {
        /// Longest wait for files; with a slower file system applications have to set their paths again.
        const PATIENCE: Duration = Duration::from_secs(5);
        let all = self.uploads();
        let (texts, paths): (Vec<(u64, Upload)>, Vec<_>) = all.into_iter().partition(|(_id, one)| one.path.is_none());
        let kept = async {
            for (_id, mut upload) in paths {
                // Given up, with its context.
                let _gone = upload.read.wait_for(Option::is_some).await;
            }
        };
        let _late = timeout(PATIENCE, kept).await;
        let mut transferred = Vec::new();
        for (context, mut upload) in texts {
            let Ok(read) = upload.read.wait_for(Option::is_some).await else { continue };
            let Some(Ok(read)) = read.clone() else { continue };
            // One that is no text is no certificate, either: it is lost, and that is said.
            let Some(Ok(text)) = read.files.into_iter().next().map(String::from_utf8) else { continue };
            let (option, caller) = (upload.option.unsigned_abs(), upload.caller.as_bytes().to_vec());
            transferred.push(TransferredText { context, option, sequence: upload.sequence, caller, text });
        }
        transferred
    }
}
