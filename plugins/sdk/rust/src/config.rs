//! The settings of this handler: `config = { … }` in its `[handlers.NAME]`.
//!
//! Strings come as they are written; other values (numbers, lists, tables) as JSON text.
//! [`Settings`] reads them into types, with errors for whoever wrote them.

use std::fmt::Display;
use std::time::Duration;

use crate::bindings::plugin::wasi::config::store;

/// The setting `key`; `None` where there is none.
///
/// # Errors
/// A sentence, where the daemon couldn't read it.
pub fn get(key: &str) -> Result<Option<String>, String> {
    store::get(key).map_err(|error| format!("can't read the setting `{key}`: {}", text(error)))
}

/// All settings, as names and values.
///
/// # Errors
/// A sentence, where the daemon couldn't read them.
pub fn get_all() -> Result<Vec<(String, String)>, String> {
    store::get_all().map_err(|error| format!("can't read the settings: {}", text(error)))
}

fn text(error: store::Error) -> String {
    match error {
        store::Error::Upstream(text) | store::Error::Io(text) => text,
    }
}

/// The settings of this handler, to be read into types, once, in the setup function.
///
/// Each is taken out by its name; [`finish`](Self::finish) then refuses what nobody asked for, so
/// that a misspelt name is an error. Every error is a sentence that names the setting and says what
/// to write: hand it on, and it refuses the configuration.
///
/// ```
/// # use handlerd_plugin::config::Settings;
/// # fn prepare(mut settings: Settings) -> Result<(u64, bool), String> {
/// // Of a plugin: let mut settings = Settings::read()?;
/// let limit = settings.whole_number("limit")?.unwrap_or(10);
/// let strict = settings.boolean("strict")?.unwrap_or(false);
/// settings.finish()?;
/// # Ok((limit, strict)) }
/// # let settings = |key: &str, value: &str| Settings::from_iter([(key.to_owned(), value.to_owned())]);
/// assert_eq!(prepare(settings("limit", "5")), Ok((5, false)));
/// let error = "there is no setting `limits`: there are `limit` and `strict`";
/// assert_eq!(prepare(settings("limits", "5")), Err(error.to_owned()));
/// ```
#[derive(Debug)]
pub struct Settings {
    left: Vec<(String, String)>,
    asked_for: Vec<String>,
}

impl Settings {
    /// The settings of this handler.
    ///
    /// # Errors
    /// A sentence, where the daemon couldn't read them.
    pub fn read() -> Result<Self, String> {
        get_all().map(Self::from_iter)
    }

    /// The setting as it is written; `None` where there is none.
    pub fn text(&mut self, key: &str) -> Option<String> {
        self.asked_for.push(key.to_owned());
        let index = self.left.iter().position(|(name, _)| name == key)?;
        Some(self.left.swap_remove(index).1)
    }

    /// The setting as `parse` understands it; `expected` says what that is, as in "`key` has to be
    /// `expected`, not …". That shows the setting: take a secret by [`text`](Self::text).
    ///
    /// # Errors
    /// The setting, what is expected, what it is, and why `parse` refused it.
    pub fn parsed<T, E: Display>(
        &mut self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.text(key) else { return Ok(None) };
        parse(&value)
            .map(Some)
            .map_err(|error| format!("`{key}` has to be {expected}, not `{value}`: {error}"))
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn boolean(&mut self, key: &str) -> Result<Option<bool>, String> {
        self.known(key, "true or false", |value| value.parse().ok())
    }

    /// A number without sign and fraction.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn whole_number(&mut self, key: &str) -> Result<Option<u64>, String> {
        self.known(key, "a whole number, such as 10", |value| value.parse().ok())
    }

    /// A whole number and its unit, which is `ms`, `s`, `m` or `h`: `500ms`, `10s`.
    ///
    /// # Errors
    /// Where it is something else, or longer than the milliseconds that a `u64` holds.
    pub fn duration(&mut self, key: &str) -> Result<Option<Duration>, String> {
        self.known(key, "a time, such as \"10s\" (units: ms, s, m, h)", parse_duration)
    }

    /// One of the words in `choices`, as what stands beside it.
    ///
    /// # Errors
    /// Where it is none of them.
    pub fn choice<T: Copy>(
        &mut self,
        key: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, String> {
        let words: Vec<_> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.known(key, &listed(&words, "or"), |value| {
            choices.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning)
        })
    }

    /// To be called when everything has been asked for.
    ///
    /// # Errors
    /// Where a setting is left that nobody asked for.
    pub fn finish(self) -> Result<(), String> {
        let Some((unknown, _)) = self.left.first() else { return Ok(()) };
        let known: Vec<_> = self.asked_for.iter().map(|key| format!("`{key}`")).collect();
        Err(match known.as_slice() {
            [] => format!("there is no setting `{unknown}`: this plugin has no settings"),
            [only] => format!("there is no setting `{unknown}`: there is only {only}"),
            _ => format!("there is no setting `{unknown}`: there are {}", listed(&known, "and")),
        })
    }

    /// The setting as `parse` understands it, where why it doesn't needs no words.
    fn known<T>(
        &mut self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.text(key) else { return Ok(None) };
        match parse(&value) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(format!("`{key}` has to be {expected}, not `{value}`")),
        }
    }
}

/// Names and values, as [`get_all`] gives them: for tests of a plugin's own, which run without a
/// daemon.
impl FromIterator<(String, String)> for Settings {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(settings: I) -> Self {
        Self { left: settings.into_iter().collect(), asked_for: Vec::new() }
    }
}

fn parse_duration(value: &str) -> Option<Duration> {
    let (number, unit) = value.split_at(value.find(|c: char| !c.is_ascii_digit())?);
    let unit: u64 = match unit.trim_start() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_millis)
}

/// `a, b and c`.
fn listed(words: &[String], last: &str) -> String {
    match words {
        [before @ .., end] if !before.is_empty() => format!("{} {last} {end}", before.join(", ")),
        _ => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings<const N: usize>(pairs: [(&str, &str); N]) -> Settings {
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn what_is_not_set_is_none() {
        let mut settings = settings([]);
        assert_eq!(settings.text("a"), None);
        assert_eq!(settings.boolean("b"), Ok(None));
        assert_eq!(settings.duration("c"), Ok(None));
        assert_eq!(settings.finish(), Ok(()));
    }

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        let time = |value| settings([("per", value)]).duration("per");
        assert_eq!(time("500ms"), Ok(Some(Duration::from_millis(500))));
        assert_eq!(time("10 s"), Ok(Some(Duration::from_secs(10))));
        assert_eq!(time("2m"), Ok(Some(Duration::from_secs(120))));
        assert_eq!(time("1h"), Ok(Some(Duration::from_secs(3600))));
        for wrong in [
            "",
            "10",
            "s",
            "1d",
            "-1s",
            "1.5s",
            "1s s",
            "99999999999999999999s",
            "6000000000000000h",
        ] {
            let error = time(wrong).unwrap_err();
            assert!(
                error.starts_with("`per` has to be a time") && error.contains(wrong),
                "{error}"
            );
        }
    }

    #[test]
    fn an_error_says_what_to_write() {
        let error = settings([("n", "-1")]).whole_number("n").unwrap_err();
        assert_eq!(error, "`n` has to be a whole number, such as 10, not `-1`");
        let error = settings([("b", "yes")]).boolean("b").unwrap_err();
        assert_eq!(error, "`b` has to be true or false, not `yes`");
        let choices = [("pass", 1), ("drop", 2), ("reject", 3)];
        assert_eq!(settings([("c", "drop")]).choice("c", &choices), Ok(Some(2)));
        let error = settings([("c", "stop")]).choice("c", &choices).unwrap_err();
        assert_eq!(error, "`c` has to be \"pass\", \"drop\" or \"reject\", not `stop`");
        let error = settings([("n", "x")]).parsed("n", "a byte", |value| value.parse::<u8>());
        assert_eq!(
            error.unwrap_err(),
            "`n` has to be a byte, not `x`: invalid digit found in string"
        );
    }

    #[test]
    fn a_setting_that_nobody_asked_for_is_an_error() {
        let error = settings([("a", "1")]).finish().unwrap_err();
        assert_eq!(error, "there is no setting `a`: this plugin has no settings");
        let mut one = settings([("a", "1"), ("b", "2")]);
        assert_eq!(one.text("b").as_deref(), Some("2"));
        assert_eq!(one.finish().unwrap_err(), "there is no setting `a`: there is only `b`");
    }
}
