"""What every file that a command leaves behind has in common: read, check, write, and the one-line error.

A kind of document is a class: its fields are the keys of the file, their types are the check. This module does not
know which documents there are, who makes them or what they mean.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from natix_hf.errors import UserError
from natix_hf.files import write_text


class Part(BaseModel):
    """A piece of a document. Unknown keys, NaN and infinity are refused; nothing changes once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def check(cls, content: Any, where: str) -> Self:
        """The piece that these JSON types are.

        Args:
            content: what `json.loads` gives.
            where: names it in errors.

        Raises:
            UserError: a key that is missing or not known, or a value that is not what it should be.
        """
        try:
            return cls.model_validate(content, strict=True)
        except ValidationError as error:
            raise UserError(f"{where}: {_first(error)}") from None

    def plain(self) -> dict[str, Any]:
        """The content as JSON types, without the optional keys that were not given."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Document(Part):
    """A file of its own. Subclasses name it, and the command that writes it.

    Attributes:
        file_name: within its folder.
        mend: what a user does where the file is missing or damaged; `{folder}` is the folder that it belongs to.
        edition: the version of its form that is written and read.
        edition_key: the key that holds it, the file's first.
    """

    file_name: ClassVar[str]
    mend: ClassVar[str] = "write the file again with the command that made it"
    edition: ClassVar[int] = 1
    edition_key: ClassVar[str] = "version"

    @classmethod
    def there(cls, folder: str | Path) -> bool:
        """Whether the folder has such a file."""
        return (Path(folder) / cls.file_name).is_file()

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """The document in a folder.

        Raises:
            UserError: there is none, or it is of another version, or not what was written.
        """
        path = Path(folder) / cls.file_name
        if not path.is_file():
            raise UserError(f"{folder}: no {cls.file_name}: {cls.mend.format(folder=folder)}")
        try:
            return cls.parse(path.read_bytes(), str(path))
        except UserError as error:
            raise UserError(f"{error}: {cls.mend.format(folder=folder)}") from None

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> Self:
        """The document in a text; `where` names it in errors."""
        try:
            content = json.loads(text)
        except ValueError:
            raise UserError(f"{where}: not JSON that natix_hf wrote") from None
        return cls.check(content, where)

    @classmethod
    def check(cls, content: Any, where: str | None = None) -> Self:
        """The document of these JSON types; `where` names it in errors, by default its file's name."""
        where = where or cls.file_name
        if not isinstance(content, dict):
            raise UserError(f"{where}: not a JSON object")
        if content.get(cls.edition_key) != cls.edition:
            found = content.get(cls.edition_key)
            raise UserError(f"{where}: {cls.edition_key} {found} found, this release reads {cls.edition}")
        return super().check({key: value for key, value in content.items() if key != cls.edition_key}, where)

    def text(self) -> str:
        """What is written: indented JSON."""
        return json.dumps({self.edition_key: self.edition, **self.plain()}, indent=2, ensure_ascii=False) + "\n"

    def write(self, folder: str | Path) -> None:
        """Write the file into a folder, whole or not at all."""
        write_text(Path(folder) / self.file_name, self.text())


def _first(error: ValidationError) -> str:
    """The first fault, in one line: the place in the document, what was expected, what was found."""
    fault = error.errors(include_url=False)[0]
    place = "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault["loc"])
    if fault["type"] == "missing":
        return f"at {place}: missing"
    if fault["type"] == "extra_forbidden":
        return f"at {place}: a key that is not known"
    found = repr(fault["input"])
    return f"at {place}: {fault['msg']}, found {found if len(found) < 80 else found[:80] + ' ...'}"
