// node-redis on the embedded broker: client.mjs URL PROTOCOL. Prints ok when all went as with Redis.
// The tests run it on a real Redis, too: what is expected here is what Redis does.

import assert from "node:assert/strict";
import { createClient } from "redis";

const [url, protocol] = process.argv.slice(2);

async function connect() {
  const client = createClient({ url, RESP: Number(protocol), socket: { reconnectStrategy: false } });
  client.on("error", (error) => {
    console.error(error);
    process.exit(1);
  });
  return client.connect();
}

// What a subscription heard, and a promise of its nth message.
function ear() {
  const heard = [];
  let wake = () => {};
  return {
    heard,
    listener: (message, channel) => {
      heard.push([channel.toString(), message]);
      wake();
    },
    async reach(n) {
      while (heard.length < n) await new Promise((resolve) => (wake = resolve));
    },
  };
}

const client = await connect();
const subscriber = await connect();
assert.equal(await client.ping(), "PONG");
assert.equal(await client.echo("hello"), "hello");
const isEmbedded = /server_name:handlerd/.test(await client.info("server"));
await client.clientSetName("me");
assert.equal(await client.clientGetName(), "me");
assert.equal((await client.clientInfo()).name, "me");

const names = ear();
const patterns = ear();
const bytes = ear();
await subscriber.subscribe("room.1", names.listener);
await subscriber.pSubscribe("room.*", patterns.listener);
await subscriber.subscribe("bytes", bytes.listener, true);
assert.equal(await client.publish("room.1", "hello"), 2);
await names.reach(1);
await patterns.reach(1);
assert.deepEqual(names.heard, [["room.1", "hello"]]);
assert.deepEqual(patterns.heard, [["room.1", "hello"]]);

const payload = Buffer.from(Array.from({ length: 65536 }, (_, n) => n % 256));
assert.equal(await client.publish("bytes", payload), 1);
await bytes.reach(1);
assert.ok(payload.equals(bytes.heard[0][1]));

assert.deepEqual(await client.pubSubChannels("room.*"), ["room.1"]);
assert.equal((await client.pubSubNumSub(["room.1"]))["room.1"], 1);
assert.equal(await client.pubSubNumPat(), 1);

// Commands of one turn of the loop leave in one piece.
const many = Array.from({ length: 2000 }, (_, n) => String(n));
const counts = await Promise.all(many.map((n) => client.publish("room.1", n)));
assert.ok(counts.every((count) => count === 2));
await names.reach(2001);
assert.deepEqual(names.heard.slice(1).map(([, message]) => message), many);

await subscriber.unsubscribe("room.1");
await subscriber.pUnsubscribe("room.*");
assert.equal(await client.publish("room.1", "x"), 0);

if (isEmbedded) await assert.rejects(client.get("x"), /unknown command.*embedded broker/);
await assert.rejects(client.select(99), /out of range/);
await subscriber.unsubscribe();
await subscriber.close();
await client.close();
console.log("ok");
