"""Results of measurements: dataclasses that are written as JSON and read back."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from annotated_types import Len
from pydantic import TypeAdapter, ValidationError

from advebm.runtime.disk import read_json

Interval = Annotated[list[float], Len(2, 2)]  # 95%: [low, high]


@dataclass(kw_only=True)
class Result:
    """A JSON object with a key for each field."""

    def json(self) -> dict[str, Any]:
        """The result as values that JSON can hold."""
        return asdict(self)

    @classmethod
    def read(cls, content: dict[str, Any]) -> Self:
        """The result that was written as this JSON. Raises KeyError or ValidationError where something is missing."""
        return TypeAdapter(cls).validate_python(content)

    @classmethod
    def load(cls, file: Path, command: str) -> Self:
        """The result in a file that the command wrote. Raises FileNotFoundError or ValueError that names both."""
        return cls.checked(read_json(file, command), file, command)

    @classmethod
    def checked(cls, content: dict[str, Any], file: Path, command: str) -> Self:
        """The result in the content of such a file. Raises ValueError that names both."""
        try:
            return cls.read(content)
        except KeyError as error:
            missing = error.args[0]
        except ValidationError as error:
            missing = ".".join(str(part) for part in error.errors()[0]["loc"] if part != "named")
        except (TypeError, ValueError) as error:
            missing = f"a part ({error})"
        raise ValueError(f"{file}: {missing} is missing or wrong; run `advebm {command}` again")


@dataclass(kw_only=True)
class Named(Result):
    """A JSON object of results by name, such as one for each recipe or out-distribution set."""

    named: dict[str, Any]

    def json(self) -> dict[str, Any]:
        return asdict(self)["named"]

    @classmethod
    def read(cls, content: dict[str, Any]) -> Self:
        return super().read({"named": content})
