"""Peak memory of the loss and its gradient, chunked over positions and not, by XLA's own analysis.

    python benchmarks/loss_memory.py

Nothing is executed: the programs are lowered and compiled. The loss's own memory is what it holds
besides its arguments: temporaries and outputs, less what the outputs share with the arguments.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import record

from lm_research.layers import Head, Output
from lm_research.objectives.token_loss import token_loss

VOCAB, LENGTH, ROWS, WIDTH = 50_257, 1_024, 8, 768
BAR = 0.25


def memory(chunk: int | None, vocab: int, length: int, rows: int, width: int) -> dict[str, int]:
    """Bytes of the compiled loss with its gradients to hidden states and head."""

    def total(hidden, kernel, targets, weights):
        output = Output(hidden, Head(kernel))
        return token_loss(output, targets, weights, chunk=chunk)["loss"].total

    shapes = (
        jax.ShapeDtypeStruct((rows, length, width), jnp.float32),
        jax.ShapeDtypeStruct((vocab, width), jnp.float32),
        jax.ShapeDtypeStruct((rows, length), jnp.int32),
        jax.ShapeDtypeStruct((rows, length), jnp.float32),
    )
    compiled = jax.jit(jax.value_and_grad(total, argnums=(0, 1))).lower(*shapes).compile()
    found = compiled.memory_analysis()
    temporaries, outputs = found.temp_size_in_bytes, found.output_size_in_bytes
    return {
        "temporaries": temporaries,
        "outputs": outputs,
        "arguments": found.argument_size_in_bytes,
        "held": temporaries + outputs - found.alias_size_in_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=VOCAB)
    parser.add_argument("--length", type=int, default=LENGTH)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--output", type=Path, default=record.RESULTS / "loss_memory.json")
    options = parser.parse_args()
    sizes = (options.vocab, options.length, options.rows, options.width)
    found = {"chunked": memory(None, *sizes), "unchunked": memory(options.length, *sizes)}
    ratio = {
        kind: found["chunked"][kind] / found["unchunked"][kind] for kind in ("held", "temporaries")
    }
    where = f"loss and gradient, V {sizes[0]:,}, T {sizes[1]:,}, B {sizes[2]}, D {sizes[3]}"
    rows = [
        record.Row(f"{where}: memory, chunked over unchunked", ratio["held"], "x", BAR),
        record.Row(
            f"{where}: temporaries alone, chunked over unchunked", ratio["temporaries"], "x"
        ),
        *(
            record.Row(f"{where}: memory, {name}", values["held"] / 2**20, "MiB")
            for name, values in found.items()
        ),
    ]
    record.write(options.output, "python benchmarks/loss_memory.py", rows, bytes=found)


if __name__ == "__main__":
    main()
