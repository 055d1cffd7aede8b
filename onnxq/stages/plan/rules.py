"""What the recipe says about each node: defaults, then rules in order, later ones winning part by part."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from onnxq.errors import RecipeError, nearest
from onnxq.targets import Target
from onnxq.types.choices import CODEBOOK_METHODS
from onnxq.types.format import Format
from onnxq.types.recipe import Recipe
from onnxq.types.rule import Rule, matches
from onnxq.types.scheme import Scheme


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeRequest:
    """What is wanted of one node.

    Attributes:
        keep: why it stays in float, as the rule's `keep` and `because` say, None if it need not.
        rule: index of the last rule that spoke of the node, None for none.
        format: how to write it. portable: with operators of the ONNX standard only.
        activations, weights: schemes. method: weight method.
        stands_in: whether `format` is taken because the requested one has no kernel.
        unsigned: whether uint8 weights stand in for int8 ones with zero points, which would saturate.
        accuracy_level: of MatMulNBits, None for its default.
        why: reason code and text of a rule that gives it another form than was requested, None if absent.
    """

    keep: tuple[str, str | None] | None
    rule: int | None
    format: Format
    portable: bool
    activations: Scheme
    weights: Scheme
    method: str
    stands_in: bool = False
    unsigned: bool = False
    accuracy_level: int | None = None
    why: tuple[str, str | None] | None = None

    @property
    def splits(self) -> bool:
        """Whether features of activations that are large stay in float."""
        return self.format is not Format.WEIGHT_ONLY and self.activations.outliers is not None


def request_for(
    recipe: Recipe, target: Target, op: str, name: str, *, weighted: bool, instead: Format | None = None
) -> NodeRequest:
    """Return what `recipe` wants of the node `name` of type `op`.

    Args:
        recipe: the recipe. target: for its schemes in each format.
        op: `domain::op_type`. name: unique node name. weighted: whether it has a constant weight.
        instead: format to take instead of the requested one, which has no kernel for the operator.

    Raises:
        RecipeError: the target has nothing in the requested format, or the format no codebooks.
    """
    defaults = target.defaults_for(op)
    spoken = [
        (index, rule) for index, rule in enumerate(recipe.rules) if rule.match.covers(op, name, weighted=weighted)
    ]
    fmt = next((rule.format for _, rule in reversed(spoken) if rule.format is not None), recipe.format)
    stands_in, fmt = instead is not None, instead or fmt
    if fmt not in defaults:
        advice = f": {target.instead[fmt]}" if fmt in target.instead else nearest(fmt, defaults)
        raise RecipeError(f"target '{recipe.target}' runs nothing in format '{fmt}'{advice}")
    activations = recipe.activations.over(defaults[fmt].activations)
    weights = recipe.weights.over(defaults[fmt].weights)
    method = recipe.weights.method or defaults[fmt].method
    keep, last, level = None, None, recipe.accuracy_level
    why: tuple[str, str | None] | None = None
    for index, rule in spoken:
        last, keep = index, None if rule.keep is None else (rule.keep, rule.because)
        level = rule.accuracy_level or level
        why = why if rule.why is None else (rule.why, rule.because)
        if rule.activations is not None:
            activations = rule.activations.over(activations)
        if rule.weights is not None:
            weights = rule.weights.over(weights)
            method = rule.weights.method or method
    if weights.codebook is not None:
        if fmt is not Format.WEIGHT_ONLY and keep is None:
            raise RecipeError(
                f"'{name}': format {fmt} has no codebooks; give it format {Format.WEIGHT_ONLY}, or weights of a dtype"
            )
        method = method if method in CODEBOOK_METHODS else CODEBOOK_METHODS[0]
    if activations.outliers is not None and fmt.static and keep is None:
        raise RecipeError(
            f"'{name}': format {fmt} leaves no features out; give it format {Format.DYNAMIC}, or take `outliers` out"
        )
    return NodeRequest(
        keep=keep,
        rule=last,
        format=fmt,
        portable=recipe.portable,
        activations=activations,
        weights=weights,
        method=method,
        stands_in=stands_in,
        accuracy_level=level,
        why=why,
    )


def check_rules(recipe: Recipe, nodes: Collection[tuple[str, str]], known_ops: Collection[str]) -> tuple[str, ...]:
    """Check that every rule means something in this model.

    Args:
        recipe: the recipe. nodes: (op, name) of every node. known_ops: operator types that exist at all.

    Returns:
        Warnings: rules about operators that the model does not hold.

    Raises:
        RecipeError: an operator type that does not exist, or a name or pattern that matches no node (unless the rule
            is optional); with the nearest spelling.
    """
    static = {fmt for fmt in (recipe.format, *(rule.format for rule in recipe.rules)) if fmt and fmt.static}
    if len(static) > 1:
        formats = " and ".join(sorted(static))
        raise RecipeError(f"the recipe mixes the formats {formats}; what is calibrated is written in one of them")
    warnings = []
    present = {op for op, _ in nodes}
    for index, rule in enumerate(recipe.rules):
        for op in rule.match.ops:
            if op not in present and op not in known_ops:
                raise RecipeError(f"rule {index}: unknown operator type '{op}'{nearest(op, present | set(known_ops))}")
        missing = _missing(rule, nodes)
        if rule.optional or not missing:
            continue
        absent = [op for op in rule.match.ops if op not in present]
        if absent:
            warnings.append(f"rule {index} matches nothing: the model has no {' or '.join(absent)}")
            continue
        where = f" of type {' or '.join(rule.match.ops)}" if rule.match.ops else ""
        names = [name for op, name in nodes if not rule.match.ops or op in rule.match.ops]
        raise RecipeError(
            f"rule {index}: no node{where} is called '{missing[0]}'{_nearest(rule, missing[0], names, known_ops)} "
            "(a rule that may match nothing says `optional: true`)"
        )
    return tuple(warnings)


def _missing(rule: Rule, nodes: Collection[tuple[str, str]]) -> tuple[str, ...]:
    """Return the names and patterns of a rule that match no node; of a rule without any, "" if it matches nothing."""
    match = rule.match
    present = [name for op, name in nodes if not match.ops or op in match.ops]
    if not match.names:
        return () if present else ("",)
    return tuple(pattern for pattern in match.names if not any(matches(name, pattern) for name in present))


def _nearest(rule: Rule, name: str, names: Collection[str], known_ops: Collection[str]) -> str:
    """Return a hint at what was meant by a name of a rule: a node, or an operator type written as a name.

    A word like `Convs` is nearer to an operator type, `conv9` to a node.
    """
    of_nodes, of_all = nearest(name, names), nearest(name, {*names, *known_ops})
    like_a_type = (name.isalpha() and name[0].isupper()) or name.lower() in {each.lower() for each in known_ops}
    if rule.match.ops or "did you mean" not in of_all or ("did you mean" in of_nodes and not like_a_type):
        return of_nodes
    return of_all
