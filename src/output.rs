//! Where what leaves a chain goes.
