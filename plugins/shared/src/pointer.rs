//! A value in JSON by its JSON Pointer (RFC 6901), found without making a tree of the whole.

use std::borrow::Cow;
use std::fmt;

use serde_core::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A JSON Pointer: `/user/name`, `/items/0`, and the empty one, which means the whole.
#[derive(Clone, Debug)]
pub struct Pointer {
    text: String,
    tokens: Vec<Token>,
}

/// What stands between two slashes.
#[derive(Clone, Debug)]
struct Token {
    key: String,
    /// What it means of an array.
    index: Option<usize>,
}

impl Pointer {
    /// A pointer as it is written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = text.split('/');
        if parts.next() != Some("") {
            return Err("a JSON Pointer begins with a slash");
        }
        let tokens = parts.map(Token::parse).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), tokens })
    }

    /// The text, number or boolean there, as text. A number is written as in JSON; one with a
    /// fraction or an exponent in the shortest way. Of keys that are repeated the last one counts.
    ///
    /// # Errors
    /// A sentence, where the payload isn't JSON, or has nothing or something else there.
    pub fn find<'a>(&self, payload: &'a [u8]) -> Result<Cow<'a, str>, String> {
        let no_json = |error| format!("the payload is no JSON: {error}");
        let mut json = serde_json::Deserializer::from_slice(payload);
        let found = Search(&self.tokens).deserialize(&mut json).map_err(no_json)?;
        json.end().map_err(no_json)?;
        match found {
            Found::Text(text) => Ok(text),
            Found::Other(what) => Err(format!(
                "the payload has {what} at `{}`: it has to be a text, a number or a boolean",
                self.text
            )),
            Found::Nothing => Err(format!("the payload has nothing at `{}`", self.text)),
        }
    }
}

impl Token {
    fn parse(token: &str) -> Result<Self, &'static str> {
        let mut escapes = token.split('~').skip(1);
        if escapes.any(|rest| !rest.starts_with(['0', '1'])) {
            return Err("a ~ is written ~0 in a JSON Pointer, and a / in a key ~1");
        }
        let is_index = token == "0"
            || !token.starts_with('0') && token.bytes().all(|digit| digit.is_ascii_digit());
        let index = if is_index { token.parse().ok() } else { None };
        // In this order: `~01` is a `~` and a 1.
        Ok(Self { key: token.replace("~1", "/").replace("~0", "~"), index })
    }
}

enum Found<'de> {
    Nothing,
    Text(Cow<'de, str>),
    Other(&'static str),
}

/// Looks for what the tokens lead to, and skips all else.
struct Search<'p>(&'p [Token]);

impl<'p> Search<'p> {
    /// A value that has nothing in it.
    fn scalar<'de>(&self, found: impl FnOnce() -> Found<'de>) -> Found<'de> {
        if self.0.is_empty() { found() } else { Found::Nothing }
    }

    fn number<'de>(&self, number: impl Into<serde_json::Number>) -> Found<'de> {
        self.scalar(|| Found::Text(number.into().to_string().into()))
    }
}

impl<'de> DeserializeSeed<'de> for Search<'_> {
    type Value = Found<'de>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Search<'_> {
    type Value = Found<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.scalar(|| Found::Other("null")))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(self.scalar(|| Found::Text(if value { "true" } else { "false" }.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(self.number(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(self.number(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        // JSON has no number that isn't finite.
        Ok(serde_json::Number::from_f64(value)
            .map_or(Found::Other("no number"), |number| self.number(number)))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(self.scalar(|| Found::Text(value.into())))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(self.scalar(|| Found::Text(value.to_owned().into())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some((token, rest)) = self.0.split_first() else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Found::Other("an object"));
        };
        let mut found = Found::Nothing;
        while let Some(is_it) = map.next_key_seed(IsKey(&token.key))? {
            if is_it {
                found = map.next_value_seed(Search(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut found = if self.0.is_empty() { Found::Other("an array") } else { Found::Nothing };
        if let Some((Token { index: Some(index), .. }, rest)) = self.0.split_first() {
            for _ in 0..*index {
                if array.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(found);
                }
            }
            if let Some(there) = array.next_element_seed(Search(rest))? {
                found = there;
            }
        }
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

/// Whether a key is this one.
struct IsKey<'k>(&'k str);

impl<'de> DeserializeSeed<'de> for IsKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for IsKey<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Pointer;

    fn find(pointer: &str, json: &str) -> Result<String, String> {
        Pointer::parse(pointer).unwrap().find(json.as_bytes()).map(String::from)
    }

    #[track_caller]
    fn assert_found(pointer: &str, json: &str, expected: &str) {
        assert_eq!(find(pointer, json).as_deref(), Ok(expected), "{pointer} of {json}");
    }

    #[test]
    fn the_examples_of_the_rfc_hold() {
        let json = r#"{"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4,
            "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8}"#;
        for (pointer, expected) in [
            ("/foo/0", "bar"),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/c%d", "2"),
            ("/e^f", "3"),
            ("/g|h", "4"),
            ("/i\\j", "5"),
            ("/k\"l", "6"),
            ("/ ", "7"),
            ("/m~0n", "8"),
        ] {
            assert_found(pointer, json, expected);
        }
        assert!(find("", json).unwrap_err().contains("an object at ``"));
        assert!(find("/foo", json).unwrap_err().contains("an array at `/foo`"));
        assert_found("/~01", r#"{"~1": "tilde", "/": "slash"}"#, "tilde");
    }

    #[test]
    fn scalars_are_found_as_text() {
        assert_found("", r#""whole""#, "whole");
        assert_found(
            "/a/b/1/c",
            r#"{"x": {"b": 1}, "a": {"b": [[1, 2], {"c": "Gr\u00f6ße"}], "z": [3]}}"#,
            "Größe",
        );
        for (json, expected) in [
            ("7", "7"),
            ("-7", "-7"),
            ("18446744073709551615", "18446744073709551615"),
            ("1.50", "1.5"),
            ("1.0", "1.0"),
            ("1e2", "100.0"),
            ("true", "true"),
            ("false", "false"),
            (r#""""#, ""),
        ] {
            assert_found("/v", &format!("{{\"v\": {json}}}"), expected);
        }
        assert_found("/v", r#"{"v": "first", "v": "last"}"#, "last");
        assert_found("/0", r#"{"0": "a key may be digits"}"#, "a key may be digits");
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        for (pointer, json) in [
            ("/a", "{}"),
            ("/a", "[]"),
            ("/0", "[]"),
            ("/2", "[1, 2]"),
            ("/01", "[1, 2]"),
            ("/-", "[1, 2]"),
            ("/a/b", r#"{"a": 1}"#),
            ("/a", r#""a""#),
            ("/a/", r#"{"a": "x"}"#),
            ("/99999999999999999999", "[1]"),
        ] {
            let error = find(pointer, json).unwrap_err();
            assert_eq!(error, format!("the payload has nothing at `{pointer}`"), "of {json}");
        }
        assert!(find("/a", r#"{"a": null}"#).unwrap_err().contains("null at `/a`"));
    }

    #[test]
    fn what_is_no_json_is_an_error_wherever_it_is_wrong() {
        for json in [
            "",
            "hello",
            r#"{"a": 1"#,
            r#"{"a": 1} x"#,
            r#"{"a": 1, "b": }"#,
            r#"{"b": [1, 2}, "a": 1}"#,
        ] {
            let error = find("/a", json).unwrap_err();
            assert!(error.starts_with("the payload is no JSON: "), "{json}: {error}");
        }
        let deep = "[".repeat(100_000);
        assert!(find("/0/0/0", &deep).unwrap_err().contains("no JSON"));
        assert!(find("/a", &deep).unwrap_err().contains("no JSON"));
    }

    #[test]
    fn a_pointer_that_is_none_is_an_error() {
        assert!(Pointer::parse("type").unwrap_err().contains("slash"));
        assert!(Pointer::parse("/a~").unwrap_err().contains("~0"));
        assert!(Pointer::parse("/a~2").unwrap_err().contains("~0"));
    }
}
