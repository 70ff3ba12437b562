"""From a table of messages and their intents: pairs of messages of one intent, or both as .tsv.

    python experiments/customer_service/pairs.py --messages=train.csv --label=category \
        --output=pairs.tsv
    python experiments/customer_service/pairs.py --messages=test.csv --label=category --plain \
        --output=heldout.tsv

Each message is paired with the next one of its intent, in random order, and the last with the
first; `text` and `pair` are the columns. With --plain it writes a message, a tab and its intent in
each row, as assistant.py --calibrate takes them.
"""

import random
from pathlib import Path

from lm_research import log
from lm_research.data import Table
from lm_research.study.runs import parser, program


def pairs(messages: list[tuple[str, str]], seed: int = 0) -> list[tuple[str, str]]:
    """Each message and another of its intent, where there is one; in random order."""
    draw, by_intent = random.Random(seed), {}
    for text, intent in draw.sample(messages, len(messages)):
        by_intent.setdefault(intent, []).append(text)
    found = [
        (text, own[(i + 1) % len(own)])
        for own in by_intent.values()
        if len(own) > 1
        for i, text in enumerate(own)
    ]
    return draw.sample(found, len(found))


def main() -> None:
    """Writes the table."""
    flags = parser(__doc__)
    flags.add_argument("--messages", required=True, help=".tsv, .csv or .jsonl, perhaps .gz")
    flags.add_argument("--text", default="text", help="the column of messages")
    flags.add_argument("--label", default="label", help="the column of intents")
    flags.add_argument("--plain", action="store_true")
    flags.add_argument("--output", type=Path, required=True)
    options = flags.parse_args()
    table = Table(options.messages, columns={"text": options.text, "label": options.label})
    clean = lambda text: " ".join(text.split())  # no tabs and no ends of lines
    messages = [(clean(record["text"]), record["label"]) for record in table]
    rows = messages if options.plain else [("text", "pair"), *pairs(messages)]
    log.write_text(options.output, "".join(f"{one}\t{other}\n" for one, other in rows))
    print(f"{len(rows) - (not options.plain):,} rows: {options.output}")


if __name__ == "__main__":
    program(main)
