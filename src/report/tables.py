"""Markdown tables, and values that several templates use."""

import re

# Long words of tables, with the places where a line may break in them: on a phone, a table has 358 pixels.
SYLLABLES = (
    "aver-aging", "cen-troid", "classi-fier's", "coeffi-cient", "coeffi-cients", "col-lapsed", "cover-age", "de-coded",
    "discrimi-nator", "dis-tance", "esti-mated", "ex-cerpt", "ex-cerpts", "fea-tures", "gener-ated", "gener-ation",
    "gener-ator", "glo-bal", "inter-val", "la-tents", "loud-ness", "match-ing", "me-dian", "modu-lation", "near-est",
    "objec-tive", "opin-ion", "per-centile", "pre-cision", "recog-nised", "regen-erated", "repe-tition",
    "re-sam-pling", "sec-ond", "si-lence", "spec-tral", "spec-tro-gram", "sta-bility", "Tensor-Flow's", "train-ing",
    "train-ings", "uncom-pressed", "vali-dation", "wave-form",
)  # fmt: skip
SOFT_HYPHENS = {word.replace("-", ""): word.replace("-", "&shy;") for word in SYLLABLES}
NARROW_COLUMNS = 4  # from which on a table needs them


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table. All columns but the first are aligned to the right."""
    rule = [":--"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def break_words(page: str) -> str:
    """The page with soft hyphens in the words of `SYLLABLES`, in its tables of at least `NARROW_COLUMNS` columns. A
    browser shows a soft hyphen only where it breaks the line."""
    words = re.compile(rf"(?<![\w/`])({'|'.join(sorted(SOFT_HYPHENS, key=len, reverse=True))})(?![\w/`])")
    lines = page.split("\n")
    narrow = [line.startswith("|") and line.count("|") > NARROW_COLUMNS for line in lines]
    return "\n".join(
        words.sub(lambda found: SOFT_HYPHENS[found[0]], line) if is_narrow else line
        for line, is_narrow in zip(lines, narrow, strict=True)
    )


def training_values(training: dict) -> dict[str, str | int]:
    """The template's values of a training run: epochs, minutes, processor with its threads, and precision."""
    machine = training["machine"]
    threads = f" with {machine['threads']} threads" if machine["threads"] > 1 else ""
    return dict(
        epochs=training["epochs"],
        minutes=f"{training['seconds'] / 60:.1f}",
        processor=machine["processor"] + threads,
        precision=machine["training_precision"],
    )


def machine_line(machine: dict) -> str:
    """Processor, threads, Python and package versions of a measurement."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return f"{machine['processor']}, {threads}, Python {machine['python']}, {packages}."
