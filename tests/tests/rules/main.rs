//! Rules of the administrator: TLS for applications that know nothing of it.

mod outbound;
