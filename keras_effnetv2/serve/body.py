"""Reads a request's body, up to the allowed size."""

from starlette.requests import ClientDisconnect, Request

from keras_effnetv2.serve.errors import RequestError


async def read_body(request: Request, limit: int, keep: bool) -> bytes:
    """Return the body of a request; raise RequestError if it has more bytes than `limit`.

    Its length is counted as it arrives, so a missing or wrong Content-Length does not matter.
    Without `keep` the body is dropped, for a client that reads an answer only after sending all.
    """
    too_large = RequestError(413, f"The body is larger than the {limit} bytes allowed", "too_large")
    declared = request.headers.get("content-length", "")
    is_too_large = declared.isdecimal() and int(declared[:20]) > limit
    if is_too_large and request.headers.get("expect", "").lower() == "100-continue":
        raise too_large  # the client has not sent it yet
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            is_too_large |= size > limit
            if keep and not is_too_large:
                chunks.append(chunk)
                continue
            chunks.clear()
            # The rest is read and dropped, since many clients look for an answer only when they
            # have sent everything; but not without end.
            if size > 2 * limit:
                break
    except ClientDisconnect:
        raise RequestError(400, "The client disconnected", "disconnected") from None
    if is_too_large:
        raise too_large
    return b"".join(chunks)
