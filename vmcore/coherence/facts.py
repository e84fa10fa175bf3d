"""Keys of a report of the coherence checker in JSON: the keys that ``Report.to_dict()`` gives."""

from vmcore.facts import Key, Shape

REPORT = Shape(
    "report of the coherence checker",
    (
        Key("kind", "string", '"stale translation", "frame in use", "stale line", "lost line" or "unrepaired '
            'fault".'),
        Key("cpu", "number", "CPU that holds the stale copy, or that faulted."),
        Key("address", "string", "Address of the access, or of the copy.", "address"),
        Key("start", "string", "First address that should have been flushed or synced.", "address"),
        Key("end", "string", "One past the last.", "address"),
        Key("missing", "string", "Symbol that should have been called, or that should have done something; empty "
            "where no kernel would have called one."),
        Key("text", "string", "What was found, for people."),
        Key("history", "list of string", "What happened to the page, oldest first."),
        Key("reached", "number or null", "The only CPU that the flush reached, where it ran."),
    ),
)  # fmt: skip
