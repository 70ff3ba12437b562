"""The curves of one run as SVG that takes its colours and letters from the page around it."""

import io
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Row = Mapping[str, Any]
Series = tuple[list[int], list[float]]  # steps, values

# Colours that matplotlib writes, and the page's variables that take their place.
COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--soft)",
    "#030303": "var(--rule)",
    "#040404": "var(--first)",
    "#050505": "var(--second)",
    "#060606": "var(--third)",
}
INK, SOFT, RULE, FIRST, SECOND, THIRD = COLOURS
SETTINGS = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.4,
    "text.parse_math": False,  # names may hold dollars
}
WIDE, NARROW, HALF = (9.6, 3.7), (4.6, 3.1), (4.6, 2.5)  # inches of 72 units
POINTS = 600  # of a curve: more than a panel has room for


class Figure(NamedTuple):
    """A panel of the page: the SVG for each CSS class, and a line on what it does not show."""

    title: str
    plots: dict[str, str]
    note: str = ""


def series(rows: Iterable[Row], name: str) -> Series:
    """Steps and values of the rows that have a finite number called `name`."""
    found = [(row["step"], row[name]) for row in rows if _is_number(row.get(name))]
    return [step for step, _ in found], [value for _, value in found]


def named(rows: Iterable[Row], suffix: str = "") -> list[str]:
    """Names of finite numbers in the rows, in order; with `suffix`, those that end in `/suffix`."""
    names = {name: None for row in rows for name, value in row.items() if _is_number(value)}
    names.pop("step", None)
    return [name for name in names if suffix in ("", name.rpartition("/")[2])]


def drawn(train: list[Row], heldout: list[Row], facts: Mapping[str, Any]) -> list[Figure]:
    """The panels that the rows have numbers for, the loss first."""
    import matplotlib

    last = max((row["step"] for row in (*train, *heldout)), default=0)
    with matplotlib.rc_context(SETTINGS):
        figures = [_loss(train, heldout, last), _bits_per_byte(heldout, facts, last)]
        figures += [
            _numbers(train, last, "learning_rate", "Learning rate", _exponent),
            _numbers(train, last, "gradient_norm", "Gradient norm", _thousands),
            _numbers(train, last, "tokens_per_second", "Tokens per second", _thousands),
        ]
    return [figure for figure in figures if figure is not None]


def _loss(train: list[Row], heldout: list[Row], last: int) -> Figure | None:
    steps, losses = series(train, "loss")
    evaluated = {name: series(heldout, name) for name in named(heldout, "loss")}
    if not losses and not evaluated:
        return None
    top, above = _ceiling(losses, [value for _, values in evaluated.values() for value in values])

    def draw(axes: Any) -> None:
        if losses:
            _noisy(axes, steps, losses, "training")
        _points(axes, evaluated)
        if above:
            axes.set_ylim(top=top)
        axes.legend(loc="upper right", ncols=3)

    note = (
        f"{above:,} rows of training, up to {max(losses):.4g}, lie above the axis." if above else ""
    )
    plots = {
        "wide": _svg(draw, "loss-wide", WIDE, last),
        "narrow": _svg(draw, "loss-narrow", NARROW, last),
    }
    return Figure("Loss", plots, note)


def _bits_per_byte(heldout: list[Row], facts: Mapping[str, Any], last: int) -> Figure | None:
    evaluated = {name: series(heldout, name) for name in named(heldout, "bits_per_byte")}
    if not evaluated:
        return None
    baselines = {
        label: value
        for label, key in (("gzip -9", "gzip_bits_per_byte"), ("xz -9", "xz_bits_per_byte"))
        if _is_number(value := _anywhere(facts, key))
    }

    def draw(axes: Any) -> None:
        _points(axes, evaluated)
        if len(evaluated) > 1:
            axes.legend()
        for label, value in baselines.items():
            axes.axhline(value, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"{label}  {value:.3f}",
                (0, value),  # where a curve that falls is still far above
                xycoords=("axes fraction", "data"),
                xytext=(4, 4),
                textcoords="offset points",
                color=SOFT,
            )
        axes.margins(y=0.1)

    return Figure("Held-out bits per byte", {"half": _svg(draw, "bits", HALF, last)})


def _numbers(train: list[Row], last: int, name: str, title: str, form: Any) -> Figure | None:
    steps, values = series(train, name)
    if not values:
        return None
    spread = min(values) > 0 and max(values) > 20 * sorted(values)[len(values) // 2]

    def draw(axes: Any) -> None:
        _line(axes, steps, values, FIRST, linewidth=1.2)
        if spread:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(form)

    note = "Logarithmic: some values are far above the others." if spread else ""
    return Figure(title, {"half": _svg(draw, name, HALF, last)}, note)


def _noisy(axes: Any, steps: list[int], values: list[float], label: str) -> None:
    """The values, faint, under their moving average."""
    import numpy as np

    window = len(values) // 40
    if window < 2:
        return _line(axes, steps, values, FIRST, label)
    _line(axes, steps, values, FIRST, alpha=0.3, linewidth=0.8)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    before = np.minimum(at, window // 2)
    after = np.minimum(before, len(values) - 1 - at)  # even at the start, where the curve is steep
    mean = (sums[at + after + 1] - sums[at - before]) / (after + before + 1)
    _line(axes, steps, mean.tolist(), FIRST, f"{label}, mean of {2 * (window // 2) + 1} rows")
    return None


def _line(
    axes: Any, steps: list[int], values: list[float], colour: str, label: str = "", **style: Any
) -> None:
    style = {"linewidth": 1.5, "marker": "o" if len(values) == 1 else "", "markersize": 5, **style}
    axes.plot(*_thinned(steps, values), color=colour, label=label or None, **style)


def _points(axes: Any, evaluated: Mapping[str, Series]) -> None:
    for i, (name, (steps, values)) in enumerate(evaluated.items()):
        label = name.rpartition("/")[0].replace("heldout", "held out") or name
        style = {"marker": "o", "markersize": 4 if len(values) < 60 else 2, "linewidth": 1}
        axes.plot(steps, values, color=(SECOND, THIRD, INK)[i % 3], label=label, **style)


def _thinned(steps: list[int], values: list[float]) -> Series:
    """The lowest and highest of every so many values, in order: they look as all of them would."""
    size = -(-len(values) // POINTS)
    if size < 3:
        return steps, values
    kept = []
    for start in range(0, len(values), size):
        piece = range(start, min(start + size, len(values)))
        kept += sorted({min(piece, key=values.__getitem__), max(piece, key=values.__getitem__)})
    return [steps[i] for i in kept], [values[i] for i in kept]


def _ceiling(noisy: list[float], points: list[float]) -> tuple[float, int]:
    """The top of the axis and how many values are above it: a start leaves room for the rest."""
    if len(noisy) < 50:
        return 0.0, 0
    ordered = sorted(noisy)
    low, high = ordered[0], max(ordered[int(0.95 * len(ordered))], *points, ordered[0])
    top = high + 0.1 * (high - low)
    return top, sum(value > top for value in noisy) if ordered[-1] - low > 1.3 * (top - low) else 0


def _svg(draw: Any, name: str, size: tuple[float, float], last: int) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = Canvas(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlabel("step")
    draw(axes)
    axes.set_xlim(-0.01 * last, max(1, 1.01 * last))  # whole dots at both ends
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # ids that do not change and do not meet
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return _inline(text.getvalue(), name)


def _inline(text: str, name: str) -> str:
    """matplotlib's SVG as an element of HTML, in the page's colours and letters."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"| version="[^"]*"', "", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = text.replace("xlink:href", "href").replace(
        "<svg", f'<svg role="img" aria-label="{name}"', 1
    )
    used = set(re.findall(r"#(\w+)", text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, variable)
    return re.sub(r"\s*\n\s*", "\n", text)


def _thousands(value: float, position: int | None = None) -> str:
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _exponent(value: float, position: int | None = None) -> str:
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}" if value else "0"


def _anywhere(value: Any, key: str) -> Any:
    """The value of `key`, however deep."""
    if not isinstance(value, Mapping):
        return None
    if key in value:
        return value[key]
    return next((v for item in value.values() if (v := _anywhere(item, key)) is not None), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
