//! The JSON schema of the configuration file, for editors and for what is generated from it.

use schemars::{
    Schema,
    generate::SchemaSettings,
    transform::{Transform, transform_subschemas},
};
use serde_json::Value;

use super::file::File;

/// What a configuration file may say, and what each key means. Its dialect is Draft 7, which editors know.
pub(crate) fn schema() -> Schema {
    let mut settings = SchemaSettings::draft07();
    // Before those of the dialect, which may have nothing beside a reference.
    settings.transforms.insert(0, Box::new(Toml));
    settings.into_generator().into_root_schema_for::<File>()
}

/// Makes the schema one of TOML, and the same on every machine.
#[derive(Clone, Debug)]
struct Toml;

impl Transform for Toml {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        // TOML has no null: what is optional is absent.
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = &types[..] {
                let only = only.clone();
                object.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
            choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
            if let [Value::Object(only)] = &choices[..] {
                let only = only.clone();
                object.shift_remove("anyOf");
                for (key, value) in only {
                    object.entry(key).or_insert(value);
                }
            }
        }
        // A name of Rust's for the size of a number.
        object.shift_remove("format");
        // An example stands where the default is not one value: it depends on OpenSSL, or there is none.
        if object.contains_key("examples") || object.get("default").is_some_and(Value::is_null) {
            object.shift_remove("default");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// What does not fit a schema, by its path. Knows what is used of Draft 7, and panics at anything else.
    fn misfits(root: &Value, schema: &Value, value: &Value, path: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for (keyword, is) in schema.as_object().unwrap() {
            let number = |value: &Value| value.as_f64().unwrap();
            let fits = |one: &Value| misfits(root, one, value, path).is_empty();
            let good = match keyword.as_str() {
                "$ref" => fits(root.pointer(is.as_str().unwrap().strip_prefix('#').unwrap()).unwrap()),
                "allOf" => is.as_array().unwrap().iter().all(fits),
                "oneOf" => is.as_array().unwrap().iter().filter(|one| fits(one)).count() == 1,
                "type" => is.as_array().map_or_else(|| is_a(value, is), |all| all.iter().any(|name| is_a(value, name))),
                "const" => value == is,
                "enum" => is.as_array().unwrap().contains(value),
                "minimum" => value.as_f64().is_none_or(|value| value >= number(is)),
                "maximum" => value.as_f64().is_none_or(|value| value <= number(is)),
                "minItems" => value.as_array().is_none_or(|list| list.len() as f64 >= number(is)),
                "minProperties" => value.as_object().is_none_or(|table| table.len() as f64 >= number(is)),
                "maxProperties" => value.as_object().is_none_or(|table| table.len() as f64 <= number(is)),
                "required" => is.as_array().unwrap().iter().all(|key| value.get(key.as_str().unwrap()).is_some()),
                "items" => {
                    for (index, one) in value.as_array().into_iter().flatten().enumerate() {
                        wrong.extend(misfits(root, is, one, &format!("{path}[{index}]")));
                    }
                    true
                }
                "properties" => {
                    for (key, value) in value.as_object().into_iter().flatten() {
                        let path = format!("{path}.{key}");
                        match is.get(key) {
                            Some(schema) => wrong.extend(misfits(root, schema, value, &path)),
                            None => wrong.push(format!("{path}: no such key")),
                        }
                    }
                    true
                }
                // As `properties` has it, nothing else may be there.
                "additionalProperties" => *is == Value::Bool(false),
                "$schema" | "title" | "description" | "default" | "examples" | "definitions" => true,
                other => panic!("{path}: {other} is not known"),
            };
            if !good {
                wrong.push(format!("{path}: {keyword} {is}"));
            }
        }
        wrong
    }

    fn is_a(value: &Value, name: &Value) -> bool {
        match name.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64(),
            "number" => value.is_number(),
            other => panic!("{other} is no type"),
        }
    }

    /// What the schema has against a text; what the agent has against it.
    fn judged(text: &str) -> [Result<(), String>; 2] {
        let schema = schema().to_value();
        let value: Value = toml::from_str(text).unwrap_or_else(|error| panic!("{text}\n{error}"));
        let wrong = misfits(&schema, &schema, &value, "");
        let by_schema = if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) };
        [by_schema, File::parse(text).map(drop).map_err(|wrong| wrong.what)]
    }

    fn read(path: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn what_the_project_shows_fits_schema_and_agent() {
        let mut texts = vec![read("deploy/agent.toml"), read("examples/rule.toml")];
        // With every key: comments begin with a space.
        let is_key = |line: &&str| !line.is_empty() && !line.starts_with([' ', ':']);
        let lines = texts[0].lines().map(|line| line.strip_prefix('#').unwrap_or(line)).filter(is_key);
        texts.push(lines.collect::<Vec<_>>().join("\n"));
        assert!(texts[2].lines().count() > 60, "{}", texts[2]);
        let page = read("docs/configure.md");
        let recipes = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
        texts.extend(recipes.map(str::to_owned));
        assert!(texts.len() > 12, "{}", texts.len());
        for text in texts {
            assert_eq!(judged(&text), [Ok(()), Ok(())], "{text}");
        }
    }

    #[test]
    fn what_is_not_of_its_type_fits_neither_schema_nor_agent() {
        for text in [
            "tsl = {}",
            "tls.version_minn = '1.2'",
            "tls.version_min = '1.1'",
            "tls.ciphers = 'ECDHE-RSA-AES256-GCM-SHA384'",
            "tls.alpn = [1]",
            "trust.system = 1",
            "trust.verify_depth = -1",
            "time.connect_seconds = 0",
            "time.connect_seconds = 60.5",
            "limits.sockets = 'many'",
            "control.group = -1",
            "control.group = true",
            "service = { unit = 'a.service' }",
            "service = [{}]",
            "service = [{ unit = 'a.service', cgroup = '/a' }]",
            "service = [{ pod = {} }]",
            "rule = [{ direction = 'in', mode = 'deny' }]",
            "rule = [{ name = 'x', direction = 'up', mode = 'deny' }]",
            "rule = [{ name = 'x', direction = 'in', mode = 'refuse' }]",
            "rule = [{ name = 'x', direction = 'in', mode = 'deny', port = 65536 }]",
            "rule = [{ name = 'x', direction = 'in', mode = 'deny', port = [] }]",
            "rule = [{ name = 'x', direction = 'in', mode = 'deny', address = 1 }]",
            "rule = [{ name = 'x', direction = 'in', mode = 'deny', service = { name = 'a' } }]",
            "rule = [{ name = 'x', direction = 'in', mode = 'deny', limits = {} }]",
            "profile = [{ name = 'x', user = 1, limits = { sockets = 1 } }]",
            "profile = [{ name = 'x', user = 1, monitor = {} }]",
        ] {
            let judged = judged(text);
            assert!(judged.iter().all(Result::is_err), "{text}\n{judged:?}");
        }
    }
}
