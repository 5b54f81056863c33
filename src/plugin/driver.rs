//! The driver: what lets the host hand a plugin many messages in one call.
//!
//! Entering a guest costs more than most handlers do: a stack to run on, an allocation in the guest
//! for each list, the call, the copy of the result, the call that frees it. So a few core functions
//! are added to each component, beside the plugin's own and in the same component instance: they
//! are given a batch of messages and call the plugin's `handle-message` for one after the other, in
//! the way that the Canonical ABI prescribes, and the host's `emit` with what comes of each. The
//! plugin notices nothing, and a batch lies in a memory that it doesn't see.
//!
//! Called by `compile`, once a plugin. What can't be driven (a component that another tool made in
//! another way) is left as it is, and called message by message. Runs nothing.

use wasm_encoder::{
    Alias, CanonicalFunctionSection, CanonicalOption, Component, ComponentAliasSection,
    ComponentExportKind, ComponentExportSection, ComponentImportSection, ComponentTypeRef,
    ComponentTypeSection, ComponentValType, ExportKind, InstanceSection, InstanceType, ModuleArg,
    PrimitiveValType, RawSection, TypeBounds,
};
use wasmparser::{
    CanonicalFunction, ComponentAlias, ComponentExternalKind, ComponentOuterAliasKind,
    ComponentTypeRef as ImportKind, ExternalKind, Parser, Payload, Validator, WasmFeatures,
};

/// The interface that the driver imports: `emit`.
pub(super) const HOST: &str = "handlerd:driver/host";

/// The function that it exports: `func(batch: list<u8>)`.
pub(super) const RUN: &str = "handlerd-driver-run";

/// Bytes of the memory that a batch is put into: one page, of which no more is made.
pub(super) const BATCH_MEMORY: usize = 64 << 10;

/// The beginning and the end of the core function's name that is lifted as `handle-message`.
const HANDLE_MESSAGE: (&str, &str) = ("handlerd:plugin/handler@", "#handle-message");

/// The driver's code; its first lines say what a batch is.
const DRIVER: &str = include_str!("driver.wat");

/// The memory of a batch. A batch always begins at 0, whatever was there.
const MEMORY: &str = r#"(module
    (memory (export "memory") 1 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
        (if (i32.gt_u (local.get 3) (i32.const 65536)) (then unreachable))
        (i32.const 0))
    (func (export "no-post-return") (param i32)))"#;

/// Whether an import or export of a component is the driver's.
pub(super) fn is_own(name: &str) -> bool {
    name.starts_with(HOST) || name == RUN
}

/// A component with the driver in it, or `None` when it can't be driven.
///
/// # Errors
/// A sentence, when a plugin uses the driver's own names.
pub(super) fn add(component: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let Ok(survey) = Survey::of(component) else { return Ok(None) };
    if let Some(name) = survey.foreign {
        return Err(format!("it imports or exports {name}, which is handlerd's own"));
    }
    let Some(target) = survey.target else { return Ok(None) };
    let driven =
        [component, &addition(&survey.counts, &target)[Component::HEADER.len()..]].concat();
    // Whatever is unusual about the plugin's own function shows here.
    let valid = Validator::new_with_features(WasmFeatures::all()).validate_all(&driven).is_ok();
    Ok(valid.then_some(driven))
}

/// The plugin's function, as it is lifted.
#[derive(Clone, Copy)]
struct Target {
    handle: u32,
    memory: u32,
    realloc: u32,
    post_return: Option<u32>,
}

/// How many of each kind a component has: the index of the next one.
#[derive(Default)]
struct Counts {
    core_modules: u32,
    core_instances: u32,
    core_funcs: u32,
    core_memories: u32,
    types: u32,
    instances: u32,
    funcs: u32,
}

impl Counts {
    fn imported(&mut self, kind: &ImportKind) {
        match kind {
            ImportKind::Module(_) => self.core_modules += 1,
            ImportKind::Func(_) => self.funcs += 1,
            ImportKind::Type(_) => self.types += 1,
            ImportKind::Instance(_) => self.instances += 1,
            ImportKind::Value(_) | ImportKind::Component(_) => {}
        }
    }

    /// An export or an alias of one is an item of its own.
    fn exported(&mut self, kind: ComponentExternalKind) {
        match kind {
            ComponentExternalKind::Module => self.core_modules += 1,
            ComponentExternalKind::Func => self.funcs += 1,
            ComponentExternalKind::Type => self.types += 1,
            ComponentExternalKind::Instance => self.instances += 1,
            ComponentExternalKind::Value | ComponentExternalKind::Component => {}
        }
    }
}

/// What a component consists of.
#[derive(Default)]
struct Survey {
    counts: Counts,
    /// Core functions that may be lifted as `handle-message`.
    candidates: Vec<u32>,
    target: Option<Target>,
    /// A name of the driver's that the plugin uses.
    foreign: Option<String>,
}

impl Survey {
    fn of(component: &[u8]) -> wasmparser::Result<Survey> {
        let mut survey = Survey::default();
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(component) {
            let payload = payload?;
            match payload {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                payload if depth == 1 => survey.section(payload)?,
                _ => {}
            }
        }
        Ok(survey)
    }

    fn section(&mut self, payload: Payload<'_>) -> wasmparser::Result<()> {
        let counts = &mut self.counts;
        match payload {
            Payload::ModuleSection { .. } => counts.core_modules += 1,
            Payload::InstanceSection(instances) => counts.core_instances += instances.count(),
            Payload::ComponentInstanceSection(instances) => counts.instances += instances.count(),
            Payload::ComponentTypeSection(types) => counts.types += types.count(),
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    let import = import?;
                    counts.imported(&import.ty);
                    self.foreign = self.foreign.take().or_else(|| foreign(import.name.name));
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    counts.exported(export.kind);
                    self.foreign = self.foreign.take().or_else(|| foreign(export.name.name));
                }
            }
            Payload::ComponentAliasSection(aliases) => {
                for alias in aliases {
                    self.alias(alias?);
                }
            }
            Payload::ComponentCanonicalSection(functions) => {
                for function in functions {
                    self.canonical(function?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn alias(&mut self, alias: ComponentAlias<'_>) {
        let counts = &mut self.counts;
        match alias {
            ComponentAlias::InstanceExport { kind, .. } => counts.exported(kind),
            ComponentAlias::CoreInstanceExport { kind: ExternalKind::Func, name, .. } => {
                let (prefix, suffix) = HANDLE_MESSAGE;
                if name.starts_with(prefix) && name.ends_with(suffix) {
                    self.candidates.push(counts.core_funcs);
                }
                counts.core_funcs += 1;
            }
            ComponentAlias::CoreInstanceExport { kind: ExternalKind::Memory, .. } => {
                counts.core_memories += 1;
            }
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Type, .. } => counts.types += 1,
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, .. } => {
                counts.core_modules += 1;
            }
            ComponentAlias::CoreInstanceExport { .. } | ComponentAlias::Outer { .. } => {}
        }
    }

    fn canonical(&mut self, function: CanonicalFunction) {
        let CanonicalFunction::Lift { core_func_index, options, .. } = function else {
            self.counts.core_funcs += 1;
            return;
        };
        self.counts.funcs += 1;
        if !self.candidates.contains(&core_func_index) {
            return;
        }
        let (mut memory, mut realloc, mut post_return) = (None, None, None);
        for option in &options {
            match option {
                wasmparser::CanonicalOption::UTF8 => {}
                wasmparser::CanonicalOption::Memory(index) => memory = Some(*index),
                wasmparser::CanonicalOption::Realloc(index) => realloc = Some(*index),
                wasmparser::CanonicalOption::PostReturn(index) => post_return = Some(*index),
                _ => return,
            }
        }
        if let (Some(memory), Some(realloc)) = (memory, realloc) {
            self.target = Some(Target { handle: core_func_index, memory, realloc, post_return });
        }
    }
}

fn foreign(name: &str) -> Option<String> {
    is_own(name).then(|| name.to_owned())
}

/// The sections to append to a component: a component of their own but for the header.
fn addition(counts: &Counts, target: &Target) -> Vec<u8> {
    let mut component = Component::new();
    let types = counts.types;
    let list_of_bytes = types + 1;

    // type: the host's interface; list<u8>; func(batch: list<u8>)
    let mut section = ComponentTypeSection::new();
    section.instance(&host_interface());
    section.defined_type().list(PrimitiveValType::U8);
    let batch = ComponentValType::Type(list_of_bytes);
    section.function().params([("batch", batch)]).result(None);
    component.section(&section);

    let mut section = ComponentImportSection::new();
    section.import(HOST, ComponentTypeRef::Instance(types));
    component.section(&section);

    // func: emit
    let mut section = ComponentAliasSection::new();
    section.alias(Alias::InstanceExport {
        instance: counts.instances,
        kind: ComponentExportKind::Func,
        name: "emit",
    });
    component.section(&section);

    // core func: emit
    let emit = counts.core_funcs;
    let mut section = CanonicalFunctionSection::new();
    section.lower(counts.funcs, [CanonicalOption::UTF8, CanonicalOption::Memory(target.memory)]);
    component.section(&section);

    // core module: the batch's memory, the driver
    let module = |text| wat::parse_str(text).expect("a test compiles the driver");
    for data in [module(MEMORY), module(DRIVER)] {
        component.section(&RawSection { id: MODULE_SECTION, data: &data });
    }

    core_instances(&mut component, counts, target, emit);

    // func: run
    let (realloc, run) = (emit + 1, emit + 3);
    let mut section = CanonicalFunctionSection::new();
    let options = [
        CanonicalOption::UTF8,
        CanonicalOption::Memory(counts.core_memories),
        CanonicalOption::Realloc(realloc),
    ];
    section.lift(run, types + 2, options);
    component.section(&section);

    let mut section = ComponentExportSection::new();
    section.export(RUN, ComponentExportKind::Func, counts.funcs + 1, None);
    component.section(&section);
    component.finish()
}

/// `core:module` in the Component Model's binary format.
const MODULE_SECTION: u8 = 1;

/// Instances of both modules. Adds core functions: the memory's realloc and no-post-return, then run.
fn core_instances(component: &mut Component, counts: &Counts, target: &Target, emit: u32) {
    let memory = counts.core_instances;
    let mut section = InstanceSection::new();
    section.instantiate(counts.core_modules, NO_ARGUMENTS);
    component.section(&section);

    let mut section = ComponentAliasSection::new();
    let exports = [
        ("memory", ExportKind::Memory),
        ("realloc", ExportKind::Func),
        ("no-post-return", ExportKind::Func),
    ];
    for (name, kind) in exports {
        section.alias(Alias::CoreInstanceExport { instance: memory, kind, name });
    }
    component.section(&section);

    let (plugin, host, driver) = (memory + 1, memory + 2, memory + 3);
    let no_post_return = emit + 2;
    let mut section = InstanceSection::new();
    section.export_items([
        ("memory", ExportKind::Memory, target.memory),
        ("realloc", ExportKind::Func, target.realloc),
        ("handle", ExportKind::Func, target.handle),
        ("post-return", ExportKind::Func, target.post_return.unwrap_or(no_post_return)),
    ]);
    section.export_items([("emit", ExportKind::Func, emit)]);
    section.instantiate(
        counts.core_modules + 1,
        [
            ("plugin", ModuleArg::Instance(plugin)),
            ("host", ModuleArg::Instance(host)),
            ("batch", ModuleArg::Instance(memory)),
        ],
    );
    component.section(&section);

    let mut section = ComponentAliasSection::new();
    section.alias(Alias::CoreInstanceExport {
        instance: driver,
        kind: ExportKind::Func,
        name: "run",
    });
    component.section(&section);
}

const NO_ARGUMENTS: [(&str, ModuleArg); 0] = [];

/// `emit: func(outcome: result<list<message>, failure>) -> bool`, with the types of
/// `handlerd:plugin/types`.
fn host_interface() -> InstanceType {
    let mut interface = InstanceType::new();
    let mut next = 0;
    let mut id = || {
        next += 1;
        next - 1
    };
    let string = ComponentValType::Primitive(PrimitiveValType::String);
    let ty = ComponentValType::Type;

    let bytes = id();
    interface.ty().defined_type().list(PrimitiveValType::U8);
    let header = id();
    interface.ty().defined_type().tuple([string, ty(bytes)]);
    let headers = id();
    interface.ty().defined_type().list(ty(header));
    let route = id();
    interface.ty().defined_type().option(string);
    let message = id();
    let fields = [("payload", ty(bytes)), ("headers", ty(headers)), ("route", ty(route))];
    interface.ty().defined_type().record(fields);
    interface.export("message", ComponentTypeRef::Type(TypeBounds::Eq(message)));
    let message = id();
    let messages = id();
    interface.ty().defined_type().list(ty(message));

    let after = id();
    let millis = ComponentValType::Primitive(PrimitiveValType::U64);
    interface.ty().defined_type().tuple([millis, string]);
    let failure = id();
    let cases =
        [("reject", Some(string)), ("retry", Some(string)), ("retry-after", Some(ty(after)))];
    interface.ty().defined_type().variant(cases);
    interface.export("failure", ComponentTypeRef::Type(TypeBounds::Eq(failure)));
    let failure = id();

    let outcome = id();
    interface.ty().defined_type().result(Some(ty(messages)), Some(ty(failure)));
    let emit = id();
    let more = ComponentValType::Primitive(PrimitiveValType::Bool);
    interface.ty().function().params([("outcome", ty(outcome))]).result(Some(more));
    interface.export("emit", ComponentTypeRef::Func(emit));
    interface
}
