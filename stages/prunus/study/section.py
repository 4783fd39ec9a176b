"""The base class of the blocks of params.yaml."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, WrapValidator
from pydantic_core import PydanticCustomError

ABSENT = object()


class Section(BaseModel):
    """A block of params.yaml: every key required, none unknown, no silent conversion of types.

    A key that belongs to one value of another key is None with any other value, and is then not dumped.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def model_dump(self, **options: Any) -> dict[str, Any]:
        return super().model_dump(**{"exclude_none": True} | options)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        fields = cls.model_fields.items()
        conditions = {name: mark for name, field in fields for mark in field.metadata if isinstance(mark, OnlyWith)}
        if conditions:
            schema["allOf"] = [
                {
                    "if": {"properties": {condition.key: {"const": condition.value}}},
                    "then": {"required": [name]},
                    "else": {"properties": {name: False}},
                }
                for name, condition in conditions.items()
            ]
        return reference


@dataclass(frozen=True)
class OnlyWith:
    """Marks a key that is read only if ``key``, an earlier field, has the ``value``: it is then required, and otherwise
    refused. It goes into the annotation of a field that is an ``optional``.
    """

    key: str
    value: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return WrapValidator(self._check).__get_pydantic_core_schema__(source, handler)

    def _check(self, value: object, validate: Callable[[object], object], info: ValidationInfo) -> object:
        if self.key not in info.data:  # that key itself is wrong
            return None
        actual = info.data[self.key]
        if actual == self.value:
            if value is ABSENT:
                raise PydanticCustomError("missing", "needed", {"why": f"{self.key}: {self.value} needs it"})
            return validate(value)
        if value is not ABSENT:
            raise PydanticCustomError("unused", f"does nothing with {self.key}: {actual}; remove it")
        return None


def optional(description: str) -> Any:
    """The field of a key that is read ``OnlyWith`` one value of another key."""
    return Field(default_factory=lambda: ABSENT, validate_default=True, description=description)
