"""Random overrides: every key with values of every form of Hydra's grammar, and damaged text."""

from __future__ import annotations

import random

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from nxm_sweep.config.explain import _groups, choices, keys_of
from nxm_sweep.settings import TrialSettings

_SCALARS = [
    *("0", "1", "-1", "3", "16", "1e-4", "2.5", "-0.0", "nan", "inf", "-inf", "1e400", "1_000", "0x10", "9" * 400),
    *("true", "false", "yes", "null", "''", '""', "abc", "a b", "'a b'", "'it\\'s'", "${seed}", "${oc.select:seed}"),
    *(
        "${oc.env:HOME}",
        "${oc.env:NOTHING}",
        "${nothing}",
        "${oc.decode:1}",
        "${hydra:runtime.cwd}",
        "${",
        "???",
        "~/x",
    ),
    *(
        "'~/x'",
        "'~nobody/x'",
        "/no/where",
        "../x",
        "a/b",
        "a?b",
        "'a#b'",
        "a%2Fb",
        "[bold]x[/bold]",
        ":smile:",
        "x\x1b[31m",
    ),
    *(
        "\x00",
        "\udcff",
        "\u202ex",
        "é",
        "'[bold]'",
        "'[/]'",
        "x" * 3000,
        "'\\x1b]0;t\\x07'",
        "cpu",
        "accuracy",
        "os.system",
    ),
]
_FORMS = [
    *("[{0}]", "[{0},{1}]", "[[{0}]]", "{{a:{0}}}", "{{a:{0},b:{1}}}", "[{{match:{0},keep:{1}}}]", "[{{a:{0}}},{1}]"),
    *("{0},{1}", "{0},{0}", "{0},{1},{0}", "choice({0},{1})", "range({0},{1})", "range(3)", "range(1,3,step={0})"),
    *(
        "interval({0},{1})",
        "tag(log,interval({0},{1}))",
        "tag({0},{1})",
        "glob({0})",
        "glob([{0}],exclude={1})",
        "glob(*)",
    ),
    *(
        "sort({0},{1})",
        "sort({0},{1},reverse=true)",
        "shuffle({0},{1})",
        "shuffle(range({0},{1}))",
        "int({0})",
        "str({0})",
    ),
    *(
        "float({0})",
        "bool({0})",
        "json_str({0})",
        "extend_list({0})",
        "choice()",
        "range()",
        "{0}(",
        "({0}",
        "[{0}",
        "{{a:{0}",
    ),
    *("{0}:{1}", "{0}={1}", "{0} {1}", "'{0}", "{0}\n{1}"),
]
_EXTRA_KEYS = [
    *(
        "hydra.launcher._target_",
        "hydra.sweeper._target_",
        "hydra.callbacks.a._target_",
        "hydra/launcher",
        "hydra/sweeper",
    ),
    *(
        "hydra.job_logging",
        "hydra.run.dir",
        "hydra.sweep.dir",
        "hydra.sweep.subdir",
        "hydra.output_subdir",
        "hydra.mode",
    ),
    *(
        "hydra.job.chdir",
        "hydra.job.env_set",
        "hydra.job.name",
        "hydra.searchpath",
        "hydra.verbose",
        "hydra/job_logging",
    ),
    *(
        "sparsity.rules.group.x",
        "sparsity.rules.0",
        "sparsity.rules[0].keep",
        "task.rows.train",
        "task.files.train",
        "hydra",
    ),
    *(
        "sweep.axes.seed",
        "sweep.cells.task",
        "method.options.a",
        "lr",
        "epochs",
        "text_columns",
        "a.b.c",
        "task@x",
        "x@y:z",
    ),
    *("", ".", "seed.", ".seed", "0", "sweep.axes.a.b", "task@_global_", "experiment", "defaults", "_target_", "[x]"),
]
_PARSER = OverridesParser.create()
KEYS = [*keys_of(TrialSettings), *_groups(), *_groups(), *_EXTRA_KEYS]


def draw_override(draw: random.Random) -> str:
    """Return a random override."""
    key = draw.choice(KEYS)
    if draw.random() < 0.05:
        return draw.choice([key, f"~{key}", f"~{key}=1", "=", f"={key}", "-", "- -", f"{key}=", f"+{key}"])
    names = choices(key) if key in _groups() else []
    first, second = (draw.choice(names) if names and draw.random() < 0.6 else draw.choice(_SCALARS) for _ in range(2))
    value = first if draw.random() < 0.45 else draw.choice(_FORMS).format(first, second)
    text = f"{draw.choice(['', '', '', '', '+', '++', '~'])}{key}={value}"
    if draw.random() < 0.1:
        place = draw.randrange(len(text))
        text = text[:place] + draw.choice("\x01'\"[]{}(),:=~$\\ #%?@é\t") + text[place + draw.randrange(2) :]
    return text


def draw_line(draw: random.Random) -> list[str]:
    """Return the overrides of a random command line; four of five override something that Hydra's grammar knows."""
    return [_draw_readable(draw) for _ in range(draw.choice([1, 1, 2, 2, 3]))]


def _draw_readable(draw: random.Random) -> str:
    override = draw_override(draw)
    while draw.random() < 0.9:
        try:
            _PARSER.parse_override(override)
        except (HydraException, ValueError):
            override = draw_override(draw)
        else:
            break
    return override
