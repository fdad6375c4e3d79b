//! What must never happen: plaintext on the wire, rights that an application lacks, trouble for others.

mod calls;
mod firewall;
mod others;
mod plaintext;
mod rights;
