"""From what a handler returned, or raised, to what is sent: one Answer a request."""

import inspect
import re

from .outputs import JSON_LINES, TEXT, Output, encode_chunk

_BATCH_KEY = re.compile(r"batch_(\d+)\.(.*)", re.DOTALL)
_OUT_OF_MEMORY = {"MemoryError", "OutOfMemoryError"}


class OneForMany(Exception):
    """A batch was answered as if it were one request: the handler knows nothing of batches."""


class Answer:
    """`body` is bytes, or, where `stream` is set, comes from that iterable piece by piece."""

    def __init__(self, code, properties, body=b"", stream=None, formatter=None):
        self.code, self.properties = code, properties
        self.body, self.stream, self.formatter = body, stream, formatter

    def chunks(self, get_loop):
        """The stream's pieces as bytes; `get_loop` gives the event loop, if one is needed."""
        for item in _iterate(self.stream, get_loop):
            chunk = encode_chunk(item if self.formatter is None else self.formatter(item))
            if chunk:
                yield chunk


def failure(error):
    """Of what a handler raised."""
    name = type(error).__name__
    if name in _OUT_OF_MEMORY:
        return Output().error(f"{name}: {error}", 507, "out of memory")
    return Output().error(f"{name}: {error}" if str(error) else name)


def to_output(result):
    """A handler's plain values as an Output."""
    if isinstance(result, Output):
        return result
    if result is None:
        return Output(204, "No Content")
    if _is_stream(result):
        return Output().add_stream_content(result)
    return Output().add(result)


def answers_of(result, count):
    """One answer for each of `count` requests. Raises OneForMany where they cannot be told apart."""
    if count > 1 and isinstance(result, (list, tuple)) and len(result) == count and all(isinstance(one, Output) for one in result):
        return [_whole(one) for one in result]
    output = to_output(result)
    if count == 1:
        return [_whole(_unbatched(output))]
    if output.stream_content is not None:
        raise OneForMany
    members = [_part(output, i) for i in range(count)]
    if any(member is None for member in members):
        raise OneForMany
    return members


def _is_stream(result):
    return inspect.isgenerator(result) or inspect.isasyncgen(result) or hasattr(result, "__next__") or hasattr(result, "__anext__")


def _iterate(stream, get_loop):
    """Also what is to be iterated over asynchronously. Closes the stream when it is left early."""
    if not hasattr(stream, "__aiter__"):
        iterator = iter(stream)
        try:
            yield from iterator
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
        return
    iterator, loop = stream.__aiter__(), get_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(_next(iterator))
            except StopAsyncIteration:
                return
    finally:
        if hasattr(iterator, "aclose"):
            loop.run_until_complete(iterator.aclose())


async def _next(iterator):
    # A coroutine around it: StopAsyncIteration cannot be set on the future of a bare awaitable.
    return await iterator.__anext__()


def _headers(output, content_type):
    """The properties as texts, with a content type where the handler gave none."""
    properties = {str(key): str(value) for key, value in output.properties.items() if value is not None}
    if content_type and not any(key.lower() == "content-type" for key in properties):
        properties["content-type"] = content_type
    return properties


def _whole(output):
    code = int(output.code)
    if output.stream_content is not None:
        content_type = TEXT if output.output_formatter else JSON_LINES
        return Answer(code, _headers(output, content_type), stream=output.stream_content, formatter=output.output_formatter)
    if output.content.is_empty():
        if code >= 400:  # an error says what it is in its body
            return _whole(Output().error(output.message, code, output.message))
        return Answer(code, _headers(output, None))
    # As DJL Serving: the piece called "data", else the first.
    index = output.content.keys.index("data") if "data" in output.content.keys else 0
    return _piece(output, index)


def _piece(output, index):
    value = output.content.value_at(index)
    body = value.encode() if isinstance(value, str) else bytes(value)
    return Answer(int(output.code), _headers(output, output.content_type_at(index)), body)


def _unbatched(output):
    """Handlers that know batches name the pieces of a single request batch_0.<key> too."""
    matches = [_BATCH_KEY.fullmatch(key or "") for key in output.content.keys]
    if any(matches):
        output.content.keys[:] = [match.group(2) if match else key for key, match in zip(output.content.keys, matches)]
    return output


def _part(output, member):
    """The answer of one request of a batch: its "data", else its first piece. None where there is none."""
    found = None
    for index, key in enumerate(output.content.keys):
        match = _BATCH_KEY.fullmatch(key or "")
        if match and int(match.group(1)) == member and (found is None or match.group(2) == "data"):
            found = index
    return None if found is None else _piece(output, found)
