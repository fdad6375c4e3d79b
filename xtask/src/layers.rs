//! `cargo xtask layers`: the agent's folders may import only what stands below them, and no circle of files is large.
//!
//! The table below is what docs/architecture.md shows as layers. A folder of a row imports folders of lower rows, and of its
//! own row none but itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::process::root;

/// The agent's folders and files below `ssa-agent/src`, from the top down.
const LAYERS: &[&[&str]] = &[
    &["lib", "main"],
    &["cli", "fuzz"],
    &["app"],
    &["outbound", "inbound", "control"],
    &["connection"],
    &["options"],
    &["revocation"],
    &["dial", "enforce"],
    &["netns", "services"],
    &["kernel", "policy", "relay"],
    &["tls", "telemetry", "sys"],
    &["drain", "sync"],
];

/// Most files that may import each other in a circle.
const CIRCLE_MAX: usize = 3;

/// A source file, by its path below `src`, and the files of its crate that it imports.
type Imports = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

pub(crate) fn run() -> Result<()> {
    let mut wrong = Vec::new();
    for krate in ["ssa-agent", "ssa-common", "ssa-ebpf", "xtask"] {
        let source = root().join(krate).join("src");
        let files = read(&source)?;
        if krate == "ssa-agent" {
            wrong.extend(files.iter().flat_map(|(path, text)| climbs(path, text)));
        }
        let circles = circles(&imports(&files));
        let largest = circles.iter().map(BTreeSet::len).max().unwrap_or(1);
        println!("{krate}: {} files, {largest} in the largest circle of imports", files.len());
        for circle in circles {
            let folders: BTreeSet<_> = circle.iter().map(|path| path.parent()).collect();
            if circle.len() > CIRCLE_MAX || folders.len() > 1 {
                let names: Vec<_> = circle.iter().map(|path| path.display().to_string()).collect();
                wrong.push(format!("{krate}: {} files import each other: {}", circle.len(), names.join(", ")));
            }
        }
    }
    wrong.iter().for_each(|line| println!("{line}"));
    ensure!(wrong.is_empty(), "{} imports go against the layers of xtask/src/layers.rs", wrong.len());
    Ok(())
}

/// Reads the source files of a crate, without comments and tests.
fn read(source: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    let mut left = vec![source.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path)?;
                files.insert(path.strip_prefix(source)?.to_owned(), code(&text));
            }
        }
    }
    Ok(files)
}

/// A file's text without comments, and without its tests, which stand last.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or(text);
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or(line));
    // How far something is visible is no import.
    lines.map(|line| line.replace("pub(in crate::", "pub(in ")).collect::<Vec<_>>().join("\n")
}

/// The row of a folder; the higher, the further down.
fn row(name: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&name))
}

/// The folder directly below `src` that a file is in, or the file's own name.
fn room(path: &Path) -> String {
    path.iter().next().map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned()).unwrap_or_default()
}

/// Lists what a file does against the layers, in words.
fn climbs(path: &Path, text: &str) -> Vec<String> {
    let own = room(path);
    let Some(own_row) = row(&own) else { return vec![format!("{}: {own} is in no layer", path.display())] };
    let mut wrong = Vec::new();
    for import in paths(text, "crate::") {
        let other = import.first().cloned().unwrap_or_default();
        // Items of lib.rs itself, and macros, are no folders.
        let Some(other_row) = row(&other) else { continue };
        if other != own && other_row <= own_row {
            wrong.push(format!("{}: crate::{} is not below {own}", path.display(), import.join("::")));
        }
    }
    if text.contains("super::super::") {
        wrong.push(format!("{}: super::super:: could climb out of the folder", path.display()));
    }
    if path.ends_with("mod.rs") && !is_list(text) {
        wrong.push(format!("{}: mod.rs has modules and what they export, and no code", path.display()));
    }
    wrong
}

/// Whether a file has nothing but `mod` and `use`.
fn is_list(text: &str) -> bool {
    const STARTS: [&str; 5] = ["mod ", "use ", "pub mod ", "pub use ", "#"];
    let statements = text.split(';').map(str::trim).filter(|statement| !statement.is_empty());
    statements.flat_map(|statement| statement.lines().next()).all(|first| {
        let bare = if first.starts_with("pub(") {
            first.split_once(") ").map_or(first, |(_visible, rest)| rest)
        } else {
            first
        };
        STARTS.iter().any(|start| bare.starts_with(start))
    })
}

/// The imports of each file. `mod.rs` of a folder, or the file of that name, stands for what it exports.
fn imports(files: &BTreeMap<PathBuf, String>) -> Imports {
    let target = |folder: &Path, segments: &[String]| -> Option<PathBuf> {
        let mut at = folder.to_owned();
        let mut found = None;
        for segment in segments {
            let file = at.join(format!("{segment}.rs"));
            let module = at.join(segment).join("mod.rs");
            at.push(segment);
            match [file, module].into_iter().find(|path| files.contains_key(path)) {
                Some(path) => found = Some(path),
                None => break,
            }
        }
        found
    };
    let imports = files.iter().map(|(path, text)| {
        let folder = path.parent().unwrap_or(Path::new(""));
        let absolute = paths(text, "crate::").into_iter().filter_map(|segments| target(Path::new(""), &segments));
        let is_module = path.ends_with("mod.rs");
        let siblings = paths(text, if is_module { "self::" } else { "super::" });
        let siblings = siblings.into_iter().filter_map(|segments| target(folder, &segments));
        let exported = paths(text, "pub(crate) use ").into_iter().filter(|_segments| is_module);
        let exported = exported.filter_map(|segments| target(folder, &segments));
        let all: BTreeSet<PathBuf> = absolute.chain(siblings).chain(exported).filter(|other| other != path).collect();
        (path.clone(), all)
    });
    imports.collect()
}

/// Lists the paths of a text that begins with `start`, by segments; of `start{a::b, c}` each.
fn paths(text: &str, start: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(start) {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == ':') {
            continue;
        }
        tree(&text[at + start.len()..], &[], &mut found);
    }
    found
}

/// Reads one path, or a list of them in braces, and returns how long it is.
fn tree(text: &str, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut segments = before.to_vec();
    let mut at = 0;
    loop {
        let rest = &text[at..];
        if rest.starts_with('{') {
            at += 1;
            loop {
                let skip = text[at..].find(|letter: char| !letter.is_whitespace() && letter != ',').unwrap_or(0);
                at += skip;
                if at >= text.len() || text[at..].starts_with('}') {
                    return at + 1;
                }
                let used = tree(&text[at..], &segments, found);
                // An alias, or something that is no path: on to the next.
                let next = text[at + used..].find([',', '}']).unwrap_or(text.len() - at - used);
                at += used + next;
            }
        }
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        if end == 0 {
            break;
        }
        if &rest[..end] != "self" {
            segments.push(rest[..end].to_owned());
        }
        at += end;
        if !text[at..].starts_with("::") {
            break;
        }
        at += 2;
    }
    if segments.len() > before.len() || at > 0 {
        found.push(segments);
    }
    at
}

/// Sets of two files and more of which each reaches each other.
fn circles(imports: &Imports) -> Vec<BTreeSet<PathBuf>> {
    let reach = |from: &PathBuf| -> BTreeSet<PathBuf> {
        let mut seen = BTreeSet::new();
        let mut left: Vec<&PathBuf> = imports.get(from).into_iter().flatten().collect();
        while let Some(next) = left.pop() {
            if seen.insert(next.clone()) {
                left.extend(imports.get(next).into_iter().flatten());
            }
        }
        seen
    };
    let reached: BTreeMap<&PathBuf, BTreeSet<PathBuf>> = imports.keys().map(|path| (path, reach(path))).collect();
    let mut circles = BTreeSet::new();
    for (path, others) in &reached {
        if others.contains(*path) {
            let back = others.iter().filter(|other| reached.get(other).is_some_and(|theirs| theirs.contains(*path)));
            circles.insert(back.cloned().collect::<BTreeSet<_>>());
        }
    }
    circles.into_iter().filter(|circle| circle.len() > 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<PathBuf, String> {
        list.iter().map(|(path, text)| (PathBuf::from(path), code(text))).collect()
    }

    #[test]
    fn imports_that_climb_are_found_and_those_that_descend_are_not() {
        let text =
            "use crate::{\n    kernel::Maps,\n    outbound::{self, Attempts as A},\n};\nfn f() { crate::tls::x() }";
        let wrong = climbs(Path::new("netns/legs.rs"), &code(text));
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(wrong.iter().all(|line| line.contains("outbound")));
        let comment = "//! As crate::app does.\nuse crate::sys::lock;\n#[cfg(test)]\nmod tests { use crate::app::X; }";
        assert_eq!(climbs(Path::new("netns/legs.rs"), &code(comment)), [""; 0]);
        assert_eq!(climbs(Path::new("dial/a.rs"), "use crate::enforce::X;").len(), 1, "neighbours of one row");
        assert_eq!(climbs(Path::new("odd/a.rs"), "").len(), 1, "a folder without a row");
        assert_eq!(climbs(Path::new("tls/a.rs"), "use super::super::app;").len(), 1);
        assert_eq!(climbs(Path::new("tls/mod.rs"), "mod a;\n\npub(crate) use a::B;\n\nfn f() {}").len(), 1);
        assert_eq!(climbs(Path::new("tls/mod.rs"), "mod a;\n\npub(crate) use self::{\n    a::B,\n};\n"), [""; 0]);
    }

    #[test]
    fn circles_of_files_are_found_through_modules_and_siblings() {
        let files = files(&[
            ("a/mod.rs", "mod x;\nmod y;\npub(crate) use self::{x::X, y::Y};"),
            ("a/x.rs", "use super::y::Y;"),
            ("a/y.rs", "use crate::b::B;"),
            ("b.rs", "use crate::a::X;"),
            ("c.rs", "use crate::a::X;"),
        ]);
        let found = circles(&imports(&files));
        let names: Vec<Vec<_>> =
            found.iter().map(|one| one.iter().map(|path| path.to_str().unwrap()).collect()).collect();
        assert_eq!(names, [["a/mod.rs", "a/x.rs", "a/y.rs", "b.rs"]]);
    }
}
