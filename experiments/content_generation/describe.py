"""A description of a thing from its attributes, by a run that learned to say facts.

    python experiments/content_generation/describe.py --checkpoint=runs/facts \
        'name | Aromi' 'eatType | coffee shop' 'area | city centre'
    python experiments/content_generation/describe.py --checkpoint=runs/facts --samples=3 \
        --temperature=0.8 'Aromi | eatType | coffee shop'

An attribute is `name | value`, of the thing that the attribute `name` (or the first one) names; or
a triple of WebNLG, `subject | relation | object`. A run of configs/finetune/data_to_text.py reads
them as it learned them; one of configs/finetune/instruct.py is asked for a description in words.
"""

import argparse
from collections.abc import Sequence

from lm_research import mesh
from lm_research.data.chat import asked, ends
from lm_research.data.webnlg import linearised
from lm_research.errors import UserError
from lm_research.infer import Beam, Sampler, beam_search, generate
from lm_research.infer.repetition import Repetition
from lm_research.infer.text import answer, request
from lm_research.models import EncoderDecoder
from lm_research.study.runs import parser, program
from lm_research.train.restore import Loaded, open_checkpoint

ASKED = "Write a short description from these facts."


def triples(attributes: Sequence[str]) -> list[str]:
    """Attributes as triples "subject | relation | object".

    Raises:
      UserError: one has neither two parts nor three; or none is a fact about the thing.
    """
    parts = [[part.strip() for part in one.split("|")] for one in attributes]
    for one, found in zip(attributes, parts):
        if len(found) not in (2, 3) or not all(found):
            raise UserError(
                f"{one!r} has {len(found)} parts; it takes 'name | value' or "
                "'subject | relation | object'"
            )
    named = [found for found in parts if len(found) == 2]
    thing = next((found for found in named if found[0].lower() == "name"), (named or [None])[0])
    said = [found if len(found) == 3 else [thing[1], *found] for found in parts if found != thing]
    if not said:
        raise UserError(f"there is no fact about {thing[1]!r}; give another attribute")
    return [" | ".join(found) for found in said]


def described(loaded: Loaded, attributes: Sequence[str], settings: argparse.Namespace) -> list[str]:
    """Descriptions: as many as samples are asked for, the best first where beams search."""
    facts, tokenizer = linearised(triples(attributes)), loaded.tokenizer
    reads = isinstance(loaded.model, EncoderDecoder)
    if not reads and tokenizer.chat is None:
        raise UserError(
            f"{settings.checkpoint} neither reads facts nor answers; train one with "
            "configs/finetune/data_to_text.py or instruct.py"
        )
    asking = [{"role": "user", "content": ASKED, "input": facts}]
    prompt = request(loaded.model)(tokenizer, facts) if reads else asked(tokenizer, asking)
    repetition = Repetition(settings.repetition_penalty, settings.no_repeat)
    given = loaded.model, loaded.params, [prompt]
    more = dict(length=settings.length, samples=settings.samples)
    more["eos"] = tuple(dict.fromkeys((*loaded.eos, *ends(tokenizer))))
    if settings.temperature is None:
        beam = Beam(max(settings.beams, settings.samples), repetition=repetition)
        found = beam_search(*given, beam=beam, **more)
    else:
        sampler = Sampler(settings.temperature, top_p=0.95, repetition=repetition)
        found = generate(*given, sampler=sampler, seed=settings.seed, **more)
    texts = (answer(tokenizer, loaded.model, prompt, result.tokens) for result in found)
    return [" ".join(text.split()) for text in texts]


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("attributes", nargs="+", help="such as 'name | Aromi' 'area | riverside'")
    flags.add_argument("--checkpoint", required=True, help="a run or a Hugging Face directory")
    flags.add_argument("--beams", type=int, default=5)
    flags.add_argument("--length", type=int, default=80, help="new tokens at most")
    flags.add_argument("--samples", type=int, default=1, help="how many descriptions")
    flags.add_argument("--temperature", type=float, help="draws, in place of searching")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--repetition_penalty", type=float, default=1.0)
    flags.add_argument("--no_repeat", type=int, help="no so many tokens in a row come twice")
    settings = flags.parse_args()
    try:
        with mesh.single():
            loaded = open_checkpoint(settings.checkpoint)
            for text in described(loaded, settings.attributes, settings):
                print(text)
    except ValueError as error:
        raise UserError(str(error)) from None


if __name__ == "__main__":
    program(main)
