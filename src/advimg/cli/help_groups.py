"""``--help`` with the options in groups, the same in every command."""

import click

# What no group names comes last, such as --help.
_GROUPS = {
    "What to reach": ("target", "targets", "untargeted", "eps", "budgets", "max_eps", "norm", "mask", "confidence"),
    "Models": (
        "models",
        "check_on",
        "weights",
        "labels",
        "input_size",
        "resize",
        "interpolation",
        "mean",
        "std",
        "device",
        "devices",
        "precision",
        "batch_size",
    ),
    "The attack": ("steps", "step_size", "momentum", "loss", "restarts", "transfer", "seed"),
    "Photos": ("original", "recursive", "from_file", "table", "max_pixels"),
    "Files": (
        "output",
        "out_dir",
        "perturbation",
        "amplify",
        "figure",
        "trace",
        "report",
        "metadata",
        "force",
        "retry_failed",
    ),
}
_REST = "What is said"


class GroupedCommand(click.Command):
    """A command whose help has its options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        group_of = {name: group for group, names in _GROUPS.items() for name in names}
        groups: dict[str, list[tuple[str, str]]] = {group: [] for group in (*_GROUPS, _REST)}
        for param in (param for param in self.get_params(ctx) if isinstance(param, click.Option)):
            record = param.get_help_record(ctx)
            if record is not None:
                groups[group_of.get(param.name or "", _REST)].append(record)
        for group, records in groups.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)
