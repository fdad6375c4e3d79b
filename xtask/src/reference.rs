//! What the JSON schema of the configuration says about each key, and `deploy/agent.toml`, which says the same in TOML.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

/// Where editors find the schema once the package is installed.
const SCHEMA: &str = "file:///usr/share/ssa-agent/agent.schema.json";
/// Columns that a line of prose has at most.
const WIDTH: usize = 110;

/// The whole configuration file.
pub(crate) struct Reference {
    /// What stands at the top of the file, a paragraph each.
    pub(crate) about: Vec<String>,
    pub(crate) sections: Vec<Section>,
    pub(crate) blocks: Vec<Block>,
}

/// A section, such as `[tls]`.
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) about: Vec<String>,
    pub(crate) keys: Vec<Key>,
}

/// A section that may be there several times, such as `[[rule]]`.
pub(crate) struct Block {
    pub(crate) name: String,
    pub(crate) about: Vec<String>,
    pub(crate) keys: Vec<Key>,
    pub(crate) example: String,
}

/// A key of a section or block.
pub(crate) struct Key {
    pub(crate) name: String,
    /// What it means, in one paragraph.
    pub(crate) text: String,
    pub(crate) value: Option<Shown>,
}

/// A value of a key that can be shown, in TOML.
pub(crate) enum Shown {
    /// What holds if the key is absent.
    Default(String),
    /// Where that is no value, or not the same everywhere.
    Example(String),
}

impl Reference {
    /// Reads the schema that `ssa-agent schema` prints.
    pub(crate) fn parse(schema: &str) -> Result<Self> {
        let root: Value = serde_json::from_str(schema)?;
        let mut reference = Self { about: described(&root)?.0, sections: Vec::new(), blocks: Vec::new() };
        for (name, property) in properties(&root)? {
            let name = name.clone();
            if let Some(element) = property.get("items") {
                let element = resolve(&root, element)?;
                let (about, example) = described(element).with_context(|| name.clone())?;
                let example = example.with_context(|| format!("{name} has no example"))?;
                reference.blocks.push(Block { keys: keys(element)?, name, about, example });
            } else {
                let section = resolve(&root, property)?;
                let about = described(section).with_context(|| name.clone())?.0;
                reference.sections.push(Section { keys: keys(section)?, name, about });
            }
        }
        Ok(reference)
    }

    /// `deploy/agent.toml`: every key, commented out.
    pub(crate) fn toml(&self) -> Result<String> {
        let mut file = format!("#:schema {SCHEMA}\n");
        prose(&mut file, &self.about);
        for section in &self.sections {
            file.push('\n');
            prose(&mut file, &section.about);
            let _infallible = writeln!(file, "[{}]", section.name);
            for key in &section.keys {
                let (name, text) = (&key.name, &key.text);
                let Some(Shown::Default(value) | Shown::Example(value)) = &key.value else {
                    bail!("[{}] {name} has neither a default nor an example", section.name);
                };
                file.push('\n');
                wrap(&mut file, "# ", "# ", text);
                let _infallible = writeln!(file, "#{name} = {value}");
            }
        }
        for block in &self.blocks {
            file.push('\n');
            prose(&mut file, &block.about);
            file.push_str("#\n");
            let widest = block.keys.iter().map(|key| key.name.len()).max().unwrap_or(0);
            for Key { name, text, .. } in &block.keys {
                wrap(&mut file, &format!("#   {name:widest$}  "), &format!("#   {:widest$}  ", ""), text);
            }
            file.push_str("#\n");
            block.example.lines().for_each(|line| file.extend(["#", line, "\n"]));
        }
        Ok(file)
    }
}

/// Follows a reference to a definition.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> Result<&'a Value> {
    let Some(reference) = schema.get("$ref") else { return Ok(schema) };
    let pointer = reference.as_str().and_then(|text| text.strip_prefix('#')).context("a reference elsewhere")?;
    root.pointer(pointer).with_context(|| format!("no {pointer}"))
}

fn properties(schema: &Value) -> Result<&Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object).context("no properties")
}

/// The paragraphs of a description, and the example that stands in it as a block of code.
fn described(schema: &Value) -> Result<(Vec<String>, Option<String>)> {
    let text = schema.get("description").and_then(Value::as_str).context("no description")?;
    let (text, example) = match text.split_once("```toml\n") {
        Some((text, rest)) => (text, rest.split_once("```").map(|(example, _rest)| example.trim().to_owned())),
        None => (text, None),
    };
    let paragraphs = text.split("\n\n").map(words).filter(|paragraph| !paragraph.is_empty());
    Ok((paragraphs.collect(), example))
}

/// A text as one line.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The keys of a section or block, but for those that are sections themselves.
fn keys(schema: &Value) -> Result<Vec<Key>> {
    let mut keys = Vec::new();
    for (name, property) in properties(schema)? {
        let is_section = property.get("$ref").is_some() && property.get("description").is_none();
        if !is_section {
            keys.push(key(name, property).with_context(|| name.clone())?);
        }
    }
    Ok(keys)
}

fn key(name: &str, property: &Value) -> Result<Key> {
    let (about, _example) = described(property)?;
    let default = property.get("default");
    let mut text = about.join(" ");
    for choice in property.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
        let value = choice.get("const").with_context(|| format!("{choice} is no constant"))?;
        let meaning = described(choice)?.0.join(" ");
        let is_default = if default == Some(value) { " (the default)" } else { "" };
        let _infallible = write!(text, " {}{is_default}: {}", toml(value)?, decapitalized(&meaning));
    }
    let example = property.get("examples").and_then(|examples| examples.get(0));
    let value = match (default, example) {
        (Some(default), _) => Some(Shown::Default(toml(default)?)),
        (None, Some(example)) => Some(Shown::Example(toml(example)?)),
        (None, None) => None,
    };
    Ok(Key { name: name.to_owned(), text, value })
}

/// A sentence that goes on after a colon. An abbreviation keeps its capitals.
fn decapitalized(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => first.to_lowercase().chain(letters).collect(),
        _ => text.to_owned(),
    }
}

/// A value in TOML. A number without a fraction has no point.
fn toml(value: &Value) -> Result<String> {
    Ok(match value {
        Value::Array(list) => format!("[{}]", list.iter().map(toml).collect::<Result<Vec<_>>>()?.join(", ")),
        Value::Number(number) => number.to_string().trim_end_matches(".0").to_owned(),
        Value::Bool(_) | Value::String(_) => value.to_string(),
        Value::Null | Value::Object(_) => bail!("{value} can't be shown"),
    })
}

/// Paragraphs as comments.
fn prose(file: &mut String, paragraphs: &[String]) {
    for (index, paragraph) in paragraphs.iter().enumerate() {
        file.push_str(if index == 0 { "" } else { "#\n" });
        wrap(file, "# ", "# ", paragraph);
    }
}

/// Breaks a text into lines, with what stands before the first of them, and before the others.
fn wrap(file: &mut String, first: &str, others: &str, text: &str) {
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in text.split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            file.extend([line.as_str(), "\n"]);
            others.clone_into(&mut line);
            is_empty = true;
        }
        line.push_str(if is_empty { "" } else { " " });
        line.push_str(word);
        is_empty = false;
    }
    file.extend([line.as_str(), "\n"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r##"{
        "description": "Top\nof it.\n\nMore.",
        "properties": {
            "time": { "$ref": "#/definitions/Time" },
            "rule": { "type": "array", "items": { "$ref": "#/definitions/Rule" } }
        },
        "definitions": {
            "Time": {
                "description": "How long.",
                "properties": {
                    "idle": { "description": "At most.", "type": "number", "default": 4.0 },
                    "ways": { "description": "None.", "examples": [["a", "b"]] }
                }
            },
            "Rule": {
                "description": "Rules.\n\n```toml\n[[rule]]\nmode = \"deny\"\n```",
                "properties": {
                    "time": { "$ref": "#/definitions/Time" },
                    "mode": { "description": "What.", "default": "deny", "oneOf": [
                        { "const": "deny", "description": "No way." }, { "const": "tls", "description": "TLS." }
                    ] }
                }
            }
        }
    }"##;

    const FILE: &str = r#"#:schema file:///usr/share/ssa-agent/agent.schema.json
# Top of it.
#
# More.

# How long.
[time]

# At most.
#idle = 4

# None.
#ways = ["a", "b"]

# Rules.
#
#   mode  What. "deny" (the default): no way. "tls": TLS.
#
#[[rule]]
#mode = "deny"
"#;

    #[test]
    fn file_has_every_key_of_a_schema_with_its_text_and_value() {
        assert_eq!(Reference::parse(SCHEMA).unwrap().toml().unwrap(), FILE);
    }

    #[test]
    fn key_without_text_or_value_is_refused() {
        let toml = |schema: &str| Reference::parse(schema).and_then(|reference| reference.toml());
        for (part, without) in [
            (r#""description": "At most.", "#, ""),
            (r#", "default": 4.0"#, ""),
            (r##""#/definitions/Rule""##, r##""#/definitions/Other""##),
            ("```toml", "```"),
        ] {
            assert!(SCHEMA.contains(part) && toml(&SCHEMA.replace(part, without)).is_err(), "{part}");
        }
    }

    #[test]
    fn long_texts_are_broken_under_their_beginning() {
        let mut file = String::new();
        wrap(&mut file, "#   key  ", "#        ", "word ".repeat(40).trim_end());
        let lines: Vec<_> = file.lines().collect();
        assert!(lines.len() == 2 && lines.iter().all(|line| line.len() <= WIDTH), "{file}");
        assert!(lines[0].starts_with("#   key  word") && lines[1].starts_with("#        word"), "{file}");
    }
}
