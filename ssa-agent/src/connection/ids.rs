//! Ids of sockets: random, so that nobody can guess a context's, and never zero.

use openssl::{error::ErrorStack, rand::rand_bytes};

/// Makes a fresh id from OpenSSL's random generator.
pub(crate) fn new_id() -> Result<u64, ErrorStack> {
    loop {
        let mut bytes = [0; 8];
        rand_bytes(&mut bytes)?;
        let id = u64::from_ne_bytes(bytes);
        if id != 0 {
            return Ok(id);
        }
    }
}
