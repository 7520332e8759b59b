"""`push_to_hub` in a recipe: what is checked before training, and the publication at its end.

The same as `python -m natix_hf.publish RUN ID`; the Trainer's own uploads stay off. Only the main process comes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from natix_hf.errors import UserError
from natix_hf.hub.hub_options import HubOptions
from natix_hf.hub.publish_run import Publication, check_publication, find_place, publish
from natix_hf.streetvision.client_files import check_labels


def planned(hub: HubOptions, label_names: Sequence[str] | None, *, saves: bool) -> Publication | None:
    """The publication that a recipe asks for; None if it asks for none.

    Args:
        hub: the recipe's keys for publishing.
        label_names: the classes, if the recipe names them.
        saves: whether this process writes the run.

    Raises:
        UserError: something that can be checked without a model is wrong: name, token, version, hotkey, or the
            repository on the Hub.
    """
    if not hub.push_to_hub or not saves:
        return None
    asked = Publication(
        hub.hub_model_id,
        form=hub.hub_format,
        private=hub.hub_private_repo,
        version=hub.model_version,
        hotkey=hub.hotkey,
    )
    check_publication(asked)
    if asked.hotkey is not None and label_names:
        check_labels(label_names)
    find_place(asked)
    return asked


def check_classes(asked: Publication | None, label_names: Sequence[str]) -> None:
    """Raise `UserError` if the classes of the photos are not those that StreetVision expects."""
    if asked is not None and asked.hotkey is not None:
        check_labels(label_names)


def publish_finished(run: str | Path, asked: Publication | None) -> None:
    """Publish at the end of training. If it fails, the message says that the run itself is finished."""
    if asked is None:
        return
    try:
        print(f"published: {publish(Path(run), asked)}, version {asked.version}")
    except UserError as error:
        raise UserError(
            f"the run in {run} is finished but was not published: {error}: to publish it later, run "
            f"python -m natix_hf.publish {run} {asked.repo_id} --model_version {asked.version}"
        ) from None
