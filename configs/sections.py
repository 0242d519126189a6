"""What all sections of a config share: limits of numbers, and a class that refuses unknown keys."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

if TYPE_CHECKING:
    from pydantic import ConfigDict, Field, PlainValidator
else:
    try:
        from pydantic import ConfigDict, Field, PlainValidator
    except ImportError:
        # A machine that has torch and nothing else can build these classes by hand; only loading files checks them.
        def Field(**limits: Any) -> Any:
            return tuple(limits.items())

        def PlainValidator(function: Any) -> Any:
            return function

        ConfigDict = dict

__all__ = [
    "Count",
    "CountOrAuto",
    "Field",
    "Finite",
    "Fraction",
    "Natural",
    "NonNegative",
    "Positive",
    "Section",
    "TwoOrAuto",
]


def _or_auto(least: int) -> Any:
    # A union of types would be told in two messages, one per type.
    def check(value: Any) -> Any:
        if value == "auto" or (type(value) is int and value >= least):
            return value
        from pydantic_core import PydanticCustomError

        raise PydanticCustomError("number_or_auto", f"must be a whole number greater than {least - 1}, or auto")

    return PlainValidator(check)


Count = Annotated[int, Field(gt=0)]
CountOrAuto = Annotated[int | Literal["auto"], _or_auto(1)]
TwoOrAuto = Annotated[int | Literal["auto"], _or_auto(2)]
"""At least two."""
Natural = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section:
    """A key that the schema does not know is an error."""

    __pydantic_config__ = ConfigDict(extra="forbid")
