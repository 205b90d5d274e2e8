"""Commands for feedback and what is learned from it."""

from __future__ import annotations

import sys
from typing import Any

import click

from clipper.cli.common import (
    Target,
    compact_json,
    done,
    json_option,
    loss,
    parse_json,
    print_json,
    print_table,
    print_wrapped,
    server_options,
    share,
    terminal_width,
)
from clipper.cli.queries import parse_uid
from clipper.errors import NotFound


def parse_given(text: str) -> tuple[Any]:
    """A JSON value, which may be null, as distinct from none given."""
    return (parse_json(text),)


def parse_option(text: str) -> tuple[str, Any]:
    """`key=value`, the value JSON or, where it is none, a string."""
    import msgspec

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{text[:60]!r} is not of the form KEY=VALUE")
    try:
        return key, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return key, value


def check_options(
    ctx: click.Context, param: click.Parameter, value: tuple[tuple[str, Any], ...]
) -> dict[str, Any]:
    keys = [key for key, _ in value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise click.BadParameter(f"{min(twice)} is given twice")
    return dict(value)


@click.command()
@click.argument("app")
@click.argument("query_id", required=False)
@click.option(
    "--label",
    type=parse_given,
    metavar="JSON",
    help="What the output should have been.",
)
@click.option(
    "--reward", type=click.FloatRange(0, 1), help="How good the answer was, from 0 to 1."
)
@click.option(
    "--input",
    "value",
    type=parse_given,
    metavar="JSON",
    help="The input that the label is of, without a query id.",
)
@click.option("--uid", type=parse_uid, metavar="UID", help="Whose feedback it is.")
@click.option(
    "--context", type=parse_json, metavar="JSON", help="The query's, where it was lost."
)
@click.option("--feedback-id", metavar="ID", help="Names it, so that it counts once.")
@json_option
@server_options
def update(
    target: Target,
    app: str,
    query_id: str | None,
    label: tuple[Any] | None,
    reward: float | None,
    value: tuple[Any] | None,
    uid: int | str | None,
    context: Any,
    feedback_id: str | None,
    as_json: bool,
) -> None:
    """Say what an answer was worth.

    \b
    clipper update digits QUERY_ID --label 7
    clipper update digits QUERY_ID --reward 0.9
    clipper update digits --input '[0.5, 1.5]' --label 7 --uid alice

    It is on the disk, and learned from, when the command ends.
    """
    if (label is None) is (reward is None):
        raise click.UsageError("Give either --label or --reward.")
    if query_id is None and value is None:
        raise click.UsageError("Give a query id, or --input with its --label.")
    fields: dict[str, Any] = {"uid": uid, "context": context, "feedback_id": feedback_id}
    if label is not None:
        [fields["label"]] = label
    if value is not None:
        [fields["input"]] = value
    duplicate = target.run(
        lambda clipper: clipper.update(app, query_id, reward=reward, **fields)
    )
    if as_json:
        print_json({"accepted": True, "duplicate": duplicate})
    else:
        done(f"{app} knew that already" if duplicate else f"{app} has learned from it")


@click.command()
@click.argument("app")
@click.argument("name", required=False)
@click.option(
    "--option",
    "options",
    multiple=True,
    type=parse_option,
    callback=check_options,
    metavar="KEY=VALUE",
    help="An option of the policy; may be given several times.",
)
@json_option
@server_options
def policy(
    target: Target, app: str, name: str | None, options: dict[str, Any], as_json: bool
) -> None:
    """Show or set how an application chooses among its models.

    \b
    clipper policy digits
    clipper policy digits hedge --option eta=0.5
    clipper policy digits canary --option 'weights={"digits:1": 0.9, "digits:2": 0.1}'

    What was learned is kept where it means something to the new policy.
    """
    if name is None:
        if options:
            raise click.UsageError("Options belong to a policy: name it.")
        found = _state(target, app, None)
        shown = {"policy": found["policy"], "options": found["options"]}
        print_json(shown) if as_json else click.echo(_policy(found))
        return
    answer = target.run(lambda clipper: clipper.set_policy(app, name, **options))
    settings = answer["policy"]
    shown = {"policy": settings["name"], "options": settings["options"]}
    if as_json:
        print_json(shown)
    else:
        done(f"{app} chooses by {_policy(shown)}")


@click.command()
@click.argument("app")
@click.option("--uid", type=parse_uid, metavar="UID", help="What was learned of a user.")
@json_option
@server_options
def state(target: Target, app: str, uid: int | str | None, as_json: bool) -> None:
    """Show what an application has learned."""
    found = _state(target, app, uid)
    if as_json:
        print_json(found)
        return
    whose = "" if uid is None else f", of {uid}"
    click.secho(f"{_policy(found)}{whose}", bold=True)
    if found.get("unavailable"):
        print_wrapped(f"It cannot be had: {found['unavailable']}", fg="red")
    arms = [*found["arms"], *found["former_arms"]]
    if uid is not None and not found["personal"]:
        print_wrapped(
            f"It keeps nothing of users: `clipper state {app}` shows what it learned."
        )
    elif uid is not None and not found.get("known"):
        print_wrapped(f"Nothing was learned of {uid} yet: the weights are everybody's.")
    elif not any(arm["pulls"] for arm in arms):
        print_wrapped(
            f"Nothing was learned yet: `clipper update {app} QUERY_ID --label ...` says "
            "what an answer should have been."
        )
    print_table(
        ("ARM", "WEIGHT", "FEEDBACK", "MEAN LOSS"),
        [_arm(arm) for arm in arms],
        indent="  ",
        width=terminal_width(),
    )
    if found["contextual"]:
        click.secho("  The weights follow from the context of each query.", dim=True)
    for arm in arms:
        if arm.get("halted"):
            print_wrapped(f"{arm['model']} was taken out: {arm['halted']}", indent="  ")
    former = [arm["model"] for arm in found["former_arms"]]
    if former:
        are = "is no candidate" if len(former) == 1 else "are no candidates"
        print_wrapped(f"{', '.join(former)} {are} now.", indent="  ", dim=True)


@click.command()
@click.argument("app")
@click.option(
    "--after", type=click.IntRange(min=0), default=0, metavar="SEQ",
    help="Go on behind the entry with this number.",
)  # fmt: skip
@click.option("--decisions", is_flag=True, help="What was decided, in place of feedback.")
@server_options
def feedback(target: Target, app: str, after: int, decisions: bool) -> None:
    """Print the feedback log as JSON lines.

    \b
    clipper feedback digits > feedback.jsonl
    """
    kind = "decisions" if decisions else "feedback"

    async def work(clipper: Any) -> None:
        async for entry in clipper.export_feedback(app, after=after, kind=kind):
            sys.stdout.write(compact_json(entry) + "\n")
        sys.stdout.flush()

    target.run(work)


@click.command()
@click.argument("app")
@click.argument("uid", type=parse_uid)
@click.option("--yes", is_flag=True, help="Do not ask.")
@server_options
def forget(target: Target, app: str, uid: int | str, yes: bool) -> None:
    """Delete what an application has learned of a user."""
    if not yes:
        click.confirm(f"Delete what {app} has learned of {uid}?", abort=True, err=True)
    target.run(lambda clipper: clipper.forget_user(app, uid))
    done(f"{app} has forgotten {uid}")


def _state(target: Target, app: str, uid: int | str | None) -> dict[str, Any]:
    async def work(clipper: Any) -> dict[str, Any]:
        found: dict[str, Any] | None = await clipper.get_state(app, uid)
        if found is None:
            raise NotFound(f"there is no application {app!r:.70}")
        return found

    return target.run(work)


def _policy(settings: dict[str, Any]) -> str:
    """A policy with its options on one line."""
    options = settings["options"]
    said = ", ".join(f"{key}={compact_json(value)}" for key, value in options.items())
    return f"{settings['policy']} ({said})" if said else str(settings["policy"])


def _arm(arm: dict[str, Any]) -> tuple[object, ...]:
    return arm["model"], share(arm.get("weight")), arm["pulls"], loss(arm.get("mean_loss"))
