"""The article's subscriber: a loop over a subscription that calls handle_message."""

import sys

import redis


def handle_message(channel, message):
    print(f"Received message '{message}' from channel '{channel}'", flush=True)


def main():
    url, channel = sys.argv[1:]
    client = redis.Redis.from_url(url, decode_responses=True)
    pubsub = client.pubsub()
    pubsub.subscribe(channel)
    for message in pubsub.listen():
        if message["type"] == "message":
            handle_message(message["channel"], message["data"])


main()
