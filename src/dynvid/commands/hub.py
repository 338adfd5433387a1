"""The model hub, asked once: where it cannot be reached, that is said at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError

from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from dynvid.errors import InputError

# The hub's own, those of its HTTP client (whichever it is, that is what its errors are derived from), and torch's.
_HUB_ERRORS: tuple[type[Exception], ...] = (LocalEntryNotFoundError, *HfHubHTTPError.__mro__[:2], URLError)


@contextmanager
def hub_asked_once(backbone: object) -> Iterator[None]:
    """Build a net with timm's weights: from the cache where the hub cannot be reached, without its dozen tries.

    Args:
        backbone: What errors call the net.

    Raises:
        InputError: The weights are neither here nor to be had.
    """
    before = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # whatever its HTTP client says: no network, no such host, an odd proxy
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    except _HUB_ERRORS as error:
        raise InputError(
            f"the weights of {backbone} are not in the cache, and the model hub ({constants.ENDPOINT}) does not give "
            "them: name a file with --model.net.pretrained FILE, or train without with --model.net.pretrained false"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before
