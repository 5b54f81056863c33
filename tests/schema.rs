//! `handlerd schema`: a JSON Schema that takes what the reader takes, and refuses, as far as a
//! schema can, what the reader refuses. A validator that isn't ours judges (tests/schema/judge.py).

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use handlerd::config::{Config, Environment};
use serde_json::{Value as Json, json};
use support::{Run, plugins};

fn schema() -> Json {
    let text = Run::new(&["schema"]).output().expect(0).text();
    serde_json::from_str(&text).expect("it is JSON")
}

/// What is wrong with the schema, and with each of these files by it; `None` where it isn't TOML.
fn judge(schema: &Json, documents: &[String]) -> (Vec<String>, Vec<Option<Vec<String>>>) {
    let python = plugins::root().join(".venv/bin/python");
    let mut judge = Command::new(&python);
    judge.arg(plugins::root().join("tests/schema/judge.py"));
    let mut child =
        judge.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap_or_else(|e| {
            panic!("{}: {e}; tests/run makes it", python.display());
        });
    let request = json!({ "schema": schema, "documents": documents }).to_string();
    let mut stdin = child.stdin.take().expect("it is piped");
    // It reads all before it writes anything.
    stdin.write_all(request.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the judge failed; has tests/run installed what it needs?");
    let answer: Json = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let wrong = |part: &Json| serde_json::from_value(part.clone()).expect("a list of strings");
    let documents = answer["documents"].as_array().expect("a list");
    (
        wrong(&answer["schema"]),
        documents
            .iter()
            .map(|found| serde_json::from_value(found.clone()).expect("a list of strings"))
            .collect(),
    )
}

/// The files of a folder of fixtures: name and text.
fn fixtures(folder: &str) -> Vec<(String, String)> {
    let folder = plugins::root().join("tests/fixtures/config").join(folder);
    let files = std::fs::read_dir(&folder).expect("the fixtures").flatten();
    let files =
        files.map(|file| file.path()).filter(|file| file.extension() == Some("toml".as_ref()));
    let read = |file: &Path| std::fs::read_to_string(file).expect("a fixture");
    let mut files: Vec<_> = files.map(|file| (file.display().to_string(), read(&file))).collect();
    files.sort();
    files
}

#[test]
fn every_valid_configuration_is_valid_by_the_schema() {
    let mut files = [fixtures("valid"), fixtures("warned")].concat();
    files.push(("config.toml".to_owned(), support::committed::text("config.toml")));
    assert!(files.len() > 8, "only {} files", files.len());
    let texts: Vec<String> = files.iter().map(|(_, text)| text.clone()).collect();
    let (of_schema, found) = judge(&schema(), &texts);
    assert_eq!(of_schema, [""; 0], "the schema itself");
    for ((file, _), found) in files.iter().zip(found) {
        assert_eq!(found, Some(Vec::new()), "{file}");
    }
}

/// Whether a schema can find such an error: the key, or the kind of its value, is wrong.
fn is_structural(message: &str) -> bool {
    const WORDS: [&str; 11] = [
        "is not a key of",
        "are both there",
        "needs a unit",
        "is not a time",
        "is not a size",
        "is an empty list",
        "has an empty name",
        "is not a SHA-256 sum",
        "is no place in a stream",
        "is for streams only",
        "is without `",
    ];
    let kind = message.contains("` must be ") && message.contains(", not a");
    // Only numbers: what "2days" is, a schema can't know.
    let number = message.split_once("` is ").and_then(|(_, rest)| rest.split_once("; it must be "));
    let number = number.is_some_and(|(number, _)| number.parse::<i128>().is_ok());
    // What `config` of a handler holds is the plugin's matter.
    let setting = ["`file`", "`env`", "`credential`"].iter().any(|key| message.starts_with(key));
    let word = message.contains("` can't be `") && message.contains("`: it is \"");
    // Nor what a variable holds.
    let known = !setting && !message.contains("${");
    (kind || number || word || WORDS.iter().any(|words| message.contains(words))) && known
}

#[test]
fn structural_errors_of_bad_configurations_are_errors_by_the_schema() {
    let files = fixtures("bad");
    let texts: Vec<String> = files.iter().map(|(_, text)| text.clone()).collect();
    let (_, found) = judge(&schema(), &texts);
    let mut compared = 0;
    for ((file, _), found) in files.iter().zip(found) {
        let Some(found) = found else { continue };
        let said = std::fs::read_to_string(Path::new(file).with_extension("txt")).expect("errors");
        for message in said.lines().filter_map(|line| line.strip_prefix("error: ")) {
            if !is_structural(message) {
                continue;
            }
            let key = message.split('`').nth(1).expect("it names a key");
            // Each escapes control characters its own way.
            let key = key.split('\\').next().unwrap_or_default();
            let is_found = found.iter().any(|found| found.contains(key));
            assert!(is_found, "{file}: {message}\nby the schema: {found:#?}");
            compared += 1;
        }
    }
    assert!(compared > 100, "only {compared} errors were compared");
}

/// A key of the schema, and the configuration around it.
struct Place {
    key: String,
    /// The header of its table, and what else the table needs.
    around: String,
    schema: Json,
}

/// Every key below a table of the schema, at this path.
fn places(schema: &Json, path: &[String], found: &mut Vec<Place>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    for (key, inner) in properties {
        let mut around = match path {
            [] => String::new(),
            _ => format!("[{}]\n", path.join(".")),
        };
        let needed =
            [&schema["required"], &schema["then"]["required"], &schema["dependentRequired"][key]];
        for other in needed.iter().filter_map(|list| list.as_array()).flatten() {
            if other != key {
                around.push_str(&format!("{} = \"x\"\n", other.as_str().expect("a name")));
            }
        }
        found.push(Place { key: key.clone(), around, schema: inner.clone() });
        let mut path = [path, std::slice::from_ref(key)].concat();
        places(inner, &path, found);
        for inner in inner["anyOf"].as_array().into_iter().flatten() {
            places(inner, &path, found);
        }
        path.push("x".to_owned());
        places(&inner["additionalProperties"], &path, found);
    }
}

/// What the reader says about a text.
fn read(text: &str) -> String {
    let nothing = Environment::from_iter::<[(&str, &str); 0]>([]);
    // It lies beside a plugin folder.
    let file = plugins::root().join("config.toml");
    Config::parse(text, &file, &nothing).err().map_or(String::new(), |errors| errors.to_string())
}

/// Values to try for a key: some of every kind, and those around the limits of its own.
fn probes(schema: &Json) -> Vec<String> {
    let fixed = [
        "\"x\"",
        "\"1s\"",
        "\"16MiB\"",
        "\"${X}\"",
        "\"\"",
        "true",
        "false",
        "-1",
        "0",
        "7",
        "1.5",
        "[]",
        "[\"x\"]",
        "[\"x\", \"x\"]",
        "[7]",
        "{ x = 1 }",
        "\"0\"",
        "\"1\"",
        "\"1.5 kB\"",
        "\"2h 37min\"",
        "\"1 parsec\"",
        "\"1 floppy\"",
        "\"5-5\"",
        "\"5-x\"",
    ];
    let mut probes: Vec<String> = fixed.map(str::to_owned).into();
    let kinds = std::iter::once(schema).chain(schema["anyOf"].as_array().into_iter().flatten());
    for kind in kinds {
        for (limit, beyond) in [("minimum", -1), ("maximum", 1)] {
            let limit = kind[limit].as_i64();
            probes
                .extend(limit.into_iter().flat_map(|n| [n.to_string(), (n + beyond).to_string()]));
        }
        probes.extend(kind["enum"].as_array().into_iter().flatten().map(ToString::to_string));
    }
    probes
}

#[test]
fn the_schema_and_the_reader_take_the_same_kinds_of_values() {
    let schema = schema();
    let mut found = Vec::new();
    places(&schema, &[], &mut found);
    assert!(found.len() > 60, "only {} keys", found.len());
    let tried: Vec<(&Place, String, String)> = found
        .iter()
        .flat_map(|place| probes(&place.schema).into_iter().map(move |probe| (place, probe)))
        .map(|(place, probe)| {
            let text = format!("{}{} = {probe}\n", place.around, place.key);
            (place, probe, text)
        })
        .collect();
    let texts: Vec<String> = tried.iter().map(|(.., text)| text.clone()).collect();
    let (_, judged) = judge(&schema, &texts);
    let mut wrong = String::new();
    for ((place, probe, text), judged) in tried.iter().zip(judged) {
        let judged = judged.expect("it is TOML");
        let said = read(text);
        let about = format!("error: `{}` ", place.key);
        let refused = said.lines().any(|line| {
            line.starts_with(&about) && is_structural(line.trim_start_matches("error: "))
        });
        if refused && judged.is_empty() {
            wrong.push_str(&format!("the schema takes, and the reader doesn't:\n{text}{said}\n"));
        }
        if said.is_empty() && !judged.is_empty() {
            wrong.push_str(&format!(
                "the reader takes, and the schema doesn't:\n{text}{judged:?}\n"
            ));
        }
        // Words, numbers at the limits and beyond: the reader has the same.
        let number = probe.parse::<i64>().is_ok();
        let limit =
            said.lines().any(|line| line.starts_with(&about) && line.contains("; it must be "));
        if number && limit != judged.iter().any(|judged| judged.contains("than the m")) {
            wrong.push_str(&format!("limits differ:\n{text}{said}{judged:?}\n"));
        }
        if probe == "\"x\""
            && let Some((_, words)) = said.split_once("`: it is ")
        {
            let words: Vec<&str> =
                words.lines().next().unwrap_or("").split('"').skip(1).step_by(2).collect();
            let listed = &place.schema["anyOf"][0]["enum"];
            if *listed != json!(words) {
                wrong.push_str(&format!("words of {} differ: {words:?}, {listed}\n", place.key));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn keys_of_later_versions_are_not_offered() {
    let schema = schema();
    let texts = ["[gateway]\nlisten = \"127.0.0.1:8080\"".to_owned()];
    assert!(read(&texts[0]).contains("not in this version"), "choose another key");
    assert!(schema["properties"].get("gateway").is_none());
    let (_, found) = judge(&schema, &texts);
    assert!(found[0].as_ref().is_some_and(|found| !found.is_empty()), "{found:?}");
}

/// What Taplo's language server offers for a key: its schema, or in place of one with alternatives
/// these.
fn offered(schema: &Json) -> Vec<&Json> {
    match schema["anyOf"].as_array() {
        Some(alternatives) => alternatives.iter().flat_map(offered).collect(),
        None if schema.is_object() => vec![schema],
        None => vec![],
    }
}

#[test]
fn an_editor_offers_each_key_once_with_all_that_is_said_of_it() {
    let mut found = Vec::new();
    places(&schema(), &[], &mut found);
    let words = found.iter().filter(|place| place.schema["anyOf"].is_array()).count();
    assert!(words > 5, "only {words} keys have words");
    for Place { key, schema, .. } in found {
        let offered = offered(&schema);
        let [one] = offered[..] else { panic!("{key} is offered so: {offered:#?}") };
        for said in ["description", "default", "examples"] {
            assert_eq!(one[said], schema[said], "{key}");
        }
    }
}

#[test]
fn every_key_says_what_it_is() {
    let mut found = Vec::new();
    places(&schema(), &[], &mut found);
    for Place { key, schema, .. } in found {
        let description = schema["description"].as_str().unwrap_or_default();
        let first = description.chars().next();
        assert!(description.ends_with('.') && description.len() > 10, "{key}: {description}");
        assert!(first.is_some_and(|first| !first.is_lowercase()), "{key}: {description}");
    }
}
