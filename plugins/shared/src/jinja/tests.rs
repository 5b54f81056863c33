//! Errors with their places, and what the variables are.

use std::sync::Arc;

use handlerd_plugin::Message;

use super::{Expression, Template, Variables};

fn variables(payload: impl Into<Vec<u8>>) -> Arc<Variables> {
    Variables::new("orders".to_owned(), Message::new(payload).with_header("lang", "en"))
}

fn is_true(expression: &str, payload: &str) -> Result<bool, String> {
    Expression::compile("when", expression.to_owned()).unwrap().is_true(&variables(payload))
}

fn render(template: &str, payload: &str) -> Result<String, String> {
    Template::compile("template", template.to_owned()).unwrap().render(&variables(payload))
}

#[track_caller]
fn assert_wrong(expression: &str, part: &str) {
    let error = Expression::compile("when", expression.to_owned()).err().expect("an error");
    assert!(error.starts_with("`when` is wrong at ") && error.contains(part), "{error}");
}

#[track_caller]
fn assert_wrong_template(template: &str, part: &str) {
    let error = Template::compile("template", template.to_owned()).err().expect("an error");
    assert!(error.starts_with("`template` is wrong at ") && error.contains(part), "{error}");
}

#[test]
fn what_is_wrong_is_said_before_the_first_message_with_its_place() {
    assert_wrong("json.amount >", "character 13: syntax error");
    assert_wrong("'größe' == json.a b", "character 19: ");
    assert_wrong("jsn.amount > 1", "character 1: there is no `jsn`: there are channel, ");
    assert_wrong("json.a and json.b|uper", "character 19: there is no filter `uper`");
    assert_wrong("false and json.b is nice", "character 21: there is no test `nice`");
    assert_wrong("json.is is not nice", "character 16: there is no test `nice`");
    assert_wrong_template("{% filter uper %}a{% endfilter %}", "there is no filter `uper`");
    assert_wrong("json.a or now() > 1", "character 11: there is no `now`");
    assert_wrong("json.a and\n json.b >< 2", "line 2, column 10: syntax error");
    assert_wrong_template(
        "{{ json.a }}\n{% if json.b %}{{ nam }}{% endif %}",
        "line 2, column 19: there is no `nam`",
    );
    assert_wrong_template("{{ json.a", "character 9: syntax error");
    assert_wrong_template("{% if false %}{{ json.a|uper }}{% endif %}", "no filter `uper`");
    assert_wrong_template("{% include 'x' %}", "syntax error: unknown statement include");
}

#[test]
fn a_failure_says_what_is_undefined_and_why() {
    let error = |expression, payload| is_true(expression, payload).unwrap_err();
    assert_eq!(
        error("channel == 'orders' and json.a.b > 1", r#"{"a": {}}"#),
        "`when` fails: `json.a.b` is undefined"
    );
    let text = error("json.a > 1", "hello");
    assert!(
        text.starts_with("`when` fails: `json` is undefined (the payload is no JSON: "),
        "{text}"
    );
    let error = render("a\n{{ json.x }}", "{}").unwrap_err();
    assert_eq!(error, "`template` fails in line 2: `json.x` is undefined");
}

#[test]
fn what_may_be_missing_can_be_asked_for() {
    assert_eq!(is_true("json.vip", "{}"), Ok(false));
    assert_eq!(is_true("json.vip is defined", "{}"), Ok(false));
    assert_eq!(is_true("json is defined and json.a > 1", "hello"), Ok(false));
    assert_eq!(is_true("json.a|default(5) > 1", "{}"), Ok(true));
    assert_eq!(render("{{ json.x|default('-') }}", "{}"), Ok("-".to_owned()));
}

#[test]
fn names_of_the_language_are_no_mistakes() {
    assert_eq!(is_true("range(3)|length == 3 and dict(a=1).a == 1", ""), Ok(true));
    let loops = "{% set n = namespace(sum=0) %}{% for i in json %}{% set n.sum = n.sum + i %}{{ loop.index }}{% endfor %}={{ n.sum }}";
    assert_eq!(render(loops, "[1, 2]"), Ok("12=3".to_owned()));
    assert_eq!(is_true("json|items|length == 1 and json['a'] == 1", r#"{"a": 1}"#), Ok(true));
}

#[test]
fn numbers_keep_their_kind() {
    let json = r#"[18446744073709551615, -1, 1.5, 2.0, true, null, "ä\n"]"#;
    assert_eq!(
        render("{{ json|tojson }}", json),
        Ok(r#"[18446744073709551615, -1, 1.5, 2.0, true, null, "ä\n"]"#.to_owned())
    );
    assert_eq!(
        render("{{ json[0] }} {{ json[3] }} {{ json[4] }} {{ json[5] }}", json),
        Ok("18446744073709551615 2.0 True None".to_owned())
    );
    assert_eq!(is_true("json > 100.5", "101"), Ok(true));
    assert_eq!(is_true("json == 2", "2.0"), Ok(true));
}

#[test]
fn a_payload_that_is_no_text_is_undefined_as_text() {
    let message = variables(*b"a\xffb");
    let compiled = Expression::compile("when", "'a' in text".to_owned()).unwrap();
    let error = compiled.is_true(&message).unwrap_err();
    assert!(error.contains("(the payload is no text: invalid utf-8 sequence"), "{error}");
    let compiled = Expression::compile("when", "channel == 'orders'".to_owned()).unwrap();
    assert_eq!(compiled.is_true(&message), Ok(true));
    assert_eq!(Variables::into_message(message).payload, b"a\xffb");
}

#[test]
fn work_without_end_is_stopped() {
    let loops =
        "{% for i in range(10000) %}{% for j in range(10000) %}{{ i * j }}{% endfor %}{% endfor %}";
    let error = render(loops, "").unwrap_err();
    assert!(error.contains("more work than a message may be"), "{error}");
    let error = render("{{ 'x' * 1000000000 }}", "").unwrap_err();
    assert!(error.contains("more work"), "{error}");
    let error = render("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "").unwrap_err();
    assert!(error.contains("recursion"), "{error}");
}
