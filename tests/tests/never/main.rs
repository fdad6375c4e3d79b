//! What must never happen: plaintext on the wire, rights that an application lacks, trouble for others.

mod agent_gone;
mod calls;
mod canary;
mod firewall;
mod intruders;
mod life;
mod neighbours;
mod others;
mod plaintext;
mod rights;
