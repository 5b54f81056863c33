use std::path::Path;

use super::*;

const FILE: &str = "redact.toml";

fn parse(text: &str) -> Result<CaseFile, ConfigErrors> {
    CaseFile::parse(Path::new(FILE), text.to_owned())
}

fn cases(text: &str) -> Vec<Case> {
    match parse(text) {
        Ok(file) => file.cases,
        Err(errors) => panic!("{errors}"),
    }
}

/// Line, column and message of each error.
fn errors(text: &str) -> Vec<(usize, usize, String)> {
    let errors = parse(text).expect_err("errors");
    let found = errors.diagnostics().iter().map(|d| {
        let (line, column) = d.position().unwrap_or_default();
        (line, column, d.message().to_owned())
    });
    found.collect()
}

fn text(payload: &str) -> ExpectedMessage {
    ExpectedMessage { payload: payload.into(), headers: None, route: None }
}

#[test]
fn a_case_is_read_as_it_is_written() {
    let read = cases(
        r#"
[[case]]
name = "a word is masked"
config = { words = "foo", limit = 3 }
channel = "chat"
in = "say ${HOME}"
headers = [["lang", "en"], ["raw", { hex = "00 ff" }]]
out = ["say ***", { payload_hex = "00FF", headers = [["a", "b"]], route = "vip" }]

[[case]]
name = "no"
in_hex = "ff 00"
reject = "never"
"#,
    );
    let plain = |name: &str, value: &str| (name.to_owned(), Setting::Plain(value.to_owned()));
    let header = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
    let first = &read[0];
    assert_eq!(
        (first.name.as_str(), first.line, first.channel.as_str()),
        ("a word is masked", 2, "chat")
    );
    assert_eq!(first.config, [plain("words", "foo"), plain("limit", "3")]);
    assert_eq!(first.input.payload, b"say ${HOME}");
    assert_eq!(first.input.headers, [header("lang", b"en"), header("raw", &[0, 255])]);
    let routed = ExpectedMessage {
        payload: vec![0, 255],
        headers: Some(vec![header("a", b"b")]),
        route: Some("vip".into()),
    };
    assert_eq!(first.expected, Expected::Out(vec![text("say ***"), routed]));
    let second = &read[1];
    assert_eq!((second.line, second.channel.as_str()), (10, "test"));
    assert_eq!(second.input.payload, [255, 0]);
    assert_eq!(second.expected, Expected::Reject("never".into()));
}

#[test]
fn errors_name_line_and_column() {
    for (text, line, column, message) in [
        ("[[case]]\nname = 'x'\nin = ''\nouts = []", 4, 1, "`outs` is not a key of [[case]]"),
        ("[[cases]]\nname = 'x'", 1, 3, "`cases` is not a key of a file of cases"),
        ("[[case]]\nin = ''", 1, 1, "a case has no `name`"),
        ("[[case]]\nname = 'x'", 1, 1, "a case has no input"),
        (
            "[[case]]\nname = 'x'\nin = ''\nin_hex = ''",
            4,
            1,
            "`in` and `in_hex` can't both be there",
        ),
        (
            "[[case]]\nname = 'x'\nin = ''\nout = []\nreject = ''",
            5,
            1,
            "`out` and `reject` can't both be there",
        ),
        ("[[case]]\nname = 'x'\nin_hex = '0g'", 3, 10, "this is not hex"),
        ("[[case]]\nname = 'x'\nin_hex = '012'", 3, 10, "an odd number of hex digits"),
        ("[[case]]\nname = 'x'\nin = 1", 3, 6, "`in` must be a string, not a number"),
        ("[[case]]\nname = 'x'\nin = ''\nout = 'a'", 4, 7, "`out` must be a list, not a string"),
        (
            "[[case]]\nname = 'x'\nin = ''\nout = [{ rout = 'a', payload = '' }]",
            4,
            10,
            "`rout` is not a key of a message in `out`",
        ),
        ("[[case]]\nname = 'x'\nin = ''\nout = [{}]", 4, 8, "a message has no payload"),
        (
            "[[case]]\nname = 'x'\nin = ''\nheaders = [['a']]",
            4,
            12,
            "a header must be a pair of name and value",
        ),
    ] {
        assert_eq!(errors(text), [(line, column, message.to_owned())], "{text}");
    }
    let several = errors("[[case]]\nname = 'x'\nin = ''\nouts = []\n[[case]]\nnam = 'x'\nin = 1");
    assert_eq!(several.len(), 4, "{several:?}");
}

#[test]
fn only_files_with_cases_are_files_of_cases() {
    assert!(has_cases("[[case]]\nname = 'x'"));
    assert!(has_cases("x = = 1\n[[case]]\n"));
    assert!(!has_cases("[workspace]\nmembers = []"));
    assert!(!has_cases(""));
}

/// What `--bless` makes of a text.
fn blessed(text: &str, came: &[(usize, Came)]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(FILE);
    std::fs::write(&path, text).expect("a file");
    let file = CaseFile::load(&path).expect("cases");
    let came: BTreeMap<usize, Came> = came.iter().cloned().collect();
    file.bless(&came).expect("a blessing");
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").collect();
    assert_eq!(left.len(), 1, "nothing else is left there");
    std::fs::read_to_string(&path).expect("the file")
}

fn out(payloads: &[&str]) -> Came {
    Came::Out(payloads.iter().map(|payload| Message::new(*payload)).collect())
}

#[test]
fn a_blessing_keeps_comments_and_layout() {
    let text = r#"# about this file

[[case]]          # first
name = "a"
in = "x"   # what comes
# what leaves:
out = [
    "one", # kept
    "two", # changed
]

[[case]]
name = "b"
in   =   "x"
out = ["same"] # stays

# the end
"#;
    let now = blessed(text, &[(0, out(&["one", "zwei", "three"])), (1, out(&["same"]))]);
    let expected = text.replace("\"two\", # changed\n]", "\"zwei\", # changed\n    \"three\",\n]");
    assert_eq!(now, expected);
}

#[test]
fn messages_more_and_fewer_fit_into_the_list() {
    let case = |list: &str| format!("[[case]]\nname = 'a'\nin = ''\nout = {list}\n");
    for (before, payloads, after) in [
        ("[]", &["a"] as &[&str], "[\"a\"]"),
        ("[\"a\"]", &["a", "b"], "[\"a\", \"b\"]"),
        ("[ \"a\", \"b\" ]", &["a"], "[ \"a\" ]"),
        ("[\n  \"a\",\n  \"b\"\n]", &["a"], "[\n  \"a\"\n]"),
        ("[\"a\", \"b\"]", &[], "[]"),
        ("[\n  \"a\" # c\n]", &["a", "b"], "[\n  \"a\", # c\n  \"b\"\n]"),
        ("[\n  \"a\", # c\n]", &["a", "b", "c"], "[\n  \"a\", # c\n  \"b\",\n  \"c\",\n]"),
    ] {
        assert_eq!(blessed(&case(before), &[(0, out(payloads))]), case(after));
    }
}

#[test]
fn a_blessing_changes_the_kind_of_what_is_expected() {
    let text = "[[case]]\nname = \"a\"\nin = \"x\"\n# so it is:\nout = [\"x\"]\n\n[[case]]\nname = \"b\"\nin = \"\"\n";
    let reject = (0, Came::Reject("no \"x\"".into()));
    let now = blessed(text, &[reject, (1, out(&[]))]);
    let expected = "[[case]]\nname = \"a\"\nin = \"x\"\n# so it is:\nreject = 'no \"x\"'\n\n[[case]]\nname = \"b\"\nin = \"\"\nout = []\n";
    assert_eq!(now, expected);
}

#[test]
fn bytes_headers_and_routes_are_blessed() {
    let text = "[[case]]\nname = \"a\"\nin = \"x\"\n";
    let header = ("h".to_owned(), vec![0xff]);
    let message = Message { payload: vec![0, 255], headers: vec![header], route: Some("r".into()) };
    let now = blessed(text, &[(0, Came::Out(vec![message, Message::new("a\nb\"'\u{1b}")]))]);
    assert!(
        now.contains(
            r#"{ payload_hex = "00 ff", headers = [["h", { hex = "ff" }]], route = "r" }"#
        ),
        "{now}"
    );
    assert_eq!(cases(&now)[0].expected, {
        let headers = Some(vec![("h".to_owned(), vec![0xff])]);
        let routed = ExpectedMessage { payload: vec![0, 255], headers, route: Some("r".into()) };
        Expected::Out(vec![routed, self::text("a\nb\"'\u{1b}")])
    });
}

#[test]
fn what_is_met_already_is_not_rewritten() {
    let text = "case = [ { name = 'a', in = 'x', reject = 'bad' } ]\n";
    assert_eq!(blessed(text, &[(0, Came::Reject("a bad word".into()))]), text);
    let now = blessed(text, &[(0, Came::Retry("later".into()))]);
    assert_eq!(cases(&now)[0].expected, Expected::Retry("later".into()));
}
