"""The article's chat: a class that takes several callbacks, and sends what is typed.

Lines of standard input are sent; the program ends when they do.
"""

import sys

import redis


class Chat:
    """Sends to one channel, and calls every callback for what comes on another."""

    def __init__(self, client, send_to, listen_on):
        self.client = client
        self.send_to = send_to
        self.callbacks = []
        self.pubsub = client.pubsub(ignore_subscribe_messages=True)
        self.pubsub.subscribe(**{listen_on: self._received})

    def add_callback(self, callback):
        self.callbacks.append(callback)

    def _received(self, message):
        for callback in self.callbacks:
            callback(message["channel"], message["data"])

    def start(self):
        self.thread = self.pubsub.run_in_thread(sleep_time=0.01)

    def send(self, text):
        self.client.publish(self.send_to, text)

    def stop(self):
        self.thread.stop()
        self.thread.join()


def main():
    url, name, send_to, listen_on = sys.argv[1:]
    seen = []

    def show(channel, message):
        print(f"{name} sees on {channel}: {message}", flush=True)

    def count(channel, message):
        seen.append(message)
        print(f"{name} has seen {len(seen)}", flush=True)

    chat = Chat(redis.Redis.from_url(url, decode_responses=True), send_to, listen_on)
    chat.add_callback(show)
    chat.add_callback(count)
    chat.start()
    for line in sys.stdin:
        chat.send(f"{name}: {line.rstrip()}")
    chat.stop()


main()
