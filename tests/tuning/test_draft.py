from onnxq.tuning.draft import Draft, keep, refine
from onnxq.types.plan import Action, Decision, Plan, Reason
from onnxq.types.recipe import Recipe, with_rules


def make(recipe):
    """A draft that quantizes two nodes, except those that a rule names."""
    decisions = []
    for node in ("a[0]", "b"):
        kept = any(rule.match.covers("MatMul", node, weighted=True) for rule in recipe.rules)
        action = Action.KEEP if kept else Action.QUANTIZE
        decisions.append(Decision(node=node, op="MatMul", action=action, reason=Reason(code="", text="")))
    plan = Plan(format=recipe.format, target="cpu", fingerprint="", decisions=tuple(decisions), tensors={})
    return Draft(recipe=recipe, plan=plan, model=None)


def test_a_draft_is_made_again_until_the_judge_is_content():
    def judge(draft):
        return keep(draft.quantized[:1], "slower", "it is")

    done = refine(make, make(Recipe()), judge, rounds=9)
    assert done.quantized == ()
    assert [rule.match.names for rule in done.recipe.rules] == [("a[[]0]",), ("b",)]
    assert refine(make, make(Recipe()), judge, rounds=1).quantized == ("b",)


def test_a_judge_that_changes_nothing_is_not_asked_for_ever():
    asked = []

    def judge(draft):
        asked.append(draft)
        return keep(["no such node"], "slower", "it is")

    assert refine(make, make(Recipe()), judge, rounds=99).recipe.rules == ()
    assert len(asked) == 1


def test_nodes_with_one_reason_share_a_rule_and_names_stand_for_themselves():
    rules = keep(["a[0]", "b*", "c"], "unfused", {"a[0]": "x", "b*": "y", "c": "x"})
    assert [(rule.match.names, rule.keep, rule.because) for rule in rules] == [
        (("a[[]0]", "c"), "unfused", "x"),
        (("b[*]",), "unfused", "y"),
    ]
    assert not rules[1].match.covers("MatMul", "bc", weighted=True)
    recipe = with_rules(Recipe.parse({"rules": [{"match": {"op": "Gemm"}, "keep": "float"}]}), rules)
    assert Recipe.parse(recipe.plain()) == recipe
