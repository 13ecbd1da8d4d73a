"""What a measurement finds: dataclasses that write themselves as JSON and are read back from it."""

from dataclasses import asdict, dataclass
from typing import Any, Self

Interval = list[float]  # 95%: [lowest, highest]


@dataclass(kw_only=True)
class Result:
    """A JSON object: a field is a key."""

    def json(self) -> dict[str, Any]:
        """The result as JSON can hold it."""
        return asdict(self)

    @classmethod
    def read(cls, content: dict[str, Any]) -> Self:
        """The result of that JSON. Raises ValueError where a number is missing or is not what it should be."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_python(content)


@dataclass(kw_only=True)
class Named(Result):
    """A JSON object of results by name, such as one for each recipe or out-distribution set."""

    named: dict[str, Any]

    def json(self) -> dict[str, Any]:
        return asdict(self)["named"]

    @classmethod
    def read(cls, content: dict[str, Any]) -> Self:
        return super().read({"named": content})
