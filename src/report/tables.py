"""Markdown tables, and values that several templates use."""


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table. All columns but the first are aligned to the right."""
    rule = [":--"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


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
