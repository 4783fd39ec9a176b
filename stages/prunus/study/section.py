"""What the blocks of params.yaml have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, WrapValidator
from pydantic_core import PydanticCustomError

ABSENT = object()


class Section(BaseModel):
    """A block of params.yaml: every key required, none unknown, no silent conversion of types.

    A key that belongs to one value of another key is None where that has another value, and then is not dumped.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def model_dump(self, **options: Any) -> dict[str, Any]:
        return super().model_dump(**{"exclude_none": True} | options)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        fields = cls.model_fields.items()
        conditions = {name: only for name, field in fields for only in field.metadata if isinstance(only, OnlyWith)}
        if conditions:
            schema["allOf"] = [
                {
                    "if": {"properties": {only.key: {"const": only.value}}},
                    "then": {"required": [name]},
                    "else": {"properties": {name: False}},
                }
                for name, only in conditions.items()
            ]
        return reference


@dataclass(frozen=True)
class OnlyWith:
    """Marks a key that is read only where ``key``, a field before it, has the ``value``: it is required there and
    refused elsewhere. Goes into the annotation of a field that is an ``optional``.
    """

    key: str
    value: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return WrapValidator(self._check).__get_pydantic_core_schema__(source, handler)

    def _check(self, given: object, validate: Callable[[object], object], info: ValidationInfo) -> object:
        if self.key not in info.data:  # which has a mistake of its own
            return None
        actual = info.data[self.key]
        if actual == self.value:
            if given is ABSENT:
                raise PydanticCustomError("missing", "needed", {"why": f"{self.key}: {self.value} needs it"})
            return validate(given)
        if given is not ABSENT:
            raise PydanticCustomError("unused", f"does nothing with {self.key}: {actual}; remove it")
        return None


def optional(description: str) -> Any:
    """The field of a key ``OnlyWith`` another key's value."""
    return Field(default_factory=lambda: ABSENT, validate_default=True, description=description)
