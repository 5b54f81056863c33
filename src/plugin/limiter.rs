//! What an instance may have of the host's memory.
//!
//! Asked by wasmtime whenever a guest wants more. Never ends a call: what was refused is found in it
//! afterwards.

use wasmtime::ResourceLimiter;

/// Core modules, tables and memories of one instance: a Python plugin has 64 modules.
const MAX_CORE_INSTANCES: usize = 200;
const MAX_TABLES: usize = 200;
const MAX_MEMORIES: usize = 32;

/// Elements of all tables of an instance, each eight bytes of the host's memory.
const MAX_TABLE_ELEMENTS: usize = 100_000;

/// Counts the memory and the tables that an instance has, and refuses what is too much.
pub(super) struct Limiter {
    memory_limit: usize,
    memory: usize,
    /// Of that, what is the driver's: not the plugin's to pay for.
    driver: usize,
    table_elements: usize,
    /// What was refused in the call in hand.
    pub(super) denied: Option<Denied>,
}

/// What a guest wanted and didn't get.
#[derive(Clone, Copy, Debug)]
pub(super) enum Denied {
    /// So many bytes of memory in all.
    Memory(usize),
    /// So many table elements in all.
    Table(usize),
}

impl Limiter {
    /// For a new instance: bytes of memory that the plugin may have, and those that its driver has
    /// besides.
    pub(super) fn new(memory_limit: usize, driver: usize) -> Self {
        Limiter { memory_limit, memory: 0, driver, table_elements: 0, denied: None }
    }

    /// Bytes of memory that the instance has.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Bytes of memory that it may have, the driver's included.
    pub(super) fn memory_limit(&self) -> usize {
        self.memory_limit + self.driver
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self.memory.saturating_add(desired.saturating_sub(current));
        let of_plugin = wanted.saturating_sub(self.driver);
        if of_plugin > self.memory_limit {
            self.denied = Some(Denied::Memory(of_plugin));
            return Ok(false);
        }
        // Beyond its own maximum a memory doesn't grow, whatever is said here.
        if maximum.is_none_or(|maximum| desired <= maximum) {
            self.memory = wanted;
        }
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = self.table_elements.saturating_add(desired.saturating_sub(current));
        if wanted > MAX_TABLE_ELEMENTS {
            self.denied = Some(Denied::Table(wanted));
            return Ok(false);
        }
        if maximum.is_none_or(|maximum| desired <= maximum) {
            self.table_elements = wanted;
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}
