"""The article's publisher: publishes each further argument on a channel."""

import sys

import redis


def main():
    url, channel, *messages = sys.argv[1:]
    client = redis.Redis.from_url(url)
    for message in messages:
        client.publish(channel, message)


main()
