//! The configuration from outside: files in, types or errors out.

mod bad;
mod circles;
mod files;
mod mutations;
mod patterns;
mod random;
mod reference;
mod valid;
