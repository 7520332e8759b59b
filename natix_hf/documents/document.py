"""Base classes of all JSON files that commands write: reading, checking, writing, and errors in one line.

Each kind of document is a subclass. Its fields are the keys of the file, and their types are checked on reading.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from natix_hf.errors import UserError
from natix_hf.files import write_text

MADE_BY_EVALUATE = "python -m natix_hf.evaluate {folder} writes it"


class Part(BaseModel):
    """An immutable part of a document. Unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def check(cls, content: Any, where: str) -> Self:
        """Make the part from JSON types.

        Args:
            content: result of `json.loads`.
            where: name of the content in errors.

        Raises:
            UserError: a key is missing or unknown, or a value is invalid.
        """
        try:
            return cls.model_validate(content, strict=True)
        except ValidationError as error:
            raise UserError(f"{where}: {_first(error)}") from None

    def plain(self) -> dict[str, Any]:
        """The content as JSON types, without optional keys that were not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Document(Part):
    """The content of a JSON file. Subclasses define its name and how to restore it.

    Attributes:
        file_name: name of the file within its folder.
        mend: what a user should do if the file is missing or damaged; `{folder}` is replaced by the file's folder.
        edition: version of the format that is written and read.
        edition_key: key of the version, which is the first key of the file.
    """

    file_name: ClassVar[str]
    mend: ClassVar[str] = "write the file again with the command that made it"
    edition: ClassVar[int] = 1
    edition_key: ClassVar[str] = "version"

    @classmethod
    def there(cls, folder: str | Path) -> bool:
        """Whether the folder contains the file."""
        return (Path(folder) / cls.file_name).is_file()

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read the document in a folder.

        Raises:
            UserError: the file is missing, has another version, or is damaged.
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
        """Read the document from a JSON text; `where` names the text in errors."""
        try:
            content = json.loads(text)
        except ValueError:
            raise UserError(f"{where}: not JSON that natix_hf wrote") from None
        return cls.check(content, where)

    @classmethod
    def check(cls, content: Any, where: str | None = None) -> Self:
        """Make the document from JSON types; `where` names it in errors, by default by its file name."""
        where = where or cls.file_name
        if not isinstance(content, dict):
            raise UserError(f"{where}: not a JSON object")
        edition = content.get(cls.edition_key)
        if edition != cls.edition:
            raise UserError(
                f"{where}: expected {cls.edition_key} {cls.edition}, which this release reads; found {edition}"
            )
        return super().check({key: value for key, value in content.items() if key != cls.edition_key}, where)

    def text(self) -> str:
        """The text of the file: indented JSON."""
        return json.dumps({self.edition_key: self.edition, **self.plain()}, indent=2, ensure_ascii=False) + "\n"

    def write(self, folder: str | Path) -> None:
        """Write the file into a folder. An interrupted write leaves the old file."""
        write_text(Path(folder) / self.file_name, self.text())


def _first(error: ValidationError) -> str:
    """The first error in one line: its place in the document, what was expected, and what was found."""
    fault = error.errors(include_url=False)[0]
    place = "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault["loc"])
    if fault["type"] == "missing":
        return f"at {place}: missing"
    if fault["type"] == "extra_forbidden":
        return f"at {place}: unknown key"
    value = repr(fault["input"])
    return f"at {place}: {fault['msg']}, found {value if len(value) < 80 else value[:80] + ' ...'}"
