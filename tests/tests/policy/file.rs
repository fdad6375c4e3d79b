//! The configuration file: mistakes have a place, and the default file and the schema say what the defaults are.

use std::{fs, process::Command};

use serde_json::Value;
use ssa_tests::agent::executable;

/// `ssa-agent check` of a text: exit status, and what it printed.
fn check(text: &str, arguments: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    fs::write(&path, text).unwrap();
    let output = Command::new(executable()).arg("check").arg("--config").arg(&path).args(arguments).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.success(), said.replace(path.to_str().unwrap(), "FILE"))
}

#[test]
fn mistakes_are_named_with_their_line_and_column() {
    for (text, said) in [
        ("[tls]\nversion_minn = '1.2'\n", "FILE:2:1: unknown field `version_minn`, expected one of `version_min`"),
        ("[tsl]\n", "FILE:1:2: unknown field `tsl`, expected one of `tls`"),
        ("[tls]\nversion_min = '1.1'\n", "FILE:2:15: unknown variant `1.1`, expected `1.2` or `1.3`"),
        ("[tls]\nversion_min = 1.3\n", "FILE:2:15: "),
        ("[tls]\nciphers = ['A']\n", r#"FILE:2:12: this OpenSSL has no cipher suite "A""#),
        ("[tls]\nciphers = ['TLS_AES_128_GCM_SHA256']\n", "belongs to `ciphersuites`"),
        (
            "[tls]\nciphersuites = [\n\n  'ECDHE-RSA-AES128-GCM-SHA256']\n",
            "FILE:4:3: ECDHE-RSA-AES128-GCM-SHA256 is no suite",
        ),
        ("[tls]\ngroups = ['X25519', 'P-255']\n", r#"FILE:2:21: this OpenSSL has no group "P-255""#),
        ("[tls]\nsignature_algorithms = ['md5']\n", "FILE:2:25: this OpenSSL has no signature algorithm"),
        ("[tls]\nalpn = ['h2,h3']\n", "FILE:2:9: a protocol's name"),
        ("[tls]\nversion_min = '1.3'\nversion_max = '1.2'\n", "FILE:1:1: `version_min` is above `version_max`"),
        ("[tls]\nversion_max = '1.2'\nciphers = []\n", "FILE:1:1: no cipher suite is left"),
        ("[trust]\nsystem = 1\n", "FILE:2:10: invalid type: integer `1`, expected a boolean"),
        ("[trust]\nsystem = false\napplications_may_bring_cas = false\n", "FILE:1:1: nobody is trusted"),
        ("[trust]\nverify_depth = -1\n", "FILE:2:16: -1 is below 0"),
        ("[trust]\nfiles = ['/nowhere/ca.pem']\n", "/nowhere/ca.pem: No such file"),
        ("[time]\nconnect_seconds = 0\n", "FILE:2:19: 0 is not from 0.1 to 60 seconds"),
        (
            "\n[time]\nconnect_seconds = 31\nhandshake_seconds = 30\n",
            "FILE:2:1: `connect_seconds` and `handshake_seconds` are 61",
        ),
        ("[credentials]\nchain = '/x'\n", "FILE:1:1: `chain` and `key`"),
        ("[limits]\nsockets = 'many'\n", r#"FILE:2:11: invalid type: string "many""#),
        ("[[profile]]\nname = 'x'\n", "FILE:2:8: profile x: it is for nobody"),
        ("[[profile]]\nuser = 1\n", "missing field `name`"),
        ("[[profile]]\nname = 'x'\nuser = 'nobody-at-all'\n", r#"FILE:3:8: this machine has no user "nobody-at-all""#),
        ("[[profile]]\nname = 'x'\nexecutable = 'curl'\n", "must be an absolute path"),
        ("[[profile]]\nname = 'x'\nunit = 'nginx'\n", "must be a unit's whole name"),
        (
            "[[profile]]\nname = 'x'\nuser = 1\nlimits.sockets = 1\n",
            "unknown field `sockets`, expected `sockets_per_user`",
        ),
        (
            "[tls]\nversion_max = '1.2'\n[[profile]]\nname = 'x'\nuser = 1\n[profile.tls]\nversion_min = '1.3'\n",
            "FILE:6:1: profile x: `version_min` is above",
        ),
        (
            "[[rule]]\nname = 'x'\ndirection = 'out'\nhostname = 'a'\n[rule.tls]\nalpn = ['h2', '']\n",
            "FILE:6:15: a protocol's name",
        ),
        ("[tls\n", "FILE:1:5: "),
        (
            "[trust]\nprograms_may_bring_cas = false\n",
            "FILE:2:1: `programs_may_bring_cas` is called `applications_may_bring_cas` now",
        ),
        (
            "[[rule]]\nname = 'x'\ndirection = 'out'\nhostname = 'a'\nown_tls = 'pass'\n",
            r#"`own_tls` is called `app_tls`: "passthrough" for what was "pass""#,
        ),
        ("[revocation]\nfetch_from = 'program'\n", "unknown variant `program`, expected `host` or `application`"),
    ] {
        let (good, printed) = check(text, &[]);
        assert!(!good && printed.contains(said), "{text}\n{printed}\ninstead of {said}");
    }
    let output = Command::new(executable()).args(["check", "--config", "/nowhere.toml"]).output().unwrap();
    let (good, printed) = (output.status.success(), String::from_utf8(output.stderr).unwrap());
    assert!(!good && printed.contains("/nowhere.toml: No such file"), "{printed}");
}

/// A section's keys in the schema.
fn keys<'a>(schema: &'a Value, section: &str) -> &'a serde_json::Map<String, Value> {
    let definition = schema["properties"][section]["$ref"].as_str().unwrap().trim_start_matches('#');
    schema.pointer(definition).unwrap()["properties"].as_object().unwrap()
}

/// Every default of the schema is what the agent has without a file, and so is that of the default file, uncommented.
#[test]
fn default_file_says_what_the_defaults_are() {
    let root = ssa_tests::app::root();
    let schema = fs::read_to_string(root.join("deploy/agent.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let text = fs::read_to_string(root.join("deploy/agent.toml")).unwrap();
    let (good, plain) = check(&text, &[]);
    assert!(good, "{plain}");
    assert_eq!(check("", &[]), (true, plain.clone()), "all is commented out");

    let printed: Value = toml::from_str(&plain).unwrap();
    let sections = ["tls", "trust", "revocation", "sessions", "time", "limits"];
    assert_eq!(
        printed.as_object().unwrap().keys().filter(|name| sections.contains(&name.as_str())).count(),
        6,
        "{plain}"
    );
    for (section, values) in printed.as_object().unwrap() {
        let keys = keys(&schema, section);
        for (key, value) in values.as_object().unwrap() {
            match keys[key].get("default") {
                Some(default) => assert_eq!(default, value, "[{section}] {key}"),
                // What depends on OpenSSL.
                None => assert!(keys[key].get("examples").is_some(), "[{section}] {key}"),
            }
        }
        let missing = keys.iter().find(|(key, about)| about.get("default").is_some() && values.get(key).is_none());
        assert!(missing.is_none(), "[{section}] {missing:?}");
    }

    let (mut section, mut uncommented) = ("", String::new());
    for line in text.lines().take_while(|line| !line.starts_with("#[[")) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
            uncommented += &format!("{line}\n");
        } else if let Some((key, _value)) = line.strip_prefix('#').and_then(|line| line.split_once(" = "))
            && keys(&schema, section).get(key).is_some_and(|about| about.get("default").is_some())
        {
            uncommented += &format!("{}\n", &line[1..]);
        }
    }
    assert!(uncommented.contains("finish_seconds = 3600") && uncommented.lines().count() > 40, "{uncommented}");
    assert_eq!(check(&uncommented, &[]), (true, plain.clone()));
    // And what is printed is a configuration itself.
    assert_eq!(check(plain.split_once("\n\n").unwrap().1, &[]), (true, plain.clone()));
}
