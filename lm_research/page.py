"""One run as a page of HTML, complete in itself: curves, numbers, samples, config and facts."""

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lm_research import curves

Row = Mapping[str, Any]

STYLE = """
:root { color-scheme: light dark; --paper: #fcfcfa; --ink: #1d1d1b; --soft: #6a6a65;
  --rule: #dfdfd9; --first: #1f5f99; --second: #b4481e; --third: #68753a; --warn: #fbeed2; }
@media (prefers-color-scheme: dark) { :root { --paper: #161718; --ink: #e3e3df; --soft: #9b9b94;
  --rule: #353638; --first: #79b4ec; --second: #ee9d6c; --third: #b3c078; --warn: #40341b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 1.5rem; font-weight: 600; overflow-wrap: anywhere; }
h2 { margin: 3rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--rule);
  font-size: 1.05rem; font-weight: 600; }
h3 { margin: 0 0 .25rem; font-size: .85rem; font-weight: 600; }
p { margin: .25rem 0 1rem; } .soft, th, dt, figcaption { color: var(--soft); }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1rem 2rem;
  margin: 1.5rem 0 2rem; } dt { font-size: .8rem; } dd { margin: 0; }
dd b { font-size: 1.35rem; font-weight: 500; } dd span { display: block; font-size: .8rem; }
dd, td, text { font-variant-numeric: tabular-nums; }
figure { margin: 0; min-width: 0; } figcaption { font-size: .8rem; }
svg { display: block; width: 100%; height: auto; } svg * { stroke-linejoin: round; }
.grid { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 2rem;
  margin: 2rem 0; }
.narrow { display: none; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; }
th, td { padding: .15rem 1rem .15rem 0; text-align: left; vertical-align: top; font-weight: 400;
  border-bottom: 1px solid var(--rule); }
td { overflow-wrap: anywhere; } th { white-space: nowrap; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; white-space: nowrap; }
.scroll { overflow-x: auto; }
.tables { columns: 2; column-gap: 2.5rem; } .tables th { width: 42%; }
.tables section { break-inside: avoid; margin-bottom: 1.5rem; }
.warn { margin: 1rem 0 2rem; padding: .6rem .9rem; background: var(--warn); }
.warn ul { margin: 0; padding-left: 1.2rem; }
pre { margin: 0 0 1.5rem; padding: .75rem 1rem; border-left: 2px solid var(--rule);
  white-space: pre-wrap; overflow-wrap: anywhere;
  font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
@media (max-width: 44rem) { .grid { grid-template-columns: minmax(0, 1fr); } .tables { columns: 1; }
  .wide { display: none; } .narrow { display: block; } th { white-space: normal; }
  .numbers th, .numbers td { padding-right: .5rem; font-size: .75rem; } }
"""


# Facts that have a place of their own on the page.
SHOWN = ("fallbacks", "time", "profile", "goodput", "boot")
# What a run's time went into, and what it is called.
TIME = {
    "steps": "steps that count",
    "start": "starting and compiling",
    "data": "waiting for data",
    "evaluation": "evaluating",
    "samples": "writing samples",
    "saving": "saving",
    "profile": "tracing",
    "lost": "steps made again",
    "down": "between processes",
}


def page(
    name: str,
    rows: list[Row],
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    samples: str = "",
) -> str:
    """The page of the run called `name`, from what its workdir holds, for light and dark."""
    train = [row for row in rows if row.get("kind") == "train"]
    heldout = [row for row in rows if row.get("kind") == "eval"]
    body = [
        f"<h1>{_text(name)}</h1>",
        _status(train, rows, config),
        _key_numbers(train, heldout),
        _warnings(rows, facts),
        _curves(train, heldout, facts),
        _section("Time", _time(train, facts)),
        _section("Profile", _profile(facts.get("profile"))),
        _section("Held out", _heldout_table(heldout)),
        _section("Samples", _samples(samples)),
        _section("Config", _tables(config)),
        _section("Facts", _tables({k: v for k, v in facts.items() if k not in SHOWN})),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _status(train: list[Row], rows: list[Row], config: Mapping[str, Any]) -> str:
    if not rows:
        return '<p class="soft">No step has been recorded yet.</p>'
    step, total = max(row["step"] for row in rows), config.get("steps")
    line = f"Step {step:,}" + (f" of {total:,}" if isinstance(total, int) else "")
    speeds = sorted(curves.series(train, "tokens_per_second")[1])
    if speeds:
        line += f" · {speeds[len(speeds) // 2]:,.0f} tokens/s (median)"
    return f'<p class="soft">{line}</p>'


def _key_numbers(train: list[Row], heldout: list[Row]) -> str:
    found = []
    for label, suffix in (("Held-out loss", "loss"), ("Held-out bits per byte", "bits_per_byte")):
        names = curves.named(heldout, suffix)
        for name in names:
            steps, values = curves.series(heldout, name)
            best = min(range(len(values)), key=values.__getitem__)
            of = f", {name.rpartition('/')[0]}" if len(names) > 1 else ""
            found.append(
                (label + of, values[-1], f"best {_number(values[best])} at step {steps[best]:,}")
            )
    steps, losses = curves.series(train, "loss")
    if losses:
        found.append(("Training loss", losses[-1], f"one batch, step {steps[-1]:,}"))
    entries = (
        f"<div><dt>{_text(label)}</dt><dd><b>{_number(value)}</b>"
        f'<span class="soft">{_text(more)}</span></dd></div>'
        for label, value, more in found
    )
    return f"<dl>{''.join(entries)}</dl>" if found else ""


def _warnings(rows: list[Row], facts: Mapping[str, Any]) -> str:
    lines = [
        f"Fallback: asked for {entry['asked']}, got {entry['got']}: {entry['why']}"
        for entry in facts.get("fallbacks", [])
    ]
    lost = [row for row in rows if row.get("nonfinite")]
    if lost:
        names = ", ".join(sorted({name for row in lost for name in row["nonfinite"]}))
        lines.append(f"Not finite, first at step {lost[0]['step']:,}: {names}")
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return f'<div class="warn"><ul>{items}</ul></div>' if items else ""


def _curves(train: list[Row], heldout: list[Row], facts: Mapping[str, Any]) -> str:
    drawn = []
    for figure in curves.drawn(train, heldout, facts):
        plots = "".join(f'<div class="{css}">{svg}</div>' for css, svg in figure.plots.items())
        caption = f"<figcaption>{_text(figure.note)}</figcaption>" if figure.note else ""
        drawn.append(f"<figure><h3>{_text(figure.title)}</h3>{plots}{caption}</figure>")
    if not drawn:
        return ""
    return drawn[0] + (f'<div class="grid">{"".join(drawn[1:])}</div>' if drawn[1:] else "")


def _heldout_table(heldout: list[Row]) -> str:
    lines = []
    for name in curves.named(heldout):
        steps, values = curves.series(heldout, name)
        cells = [_number(values[-1])]
        for extreme in (min(values), max(values)):
            cells += [_number(extreme), f"{steps[values.index(extreme)]:,}"]
        lines.append(
            f"<tr><th>{_text(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        )
    if not lines:
        return ""
    heads = "".join(
        f"<th>{head}</th>" for head in ("", "last", "lowest", "at step", "highest", "at step")
    )
    return (
        f'<div class="scroll"><table class="numbers"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _time(train: list[Row], facts: Mapping[str, Any]) -> str:
    """What the time since the first start went into, restarts included."""
    told = [row["time"] for row in train if "time" in row] + [facts.get("time") or {}]
    seconds = lambda one: {name: one.get(name, 0.0) for name in TIME}
    last = max(told, key=lambda one: sum(seconds(one).values()))
    whole = sum(seconds(last).values())
    if not whole:
        return ""
    lines = (
        f"<tr><th>{_text(TIME[name])}</th><td>{value:,.1f} s</td><td>{value / whole:.1%}</td></tr>"
        for name, value in seconds(last).items()
    )
    starts = last.get("starts", 1)
    return (
        f"<p>Goodput {last.get('steps', 0.0) / whole:.1%}: the share of steps that count in "
        f"{whole:,.1f} s since the first of {starts} start{'s' * (starts > 1)}</p>"
        f'<div class="scroll"><table class="numbers"><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _profile(found: Mapping[str, Any] | None) -> str:
    """The last trace: shares of the time, and the costliest operations."""
    if not found:
        return ""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in found["shares"].items())
    lines = (
        f"<tr><th>{_text(one['operation'])}</th><td>{one['milliseconds_per_step']:.3f} ms</td>"
        f"<td>{one['share']:.1%}</td></tr>"
        for one in found["costliest"]
    )
    return (
        f"<p>Steps {found['first']:,} to {found['last']:,}, "
        f"{found['milliseconds_per_step']:.3f} ms each: {_text(shares)}</p>"
        f'<div class="scroll"><table class="numbers"><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _samples(text: str) -> str:
    """The last step's samples in samples.md: `## step N`, a prompt in bold, what continues it."""
    parts = re.split(r"^## step (\d+)$", text, flags=re.MULTILINE)[1:]
    steps, texts = parts[0::2], parts[1::2]
    last = [sample.strip() for step, sample in zip(steps, texts) if step == steps[-1]][-8:]
    drawn = []
    for sample in last:
        sample = re.sub("^> ", "", sample, flags=re.MULTILINE)
        prompt = re.match(r"\*\*(.*?)\*\*", sample, flags=re.DOTALL)
        start = f"<b>{_text(prompt[1])}</b>" if prompt else ""
        rest = sample[prompt.end() if prompt else 0 :]
        drawn.append(f"<pre>{start}{_text(rest[:4000])}{' …' if len(rest) > 4000 else ''}</pre>")
    return f'<p class="soft">Step {int(steps[-1]):,}</p>' + "".join(drawn) if drawn else ""


def _tables(mapping: Mapping[str, Any]) -> str:
    """A nested mapping as a table per section, after one of its plain values."""
    plain = {name: value for name, value in mapping.items() if not _nested(value)}
    nested = {name: value for name, value in mapping.items() if _nested(value)}
    tables = [f"<section>{_table(plain)}</section>"] if plain else []
    for name, value in nested.items():
        if isinstance(value, Mapping) and isinstance(value.get("kind"), str):
            name, value = (
                f"{name}: {value['kind']}",
                {k: v for k, v in value.items() if k != "kind"},
            )
        tables.append(f"<section><h3>{_text(name)}</h3>{_table(value)}</section>")
    return f'<div class="tables">{"".join(tables)}</div>' if tables else ""


def _table(value: Any) -> str:
    lines = (
        f'<tr><th style="padding-left: {depth}rem">{_text(name)}</th><td>{_text(shown)}</td></tr>'
        for depth, name, shown in _flat(value)
    )
    return f"<table><tbody>{''.join(lines)}</tbody></table>"


def _flat(value: Any, depth: int = 0) -> Iterable[tuple[int, str, str]]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value, 1)
    for name, item in items:
        if not _nested(item):
            yield depth, str(name), _value(item)
        elif isinstance(item, Mapping) and isinstance(item.get("kind"), str):
            yield depth, str(name), item["kind"]
            yield from _flat({k: v for k, v in item.items() if k != "kind"}, depth + 1)
        else:
            yield depth, str(name), ""
            yield from _flat(item, depth + 1)


def _nested(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list) and any(isinstance(item, Mapping) for item in value)


def _value(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        items = (f"[{_value(item)}]" if isinstance(item, list) else _value(item) for item in value)
        return ", ".join(items)
    if isinstance(value, str):
        return value or '""'
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 100_000 else f"{value}"


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    digits = 4 if abs(value) < 100 else 1
    return f"{value:,.{digits}f}" if abs(value) >= 1e-3 else f"{value:.3g}"


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}" if content else ""


def _text(value: Any) -> str:
    return html.escape(str(value))
