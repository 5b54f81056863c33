//! What minijinja would find out at run time only: names that there aren't.

use std::collections::HashSet;

use minijinja::machinery::{Span, Token, tokenize};
use minijinja::{Environment, Error, ErrorKind};

use super::variables::NAMES;

/// The names in a source that has been compiled, so that its syntax is right: what it calls
/// variable, filter, test and function has to exist. `undeclared` are the names that the source
/// doesn't make itself.
///
/// # Errors
/// What there isn't, and at which byte of the source.
pub fn names(
    environment: &Environment<'_>,
    source: &str,
    is_expression: bool,
    undeclared: &HashSet<String>,
) -> Result<(), (usize, String)> {
    let tokens: Vec<_> = tokenize(source, is_expression, environment.syntax().clone())
        .collect::<Result<_, _>>()
        .map_err(|error| (0, error.to_string()))?;
    for index in 0..tokens.len() {
        let Some((Token::Ident(name), span)) = tokens.get(index) else { continue };
        let wrong = match role(&tokens, index) {
            Role::Filter => unknown_filter(environment, name),
            Role::Test => unknown_test(environment, name),
            Role::Name if undeclared.contains(*name) => unknown_name(environment, name),
            Role::Name | Role::Attribute => None,
        };
        if let Some(wrong) = wrong {
            return Err((span.start_offset as usize, wrong));
        }
    }
    Ok(())
}

/// What an identifier is.
enum Role {
    Filter,
    Test,
    /// A variable, a function, or a word of the language.
    Name,
    /// What stands after a dot.
    Attribute,
}

fn role(tokens: &[(Token<'_>, Span)], index: usize) -> Role {
    let before = |distance| {
        let token = index.checked_sub(distance).and_then(|index| tokens.get(index));
        token.map(|(token, _)| token)
    };
    match (before(3), before(2), before(1)) {
        (_, _, Some(Token::Dot)) => Role::Attribute,
        (_, _, Some(Token::Pipe)) | (_, Some(Token::BlockStart), Some(Token::Ident("filter"))) => {
            Role::Filter
        }
        // `.is` is an attribute.
        (_, Some(Token::Dot), Some(Token::Ident("is")))
        | (Some(Token::Dot), Some(Token::Ident("is")), Some(Token::Ident("not"))) => Role::Name,
        (_, Some(Token::Ident("is")), Some(Token::Ident("not"))) => Role::Test,
        (_, _, Some(Token::Ident("is"))) if !is_not(tokens, index) => Role::Test,
        _ => Role::Name,
    }
}

/// Whether the identifier is the `not` of `is not`.
fn is_not(tokens: &[(Token<'_>, Span)], index: usize) -> bool {
    let at = |index: usize| tokens.get(index).map(|(token, _)| token);
    matches!((at(index), at(index + 1)), (Some(Token::Ident("not")), Some(Token::Ident(_))))
}

fn unknown_filter(environment: &Environment<'_>, name: &str) -> Option<String> {
    let result = environment.empty_state().apply_filter(name, &[]);
    is(ErrorKind::UnknownFilter, &result).then(|| format!("there is no filter `{name}`"))
}

fn unknown_test(environment: &Environment<'_>, name: &str) -> Option<String> {
    let result = environment.empty_state().perform_test(name, &[]);
    is(ErrorKind::UnknownTest, &result).then(|| format!("there is no test `{name}`"))
}

/// Whether it failed for this reason. Most fail for another one, having got no arguments.
fn is<T>(kind: ErrorKind, result: &Result<T, Error>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == kind)
}

fn unknown_name(environment: &Environment<'_>, name: &str) -> Option<String> {
    let is_known = NAMES.contains(&name) || environment.globals().any(|(known, _)| known == name);
    (!is_known).then(|| format!("there is no `{name}`: there are {}", NAMES.join(", ")))
}
