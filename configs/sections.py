"""What all sections of a config share: limits of numbers, and a class that refuses unknown keys."""

from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from pydantic import ConfigDict, Field
else:
    try:
        from pydantic import ConfigDict, Field
    except ImportError:
        # A machine that has torch and nothing else can build these classes by hand; only loading files checks them.
        def Field(**limits: Any) -> Any:
            return tuple(limits.items())

        ConfigDict = dict

__all__ = ["Count", "Field", "Fraction", "Natural", "NonNegative", "Positive", "Section"]

Count = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section:
    """A key that the schema does not know is an error."""

    __pydantic_config__ = ConfigDict(extra="forbid")
