"""Reads a request's body, up to the allowed size."""

from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request

from keras_effnetv2.serve.errors import RequestError, client_left

Take = Callable[[int], RequestError | None]
"""Takes memory for some bytes of a body; returns the refusal if there is none."""


async def read_body(request: Request, limit: int, take: Take) -> bytes:
    """Return the body of a request; raise RequestError if it has more bytes than `limit`.

    Its length is counted as it arrives, so a missing or wrong Content-Length does not matter.
    If `take` refuses memory, the rest of the body is received but dropped, because some clients
    read an answer only after they have sent everything.
    """
    allowed = f"{limit / 2**20:.4g} MB, the most that this server takes (--max-body-mb)"
    too_large = RequestError(413, f"The body is larger than {allowed}", "too_large")
    declared = request.headers.get("content-length", "")
    refusal = too_large if declared.isdecimal() and int(declared[:20]) > limit else None
    if refusal and request.headers.get("expect", "").lower() == "100-continue":
        raise refusal  # the client has not sent it yet
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            refusal = too_large if size > limit else refusal or take(len(chunk))
            if refusal is None:
                chunks.append(chunk)
                continue
            chunks.clear()
            if size > 2 * limit:  # dropped, too, but not without end
                break
    except ClientDisconnect:
        raise client_left() from None
    if refusal is not None:
        raise refusal
    return b"".join(chunks)
