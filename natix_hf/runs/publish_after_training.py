"""`push_to_hub` in a recipe: what is checked before training, and the publication at its end.

The same as `python -m natix_hf.publish RUN ID`; the Trainer's own uploads stay off. Only the main process comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from natix_hf.errors import UserError
from natix_hf.hub.publish_run import Publication, check_publication, find_place, publish
from natix_hf.streetvision.client_files import check_labels

if TYPE_CHECKING:
    from natix_hf.recipe.options import Recipe


def planned(recipe: Recipe) -> Publication | None:
    """What the recipe wants published, None for nothing.

    Raises:
        UserError: for what can be seen without a model: name, token, version, hotkey, what the Hub has there.
    """
    hub = recipe.hub
    if not hub.push_to_hub or not recipe.training.should_save:
        return None
    asked = Publication(
        hub.hub_model_id,
        form=hub.hub_format,
        private=hub.hub_private_repo,
        version=hub.model_version,
        hotkey=hub.hotkey,
    )
    check_publication(asked)
    if asked.hotkey is not None and recipe.data.label_names:
        check_labels(recipe.data.label_names)
    find_place(asked)
    return asked


def check_classes(asked: Publication | None, label_names: Sequence[str]) -> None:
    """Raise `UserError` where the photos' classes are not those that StreetVision reads."""
    if asked is not None and asked.hotkey is not None:
        check_labels(label_names)


def publish_finished(run: str | Path, asked: Publication | None, say: Callable[[str], None] = print) -> None:
    """Publish at the end of training; whatever is refused, the run is there, and the message says so."""
    if asked is None:
        return
    try:
        say(f"published: {publish(Path(run), asked, say)}, version {asked.version}")
    except UserError as error:
        raise UserError(
            f"the run in {run} is finished and was not published: {error}; to publish it later: "
            f"python -m natix_hf.publish {run} {asked.repo_id} --model_version {asked.version}"
        ) from None
