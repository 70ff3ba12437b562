"""Turn a run into a Hugging Face directory, an adapter or word vectors, or the first into a run."""

from pathlib import Path

from absl import flags


def define() -> None:
    """--source, --target, --target_format, --part."""
    flags.DEFINE_string("source", None, "a run's directory, or one of Hugging Face's or PEFT's")
    flags.DEFINE_string("target", None, "a new directory")
    flags.DEFINE_enum(
        "target_format",
        None,
        ["run", "huggingface", "peft", "vectors"],
        "what to write; by default the other format, or the vectors of a fastText model's words; "
        "peft is what LoRA trained, alone",
    )
    flags.DEFINE_string("part", None, "of a model of several, such as ELECTRAPair: which to write")
    flags.mark_flags_as_required(["source", "target"])


def run(values: flags.FlagValues) -> None:
    """Writes --target and prints what it holds."""
    from lm_research import log, mesh, tree
    from lm_research.errors import UserError
    from lm_research.hub.save import save
    from lm_research.hub.vectors import FILE, save_vectors
    from lm_research.models import FastText
    from lm_research.models.class_writer import ClassWriter
    from lm_research.train import restore

    source, target = Path(values.source), Path(values.target)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"--target {target} exists and is not empty; give a new directory")
    to = values.target_format or (None if restore.is_run(source) else "run")
    with mesh.single():
        if to == "peft":
            count, tensors = restore.save_adapter(target, source)
            return print(f"{count:,} trained parameters in {tensors} tensors: {target}")
        loaded = restore.open_checkpoint(source)
        parts = getattr(loaded.model, "parts", ())
        if values.part is not None and values.part not in parts:
            has = ", ".join(parts) or "no parts"
            raise UserError(f"--part={values.part}: the model of {source} has {has}")
        if values.part is not None:
            loaded = restore.part_of(loaded, values.part)
        elif parts and to != "run":
            raise UserError(f"{source} holds several models; give --part={' or '.join(parts)}")
        to = to or ("vectors" if isinstance(loaded.model, FastText) else "huggingface")
        if to == "vectors":
            words = save_vectors(target, loaded.tokenizer, loaded.params)
            return print(f"vectors of {words:,} words: {target / FILE}")
        if to == "huggingface" and isinstance(loaded.model, ClassWriter):
            named = ", ".join(loaded.model.classes)
            got = f"the {loaded.section['trunk']['kind']} that writes the names of classes, {named}"
            log.fallback("a classifier of texts", got, "transformers has none of its kind")
            loaded = restore.writer_of(loaded)
        if to == "run":
            restore.save_run(target, loaded)
            tensors = len(tree.named_leaves(loaded.params))
        else:
            if loaded.prefix:
                asked = "prompts whose tokens see each other, as the model was trained"
                log.fallback(asked, "a causal model", "transformers has no word for it")
            tensors = save(
                target,
                loaded.section,
                loaded.params,
                loaded.tokenizer,
                eos=loaded.eos,
                context=loaded.context,
            )
    print(f"{tree.count(loaded.params):,} parameters in {tensors} tensors: {target}")
