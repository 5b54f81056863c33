"""redis-py on the embedded broker: client.py URL PROTOCOL. Prints ok when all went as with Redis.

The tests run it on a real Redis, too: what is expected here is what Redis does.
"""

import sys

import redis

url, protocol = sys.argv[1], int(sys.argv[2])


def connect(**options):
    return redis.Redis.from_url(url, protocol=protocol, **options)


def wait(pubsub, kind):
    """The next message of a kind; the others are in the way of what is looked for."""
    while True:
        message = pubsub.get_message(timeout=20)
        assert message is not None, f"no {kind} came"
        if message["type"] == kind:
            return message


r = connect()
assert r.ping() is True
assert r.echo(b"\x00\xff\r\n") == b"\x00\xff\r\n"
is_embedded = r.info("server").get("server_name") == "handlerd"
assert r.client_setname("me") and r.client_getname() in ("me", b"me")
mine = [c for c in r.client_list() if c["name"] == "me"]
assert len(mine) == 1 and int(mine[0]["id"]) == r.client_id()
assert r.execute_command("SELECT", 0)
assert r.publish("nobody", "x") == 0

# A subscriber of a name and of a pattern gets a message twice; bytes are kept.
p = r.pubsub()
p.subscribe("room.1", b"\xff\x00")
p.psubscribe("room.*", b"\xfe*")
for kind in ("subscribe", "subscribe", "psubscribe", "psubscribe"):
    assert wait(p, kind)
assert {b"room.1", b"\xff\x00"} <= set(r.pubsub_channels())
assert r.pubsub_channels("room.*") == [b"room.1"]
assert r.pubsub_numsub("room.1", "room.2") == [(b"room.1", 1), (b"room.2", 0)]
assert r.pubsub_numpat() == 2
payload = bytes(range(256)) * 5000
assert r.publish("room.1", payload) == 2
assert wait(p, "message") == dict(type="message", pattern=None, channel=b"room.1", data=payload)
assert wait(p, "pmessage") == dict(
    type="pmessage", pattern=b"room.*", channel=b"room.1", data=payload
)
assert r.publish(b"\xfe\x01", b"") == 1
assert wait(p, "pmessage") == dict(
    type="pmessage", pattern=b"\xfe*", channel=b"\xfe\x01", data=b""
)

# While subscribed, PING has another form; what comes of it depends on the protocol.
p.ping("here")
assert wait(p, "pong")["data"] == b"here"

# Pipelined, and in order.
with r.pipeline(transaction=False) as pipeline:
    for n in range(2000):
        pipeline.publish("room.1", n)
    assert pipeline.execute() == [2] * 2000
for n in range(2000):
    assert wait(p, "message")["data"] == b"%d" % n

p.unsubscribe("room.1")
assert wait(p, "unsubscribe")["channel"] == b"room.1"
assert r.publish("room.1", "x") == 1
p.unsubscribe()
p.punsubscribe()
wait(p, "punsubscribe")
wait(p, "punsubscribe")
assert r.publish("room.1", "x") == 0
p.close()

# What isn't there says what it is that hasn't it.
for command in (("GET", "x"), ("XADD", "s", "*", "a", "b"), ("MULTI",)) if is_embedded else ():
    try:
        r.execute_command(*command)
        raise AssertionError(f"{command} was answered")
    except redis.ResponseError as error:
        assert "unknown command" in str(error) and "embedded broker" in str(error), error
for wrong in (("SELECT", 99), ("PUBLISH", "a"), ("CLIENT", "SETNAME", "a b"), ("HELLO", 4)):
    try:
        r.execute_command(*wrong)
        raise AssertionError(f"{wrong} was answered")
    except redis.ResponseError:
        pass
assert r.ping()

# A password that nobody asked for is taken as Redis takes it.
assert connect(username="default", password="any").ping()
try:
    connect(username="somebody", password="any").ping()
    raise AssertionError("a user that isn't there was let in")
except redis.AuthenticationError:
    pass
print("ok")
