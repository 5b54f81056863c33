//! What no case beside the plugin can say: the errors of `setup`, word by word.

use handlerd_plugin::config::Settings;

use crate::settings::router;

#[track_caller]
fn assert_error<const N: usize>(pairs: [(&str, &str); N], part: &str) {
    let settings: Settings =
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let error = router(settings).err().expect("an error");
    assert!(error.contains(part), "{error}");
}

#[test]
fn an_error_says_what_to_write() {
    assert_error([], "pointer = \"/type\"");
    assert_error([("pointer", "/type")], "routes = { order = \"orders\" }");
    assert_error([("pointer", "/type"), ("routes", "{}")], "routes = { order = \"orders\" }");
    assert_error([("pointer", "type")], "`pointer` has to be a JSON Pointer, such as \"/type\"");
    assert_error([("pointer", "/a"), ("routes", "orders")], "`routes` has to be a table");
    assert_error([("pointer", "/a"), ("routes", r#"{"a": 1}"#)], "`routes` has to be a table");
    assert_error([("pointer", "/a"), ("routes", r#"{"a": ""}"#)], "the route of `a` is empty");
    assert_error([("pointer", "/a"), ("default", "")], "`default` is empty");
    assert_error([("pointer", "/a"), ("invalid", "stop")], "\"pass\", \"drop\" or \"reject\"");
    assert_error(
        [("pointer", "/a"), ("route", "x")],
        "there is no setting `route`: there are `pointer`, `routes`, `default` and `invalid`",
    );
}
