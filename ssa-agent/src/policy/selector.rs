//! `[[service]]` of the configuration: which cgroups the agent attaches by itself.

use super::pod::{Pod, Pods};
use crate::sys::container::{ID_LEAST, container_id, container_names};
use kube::core::{Expression, Selector as KubeSelector, SelectorExt as _};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{collections::BTreeSet, path::Path};

/// Services are cgroups that the agent attaches by itself, when it starts and when they begin. It lets them go when they have
/// ended. Each is named by one of `unit`, `cgroup`, `container` and `pod`.
///
/// What is below a service is served with it. A service is served from its first packet on. One that is no longer named stays
/// attached until `ssa-agent detach`.
///
/// ```toml
/// [[service]]
/// unit = "payments.service"
/// [[service]]
/// cgroup = "/machine.slice/*"
/// [[service]]
/// pod = { namespace = "shop", selector = "app=web,tier in (front,back)" }
/// ```
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Service", extend("minProperties" = 1, "maxProperties" = 1))]
pub(crate) struct Selector {
    /// A systemd unit or slice: the last part of a cgroup's path. `*` and `?` are wildcards.
    #[schemars(with = "Option<String>")]
    unit: Option<Glob>,
    /// The path of a cgroup below the mount, with a slash before it. A `*` is for a part of one name.
    #[schemars(with = "Option<String>")]
    cgroup: Option<Glob>,
    /// A container: its id, by the first 12 or more digits, or its name (docker, podman of root).
    container: Option<String>,
    /// Pods of this node in Kubernetes, by all that is given of `namespace` (with wildcards), `selector` (labels, as kubectl takes
    /// them) and `annotation` ("key" or "key=value"). The agent must be in the cluster, or have a `KUBECONFIG`, and `NODE_NAME` must
    /// be set. A pod that no longer fits is let go.
    pod: Option<PodSelector>,
}

/// A pattern with `*`, `?` and `[...]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Glob(glob::Pattern);

impl TryFrom<String> for Glob {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        glob::Pattern::new(&text).map(Self).map_err(|error| format!("{text:?} is no pattern: {error}"))
    }
}

/// What a pod must have, all of it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline, extend("minProperties" = 1))]
struct PodSelector {
    /// The pod's namespace, with wildcards.
    #[schemars(with = "Option<String>")]
    namespace: Option<Glob>,
    /// Labels of the pod, as kubectl selects them.
    #[schemars(with = "Option<String>")]
    selector: Option<LabelSelector>,
    /// An annotation of the pod: `key`, or `key=value`.
    annotation: Option<String>,
}

/// A selector of labels, such as `app=web,tier in (front,back),!legacy`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
struct LabelSelector(KubeSelector);

impl TryFrom<String> for LabelSelector {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = vec![String::new()];
        let mut depth = 0;
        for letter in text.chars() {
            depth += i32::from(letter == '(') - i32::from(letter == ')');
            match parts.last_mut() {
                Some(part) if letter != ',' || depth > 0 => part.push(letter),
                _ => parts.push(String::new()),
            }
        }
        let expressions = parts.iter().map(|part| expression(part.trim()));
        let selector: Option<KubeSelector> =
            expressions.collect::<Option<Vec<_>>>().map(|all| all.into_iter().collect());
        selector.map(Self).ok_or_else(|| {
            format!("{text:?} is no selector of labels, such as \"app=web,tier in (front,back),stage!=test,!legacy\"")
        })
    }
}

fn expression(text: &str) -> Option<Expression> {
    let word = |text: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        (!text.is_empty() && text.bytes().all(good)).then(|| text.to_owned())
    };
    let value = |text: &str| if text.is_empty() { Some(String::new()) } else { word(text) };
    if let Some(key) = text.strip_prefix('!') {
        return Some(Expression::DoesNotExist(word(key.trim())?));
    }
    if let Some(list) = text.strip_suffix(')') {
        let (head, list) = list.split_once('(')?;
        let values: Option<BTreeSet<String>> = list.split(',').map(|one| value(one.trim())).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Some(Expression::In(word(key)?, values?)),
            (Some(key), Some("notin"), None) => Some(Expression::NotIn(word(key)?, values?)),
            _ => None,
        };
    }
    if let Some((key, is)) = text.split_once("!=") {
        return Some(Expression::NotEqual(word(key.trim())?, value(is.trim())?));
    }
    match text.split_once('=') {
        Some((key, is)) => {
            Some(Expression::Equal(word(key.trim())?, value(is.strip_prefix('=').unwrap_or(is).trim())?))
        }
        None => Some(Expression::Exists(word(text)?)),
    }
}

impl PodSelector {
    fn selects(&self, pod: &Pod) -> bool {
        let annotated = |asked: &String| match asked.split_once('=') {
            Some((key, is)) => pod.annotations.get(key).is_some_and(|value| value == is),
            None => pod.annotations.contains_key(asked),
        };
        self.namespace.as_ref().is_none_or(|glob| glob.0.matches(&pod.namespace))
            && self.selector.as_ref().is_none_or(|labels| labels.0.matches(&pod.labels))
            && self.annotation.as_ref().is_none_or(annotated)
    }
}

/// A `*` is for a part of one name.
const OPTIONS: glob::MatchOptions =
    glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

impl Selector {
    /// As the command line names one.
    pub(crate) fn named(
        cgroup: Option<String>,
        unit: Option<String>,
        container: Option<String>,
    ) -> Result<Self, String> {
        let glob = |text: Option<String>| text.map(Glob::try_from).transpose();
        let service = Self { cgroup: glob(cgroup)?, unit: glob(unit)?, container, pod: None };
        service.check().map(|()| service)
    }

    /// Refuses a selector that names no service, or names one twice.
    pub(super) fn check(&self) -> Result<(), String> {
        let keys = [self.cgroup.is_some(), self.unit.is_some(), self.container.is_some(), self.pod.is_some()];
        if keys.into_iter().filter(|there| *there).count() != 1 {
            return Err("a service is named by one of `unit`, `cgroup`, `container` and `pod`".to_owned());
        }
        if self.cgroup.as_ref().is_some_and(|glob| !glob.0.as_str().starts_with('/')) {
            return Err("`cgroup` must be a path below the mount, with a slash before it".to_owned());
        }
        if self.unit.as_ref().is_some_and(|glob| !glob.0.as_str().contains('.') || glob.0.as_str().contains('/')) {
            return Err("`unit` must be a unit's whole name, such as \"nginx.service\" or \"app@*.service\"".to_owned());
        }
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if self.container.as_ref().is_some_and(|name| name.is_empty() || !name.bytes().all(letter)) {
            return Err(format!("`container` must be a name, or {ID_LEAST} or more digits of an id"));
        }
        let nothing = |pod: &PodSelector| pod.namespace.is_none() && pod.selector.is_none() && pod.annotation.is_none();
        if self.pod.as_ref().is_some_and(nothing) {
            return Err("`pod` must have a `namespace`, a `selector` or an `annotation`".to_owned());
        }
        Ok(())
    }

    /// Whether it is for this cgroup, by its path below the mount.
    pub(crate) fn selects(&self, cgroup: &Path, pods: &Pods) -> bool {
        let name = cgroup.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        if let Some(glob) = &self.cgroup {
            return glob.0.matches_path_with(cgroup, OPTIONS);
        }
        if let Some(glob) = &self.unit {
            // The sockets that systemd makes for a service are made in the cgroup of its socket unit.
            let activated = name.strip_suffix(".socket").map(|unit| format!("{unit}.service"));
            return [Some(name.as_ref()), activated.as_deref()]
                .into_iter()
                .flatten()
                .any(|name| glob.0.matches_with(name, OPTIONS));
        }
        if let Some(selector) = &self.pod {
            return pods.of(cgroup).is_some_and(|pod| selector.selects(&pod));
        }
        let (Some(wanted), Some(id)) = (&self.container, container_id(&name)) else { return false };
        let by_id = wanted.len() >= ID_LEAST && wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
        if by_id { id.starts_with(wanted.as_str()) } else { container_names(id).contains(wanted) }
    }

    /// Whether it can be for a cgroup below this one, by path below the mount.
    pub(super) fn may_select_below(&self, cgroup: &Path) -> bool {
        let Some(glob) = &self.cgroup else {
            return true;
        };
        let wanted: Vec<&str> = glob.0.as_str().split('/').skip(1).collect();
        let parts: Vec<_> = cgroup.iter().skip(1).map(|part| part.to_string_lossy()).collect();
        let fits = |(wanted, part): (&&str, &std::borrow::Cow<'_, str>)| {
            glob::Pattern::new(wanted).is_ok_and(|pattern| pattern.matches(part))
        };
        wanted.len() > parts.len() && wanted.iter().zip(&parts).all(fits)
    }

    /// Whether a cgroup's path alone says if it is for it.
    pub(super) fn goes_by_path(&self) -> bool {
        self.cgroup.is_some() || self.unit.is_some()
    }

    /// Whether it goes by what the API server tells of pods.
    pub(super) fn asks_for_pods(&self) -> bool {
        self.pod.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::file::File;

    #[test]
    fn services_are_named_by_unit_cgroup_or_container() {
        let takes = |text: &str, cgroup: &str| {
            File::parse(text).map(|file| file.selects(Path::new(cgroup), &Pods::default())).ok().unwrap()
        };
        let unit = "[[service]]\nunit = \"app@*.service\"";
        assert!(takes(unit, "/system.slice/app@1.service") && !takes(unit, "/system.slice/app.service"));
        assert!(!takes(unit, "/system.slice/app@1.service/below"));
        assert!(takes(unit, "/system.slice/app@1.socket") && !takes(unit, "/system.slice/other.socket"));
        let cgroup = "[[service]]\ncgroup = \"/a/*/c\"";
        assert!(takes(cgroup, "/a/b/c") && !takes(cgroup, "/a/b/b/c") && !takes(cgroup, "/a/b"));
        let container = "[[service]]\ncontainer = \"0123456789ab\"";
        for name in [
            "docker-0123456789abcd.scope",
            "libpod-0123456789ab.scope",
            "cri-containerd-0123456789abff.scope",
            "0123456789abcd",
        ] {
            assert!(takes(container, &format!("/x/{name}")), "{name}");
        }
        assert!(!takes(container, "/x/docker-1123456789abcd.scope"));
        for bad in [
            "unit = \"app\"",
            "cgroup = \"a\"",
            "container = \"a/b\"",
            "pod = {}",
            "pod = { selector = \"a in b\" }",
            "pod = { selector = \"a=b=c\" }",
            "pod = { label = \"a\" }",
            "",
            "unit = \"a.b\"\ncgroup = \"/a\"",
            "name = \"x\"",
        ] {
            assert!(File::parse(&format!("[[service]]\n{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn pods_are_selected_as_kubectl_does() {
        let pod = |labels: &[(&str, &str)]| Pod {
            namespace: "shop".to_owned(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            annotations: [("ssa.dev/tls".to_owned(), "on".to_owned())].into(),
            ..Pod::default()
        };
        let takes = |rule: &str, labels: &[(&str, &str)]| {
            let rule: PodSelector = toml::from_str(rule).unwrap();
            rule.selects(&pod(labels))
        };
        let front: &[(&str, &str)] = &[("app", "web"), ("tier", "front")];
        for (rule, taken) in [
            ("selector = \"app=web\"", true),
            ("selector = \"app==web, tier in (front,back)\"", true),
            ("selector = \"app=web,tier notin (front)\"", false),
            ("selector = \"app!=db,!legacy,tier\"", true),
            ("selector = \"legacy\"", false),
            ("namespace = \"shop\"", true),
            ("namespace = \"kube-*\"", false),
            ("namespace = \"sh*\"\nselector = \"app=web\"\nannotation = \"ssa.dev/tls=on\"", true),
            ("annotation = \"ssa.dev/tls\"", true),
            ("annotation = \"ssa.dev/tls=off\"", false),
            ("namespace = \"shop\"\nselector = \"app=db\"", false),
        ] {
            assert_eq!(takes(rule, front), taken, "{rule}");
        }
        assert!(takes("selector = \"tier!=front\"", &[]), "what is absent is not equal");
    }
}
