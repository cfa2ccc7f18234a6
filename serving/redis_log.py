"""The log of reports that processes share, in Redis 6.2 or newer. The one importer of redis.

A stream holds the messages, bounded in length and age. What trimming takes from it stays settled: the latest
message on each subject is kept beside it, in a hash with a sorted set by time, and so are the tombstones of
forgotten people. The three are changed together by one script, such that the later report always stays.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from recsys.data.ids import id_key
from recsys.data.tombstones import tombstone
from recsys.errors import DataError
from serving.ordering import version
from serving.reports import ForgottenUser, Message, Observed, decode, encode, subject

#: What can go wrong on the way: the connection, or Redis itself.
LogError = (RedisError, OSError)
START = "0-0"

_SETTLE = """
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'm', ARGV[3])
local known = redis.call('ZSCORE', KEYS[3], ARGV[4])
if not known or tonumber(known) <= tonumber(ARGV[5]) then
  redis.call('HSET', KEYS[2], ARGV[4], ARGV[3])
  redis.call('ZADD', KEYS[3], ARGV[5], ARGV[4])
  while redis.call('ZCARD', KEYS[3]) > tonumber(ARGV[2]) do
    redis.call('HDEL', KEYS[2], redis.call('ZPOPMIN', KEYS[3])[1])
  end
end
"""


class RedisLog:
    """One connection to the shared log; a thread each has its own.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with user and password if need be.
        name: processes with the same name share their reports.
        max_messages: length that the stream is trimmed to, about.
        max_subjects: subjects of which the latest message is kept.
        timeout_s: the longest that a call may take, its waiting for messages aside.
    """

    def __init__(
        self, url: str, *, name: str, max_messages: int, max_subjects: int, timeout_s: float
    ) -> None:
        self._timeout_s = timeout_s
        self._redis: Any = Redis.from_url(
            url,
            protocol=2,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        # One hash tag: in a cluster all lie on one node, as the script needs it.
        self._stream, self._latest, self._order, self._gone, self._epoch = (
            f"{{{name}}}:{part}" for part in ("reports", "latest", "order", "forgotten", "epoch")
        )
        self._bounds = (max_messages, max_subjects)
        self._settle: Any = self._redis.register_script(_SETTLE)

    def append(self, messages: Iterable[Message]) -> int:
        """Writes messages in their order, in one round trip; returns how many could not be written at all."""
        pipe = self._redis.pipeline(transaction=False)
        unfit = 0
        for message in messages:
            try:
                content = encode(message)
            except DataError:
                unfit += 1
                continue
            about = subject(message.report)
            if isinstance(message.report, ForgottenUser):
                pipe.sadd(self._gone, tombstone(message.report.user_id))
            if about is None:
                pipe.xadd(self._stream, {"m": content}, maxlen=self._bounds[0], approximate=True)
            else:
                arguments = (*self._bounds, content, about, version(message)[0])
                self._settle(keys=(self._stream, self._latest, self._order), args=arguments, client=pipe)
        pipe.execute()
        return unfit

    def after(self, position: str, *, most: int, wait_s: float) -> list[tuple[str, bytes]]:
        """Up to `most` messages behind a position, each with its own; waits until there is one."""
        block_ms = max(1, round(wait_s * 1000))
        found = self._redis.xread({self._stream: position}, count=most, block=block_ms)
        return [(at.decode(), fields.get(b"m", b"")) for _, rows in found for at, fields in rows]

    def settled(self) -> list[bytes]:
        """The latest message on every subject that is kept."""
        return [content for _, content in self._redis.hscan_iter(self._latest, count=1000)]

    def forgotten(self, also: frozenset[str]) -> frozenset[str]:
        """The tombstones of everybody who is forgotten, `also` among them from now on."""
        if also:
            self._redis.sadd(self._gone, *also)
        return frozenset(mark.decode() for mark in self._redis.smembers(self._gone))

    def epoch(self) -> str:
        """A word that stays the same as long as Redis keeps what it was told."""
        self._redis.set(self._epoch, uuid.uuid4().hex, nx=True)
        return str(self._redis.get(self._epoch).decode())

    def holds(self, position: str) -> bool:
        """Whether the log is still the one that had a message at a position, as far as can be seen.

        Not where it ends before it, nor where messages lie around it and the message itself is gone.
        """
        if position == START:
            return True
        try:
            about = self._redis.xinfo_stream(self._stream)
        except ResponseError:
            return False  # there is no stream
        first, last = about["first-entry"], about["last-generated-id"].decode()
        if _order(last) < _order(position):
            return False
        trimmed = not first or _order(first[0].decode()) > _order(position)
        return trimmed or bool(self._redis.xrange(self._stream, min=position, max=position))

    def is_trimmed(self, position: str) -> bool:
        """Whether messages behind a position may be gone from the stream."""
        first = self._redis.xrange(self._stream, count=1)
        return position != START and bool(first) and _order(first[0][0].decode()) > _order(position)

    def trim(self, *, before_ms: int) -> None:
        """Takes out of the stream what was written before a moment, milliseconds since the epoch."""
        self._redis.xtrim(self._stream, minid=before_ms, approximate=False)

    def erase(self, person: ForgottenUser) -> None:
        """Takes all events of a person out of the stream."""
        key, position = id_key(person.user_id), "-"
        while rows := self._redis.xrange(self._stream, min=position, count=1000):
            theirs = [at for at, fields in rows if _is_of(fields.get(b"m", b""), key)]
            if theirs:
                self._redis.xdel(self._stream, *theirs)
            position = f"({rows[-1][0].decode()}"

    def close(self) -> None:
        """Ends the connection."""
        self._redis.close()


def _order(position: str) -> tuple[int, int]:
    at_ms, _, number = position.partition("-")
    return int(at_ms), int(number)


def _is_of(content: bytes, user: str) -> bool:
    try:
        report = decode(content).report
    except DataError:
        return False
    return isinstance(report, Observed) and id_key(report.event.user_id) == user
