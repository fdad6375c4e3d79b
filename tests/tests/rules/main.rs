//! Rules of the administrator: TLS for applications that know nothing of it.

mod fallback;
mod fixture;
mod inbound;
mod names;
mod outbound;
mod passthrough;
mod unmodified;
