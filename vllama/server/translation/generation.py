"""Generation: the exchange of every request that makes an engine write, whatever its API."""

from collections.abc import Iterator
from typing import Protocol

from vllama.errors import EngineFailed, VllamaError
from vllama.server.lifecycle.runner import Lease
from vllama.server.relay.exchange import Call, Reply
from vllama.server.relay.refusal import Form, failed, of_engine, told
from vllama.server.translation import dialects, planning
from vllama.server.translation.ask import Ask
from vllama.server.translation.pieces import Piece, Tally
from vllama.server.translation.planning import Planned
from vllama.server.translation.reading import now_ns
from vllama.server.translation.splice import Splice
from vllama.server.translation.splitting import Splitter
from vllama.server.translation.stops import Stops
from vllama.uplink import Headers

_DONE = b"[DONE]"
CUT = b"x-vllama-truncated"
AFFINE = 512


class Voice(Protocol):
    """How one API tells an answer. One object for one request."""

    media_type: str
    headers: Headers
    form: Form

    def frame(self) -> tuple[bytes, bytes] | None:
        """What is told before and after the text of a piece that has nothing else.

        The same wherever it comes but for the very first one, and for the time in it; None
        when it is told differently from one to the next.
        """
        ...

    def piece(self, piece: Piece) -> bytes:
        """Some of a streamed answer."""
        ...

    def last(self, tally: Tally) -> bytes:
        """The end of a streamed answer."""
        ...

    def whole(self, pieces: list[Piece], tally: Tally) -> Reply:
        """A whole answer, one piece for each choice."""
        ...


class Generation:
    """One ask, told in one voice."""

    def __init__(self, ask: Ask, voice: Voice) -> None:
        self._ask = ask
        self._voice = voice
        self._began_ns = now_ns()
        self._plan: Planned | None = None
        self._lease: Lease | None = None
        self._buffer = b""
        self._splitters: dict[int, Splitter] = {}
        self._sequences: tuple[str, ...] = ()
        self._stops: dict[int, Stops] = {}
        self._splice: Splice | None = None
        self._has_choices = ask.choices > 1 or bool(ask.batch)
        self._sent_ns = 0
        self._first_ns = 0
        self.model = ask.key
        self.keep_alive_s = ask.keep_alive_s
        self.streams = ask.stream
        self.media_type = voice.media_type
        self.headers: Headers = list(voice.headers)
        self.affinity = _beginning(ask)

    async def prepare(self, lease: Lease) -> None:
        """Ask the engine what has to be known before the call: tokens, its window."""
        self._lease = lease
        self._plan = await planning.plan(self._ask, lease)
        self._buffer = b""
        self._splitters, self._stops = {}, {}
        self._sequences = dialects.unsent_stops(self._ask, lease)
        voice, self._splice = self._voice, None
        is_read = self._plan.splitter is not None or self._sequences or self._has_choices
        if not is_read and voice.frame() is not None:
            self._splice = Splice(voice.frame)
        self.headers = list(self._voice.headers)
        if self._plan.cut:
            self.headers.append((CUT, self._plan.cut.encode()))

    @property
    def ask(self) -> Ask:
        """What was asked."""
        return self._ask

    @property
    def tally(self) -> Tally:
        """What it has cost so far, as far as the engine has told."""
        return Tally() if self._plan is None else self._plan.reader.tally

    @property
    def has_enough(self) -> bool:
        """Whether every choice was cut here, and the engine has told what it cost so far."""
        if not self._stops or not self._planned.reader.tally.prompt_tokens:
            return False
        choices = self._ask.choices * max(1, len(self._ask.batch))
        return sum(stops.has_stopped for stops in self._stops.values()) == choices

    def call(self, lease: Lease) -> Call:
        """What `prepare` decided on."""
        if self._plan is None or self._lease is not lease:
            raise EngineFailed("the request was not prepared for this engine")
        self._sent_ns = now_ns()
        self._first_ns = 0
        return self._plan.call

    def feed(self, data: bytes) -> bytes:
        """Translate all events that are whole by now."""
        splice = self._splice
        if splice is not None and not self._buffer and self._first_ns:
            line = splice.move_one(data)
            if line is not None:
                return line
        events = (self._buffer + data if self._buffer else data).split(b"\n\n")
        self._buffer = events.pop()
        out: list[bytes] = []
        if splice is None:
            for event in events:
                out += self._read(event)
        else:
            splice.begin()
            for event in events:
                moved = splice.move(event)
                if moved is None:
                    out += self._read(event, splice)
                else:
                    out.append(moved)
        if out and not self._first_ns:
            self._first_ns = now_ns()
        return b"".join(out)

    def end(self) -> bytes:
        """What was held back, and the last words."""
        rest = self.feed(b"\n\n") if self._buffer.strip() and not self.has_enough else b""
        held: list[Piece] = []
        for choice, stops in self._stops.items():
            held += self._split(Piece(stops.flush(), choice=choice))
        held += (each for each in self._planned.reader.finished() if not self._is_cut(each))
        for splitter in self._splitters.values():
            held += splitter.flush()
        told_rest = b"".join(self._voice.piece(piece) for piece in held if piece)
        return rest + told_rest + self._voice.last(self._tally())

    def broken(self, error: VllamaError) -> bytes:
        """The error in this API's form."""
        return self._voice.form.in_stream(told(error)[1])

    def whole(self, reply: Reply) -> Reply:
        """The engine's whole answer in this API's words."""
        self._first_ns = now_ns()
        pieces = [self._cut(piece) for piece in self._planned.reader.whole(reply.body)]
        made = self._planned.splitter
        if made is not None:
            pieces = [_taken_apart(piece, made()) for piece in pieces]
        answer = self._voice.whole(pieces or [Piece()], self._tally())
        extra = [pair for pair in self.headers if pair[0] == CUT]
        return Reply(answer.status, answer.body, [*answer.headers, *extra])

    def refused(self, reply: Reply) -> Reply:
        """The engine's refusal in this API's form."""
        return failed(of_engine(reply), self._voice.form)

    def failed(self, error: VllamaError) -> Reply:
        """Any other error in this API's form."""
        return failed(error, self._voice.form)

    @property
    def _planned(self) -> Planned:
        if self._plan is None:
            raise EngineFailed("the request was not prepared")
        return self._plan

    def _read(self, event: bytes, splice: Splice | None = None) -> list[bytes]:
        """What an event says, read with understanding."""
        pieces = [piece for line in event.split(b"\n") for piece in self._pieces(line)]
        out = [self._voice.piece(piece) for piece in pieces]
        if splice is not None and len(pieces) == 1 and _is_text(pieces[0]):
            splice.learn(event, pieces[0].text)
        return out

    def _pieces(self, line: bytes) -> Iterator[Piece]:
        name, colon, value = line.partition(b":")
        value = value.strip()
        if not colon or not value or value == _DONE:
            return
        if name == b"error":
            value = b'{"error":%b}' % value
        elif name != b"data":
            return
        for piece in self._planned.reader.event(value):
            if self._sequences:
                if self._is_cut(piece):
                    continue
                piece.text = self._stops_of(piece.choice).feed(piece.text)
            yield from self._split(piece)

    def _split(self, piece: Piece) -> Iterator[Piece]:
        """A piece as it is, or its text taken apart where the engine has not done so."""
        made = self._planned.splitter
        if made is None or not piece.text:
            if piece:
                yield piece
            return
        splitter = self._splitters.get(piece.choice)
        if splitter is None:
            splitter = self._splitters[piece.choice] = made()
        logprobs = piece.logprobs
        for part in splitter.feed(piece.text):
            part.choice = piece.choice
            part.logprobs, logprobs = logprobs, []
            yield part

    def _cut(self, piece: Piece) -> Piece:
        """A whole choice up to the first stop sequence that the engine was not told of."""
        if self._sequences:
            stops = self._stops_of(piece.choice)
            piece.text = stops.feed(piece.text) + stops.flush()
            if stops.has_stopped:
                piece.calls = []
        return piece

    def _stops_of(self, choice: int) -> Stops:
        if choice not in self._stops:
            self._stops[choice] = Stops(self._sequences)
        return self._stops[choice]

    def _is_cut(self, piece: Piece) -> bool:
        return piece.choice in self._stops and self._stops[piece.choice].has_stopped

    def _tally(self) -> Tally:
        """The engine's own figures, and our clock's where it has none."""
        tally = self._planned.reader.tally
        if self._stops:
            tally.finish |= {n: "stop" for n, stops in self._stops.items() if stops.has_stopped}
        now = now_ns()
        tally.total_ns = now - self._began_ns
        tally.load_ns = max(1, int(self._lease.waited_s * 1e9)) if self._lease else 1
        first = self._first_ns or now
        if not tally.prompt_ns:
            tally.prompt_ns = max(1, first - self._sent_ns)
        if not tally.eval_ns:
            tally.eval_ns = max(1, (now if self.streams else first) - first)
        if not tally.prompt_ids:
            tally.prompt_ids = list(self._planned.prompt_ids)
        return tally


def _is_text(piece: Piece) -> bool:
    return not (piece.choice or piece.thinking or piece.calls or piece.logprobs)


def _taken_apart(piece: Piece, splitter: Splitter) -> Piece:
    found = Piece(choice=piece.choice, calls=piece.calls, logprobs=piece.logprobs)
    found.thinking = piece.thinking
    for part in (*splitter.feed(piece.text), *splitter.flush()):
        found.add(part)
    return found


def _beginning(ask: Ask) -> bytes:
    """What its prompt begins with: the system message, or the first one."""
    first = ask.messages[0].get("content") if ask.messages else ask.raw
    return str(first or "")[:AFFINE].encode("utf-8", "replace")
