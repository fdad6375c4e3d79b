//! Configurations of an agent, key by key: `Config::rule("out").to("127.0.0.1", port).hostname(NAME)`.

use std::fmt;

/// The text of a configuration file, as it grows. A key goes to the section, or rule, that was begun last.
#[derive(Clone, Debug, Default)]
pub struct Config(String);

impl Config {
    /// A section: `[tls]`.
    pub fn section(name: &str) -> Self {
        Self(format!("[{name}]\n"))
    }

    /// An element of a list of sections: `[[service]]`.
    pub fn item(name: &str) -> Self {
        Self(format!("[[{name}]]\n"))
    }

    /// A `[[rule]]` with a name.
    pub fn rule(name: &str) -> Self {
        Self::item("rule").set("name", name)
    }

    /// Another configuration behind this one.
    pub fn and(mut self, other: Self) -> Self {
        self.0 += &other.0;
        self
    }

    /// A key of the last section.
    pub fn set(mut self, key: &str, value: impl Value) -> Self {
        self.0 += &format!("{key} = {}\n", value.toml());
        self
    }

    /// The rule is for what goes out to a port of an address.
    pub fn to(self, address: &str, port: u16) -> Self {
        self.outbound().set("address", address).set("port", port)
    }

    /// The rule is for what goes out to a port, wherever.
    pub fn to_port(self, port: u16) -> Self {
        self.outbound().set("port", port)
    }

    /// The rule is for what goes out.
    pub fn outbound(self) -> Self {
        self.set("direction", "out")
    }

    /// The rule is for what listens.
    pub fn inbound(self) -> Self {
        self.set("direction", "in")
    }

    /// The name that peers of the rule must prove to have.
    pub fn hostname(self, name: &str) -> Self {
        self.set("hostname", name)
    }

    /// Names of which a peer must prove to have the one that was resolved.
    pub fn hostnames(self, names: &[&str]) -> Self {
        self.set("hostnames", names)
    }

    /// The rule trusts the CAs of a file alone.
    pub fn trust_only(mut self, file: &str) -> Self {
        self.0 += &format!("trust = {{ system = false, files = [{}] }}\n", file.toml());
        self
    }

    /// The rule's own certificate and key.
    pub fn credentials(mut self, chain: &str, key: &str) -> Self {
        self.0 += &format!("credentials = {{ chain = {}, key = {} }}\n", chain.toml(), key.toml());
        self
    }
}

impl FromIterator<Self> for Config {
    fn from_iter<Each: IntoIterator<Item = Self>>(configs: Each) -> Self {
        configs.into_iter().fold(Self::default(), Self::and)
    }
}

impl fmt::Display for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A value that a key may have.
pub trait Value {
    /// The value as TOML writes it.
    fn toml(&self) -> String;
}

impl Value for str {
    fn toml(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for [&str] {
    fn toml(&self) -> String {
        format!("{self:?}")
    }
}

impl<T: Value + ?Sized> Value for &T {
    fn toml(&self) -> String {
        (**self).toml()
    }
}

impl<const N: usize> Value for [&str; N] {
    fn toml(&self) -> String {
        format!("{self:?}")
    }
}

impl Value for bool {
    fn toml(&self) -> String {
        self.to_string()
    }
}

impl Value for u16 {
    fn toml(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_to_the_last_section() {
        let rule = Config::rule("out").to("127.0.0.1", 443).hostnames(&["a.test", "*.b.test"]).trust_only("/ca.pem");
        let config = Config::section("tls").set("alpn", ["h2"]).and(rule).set("app_tls", "passthrough");
        let text = r#"[tls]
alpn = ["h2"]
[[rule]]
name = "out"
direction = "out"
address = "127.0.0.1"
port = 443
hostnames = ["a.test", "*.b.test"]
trust = { system = false, files = ["/ca.pem"] }
app_tls = "passthrough"
"#;
        assert_eq!(config.to_string(), text);
    }
}
