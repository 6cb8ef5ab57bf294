"""The kinds of arguments when a run is resumed: each argument of the trainers declares its own, beside its type."""

from dataclasses import fields
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

from ..sampling import Sampling

if TYPE_CHECKING:
    from .arguments import RunArguments


class Kind(Enum):
    """What becomes of another value when a run is resumed."""

    IDENTITY = "refused: another value makes another run"
    CONTENT = "refused if what the name stands for has another digest, which the trainer puts into the run's identity"
    FREE = "applies from here on, is announced, and the report lists it"
    IRRELEVANT = "applies from here on; it does not change the model"


T = TypeVar("T")
Identity = Annotated[T, Kind.IDENTITY]
Content = Annotated[T, Kind.CONTENT]
Free = Annotated[T, Kind.FREE]
Irrelevant = Annotated[T, Kind.IRRELEVANT]


def kinds(arguments_class: "type[RunArguments]") -> dict[str, Kind]:
    """The kind of every argument.

    Raises:
        TypeError: an argument declares none, or more than one.
    """
    # the settings of sampled images are shared with commands that know nothing of training
    found = {field.name: Kind.FREE for field in fields(Sampling)}
    hints = get_type_hints(arguments_class, include_extras=True)
    for field in fields(arguments_class):
        declared = [mark for mark in getattr(hints[field.name], "__metadata__", ()) if isinstance(mark, Kind)]
        if len(declared) != 1 and field.name not in found:
            raise TypeError(f"{field.name}: expected one of Identity[…], Content[…], Free[…] and Irrelevant[…]")
        found |= dict.fromkeys([field.name], *declared) if declared else {}
    return {field.name: found[field.name] for field in fields(arguments_class)}


def arguments_of(arguments: "RunArguments", kind: Kind) -> dict[str, Any]:
    """The arguments of that kind, by name."""
    return {name: getattr(arguments, name) for name, of in kinds(type(arguments)).items() if of is kind}
