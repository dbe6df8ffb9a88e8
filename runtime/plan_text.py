"""A `Plan` in, its text for people or plain data for programs out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from .foreign import Stranger, replace_option
from .plan import Action, Change, Effect, Fate, Kind, Plan, Way

JSON_FORMAT = 1

_MARKS = {Action.ADD: "+", Action.CHANGE: "~", Action.REMOVE: "-"}
_ENTRIES_SHOWN = 10
_NAME_WIDTH = 32


def plan_text(plan: Plan) -> str:
    """Each change with its reasons, then what it all means for traffic and for state."""
    if not plan:
        return f"chain {plan.manifest.chain}: no changes, generation {plan.running} runs it\n"
    lines = [_headline(plan), "", *_changes(plan), "", *_taken(plan), *_summary(plan)]
    return "\n".join(lines) + "\n"


def plan_data(plan: Plan) -> dict[str, Any]:
    """The same as plain data; `state` has the names of maps by what becomes of their content."""
    return {
        "format": JSON_FORMAT,
        "chain": plan.manifest.chain,
        "differs": bool(plan),
        "way": plan.way.value,
        "generation": {"running": plan.running, "following": plan.following if _replaces(plan) else plan.running},
        "changes": [_change_data(change) for change in plan.changes],
        "state": {
            "kept": list(plan.kept),
            "carried": list(_with(plan, Fate.CARRIED)),
            "migrated": list(_with(plan, Fate.MIGRATED)),
            "filled": list(_with(plan, Fate.FILLED)),
            "removed": list(_with(plan, Fate.REMOVED)),
            "lost": list(plan.lost),
        },
        "taken": [_taken_data(found) for found in plan.taken],
    }


def _change_data(change: Change) -> dict[str, Any]:
    return {
        "action": change.action.value,
        "kind": change.kind.value,
        "name": change.name,
        "reasons": list(change.reasons),
        "effect": change.effect.value,
        "state": change.state.value if change.state else None,
    }


def _taken_data(found: Stranger) -> dict[str, Any]:
    occupant = found.occupant
    return {
        "interface": found.point.name,
        "device": found.point.device,
        "hook": found.point.mode.hook.value,
        "program": {"id": occupant.prog_id, "name": found.name} if occupant.prog_id else None,
        "loaded_by": found.uid,
        "age_seconds": found.age_seconds,
        "attached": occupant.how,
        "chain": occupant.owner.chain if occupant.owner else None,
        "interrupts": found.interrupts,
        "replace": f"{found.point.device}={occupant.prog_id}" if found.is_replaceable else None,
    }


def _replaces(plan: Plan) -> bool:
    return plan.way is Way.GENERATION


def _headline(plan: Plan) -> str:
    chain = plan.manifest.chain
    if plan.running is None:
        return f"chain {chain}: does not run yet, becomes generation {plan.following}"
    if _replaces(plan):
        return f"chain {chain}: generation {plan.running} → {plan.following}"
    return f"chain {chain}: generation {plan.running} stays"


def _changes(plan: Plan) -> Iterator[str]:
    entries = [change for change in plan.changes if change.kind is Kind.ENTRY]
    hidden = set(map(id, entries[_ENTRIES_SHOWN:]))
    shown = [change for change in plan.changes if id(change) not in hidden]
    width = min(_NAME_WIDTH, max((len(change.name) for change in shown), default=0))
    kinds = max((len(change.kind) for change in shown), default=0)
    for change in shown:
        head = f"  {_MARKS[change.action]} {change.kind:{kinds}}  {change.name:{width}}"
        notes = [*change.reasons, *([f"content is {change.state}"] if change.state else [])]
        notes += ["interrupts"] if change.effect is Effect.INTERRUPTS else []
        first, *rest = notes or [""]
        yield f"{head}  {first}".rstrip()
        indent = " " * (kinds + width + 8)
        yield from (f"{indent}{note}" for note in rest)
    if hidden:
        yield f"    and {len(hidden)} more entries"


def _taken(plan: Plan) -> Iterator[str]:
    """Who is in the way, and what moves them out of it."""
    if not plan.taken:
        return
    yield "taken by others, which `apply` refuses:"
    width = max(len(found.point.name) for found in plan.taken)
    for found in plan.taken:
        notes = [found.title, f"attached as {found.occupant.how}", *([found.loaded] if found.loaded else [])]
        yield f"  ! {found.point.name:{width}}  {', '.join(notes)}"
        if found.is_replaceable:
            price = ", and interrupts traffic" if found.interrupts else ""
            yield f"    {'':{width}}  `{replace_option(found)}` takes it over{price}"
    yield ""


def _summary(plan: Plan) -> Iterator[str]:
    counts = Counter(change.action for change in plan.changes)
    numbers = ", ".join(f"{counts[action]} to {action}" for action in Action if counts[action])
    yield "; ".join(part for part in (numbers, _effect(plan)) if part)
    state = [
        ("kept", plan.kept),
        ("carried over", _with(plan, Fate.CARRIED)),
        ("migrated", _with(plan, Fate.MIGRATED)),
        ("filled anew", _with(plan, Fate.FILLED)),
        ("removed", _with(plan, Fate.REMOVED)),
        ("LOST", plan.lost),
    ]
    told = "; ".join(f"{what}: {', '.join(names)}" for what, names in state if names)
    if told:
        yield f"state {told}"


def _with(plan: Plan, fate: Fate) -> tuple[str, ...]:
    return tuple(change.name for change in plan.changes if change.state is fate)


def _effect(plan: Plan) -> str:
    if plan.interrupts:
        names = [change.name for change in plan.changes if change.effect is Effect.INTERRUPTS]
        return f"interrupts traffic on {', '.join(names)} for a moment"
    if plan.way is Way.IN_PLACE:
        return "in place: nothing is loaded, nothing is swapped"
    if plan.way is Way.NOTHING:
        return "traffic does not notice"
    return "nothing runs until all of it is loaded" if plan.running is None else "one atomic swap at each hook"
