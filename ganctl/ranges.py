"""What the numbers of a Config may be: it can come from a stranger's file, and none may ask for endless work."""

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt, MaxLen

INFINITY = float("inf")

Count = Annotated[int, Ge(1), Le(1 << 14)]
"""A side, a width, a number of layers or steps."""
Rate = Annotated[float, Gt(0), Lt(INFINITY)]
"""A learning rate or a bound: above 0, finite."""
Weight = Annotated[float, Ge(0), Lt(INFINITY)]
"""The weight of a loss term."""
Real = Annotated[float, Gt(-INFINITY), Lt(INFINITY)]
"""Any finite number."""
Moment = Annotated[float, Ge(0), Lt(1)]
"""A decay such as Adam's β."""
Widths = Annotated[tuple[Count, ...], MaxLen(32)]
"""One width per hidden layer."""
