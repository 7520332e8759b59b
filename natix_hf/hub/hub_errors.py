"""What goes wrong between this machine and the Hub, as one line that says what to do. Knows no token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from natix_hf.errors import UserError


def check_name(repo_id: str, what: str, example: str) -> None:
    """Raise `UserError` unless a repository may be called so.

    Args:
        repo_id: as typed.
        what: `a data set` or `a model`.
        example: a name that would do.
    """
    reason = "" if repo_id.count("/") == 1 else f"found {repo_id!r}"
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        reason = str(error)
    if reason:
        raise UserError(f"push: {what} of the Hub is called owner/name, such as {example}: {reason}")


def check_token(repo_id: str) -> None:
    """Raise `UserError` where the Hub's library finds no token."""
    if get_token() is None:
        raise UserError(f"push {repo_id}: the Hub wants a token: log in with `hf auth login` or set HF_TOKEN")


@contextmanager
def hub_faults(repo_id: str) -> Iterator[None]:
    """What goes wrong between here and the Hub, as one line."""
    again = "run the same command again, what was uploaded is kept"
    try:
        with _uncovered():
            yield
    except GatedRepoError as error:
        page = f"{constants.ENDPOINT}/{repo_id}"
        raise UserError(
            f"push {repo_id}: the repository is gated and you have no access: ask for it at {page}"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or f"status {status}"
        ways = {
            401: "the Hub does not know the token: log in with `hf auth login` or set HF_TOKEN",
            403: "the token may not write there: make one with write access (hf.co/settings/tokens), and check that "
            "the owner's name is yours or your organisation's",
            404: "the repository went away meanwhile: run the same command again",
            400: "check the name",
            409: f"somebody else made the same there meanwhile: {again}",
            412: f"somebody else changed the repository meanwhile: {again}",
        }
        way = ways.get(status, f"the Hub could not take it: {again}")
        raise UserError(f"push {repo_id}: {way} (the Hub said: {said})") from error
    except (HTTPError, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"push {repo_id}: the Hub cannot be reached: no network, or HF_HUB_OFFLINE is set: connect and {again}"
        ) from error


@contextmanager
def _uncovered() -> Iterator[None]:
    """What broke an upload, which the Hub's library wraps into an error of its own."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__cause__, (HTTPError, HfHubHTTPError, OSError)):
            raise error.__cause__ from error
        raise
