"""The fast way through a stream: text moves from event to line unparsed, still escaped.

An engine's events differ from one to the next only in their text. Once one event has been
read the slow way, its bytes before and after the text are known; the next event that begins
and ends alike, and has nothing but plain text between, is moved across as it is. Whatever
else comes (quotes, an end, counts, calls) is left to the reader that understands it.
"""

import re
from collections.abc import Callable

import msgspec

_encode = msgspec.json.Encoder().encode
_KEYS = (b'"content":"', b'"text":"')
# An event with one of these tells more than text, and must be read.
_TELLING = (
    b'"usage":{',
    b'"timings":{',
    b'"metrics":{',
    b'"finish_reason":"',
    b'_ids":[',
    b'"tokens":[',
)
_BETWEEN = b"\n\n"
# What a text may have that does not move as it is.
_ODD = re.compile(rb'["\\<>&]').search


class Splice:
    """Moves the text of one stream's events into the lines of one voice.

    `frame` makes what stands before and after a text in a line; it must differ from text to
    text in nothing but a time that may stay the same for all events that arrive together.
    """

    def __init__(self, frame: Callable[[], tuple[bytes, bytes] | None]) -> None:
        self._frame = frame
        self._before = b""
        self._after = b""
        self._ending = b""
        self._opening = b""
        self._closing = b""

    def begin(self) -> None:
        """Some events have arrived together."""
        frame = self._frame() if self._before else None
        if frame is not None:
            self._opening, self._closing = frame

    def move_one(self, read: bytes) -> bytes | None:
        """The line for a read that is one event and its end; None when it must be looked at."""
        before, ending = self._before, self._ending
        # Two events in one read have a quote between their texts, and are left to `move`.
        if not before or not read.startswith(before) or not read.endswith(ending):
            return None
        text = read[len(before) : len(read) - len(ending)]
        if _ODD(text) is not None:
            text = _plain(text)
        frame = self._frame() if text else None
        return b"%b%b%b" % (frame[0], text, frame[1]) if frame is not None else None

    def move(self, event: bytes) -> bytes | None:
        """The line for an event, or None when it must be read."""
        before, after = self._before, self._after
        if not before or not event.startswith(before) or not event.endswith(after):
            return None
        text = _plain(event[len(before) : len(event) - len(after)])
        return b"%b%b%b" % (self._opening, text, self._closing) if text else None

    def learn(self, event: bytes, text: str) -> None:
        """The slow way has found that `event` says `text` and nothing else."""
        self._before = self._after = b""
        escaped = _encode(text)[1:-1]
        if b'"' in escaped or b"\\" in escaped:
            return
        for key in _KEYS:
            begin = event.find(key + escaped + b'"')
            if begin < 0:
                continue
            begin += len(key)
            before, after = event[:begin], event[begin + len(escaped) :]
            if not any(word in before or word in after for word in _TELLING):
                self._before, self._after = before, after
                self._ending = after + _BETWEEN
                self.begin()
            return


def _plain(text: bytes) -> bytes:
    """The text as a line has it; empty when it must be read."""
    # A backslash before a `u` or at the end is the reader's: surrogates, a cut escape.
    if b'"' in text or (b"\\" in text and (b"\\u" in text or text[-1:] == b"\\")):
        return b""
    if b"<" in text or b">" in text or b"&" in text:
        text = text.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    return text
