"""Reads a request's body, but no more of it than is allowed."""

from starlette.requests import Request

from keras_effnetv2.serve.errors import RequestError


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Its length is counted as it comes, so that neither a missing nor a wrong Content-Length helps.

    Args:
        request: whose body nobody has read.
        limit: bytes that are allowed.

    Raises:
        RequestError: 413, it has more.
    """
    declared = request.headers.get("content-length", "")
    is_declared_larger = declared.isdecimal() and int(declared[:20]) > limit
    if is_declared_larger and request.headers.get("expect", "").lower() == "100-continue":
        raise _too_large(limit)  # the client has not sent it yet
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit and not is_declared_larger:
            chunks.append(chunk)
            continue
        chunks.clear()
        # The rest is read and dropped, since many clients look for an answer only when they have
        # sent everything; but not without end.
        if size > 2 * limit:
            break
    if size > limit or is_declared_larger:
        raise _too_large(limit)
    return b"".join(chunks)


async def drop_body(request: Request, limit: int) -> None:
    """Read a body and keep nothing, for a client that would not see an answer before it is sent.

    Args:
        request: whose body nobody has read.
        limit: bytes after which the client need not be waited for.
    """
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            return


def _too_large(limit: int) -> RequestError:
    return RequestError(413, f"The body has more than the {limit} bytes allowed", "too_large")
