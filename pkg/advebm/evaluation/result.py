"""Results of measurements: dataclasses that are written as JSON and read back."""

from dataclasses import asdict, dataclass
from typing import Any, Self

Interval = list[float]  # 95%: [low, high]


@dataclass(kw_only=True)
class Result:
    """A JSON object with a key for each field."""

    def json(self) -> dict[str, Any]:
        """The result as values that JSON can hold."""
        return asdict(self)

    @classmethod
    def read(cls, content: dict[str, Any]) -> Self:
        """The result that was written as this JSON. Raises ValueError where a number is missing or wrong."""
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
