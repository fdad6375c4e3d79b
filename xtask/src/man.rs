//! The manual pages `ssa-tls.7` and `ssa-agent.toml.5`, as roff (groff_man(7)).
//!
//! What a table or a file already says is taken from there: the options from
//! [`OPTIONS`], the keys of the configuration from `deploy/agent.toml`. The rest stands here as plain
//! text, in which backticks mark what is typed as it is.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use ssa_common::{
    peer_option::PEER_OPTIONS,
    uapi::{ALIASES, OPTIONS, Opt},
};

use crate::usage::usage;

/// `ssa-tls.7`: how an application uses TLS.
pub(crate) fn options() -> String {
    let mut page = Page::new("ssa-tls", 7, "TLS as a socket option level", "ssa-common/src/uapi.rs");
    page.section("SYNOPSIS");
    page.code(SYNOPSIS);
    page.section("DESCRIPTION");
    page.paragraphs(DESCRIPTION);
    page.subsection("Connecting");
    page.paragraphs(CONNECTING);
    page.subsection("Phases");
    page.paragraphs("`TLS_STATE` shows the phase of a socket:");
    page.items(PHASES);
    page.paragraphs(AFTER_PHASES);
    page.subsection("Values");
    page.paragraphs(VALUES);
    page.subsection("Files");
    page.paragraphs(VALUE_FILES);
    page.subsection("Options at other levels");
    page.paragraphs(&other_levels());
    page.subsection("The end of a connection");
    page.paragraphs(END);
    page.section("OPTIONS");
    page.paragraphs(BEFORE_OPTIONS);
    for option in OPTIONS {
        page.item(&tag(option), &format!("{}\n({}.)\n{}", sentence(option.doc), usage(option), more(option.name)));
    }
    page.section("ERRORS");
    page.subsection("setsockopt and getsockopt");
    page.items(SOCKOPT_ERRORS);
    page.subsection("connect");
    page.paragraphs("Besides those of `connect`(2):");
    page.items(CONNECT_ERRORS);
    page.subsection("recv and send");
    page.items(STREAM_ERRORS);
    page.section("NOTES");
    page.paragraphs(NOTES);
    page.section("BUGS");
    page.paragraphs(BUGS);
    page.section("EXAMPLES");
    page.paragraphs("In C. The agent looks the name up:");
    page.code(C_EXAMPLE);
    page.paragraphs("In Python:");
    page.code(PYTHON_EXAMPLE);
    page.section("SEE ALSO");
    page.paragraphs(
        "`connect`(2), `getsockopt`(2), `setsockopt`(2), `shutdown`(2), `socket`(2), `ssa-agent.toml`(5), `ip`(7), \
         `ipv6`(7), `socket`(7), `tcp`(7), `openssl-ciphers`(1)",
    );
    page.0
}

/// `ssa-agent.toml.5`: the configuration, as `deploy/agent.toml` explains it.
///
/// Fails if that file does not look as expected.
pub(crate) fn configuration(file: &str) -> Result<String> {
    let (rest, profiles) = file.rsplit_once("\n\n").context("deploy/agent.toml has no blocks")?;
    let (rest, rules) = rest.rsplit_once("\n\n").context("deploy/agent.toml has no block of rules")?;
    let (keys, services) = rest.rsplit_once("\n\n").context("deploy/agent.toml has no block of services")?;
    let mut page = Page::new("ssa-agent.toml", 5, "configuration of the TLS agent", "deploy/agent.toml");
    page.section("DESCRIPTION");
    page.paragraphs(CONFIGURATION);
    for block in keys.split("\n\n").skip_while(|block| !block.starts_with('[')) {
        let entry = Entry::parse(block).with_context(|| format!("deploy/agent.toml:\n{block}"))?;
        if let Some(section) = entry.section {
            page.section(section);
        }
        let names: Vec<_> = entry.keys.iter().map(|(key, _value)| format!("`{key}`")).collect();
        page.item(&names.join(", "), &format!("{}\n{}", entry.text, entry.default()));
    }
    page.section("SERVICES");
    page.table(services)?;
    page.section("RULES");
    page.table(rules)?;
    page.paragraphs(AFTER_RULES);
    page.section("PROFILES");
    page.table(profiles)?;
    page.paragraphs(AFTER_PROFILES);
    page.section("RELOAD");
    page.paragraphs(RELOAD);
    page.section("FILES");
    page.items(FILES);
    page.section("EXAMPLE");
    page.paragraphs(
        "TLS 1.3 only, with the company's own CAs, which programs can't replace; and a client certificate for the \
         programs of one user:",
    );
    page.code(CONFIGURATION_EXAMPLE);
    page.section("SEE ALSO");
    page.paragraphs("`openssl-ciphers`(1), `openssl-rehash`(1), `cgroups`(7), `ssa-tls`(7)");
    Ok(page.0)
}

/// A page as far as it is written. Texts are plain: one paragraph a line.
struct Page(String);

impl Page {
    /// A block of prose with a table of keys, and an example.
    fn table(&mut self, block: &str) -> Result<()> {
        let (prose, example) = block.split_once("\n#\n#[[").context("deploy/agent.toml: a block without an example")?;
        for part in prose.split("\n#\n") {
            if part.starts_with("#  ") {
                // A line that begins further to the right goes on with the one before.
                let whole = part.replace("\n#        ", " ");
                for line in whole.lines().map(|line| line.trim_start_matches('#').trim()) {
                    let (key, text) = line.split_once("  ").context("a line of a table of keys")?;
                    let words: Vec<_> = text.split_whitespace().collect();
                    self.item(&format!("`{key}`"), &sentence(&words.join(" ")));
                }
            } else {
                let lines = part.lines().map(|line| line.trim_start_matches('#').trim());
                self.paragraphs(&lines.collect::<Vec<_>>().join(" "));
            }
        }
        self.code(&format!("[[{}", example.replace("\n#", "\n")));
        Ok(())
    }
}

impl Page {
    fn new(name: &str, section: u8, summary: &str, source: &str) -> Self {
        let (title, name) = (literal(&name.to_uppercase()), literal(name));
        let version = env!("CARGO_PKG_VERSION");
        Self(format!(
            ".\\\" Generated by `cargo xtask codegen` from {source}; do not edit.\n\
             .TH {title} {section} \"\" \"SSA {version}\"\n.nh\n.ad l\n.SH NAME\n{name} \\- {summary}\n"
        ))
    }

    fn section(&mut self, title: &str) {
        self.macro_line("SH", title);
    }

    fn subsection(&mut self, title: &str) {
        self.macro_line("SS", title);
    }

    fn paragraphs(&mut self, text: &str) {
        for line in text.lines() {
            self.begin();
            self.line(line);
        }
    }

    /// Begins a paragraph. A heading has done so already.
    fn begin(&mut self) {
        if !self.0.lines().next_back().is_some_and(|line| line.starts_with(".S")) {
            self.0.push_str(".PP\n");
        }
    }

    fn items(&mut self, items: &[(&str, &str)]) {
        for (tag, text) in items {
            self.item(&format!("`{tag}`"), text);
        }
    }

    /// A tag with a text beside it.
    fn item(&mut self, tag: &str, text: &str) {
        self.0.push_str(".TP\n");
        self.line(tag);
        for (index, paragraph) in text.lines().enumerate() {
            self.0.push_str(if index == 0 { "" } else { ".IP\n" });
            self.line(paragraph);
        }
    }

    /// Lines that are kept as they are. `.EE` turns hyphenation on, which would divide names.
    fn code(&mut self, code: &str) {
        let code = guarded(&literal(code.trim()));
        self.begin();
        let _infallible = write!(self.0, ".in +4n\n.EX\n{code}\n.EE\n.in\n.nh\n");
    }

    fn line(&mut self, text: &str) {
        self.0.push_str(&roff(text));
        self.0.push('\n');
    }

    fn macro_line(&mut self, name: &str, text: &str) {
        let _infallible = writeln!(self.0, ".{name} {}", roff(text));
    }
}

/// Plain text as roff: what stands in backticks is bold, and each sentence has a line of its own.
fn roff(plain: &str) -> String {
    let mut text = String::new();
    for (index, part) in plain.split('`').enumerate() {
        if index % 2 == 1 {
            let _infallible = write!(text, "\\fB{}\\fR", literal(part));
        } else {
            text.push_str(&part.replace('\\', "\\e").replace(". ", ".\n"));
        }
    }
    guarded(&text)
}

/// What must come out as it is typed: in plain roff some of these are typographic signs.
fn literal(code: &str) -> String {
    let signs = [("\\", "\\e"), ("-", "\\-"), ("'", "\\(aq"), ("`", "\\(ga"), ("^", "\\(ha"), ("~", "\\(ti")];
    signs.iter().fold(code.to_owned(), |code, (sign, name)| code.replace(sign, name))
}

/// Keeps lines that begin with a dot or a quote from being taken for macros.
fn guarded(text: &str) -> String {
    let guard = |line: &str| if line.starts_with(['.', '\'']) { "\\&" } else { "" }.to_owned() + line;
    text.lines().map(guard).collect::<Vec<_>>().join("\n")
}

/// A line of a table as a sentence.
pub(crate) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}

/// Names and number of an option.
fn tag(option: &Opt) -> String {
    if option.count > 1 {
        return format!("`{}(i)` ({} + i, i from 0 to {})", option.name, option.number, option.count - 1);
    }
    let aliases = ALIASES.iter().filter(|(_alias, name)| *name == option.name).map(|(alias, _name)| *alias);
    let names: Vec<_> = std::iter::once(option.name).chain(aliases).map(|name| format!("`{name}`")).collect();
    format!("{} ({})", names.join(", "), option.number)
}

/// Which options at other levels hold on the connection to the peer.
pub(crate) fn other_levels() -> String {
    let names = |follows: Option<bool>| {
        let wanted = PEER_OPTIONS.iter().filter(|option| follows.is_none_or(|follows| option.follows == follows));
        wanted.map(|option| format!("`{}`", option.name)).collect::<Vec<_>>().join(", ")
    };
    format!(
        "They behave as ever. These hold on the connection to the peer as well, as they are when `connect` is called: \
         {}, the bound address and the bound interface.\n\
         A later change of one of these follows: {}.\n\
         `TCP_FASTOPEN_CONNECT` is refused on a TLS socket with `EOPNOTSUPP`: `connect` would return before anything \
         is verified.",
        names(None),
        names(Some(true)),
    )
}

/// Keys of the configuration that share a text.
struct Entry<'a> {
    /// The line of the section that begins with them.
    section: Option<&'a str>,
    text: String,
    /// Each with its value.
    keys: Vec<(&'a str, &'a str)>,
}

impl<'a> Entry<'a> {
    /// A block of the file: maybe a section's line, then text, then keys that are commented out.
    fn parse(block: &'a str) -> Result<Self> {
        let section = block.lines().next().filter(|line| line.starts_with('['));
        let mut text = Vec::new();
        let mut keys = Vec::new();
        for line in block.lines().skip(usize::from(section.is_some())) {
            let comment = line.strip_prefix('#').with_context(|| format!("no comment: {line}"))?;
            if let Some(words) = comment.strip_prefix(' ') {
                ensure!(keys.is_empty(), "a text after a key: {line}");
                text.push(words);
            } else {
                keys.push(comment.split_once(" = ").with_context(|| format!("no key: {line}"))?);
            }
        }
        ensure!(!text.is_empty() && !keys.is_empty(), "a text and a key are wanted");
        Ok(Self { section, text: text.join(" "), keys })
    }

    /// What holds without the file, or an example where that is no value.
    fn default(&self) -> String {
        let pairs: Vec<_> = self.keys.iter().map(|(key, value)| format!("`{key} = {value}`")).collect();
        let label = match self.keys.first() {
            Some(("ciphers" | "lifetime_seconds", _value)) => "Example",
            Some(("chain", _value)) => "Default: none. Example",
            Some(_) | None => "Default",
        };
        format!("{label}: {}.", pairs.join(", "))
    }
}

/// What is said of an option in [`MORE`].
pub(crate) fn more(option: &str) -> &'static str {
    MORE.iter().find(|(name, _text)| *name == option).map_or("", |(_name, text)| *text)
}

/// What the table's one line has no room for: more of the meaning, and errors of the option's own.
const MORE: &[(&str, &str)] = &[
    (
        "TLS_HOSTNAME",
        "A name has up to 253 characters: labels of 1 to 63 letters, digits, `-` and `_`, with dots between them. \
         Letters beyond ASCII are written in the `xn--` form. If it is an IP address, the certificate must name that \
         address, and no SNI is sent. Anything else gives `EINVAL`, and what only looks like an IPv6 address makes \
         `connect` fail with `EPROTO`.\n\
         It may still be set where the other settings are frozen. Read, it is empty if none was set.\n\
         Of an accepted socket it is the name that the client has asked for. `ENOENT`: it has named none.",
    ),
    (
        "TLS_TRUSTED_PEER_CERTIFICATES",
        "The last set counts. Of a directory, those files are read that are named by the hash of a certificate, as \
         `openssl rehash` names them.\n\
         `EPROTO`: the policy does not let applications bring CAs of their own.",
    ),
    (
        "TLS_CERTIFICATE_CHAIN",
        "A client shows it to a peer that asks for one; a server needs it. It may be set again, with another key: \
         for a key of another type, or (server) for other names. A server shows the one that fits the name that \
         the client asks for, else the first. A chain without a key makes `connect` fail with `EPROTO`, or `accept` \
         fail. Files that are replaced while a socket listens are taken up for new clients, if chain and key fit.",
    ),
    (
        "TLS_PRIVATE_KEY",
        "It must fit the first certificate of the chain, and must not be encrypted. A key that does not fit, or \
         that no chain waits for, makes `connect` fail with `EPROTO`.",
    ),
    (
        "TLS_ALPN",
        "It has 1 to 255 bytes, such as `h2,http/1.1`, and none of the protocols is empty; else `EINVAL`. If it \
         is not set, the policy's own are offered. It is empty if the peer chose none.",
    ),
    (
        "TLS_SESSION_TTL",
        "It is 7200 unless the policy says otherwise. A session ends with its chain's first certificate that expires, \
         whatever this says.\n\
         `EINVAL`: below 0. `EPROTO`: longer than the policy allows.",
    ),
    (
        "TLS_DISABLE_CIPHER",
        "If no suite is left for any version, `connect` fails with `EPROTO`.\n`EINVAL`: the name is unknown, too.",
    ),
    ("TLS_PEER_IDENTITY", "At most 400 bytes are given. `ENOENT`: a client has shown no certificate."),
    (
        "TLS_REQUEST_PEER_AUTH",
        "Clients' certificates are checked against `TLS_TRUSTED_PEER_CERTIFICATES` only, without which the socket \
         can't serve. Where a certificate is asked for, sessions are not resumed.",
    ),
    (
        "TLS_REVOCATION_CHECKS",
        "Each certificate of the verified chain but the root needs an answer that it is good. One that is revoked, and one \
         of which nothing can be learned in time, gives `EPROTO` from `connect`; a client with such a certificate is \
         reset. Resumed sessions are checked as well. A certificate that says that its status must be stapled (RFC 7633) \
         is refused without.\n\
         `EPROTO`: off, while the policy says on.",
    ),
    (
        "TLS_OCSP_STAPLED_CHECKS",
        "Of a TLS 1.3 peer those of intermediate certificates, too.\n`EPROTO`: on, while the policy says off.",
    ),
    (
        "TLS_OCSP_CHECKS",
        "The responders are those that the certificate names. They and CRLs are asked side by side, and the first answer \
         counts.\n`EPROTO`: on, while the policy says off.",
    ),
    ("TLS_CRL_CHECKS", "The lists are those that the certificate names.\n`EPROTO`: on, while the policy says off."),
    (
        "TLS_CACHED_REV_CHECKS",
        "Answers are cached for as long as they say, and for 7 days at most. Off, every connection asks anew.\n\
         `EPROTO`: on, while the policy says off.",
    ),
    (
        "TLS_SERVER_OCSP_STAPLING",
        "The response is fetched from the responder that the certificate names, if its issuer is in the chain, and kept \
         fresh. Else it is that of the file `CHAIN.ocsp` beside the chain, if there is one.",
    ),
    (
        "TLS_PEER_CERTIFICATE_CHAIN",
        "They have at most 4096 bytes together. The others can be had by `TLS_PEER_CERTIFICATE(i)`.\n\
         `EINVAL`: the buffer is too small for the first certificate. `EMSGSIZE`: that one has over 4096 bytes.",
    ),
    ("TLS_ID", "It is random, and never 0."),
    (
        "TLS_TRUSTED_CIPHERS",
        "They are of TLS 1.2 and 1.3. A version of which none is listed is not offered. Read, the names are \
         OpenSSL's.\n\
         `EINVAL`: a name is unknown. `EPROTO`: the policy does not allow one of them. The list then stays as it was.",
    ),
    (
        "TLS_ERROR",
        "It has at most 256 bytes: why the last `connect` failed, the last set was refused, or the connection was \
         reset.",
    ),
    (
        "TLS_CONTEXT",
        "A context is the settings of a socket, and the sessions that its connections have left. Once its id was \
         read, the settings are frozen: a set of anything but `TLS_HOSTNAME` gives `EOPNOTSUPP`. Another socket \
         that sets the id has this context in place of its own, frozen as well, and starts with its host name. \
         The context goes with the last socket that has it.\n\
         `EINVAL`: there is no such context, its sockets are closed, or it is of another user, served cgroup or \
         network namespace.",
    ),
    (
        "TLS_SESSION_REUSE",
        "It is on unless the policy says otherwise. Sessions are kept by context: sockets resume each other's if \
         they share one (`TLS_CONTEXT`).\n\
         `EPROTO`: on, while the policy says off.",
    ),
    ("TLS_ENABLE_CIPHER", "`EINVAL`: the name is unknown. `EPROTO`: the policy does not allow the suite."),
    (
        "TLS_VERSION_MIN",
        "The lowest version that is accepted.\n\
         `EINVAL`: no version, or above `TLS_VERSION_MAX`. `EPROTO`: outside the policy, or older than TLS 1.2.",
    ),
    (
        "TLS_VERSION_MAX",
        "The highest version that is accepted.\n\
         `EINVAL`: no version, or below `TLS_VERSION_MIN`. `EPROTO`: outside the policy, or older than TLS 1.2.",
    ),
    ("TLS_PEER_CERTIFICATE_COUNT", "That of the trusted CA is one of them."),
    ("TLS_PEER_CERTIFICATE", "`EINVAL`: the buffer is too small."),
];

const SYNOPSIS: &str = r#"
#include <string.h>
#include "in_tls.h"

setsockopt(fd, IPPROTO_TLS, TLS_HOSTNAME, host, strlen(host) + 1);
connect(fd, address, address_length);
getsockopt(fd, IPPROTO_TLS, option, value, &length);
"#;

const DESCRIPTION: &str = "\
An application opens an ordinary TCP socket, sets a host name at the option level `IPPROTO_TLS` (205), and calls \
`connect`(2). When `connect` returns 0, the peer's certificate has been verified for that name, and all that is read \
and written from then on travels as TLS 1.2 or 1.3. The application links no TLS library: an agent, `ssa-agent`, \
speaks TLS for the applications of a cgroup. `ssa-agent exec --cgroup PATH -- COMMAND` runs one there.
`socket`(2) makes a TLS socket if its protocol is `IPPROTO_TLS`, for AF_INET or AF_INET6 and SOCK_STREAM, on Linux 6.6 and \
later; elsewhere it gives `EPROTONOSUPPORT`. \
Any set at this level on a fresh TCP socket makes it a TLS socket for good, even a set that is refused: an application \
that ignores the error must not go on in plaintext. A TLS socket does not connect without a host name, without an agent, or \
to a peer that is not verified. An inherited, duplicated or passed descriptor is the same TLS socket.
What TLS must be at least, the administrator decides (`ssa-agent.toml`(5)). Applications can only ask for more; what is \
weaker gives `EPROTO`.";

const CONNECTING: &str = "\
All ways to call `connect` work: a non-blocking one gives `EINPROGRESS`, and its end comes as ever, by `poll`(2) and \
`SO_ERROR`. After a failure `TLS_ERROR` says why in words, such as the date on which a certificate expired. The socket \
can then be set up further, and connect again.
Connecting to 0.0.0.0 or :: makes the agent resolve the host name, as the application would: from its network namespace, \
with its /etc/resolv.conf and its /etc/hosts. An IPv4 socket gets IPv4 addresses, an IPv6 socket both. They are tried \
in turn until one accepts the TCP connection.
`getpeername`(2) and `getsockname`(2) give the addresses of the connection to the peer.
A server sets `TLS_CERTIFICATE_CHAIN` and `TLS_PRIVATE_KEY`, then calls `bind`(2), `listen`(2) and `accept`(2) as ever. \
`accept` gives only connections whose handshake has succeeded, with the client's real address; all that can be read of a \
connection can be read of the new socket. If the socket can't serve, because chain and key do not fit, `accept` fails with \
`EINVAL` or `ECONNABORTED`, and `TLS_ERROR` of the listening socket says why. Without an agent nothing reaches it.";

pub(crate) const PHASES: &[(&str, &str)] = &[
    ("0", "`TLS_STATE_FRESH`: neither `connect` nor `listen`(2) was called. Options may be set."),
    ("1", "`TLS_STATE_CONNECTING`: `connect` runs, or is in progress."),
    ("2", "`TLS_STATE_CONNECTED`: the peer is verified."),
    ("3", "`TLS_STATE_LISTENING`: `listen` was called."),
    ("4", "`TLS_STATE_FAILED`: the last `connect` has failed. All else is as when fresh."),
    (
        "5",
        "`TLS_STATE_PEER_CLOSED`: the peer has closed, or the connection was reset. What can be read of a connection \
         can be read until `close`(2).",
    ),
];

pub(crate) const AFTER_PHASES: &str = "\
A `connect` to an address of family `AF_UNSPEC` makes a socket fresh again, with the settings that it has.";

pub(crate) const VALUES: &str = "\
Numbers are in host byte order and want their exact size: 4 bytes for an `int`, 8 for `int64_t` and `uint64_t`.
A string has one NUL, at its end, which the length counts. A string that is returned has its NUL as well. A buffer \
that is too small gives `EINVAL`, and nothing is written. A value has at most 4096 bytes.";

pub(crate) const VALUE_FILES: &str = "\
Where a path or PEM text is wanted, a value that begins with `-----BEGIN` is the text itself. Anything else is a path. \
A relative one starts at the application's working directory.
The agent opens the file with the rights of the application: its user and groups, its root directory and mounts, and no \
capability that it lacks. The user is the real one; where that is root, the effective one. A file has at most 1 MiB.
This happens once the option is set. If a file can't be read or used, the next `connect` fails with `EPROTO`, and \
`TLS_ERROR` says what is wrong. Set the right one on a new socket.";

pub(crate) const END: &str = "\
`shutdown`(2) of the writing side becomes `close_notify`, and the peer's `close_notify` an end of file. The other \
direction stays open.
A connection that is cut short is a reset, never an end of file: if the peer ends without `close_notify`, breaks TLS, \
or if the agent ends, the application gets `ECONNRESET`.";

const BEFORE_OPTIONS: &str = "\
In brackets stand the type, and when an option can be set and read. A socket whose `connect` has failed counts as one \
before `connect`.";

pub(crate) const SOCKOPT_ERRORS: &[(&str, &str)] = &[
    ("EBADFD", "The socket's state is lost."),
    ("EFAULT", "The buffer is at a bad address, or a null pointer with a length."),
    ("EINVAL", "The value or the length is not valid, the buffer is too small, or there is no such context."),
    ("EMSGSIZE", "A certificate of the peer has over 4096 bytes."),
    ("ENOBUFS", "Out of room, or there are as many TLS sockets as the policy allows."),
    ("ENOENT", "The peer's chain has no such certificate."),
    (
        "ENOPROTOOPT",
        "There is no such option, or not in this direction. Or the socket is no TCP socket of a cgroup that is served; \
         Multipath TCP is none either. Read: the socket is no TLS socket.",
    ),
    (
        "ENOTCONN",
        "Set: the agent is not running. Read: the socket has got no settings, because no set on it got as far as that. \
         All answers of other sockets can be read without the agent.",
    ),
    (
        "EOPNOTSUPP",
        "Not in this phase of the socket, or the settings are frozen (`TLS_CONTEXT`). A plain socket that listens or \
         is connected stays plain.",
    ),
    ("EPROTO", "Weaker than the policy allows."),
];

pub(crate) const CONNECT_ERRORS: &[(&str, &str)] = &[
    ("EACCES", "A rule of the administrator's denies the connection."),
    ("ECONNREFUSED", "The peer refuses connections."),
    (
        "EHOSTUNREACH",
        "The peer can't be reached, its name has no address, a limit of connections is met, the agent ends, or it took too \
         long: 10 s to connect or 10 s for the handshake, unless the policy says otherwise.",
    ),
    ("ENETUNREACH", "There is no route to the peer's network."),
    ("ENOBUFS", "Out of room."),
    ("ENOTCONN", "The agent is not running."),
    ("EOPNOTSUPP", "`TCP_FASTOPEN_CONNECT` is on."),
    (
        "EPROTO",
        "No host name was set, the handshake or the peer's certificate was refused, the CAs, chain or key that were \
         set can't be used, the settings are weaker than the policy, or it is a Multipath TCP socket on which an \
         option was tried.",
    ),
    (
        "ETIMEDOUT",
        "The agent gave no answer. The kernel gives up after about a minute, or earlier if the application has said so \
         (`TCP_SYNCNT`, `TCP_USER_TIMEOUT`).",
    ),
];

pub(crate) const STREAM_ERRORS: &[(&str, &str)] =
    &[("ECONNRESET", "The peer has ended without `close_notify` or broken TLS, or the agent has ended.")];

const NOTES: &str = "\
Between the application and the agent the bytes are plaintext, on the loopback interface of the application's network \
namespace. Root, and whoever has `CAP_NET_RAW` there, can read them.
A socket belongs for ever to the cgroup in which its application was when it made the socket. Outside a cgroup that is \
served, options give `ENOPROTOOPT`, and an application that ignores this speaks plaintext. So does one that ignores it on \
an `AF_SMC` socket.
CAs, chains and keys that were set as PEM texts are lost when the agent is restarted; files are read again. The next \
`connect` then fails with `EPROTO`: set CAs again, and chains and keys on a new socket. A listening socket is ended.
An application of the same user, cgroup and network namespace that learns a context's id may adopt the context.
`TCP_INFO`, `SIOCOUTQ` and `SO_LINGER` speak of the connection to the agent.
The agent needs Linux 6.1 or later, cgroup version 2, and a loopback interface that is up in the application's network \
namespace.";

const BUGS: &str = "\
A socket that listens already can't become a TLS socket. A plain socket outside the cgroup that listens at one address of \
a port is passed over, if it begins to listen after a TLS socket does so at every address of that port.
`socket`(2) takes `IPPROTO_TLS` as a protocol on Linux 6.6 and later only.
A bound source port does not hold on the connection to the peer. `SO_BINDTODEVICE` reads empty after `connect`.
A link-local IPv6 address can only be reached by a socket that is bound to an interface.
nsswitch.conf(5) is not looked at where the agent resolves a name.
Packet filters by user see the agent in what is written to the clients of a TLS listener. On the connection that `connect` \
makes they see the application, as those by cgroup and network namespace do.
`getsockopt` with a null pointer and a length gives `EFAULT` on x86-64. For 32-bit applications, under io_uring, on other \
machines and in a kernel locked down for confidentiality it returns 0, and writes the length only.";

const C_EXAMPLE: &str = r#"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <unistd.h>
#include "in_tls.h"

static const char host[] = "www.example.org";
static const char request[] = "GET / HTTP/1.1\r\n"
    "Host: www.example.org\r\nConnection: close\r\n\r\n";

int main(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET,
                              .sin_port = htons(443)};
    char buffer[4096];
    socklen_t length = sizeof buffer;
    ssize_t count;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    /* The length counts the NUL. */
    if (setsockopt(fd, IPPROTO_TLS, TLS_HOSTNAME, host,
                   sizeof host)) {
        perror("setsockopt");
        return 1;
    }
    if (connect(fd, (struct sockaddr *)&any, sizeof any)) {
        perror("connect");
        if (!getsockopt(fd, IPPROTO_TLS, TLS_ERROR, buffer, &length))
            fprintf(stderr, "%s\n", buffer);
        return 1;
    }
    if (write(fd, request, sizeof request - 1) < 0) {
        perror("write");
        return 1;
    }
    while ((count = read(fd, buffer, sizeof buffer)) > 0)
        fwrite(buffer, 1, count, stdout);
    if (count < 0)
        perror("read"); /* such as a reset: not all has come */
    return count < 0;
}
"#;

const PYTHON_EXAMPLE: &str = r#"
import socket

IPPROTO_TLS, TLS_HOSTNAME, TLS_ERROR = 205, 85, 100
HOST = b"www.example.org"

with socket.socket() as sock:
    sock.setsockopt(IPPROTO_TLS, TLS_HOSTNAME, HOST + b"\0")
    try:
        sock.connect((HOST, 443))
    except OSError as error:
        why = sock.getsockopt(IPPROTO_TLS, TLS_ERROR, 256)
        raise SystemExit(f"{error}: {why.decode()[:-1]}")
    sock.sendall(b"GET / HTTP/1.1\r\nHost: " + HOST
                 + b"\r\nConnection: close\r\n\r\n")
    while data := sock.recv(4096):
        print(data.decode(errors="replace"), end="")
"#;

const CONFIGURATION: &str = "\
This file says what TLS may be on a machine, and for whom it is different. `ssa-agent run` reads it as it starts, and \
again when it is told to. Without the file, or another that `--config` names, the defaults hold.
The format is TOML. Every key may be left out. A section or key that does not exist, and a value that makes no sense, \
is an error with line and column, and the agent does not start.
Programs can only ask for more than the file demands, by the options of `ssa-tls`(7). What is weaker fails with \
`EPROTO`: at the option, or at `connect`(2) where only then it is known.
`ssa-agent check` says what is wrong with a file and with the certificates and keys that it names, or prints the \
policy that it comes to. `ssa-agent check --explain PID` prints that of a running program, and the profiles that it \
comes from.";

const AFTER_RULES: &str = "\
`name` is for messages, must be there, and is nobody else's. `ssa-agent check --explain PID --to ADDRESS:PORT` says what \
becomes of a connection, and by which rule; `--listen ADDRESS:PORT` says it of a listener.
A listener that began before there was a rule for it is closed to clients until it is begun again. One whose certificate \
can't be used stays closed, and is tried again every two seconds. Connections by one rule share cached sessions.
The kubelet of Kubernetes must probe a port that is served as TLS with `scheme: HTTPS`, or by `tcpSocket`. Go's listeners \
are of Multipath TCP unless `GODEBUG=multipathtcp=0` is set.";

const AFTER_PROFILES: &str = "\
`name` is for messages, and must be there. `executable` is an absolute path, and `unit` a whole name, such as \
`nginx.service`. A profile that has none of the four is an error. Of two by cgroup, the deeper one comes later. A list \
takes the place of the list before it. `chain` and `key` replace those before them together.
Which executable a program is, is only known at `connect`. Whoever may run a program may preload code into it, and a \
program in a container has a path of its container's: a profile by executable is no border between users.";

const RELOAD: &str = "\
`ssa-agent reload --cgroup PATH`, and `SIGHUP` to the agent, put a changed file in force, with the certificates and \
keys that it names. If anything is wrong with it, the policy in force stays. `ssa-agent reload` then prints the error \
and fails; the agent logs it in either case.
New connections go by the new policy, those of older sockets too: what a program has set before and is now too weak \
makes `connect` fail with `EPROTO`, and what it has not set follows. Sessions of the old policy are not resumed. Open \
connections are left alone, and no socket is closed by a lower limit.";

const FILES: &[(&str, &str)] = &[
    ("/etc/ssa/agent.toml", "The file that is read if `--config` names no other."),
    ("deploy/agent.toml", "In the sources: every key with its default, commented out, to start from."),
    ("/run/ssa-agent/INODE.sock", "Where `ssa-agent reload` reaches the agent of a cgroup, by the cgroup's inode."),
];

const CONFIGURATION_EXAMPLE: &str = r#"
[tls]
version_min = "1.3"

[trust]
system = false
files = ["/etc/ssa/company-ca.pem"]
applications_may_bring_cas = false

[[profile]]
name = "backup"
user = "backup"
[profile.credentials]
chain = "/etc/ssa/backup.pem"
key = "/etc/ssa/backup.key"
"#;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::process::root;

    fn file() -> String {
        fs::read_to_string(root().join("deploy/agent.toml")).unwrap()
    }

    #[test]
    fn every_option_is_in_the_first_page() {
        let page = options();
        for option in OPTIONS {
            let tag = format!("\n.TP\n{}\n", roff(&tag(option)));
            assert!(tag.contains(option.name) && page.contains(&tag), "{tag}");
            assert!(page.contains(&format!("\n{}\n", roff(&sentence(option.doc)))), "{}", option.doc);
        }
        for (alias, _name) in ALIASES {
            assert!(page.contains(&format!("\\fB{alias}\\fR")), "{alias}");
        }
    }

    #[test]
    fn only_of_options_more_is_said() {
        for (name, _text) in MORE {
            assert!(OPTIONS.iter().any(|option| option.name == *name), "{name}");
        }
    }

    #[test]
    fn every_key_is_in_the_second_page() {
        let (file, mut keys) = (file(), 0);
        let page = configuration(&file).unwrap();
        for (key, value) in file.lines().filter_map(|line| line.trim_start_matches('#').split_once(" = ")) {
            if key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
                keys += 1;
                assert!(page.contains(&literal(&format!("{key} = {value}"))), "{key}");
            }
        }
        assert!(keys > 20, "{keys}");
        for key in ["version_min", "handshake_seconds", "key", "executable", "user"] {
            assert!(page.lines().any(|line| line.contains(&format!("\\fB{key}\\fR"))), "{key}");
        }
    }

    #[test]
    fn other_files_are_refused() {
        for text in ["", "a\n\nb", "[tls]\n#key = 1\n\n# P\n#\n#[[p]]", "[tls]\n# Text.\nkey = 1\n\n# P\n#\n#[[p]]"] {
            assert!(configuration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_roff_would_take_for_its_own_is_escaped() {
        assert_eq!(roff("a `--b'` c. D"), "a \\fB\\-\\-b\\(aq\\fR c.\nD");
        assert_eq!(roff(".so '\\"), "\\&.so '\\e");
        assert_eq!(guarded(&literal("'x'\n.y\\n")), "\\(aqx\\(aq\n\\&.y\\en");
    }

    #[test]
    fn pages_are_ascii_and_have_known_macros_only() {
        for page in [options(), configuration(&file()).unwrap()] {
            assert!(page.is_ascii());
            for line in page.lines().filter(|line| line.starts_with(['.', '\''])) {
                let name = line.split(' ').next().unwrap();
                let known = [".\\\"", ".TH", ".nh", ".ad", ".SH", ".SS", ".PP", ".TP", ".IP", ".in", ".EX", ".EE"];
                assert!(known.contains(&name), "{line}");
            }
        }
    }
}
