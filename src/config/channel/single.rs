//! `single`: of several daemons that subscribe to the same, one at a time handles what comes.

use super::{Channel, Output, Source};
use crate::config::connection;
use crate::config::reader::{Table, Value, quoted};

/// The connection of the source: what is written elsewhere can't be one step with the rest.
const OWN: &str = "redis";

/// Read it; all that it must go with has been read.
pub(super) fn read(table: &Table<'_, '_>, channel: &Channel, embedded: bool) -> bool {
    let Some(value) = table.get("single") else { return false };
    if value.boolean() != Some(true) {
        return false;
    }
    if embedded {
        connection::refuse_kind(&value, "leases", "remove `single`: it has one daemon only");
    } else {
        check(table, &value, channel);
    }
    true
}

fn check(table: &Table<'_, '_>, value: &Value<'_, '_>, channel: &Channel) {
    let refuse = |message: String, help: &str| {
        value.reader.error(&value.key_span, message, vec![help.to_owned()]);
    };
    if matches!(channel.source, Source::Stream(_)) {
        refuse(
            "`single` is for pub/sub only, and the source of this channel is `stream`".to_owned(),
            "remove it: daemons with one `group` share the entries, and each is handled once",
        );
        return;
    }
    if channel.workers > 1 {
        refuse(
            format!("`single` needs one worker, and this channel has {}", channel.workers),
            "remove `workers`, or `single`",
        );
    }
    let connections = channel.outputs.iter().filter_map(|output| match output {
        Output::Publish(target) | Output::Append(target) | Output::Push(target) => {
            Some((output, &target.connection))
        }
        Output::Log => None,
    });
    let abroad = connections.filter(|(_, connection)| ***connection != *OWN);
    for (output, connection) in abroad {
        let key = match output {
            Output::Publish(_) => "publish",
            Output::Append(_) => "append",
            Output::Push(_) | Output::Log => "push",
        };
        let key =
            if table.get(key).is_some() { format!("`{key}`") } else { "an output".to_owned() };
        refuse(
            format!(
                "`single` goes with outputs on [redis] only, and {key} writes to {}",
                quoted(connection)
            ),
            "write to [redis], whose daemons of one name have one lease, or remove `single`",
        );
    }
}
