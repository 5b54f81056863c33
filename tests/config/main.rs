//! The configuration from outside: files in, types or errors out.

mod patterns;
mod random;
