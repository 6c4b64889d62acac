"""Request bodies that came compressed."""

from vllama.server.relay.refusal import Refusal

TOO_LARGE = "http: request body too large"
# Beyond this a decoder would set aside more memory than a request is worth.
_WINDOW_BYTES = 8 * 1024**2


def is_packed(path: str, encoding: bytes) -> bool:
    """Whether the body is zstd, on a route that takes it."""
    return encoding.lower() == b"zstd" and path.startswith("/v1/")


def unpacked(body: bytes, most: int) -> bytes:
    """What was compressed. A body that breaks off ends early, as any other would.

    Raises:
        Refusal: it is no zstd, or has more than `most` bytes.
    """
    import zstandard

    unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    try:
        with unpacker.stream_reader(body, read_across_frames=True) as reader:
            found = bytes(reader.read(most + 1))
    except zstandard.ZstdError as error:
        raise Refusal(400, f"the body is no zstd: {error}", early=True) from error
    if len(found) > most:
        raise Refusal(413, TOO_LARGE, early=True)
    return found
