//! The JSON Schema of the configuration, which editors complete and check a file by.
//!
//! Made from the table of keys. It says what a file may look like, as far as a schema can: names
//! that must exist, circles and what doesn't fit together are found by `handlerd check` alone. It
//! refuses nothing that the reader takes.

use serde_json::{Map, Value as Json, json};

use super::keys::{Key, Kind, Table};
use super::load::LONGEST_NAME;

/// A string in which a variable stands: it may become anything.
const VARIABLE: &str = r"\$\{";

/// How a size is written, as `bytesize` reads it.
const SIZE: &str =
    r"^\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([kKmMgGtTpPeE]?[bB]?|[kKmMgGtTpPeE][iI][bB]?)\s*$";

/// How a time is written, as `humantime` reads it.
const TIME: &str = concat!(
    r"^\s*(0|([0-9]+(\.[0-9]+)?\s*(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds|second|secs",
    r"|sec|s|minutes|minute|mins|min|m|hours|hour|hrs|hr|h|days|day|d|weeks|week|wks|wk|w|months",
    r"|month|M|years|year|yrs|yr|y)\s*)+)\s*$"
);

/// The schema, of draft 2020-12.
pub fn schema() -> Json {
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "handlerd",
        "description": "The configuration of handlerd. ${NAME} in a string is an environment \
                        variable; relative paths are relative to the file.",
    });
    if let Json::Object(parts) = &mut schema {
        parts.extend(table(Table::Root));
    }
    schema
}

/// The schema of a table: any of its keys, and no other.
fn table(table: Table) -> Map<String, Json> {
    let keys = table.keys();
    let collect = |entries: &mut dyn Iterator<Item = (&Key, Json)>| -> Map<String, Json> {
        entries.map(|(key, value)| (key.name.to_owned(), value)).collect()
    };
    let properties = collect(&mut keys.iter().map(|key| (key, property(key))));
    let required: Vec<&str> = keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let needs = collect(&mut keys.iter().filter_map(|key| Some((key, json!([key.needs?])))));
    let excluding = keys.iter().filter(|key| !key.excludes.is_empty());
    let excludes = collect(&mut excluding.map(|key| {
        let none: Map<String, Json> =
            key.excludes.iter().map(|other| ((*other).to_owned(), Json::Bool(false))).collect();
        (key, json!({ "properties": none }))
    }));
    let mut schema = Map::new();
    schema.insert("type".into(), "object".into());
    schema.insert("properties".into(), properties.into());
    schema.insert("additionalProperties".into(), false.into());
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    if !needs.is_empty() {
        schema.insert("dependentRequired".into(), needs.into());
    }
    if !excludes.is_empty() {
        schema.insert("dependentSchemas".into(), excludes.into());
    }
    schema
}

/// What may stand behind a key, and what the documentation says about it.
fn property(key: &Key) -> Json {
    let mut about = Map::new();
    about.insert("description".into(), key.description().into());
    // They are written alike in TOML and JSON: a test reads all of them.
    let written = |text: &str| serde_json::from_str(text).unwrap_or(Json::Null);
    if let Some(default) = key.default {
        about.insert("default".into(), written(default));
    }
    if let Some(example) = key.example {
        about.insert("examples".into(), json!([written(example)]));
    }
    let mut value = value(&key.kind);
    if let Some(Json::Object(first)) = value.get_mut("anyOf").and_then(|any| any.get_mut(0)) {
        // Taplo completes a key by its alternatives, with what they say themselves. Where one points
        // at the key it shows what the whole says, too: not twice.
        first.extend(about.clone());
        about.insert("x-taplo".into(), json!({ "docs": { "main": "" } }));
    }
    about.extend(value);
    about.into()
}

/// The schema of a value.
fn value(kind: &Kind) -> Map<String, Json> {
    let text = || json!({ "type": "string", "minLength": 1 });
    let or_variable = |pattern: &str| matching(&format!("{pattern}|{VARIABLE}"));
    let schema = match kind {
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::False => json!({ "const": false }),
        Kind::Text => text(),
        Kind::Matching(pattern) => or_variable(pattern),
        Kind::Words(_) => either(std::slice::from_ref(kind)),
        Kind::Size(least, most) => {
            any([or_variable(SIZE), value(&Kind::Count(*least, *most)).into()])
        }
        Kind::Time(..) => or_variable(TIME),
        Kind::Count(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Kind::List => json!({ "type": "array", "items": text() }),
        Kind::Names => any([text(), several(text())]),
        Kind::Targets(target) => {
            let mut target = table(*target);
            // Where a table is one of several, Taplo would begin a value by what one must have.
            if let Some(keys) = target.remove("required") {
                target.insert("if".into(), json!({ "type": "object" }));
                target.insert("then".into(), json!({ "required": keys }));
            }
            let target = Json::from(target);
            any([text(), target.clone(), several(any([text(), target]))])
        }
        Kind::Either(kinds) => either(kinds),
        Kind::Table(inner) => table(*inner).into(),
        Kind::Named(inner) => json!({
            "type": "object",
            "propertyNames": { "minLength": 1, "maxLength": LONGEST_NAME },
            "additionalProperties": table(*inner),
        }),
        Kind::Settings => json!({ "type": "object" }),
    };
    match schema {
        Json::Object(schema) => schema,
        _ => Map::new(),
    }
}

/// A string that this matches.
fn matching(pattern: &str) -> Json {
    json!({ "type": "string", "pattern": pattern })
}

/// A list of different items that isn't empty.
fn several(item: Json) -> Json {
    json!({ "type": "array", "items": item, "minItems": 1, "uniqueItems": true })
}

/// Any of these kinds. An editor offers words, where they are among them, else the first.
fn either(kinds: &[Kind]) -> Json {
    let mut all = Vec::new();
    for kind in kinds {
        match kind {
            Kind::Words(words) => {
                all.insert(0, json!({ "type": "string", "enum": words }));
                all.push(matching(VARIABLE));
            }
            other => all.push(value(other).into()),
        }
    }
    for other in &mut all[1..] {
        // Taplo offers every alternative, but of one that has alternatives only these.
        other["anyOf"] = json!([true]);
    }
    json!({ "anyOf": all })
}

/// Any of these, which are of different types: what is said of one type means nothing to another. With
/// `anyOf` Taplo would offer a key as often, and without its description.
fn any(schemas: impl IntoIterator<Item = Json>) -> Json {
    let (mut types, mut all) = (Vec::new(), Map::new());
    for schema in schemas {
        let Json::Object(mut schema) = schema else { continue };
        types.extend(schema.remove("type"));
        all.extend(schema);
    }
    all.insert("type".into(), types.into());
    all.into()
}
