"""Whether the hub of models and data sets answers, found out in seconds rather than by its client's own retries."""

import contextlib
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

PATIENCE_S = 4.0


@contextlib.contextmanager
def hub_in_reach() -> Iterator[None]:
    """Inside the block the hub's client uses its cache alone if the hub does not answer within `PATIENCE_S`."""
    import datasets
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT):
        yield
        return
    holders = (constants, datasets.config)
    before = [holder.HF_HUB_OFFLINE for holder in holders]
    try:
        for holder in holders:
            holder.HF_HUB_OFFLINE = True
        yield
    finally:
        for holder, value in zip(holders, before, strict=True):
            holder.HF_HUB_OFFLINE = value


def _answers(address: str) -> bool:
    found: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE_S):
                found.append(True)
        except urllib.error.HTTPError:
            found.append(True)  # a refusal is an answer
        except (OSError, ValueError) as error:
            # A certificate that this interpreter does not know may well be known to the client.
            found.append("CERTIFICATE" in str(error))

    # In a thread, since looking a name up has a time limit of its own, of up to half a minute.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    return bool(found and found[0])
