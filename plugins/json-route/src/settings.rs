//! The settings, parsed into a `Router`. An error is one sentence for whoever wrote them.

use std::collections::HashMap;

use handlerd_plugin::config::Settings;
use shared::{Invalid, Pointer};

use crate::router::{Route, Router};

/// A router made of the settings.
pub fn router(mut settings: Settings) -> Result<Router, String> {
    let pointer =
        settings.parsed("pointer", "a JSON Pointer, such as \"/type\"", Pointer::parse)?;
    let routes = settings.parsed(
        "routes",
        r#"a table of values and names, such as { order = "orders" }"#,
        |table| serde_json::from_str::<HashMap<String, String>>(table),
    )?;
    let default = settings.text("default");
    let invalid = Invalid::read(&mut settings)?;
    settings.finish()?;
    let pointer = pointer.ok_or(
        "`pointer` is missing, which says where the value is: write, for example, \
         pointer = \"/type\"",
    )?;
    let routes = routes.unwrap_or_default();
    if routes.is_empty() && default.is_none() {
        return Err("json-route has no route: write, for example, \
                    routes = { order = \"orders\" }, or a `default`"
            .to_owned());
    }
    if let Some((value, _)) = routes.iter().find(|(_, name)| name.is_empty()) {
        return Err(format!("the route of `{value}` is empty: write a name, or leave it out"));
    }
    if default.as_deref() == Some("") {
        return Err("`default` is empty: write a name, or leave it out, and the values without \
                    an entry go on along the chain"
            .to_owned());
    }
    Ok(Router {
        pointer,
        routes: routes.into_iter().map(|(value, name)| (value, Route::new(&name))).collect(),
        default: default.as_deref().map(Route::new),
        invalid,
    })
}
