//! What no case beside the plugin can say: bytes, and the errors of `setup`.

use handlerd_plugin::config::Settings;

use crate::settings::redactor;

fn settings(pairs: &[(&str, &str)]) -> Settings {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn mask(pairs: &[(&str, &str)], payload: &[u8]) -> Option<Vec<u8>> {
    redactor(settings(pairs)).unwrap().mask(payload)
}

fn error(pairs: &[(&str, &str)]) -> String {
    redactor(settings(pairs)).err().unwrap()
}

#[test]
fn nothing_is_copied_where_nothing_matches() {
    assert_eq!(mask(&[("words", "foo")], b"food and \xff"), None);
    assert_eq!(mask(&[("patterns", r#"["x*"]"#)], b"abc"), None, "an empty match is none");
}

#[test]
fn bytes_that_are_no_text_stay_and_hide_no_word() {
    let masked = mask(&[("words", "foo")], b"\xff\xfefoo\x80 food\x00foo").unwrap();
    assert_eq!(masked, b"\xff\xfe***\x80 food\x00***");
}

#[test]
fn a_match_is_masked_character_by_character() {
    assert_eq!(
        mask(&[("words", "größe")], "GRÖSSE GRÖßE!".as_bytes()).unwrap(),
        "GRÖSSE *****!".as_bytes()
    );
    assert_eq!(mask(&[("patterns", r#"["(?s-u)k=.*;"]"#)], b"k=\xff\xff;x").unwrap(), b"*****x");
    assert_eq!(mask(&[("words", "ab"), ("mask", "█")], b"ab c").unwrap(), "██ c".as_bytes());
}

#[test]
fn a_letter_that_folds_to_ascii_is_found() {
    // U+017F and the Kelvin sign are an s and a k when case doesn't matter.
    assert_eq!(mask(&[("words", "secret")], "ſecret".as_bytes()).unwrap(), b"******");
    assert_eq!(mask(&[("words", "\u{212a}ey")], b"a key").unwrap(), b"a ***");
    assert_eq!(mask(&[("words", "secret"), ("ignore_case", "false")], b"Secret"), None);
    assert_eq!(mask(&[("words", "a, secret")], b"no SECRET").unwrap(), b"no ******");
}

#[test]
fn overlapping_matches_are_masked_once() {
    let both = &[("words", "say foo, foo"), ("patterns", r#"["oo b", "o b"]"#)];
    assert_eq!(mask(both, b"say foo bar").unwrap(), b"*********ar");
}

#[test]
fn a_word_may_end_in_what_is_no_letter() {
    assert_eq!(mask(&[("words", "C++, a.b")], b"c++, c++x axb A.B").unwrap(), b"***, c++x axb ***");
    assert_eq!(mask(&[("words", r#"["a,b"]"#)], b"a,b a").unwrap(), b"*** a");
}

#[test]
fn an_error_says_what_is_wrong_and_where() {
    let bad = error(&[("patterns", r#"["ok", "ä(b"]"#)]);
    assert!(
        bad.contains("expression 2") && bad.contains("`ä(b`") && bad.contains("character 2"),
        "{bad}"
    );
    assert!(error(&[]).contains("words = "));
    assert!(error(&[("words", " , ")]).contains("words = "));
    assert!(error(&[("word", "a")]).contains("`word`"));
    assert!(error(&[("words", "a"), ("mask", "ab")]).contains("one character"));
    assert!(error(&[("words", "a"), ("ignore_case", "no")]).contains("true or false"));
    assert!(error(&[("patterns", "foo")]).contains("list of expressions"));
}
