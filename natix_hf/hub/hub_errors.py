"""Turns errors of the Hub into one line that says what to do. It never prints a token."""

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
    """Raise `UserError` if a repository cannot have this name.

    Args:
        repo_id: the name that the user typed.
        what: `a data set` or `a model`.
        example: a valid name.
    """
    reason = "" if repo_id.count("/") == 1 else f"found {repo_id!r}"
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        reason = str(error)
    if reason:
        raise UserError(f"push: the name of {what} on the Hub is owner/name, such as {example}: {reason}")


def check_token(repo_id: str) -> None:
    """Raise `UserError` if `huggingface_hub` finds no token."""
    if get_token() is None:
        raise UserError(f"push {repo_id}: the Hub requires a token: log in with `hf auth login` or set HF_TOKEN")


def check_private(repo_id: str, what: str, *, asked: bool, found: bool) -> None:
    """Raise `UserError` if a push should be private (`asked`), but its repository is not (`found`)."""
    if asked and not found:
        raise UserError(
            f"push {repo_id}: {what} already exists and is public: make it private in its settings on the Hub, or "
            "leave out --private"
        )


@contextmanager
def hub_faults(repo_id: str) -> Iterator[None]:
    """Raise errors of the Hub and of the connection as `UserError`."""
    again = "run the same command again; files that were uploaded are kept"
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
        reason = error.server_message or f"status {status}"
        remedies = {
            401: "the Hub does not accept the token: log in with `hf auth login` or set HF_TOKEN",
            403: "the token cannot write there: make one with write access (hf.co/settings/tokens), and check that "
            "the owner's name is yours or your organisation's",
            404: "the repository was deleted in the meantime: run the same command again",
            400: "check the name",
            409: f"somebody else created the repository in the meantime: {again}",
            412: f"somebody else changed the repository in the meantime: {again}",
        }
        remedy = remedies.get(status, f"the Hub could not process the request: {again}")
        raise UserError(f"push {repo_id}: {remedy} (the Hub said: {reason})") from error
    except (HTTPError, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"push {repo_id}: the Hub cannot be reached: no network, or HF_HUB_OFFLINE is set: connect and {again}"
        ) from error


@contextmanager
def _uncovered() -> Iterator[None]:
    """Raise the cause of a failed upload, which `huggingface_hub` wraps in a `RuntimeError`."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__cause__, (HTTPError, HfHubHTTPError, OSError)):
            raise error.__cause__ from error
        raise
