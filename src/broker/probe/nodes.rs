//! The other nodes of a Redis Cluster: those that have keys which the first one doesn't.
//!
//! They are learned as the daemon learns them, by `MOVED`, and asked the same.

use std::collections::BTreeMap;

use super::commands::Command;
use super::needs::Needs;
use super::{LIMIT, Probed, SHOWN, rehearse, server, streams};
use crate::broker::commands::over;
use crate::broker::connection::Connector;
use crate::broker::stream::named;
use crate::telemetry::printable;

/// The slot and the node of "MOVED 3999 127.0.0.1:6381".
pub(super) fn of(answer: &str) -> Option<(&str, &str)> {
    let mut words = answer.strip_prefix("MOVED ")?.split_ascii_whitespace();
    Some((words.next()?, words.next()?))
}

/// Ask each node about the commands that were sent to it.
pub(super) async fn ask(
    connector: &Connector,
    elsewhere: &[(&Command, String)],
    needs: &Needs,
    probed: &mut Probed,
) {
    let mut nodes: BTreeMap<&str, Vec<(&Command, &str)>> = BTreeMap::new();
    for (command, answer) in elsewhere {
        if let Some((slot, node)) = of(answer) {
            nodes.entry(node).or_default().push((command, slot));
        }
    }
    for (node, commands) in nodes {
        let mut keys: Vec<String> = Vec::new();
        for (Command { name, .. }, slot) in &commands {
            let key = format!("\"{}\" (slot {slot})", printable(name.as_bytes(), SHOWN));
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let keys = keys.join(", ");
        probed.notes.push(format!("the node {node} of this Redis Cluster has {keys}"));
        let there =
            named(&format!("MOVED 0 {node}")).and_then(|(host, port)| connector.at(host, port));
        let Some(there) = there else {
            probed.problems.push(format!("there is no telling where the node {node} is"));
            continue;
        };
        if let Err(why) = ask_one(&there, node, &commands, needs, probed).await {
            probed.problems.push(format!("the node {node}, which has {keys}: {why}"));
        }
    }
}

async fn ask_one(
    there: &Connector,
    node: &str,
    commands: &[(&Command, &str)],
    needs: &Needs,
    probed: &mut Probed,
) -> anyhow::Result<()> {
    let link = there.connect().await?;
    let (version, replica) = (link.version.clone(), link.replica);
    let (mut connection, _driver) = over(link, LIMIT).await?;
    let server = server::ask(&mut connection, version, replica).await?;
    let notes = streams::durability(&server).into_iter();
    probed.notes.extend(notes.map(|note| format!("the node {node}: {note}")));
    // What is sent on once more is on its way to another node just now.
    rehearse(&mut connection, commands.iter().map(|(command, _)| *command), probed).await?;
    streams::look(&mut connection, needs, probed).await?;
    Ok(())
}
