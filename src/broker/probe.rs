//! What `check --connect` asks a Redis.
